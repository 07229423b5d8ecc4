"""Videos above the pixel ceiling, and metadata that is not stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from rindle.errors import ContentRejected
from rindle.media.av_probe import AvProbe
from rindle.media.ffmpeg import FfmpegTools
from tests.media.clips import H264, ffmpeg, moving


@pytest.fixture
def probe(tmp_path: Path) -> AvProbe:
    return AvProbe(FfmpegTools.find(), scratch=tmp_path / "scratch")


async def test_a_video_above_the_pixel_ceiling_is_refused_by_its_size(probe: AvProbe, tmp_path: Path) -> None:
    """The decoder refuses the size by itself, and then reports none."""
    path = tmp_path / "large.mkv"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=16384x8192:d=0.1:r=10", "-frames:v", "1", "-c:v", "mjpeg", path)

    with pytest.raises(ContentRejected) as refused:
        await probe.probe(path)

    assert refused.value.code == "max_pixels_exceeded"
    assert (refused.value.detail["width"], refused.value.detail["height"]) == (16384, 8192)


async def test_where_a_video_was_made_is_not_stored(probe: AvProbe, tmp_path: Path) -> None:
    path = tmp_path / "phone.mov"
    places = {
        "location": "+48.8577+002.2950/",
        "location-eng": "+48.8577+002.2950/",
        "com.apple.quicktime.location.ISO6709": "+48.8577+002.2950/",
        "GPSLatitude": "48.8577",
        "com.apple.quicktime.model": "Phone \u202egnp.exe\u2069",
    }
    tags = [part for name, value in places.items() for part in ("-metadata", f"{name}={value}")]
    ffmpeg(*moving(seconds=0.4), *H264, "-movflags", "use_metadata_tags", *tags, path)

    facts = await probe.probe(path)

    assert "48.8577" not in str(facts.metadata)
    assert facts.metadata["tags"]["com.apple.quicktime.model"] == "Phone gnp.exe"
