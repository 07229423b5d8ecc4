"""Files with several tracks, with tracks that nobody can decode, and with tracks that hold nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rindle.errors import RindleError
from rindle.media.av_probe import AvProbe
from rindle.media.av_processor import AvProcessor
from rindle.media.ffmpeg import FfmpegTools
from rindle.recipes import AudioVariant, VariantSpec, VideoVariant, WaveformVariant
from rindle.states import MediaKind
from tests.media.clips import H264, ffmpeg, moving, tone

MP4, M4A, MP3 = VideoVariant("web_720p"), AudioVariant("m4a_128k"), AudioVariant("mp3_128k", normalize=True)
AAC = ("-c:a", "aac")
WEBM = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus")


async def built(source: Path, spec: VariantSpec, directory: Path) -> list[dict[str, Any]]:
    """Return the streams of a variant, as ffprobe reports them."""
    dest = directory / f"made{spec.extension}"
    await AvProcessor(FfmpegTools.find()).build(source, spec, dest)
    return streams(dest)


def streams(path: Path) -> list[dict[str, Any]]:
    command = ["ffprobe", "-v", "error", "-print_format", "json", "-show_streams", str(path)]
    found: list[dict[str, Any]] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["streams"]
    return found


def relabelled(path: Path, number: int) -> Path:
    """Give an audio track of an MP4 a codec that nobody knows: its sample entry, and the code in its descriptor."""
    whole = bytearray(path.read_bytes())
    at = -1
    for _ in range(number + 1):
        at = whole.index(b"mp4a", at + 1)
    whole[at : at + 4] = b"apac"
    descriptor = whole.index(b"esds", at)
    whole[descriptor : descriptor + 4] = b"free"
    path.write_bytes(whole)
    return path


def thumbnail_first(path: Path) -> Path:
    small = ("-f", "lavfi", "-i", "color=red:size=64x64:rate=1:duration=1")
    codecs = ("-c:v:0", "mjpeg", "-c:v:1", "libx264", "-preset:v:1", "ultrafast", "-pix_fmt:v:1", "yuv420p")
    maps = ("-map", "0", "-map", "1", "-map", "2", "-disposition:v:1", "default")
    ffmpeg(*small, *moving(), *tone(), *maps, *codecs, *AAC, path)
    return path


def second_is_default(path: Path) -> Path:
    small = ("-f", "lavfi", "-i", "color=red:size=64x64:rate=10:duration=2")
    flags = ("-disposition:v:0", "0", "-disposition:v:1", "default")
    ffmpeg(*small, *moving(), *tone(), "-map", "0", "-map", "1", "-map", "2", *flags, *H264, *AAC, path)
    return path.rename(path.with_suffix(""))


@pytest.mark.parametrize(("name", "make"), [("thumb.mp4", thumbnail_first), ("second.mkv", second_is_default)])
async def test_the_default_video_is_the_video(tmp_path: Path, name: str, make: Callable[[Path], Path]) -> None:
    source = make(tmp_path / name)

    facts = await AvProbe(FfmpegTools.find()).probe(source)
    made = await built(source, MP4, tmp_path)

    assert (facts.width, facts.height) == (320, 180)
    assert [(stream["codec_type"], stream.get("width")) for stream in made] == [("video", 320), ("audio", None)]


async def test_an_audio_track_that_nobody_knows_is_passed_over(tmp_path: Path) -> None:
    source = tmp_path / "phone.mov"
    maps = ("-map", "0", "-map", "1", "-map", "2")
    ffmpeg(*moving(), *tone(rate=48_000), *tone(rate=44_100), *maps, *H264, *AAC, source)
    relabelled(source, 0)

    for spec in (MP4, M4A):
        made = await built(source, spec, tmp_path)
        assert (made[-1]["codec_name"], made[-1]["sample_rate"]) == ("aac", "44100")


def nothing_known(path: Path) -> Path:
    ffmpeg(*moving(), *tone(), *H264, *AAC, path)
    return relabelled(path, 0)


def no_packets(path: Path) -> Path:
    ffmpeg(*moving(), *tone(), "-af", "atrim=end_sample=0", *WEBM, path)
    return path


def no_samples(path: Path) -> Path:
    """Return an MP4 whose audio track has a header, and tables with no entry."""
    ffmpeg(*moving(), *tone(), *H264, *AAC, path)
    whole = bytearray(path.read_bytes())
    for name, offset in ((b"stts", 8), (b"stsc", 8), (b"stco", 8), (b"stsz", 12)):
        at = whole.index(name, whole.index(b"smhd")) + offset
        whole[at : at + 4] = bytes(4)
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize(
    ("name", "make"), [("unknown.mov", nothing_known), ("empty.webm", no_packets), ("empty.mp4", no_samples)]
)
async def test_audio_that_is_empty_or_unknown_makes_a_silent_video(
    tmp_path: Path, name: str, make: Callable[[Path], Path]
) -> None:
    source = make(tmp_path / name)

    facts = await AvProbe(FfmpegTools.find()).probe(source)
    made = await built(source, MP4, tmp_path)

    assert any(stream["codec_type"] == "audio" for stream in streams(source))  # else this would test nothing
    assert (facts.kind, facts.has_audio_track) == (MediaKind.VIDEO, False)
    assert [stream["codec_type"] for stream in made] == ["video"]
    with pytest.raises(RindleError) as failed:
        await built(source, M4A, tmp_path)
    assert failed.value.code == "missing_audio_track"


async def test_audio_that_starts_late_is_audio(tmp_path: Path) -> None:
    """Far behind the packets that are looked at first."""
    source = tmp_path / "late.webm"
    ffmpeg(*moving(seconds=12), "-itsoffset", "11", *tone(1), *WEBM, source)

    assert (await AvProbe(FfmpegTools.find()).probe(source)).has_audio_track is True


async def test_a_video_track_without_frames_leaves_the_audio(tmp_path: Path) -> None:
    source = tmp_path / "empty.mp4"
    ffmpeg(*moving(), *tone(), "-vf", "select=0", *H264, *AAC, source)

    facts = await AvProbe(FfmpegTools.find()).probe(source)

    assert (facts.kind, facts.width, facts.has_audio_track) == (MediaKind.AUDIO, None, True)


# --- channels and sample rates -----------------------------------------------------------------------------------


def channels(path: Path, count: int, *, rate: int = 48_000, layout: str = "") -> Path:
    """Return a sound of so many channels, by default without a layout."""
    voices = "|".join(f"0.1*sin({440 + number}*t)" for number in range(count))
    named = f":c={layout}" if layout else ""
    ffmpeg("-f", "lavfi", "-i", f"aevalsrc={voices}{named}:d=1:s={rate}", path)
    return path


@pytest.mark.parametrize(
    ("count", "layout", "stereo"),
    [(1, "mono", 1), (2, "stereo", 2), (4, "quad", 2), (6, "5.1", 2), (8, "7.1", 2), (16, "hexadecagonal", 2)],
)
async def test_videos_for_the_web_have_at_most_two_channels(
    tmp_path: Path, count: int, layout: str, stereo: int
) -> None:
    source = tmp_path / "source.mov"
    voices = "|".join(f"0.1*sin({440 + number}*t)" for number in range(count))
    audio = ("-f", "lavfi", "-i", f"aevalsrc={voices}:c={layout}:d=1:s=48000", "-c:a", "pcm_s16le")
    ffmpeg(*moving(seconds=1), *audio, *H264, source)

    assert (await built(source, MP4, tmp_path))[-1]["channels"] == stereo


async def test_nine_channels_without_a_layout(tmp_path: Path) -> None:
    merged = "".join(f"[{name}]" for name in "abcdefghi")
    source = tmp_path / "ambisonic.wav"
    ffmpeg(*tone(1), "-filter_complex", f"asplit=9{merged};{merged}amerge=inputs=9", "-c:a", "pcm_s16le", source)

    assert [(await built(source, spec, tmp_path))[0]["channels"] for spec in (M4A, MP3)] == [2, 2]
    made = tmp_path / "outline.json"
    await AvProcessor(FfmpegTools.find()).build(source, WaveformVariant(), made)
    assert max(high for _, high in json.loads(made.read_text())["peaks"]) == pytest.approx(0.125, abs=0.02)


async def test_speech_whose_codec_names_no_layout(tmp_path: Path) -> None:
    source = tmp_path / "speech.ogg"
    ffmpeg(*tone(1, rate=16_000), "-c:a", "libspeex", source)

    (made,) = await built(source, M4A, tmp_path)

    assert (made["codec_name"], made["channels"]) == ("aac", 1)


@pytest.mark.parametrize(("rate", "made"), [(37_800, "32000"), (44_056, "44100"), (192_000, "48000"), (6_000, "8000")])
async def test_sample_rates_that_the_encoder_lacks(tmp_path: Path, rate: int, made: str) -> None:
    source = tmp_path / "odd.wav"
    ffmpeg(*tone(2, rate=rate), source)

    assert (await built(source, MP3, tmp_path))[0]["sample_rate"] == made
