"""Videos whose frames change, are interlaced, come too fast, or are tiny."""

from __future__ import annotations

import json
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from rindle.media.av_processor import AvProcessor
from rindle.media.ffmpeg import FfmpegTools
from rindle.recipes import FrameVariant, VariantSpec, VideoVariant
from tests.media.clips import H264, ffmpeg, moving
from tests.media.pictures import opened

MP4, POSTER, STRIP = VideoVariant("web_720p"), FrameVariant("video_poster_scene"), FrameVariant("video_thumbnail_strip")
VP8 = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8")


async def built(source: Path, spec: VariantSpec, directory: Path) -> Path:
    dest = directory / f"made{spec.extension}"
    await AvProcessor(FfmpegTools.find()).build(source, spec, dest)
    return dest


def stream(path: Path) -> dict[str, str]:
    """Return what ffprobe reports of the video."""
    command = ["ffprobe", "-v", "error", "-print_format", "json", "-show_streams", "-select_streams", "v", str(path)]
    found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["streams"][0]
    return found


def size(path: Path) -> tuple[int, int]:
    found = stream(path)
    return int(found["width"]), int(found["height"])


def luma(path: Path, at: float | None = None) -> npt.NDArray[np.int_]:
    """Return the luma of all frames, or of one."""
    width, height = size(path)
    one = ("-ss", str(at)) if at is not None else ()
    limit = ("-frames:v", "1") if at is not None else ()
    command = ["ffmpeg", "-v", "error", *one, "-i", str(path), *limit, "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width).astype(int)


def sequence(path: Path, *sizes: str) -> Path:
    """Return a recording whose frames have one size after the other."""
    codec = H264 if path.suffix == ".ts" else VP8
    parts = [path.with_name(f"part-{part}{path.suffix}") for part in sizes]
    for part, shape in zip(parts, sizes, strict=True):
        ffmpeg("-f", "lavfi", "-i", f"color=gray:size={shape}:rate=10:duration=1", *codec, part)
    listing = path.with_suffix(".txt")
    listing.write_text("".join(f"file {part.name}\n" for part in parts))
    ffmpeg("-f", "concat", "-safe", "0", "-i", listing, "-c", "copy", path)
    return path


@pytest.mark.parametrize("suffix", [".webm", ".ts"])
async def test_frames_of_other_sizes_are_padded_to_the_largest(tmp_path: Path, suffix: str) -> None:
    source = sequence(tmp_path / f"call{suffix}", "160x90", "90x160", "320x180")

    made = await built(source, MP4, tmp_path)

    assert size(made) == (320, 180)
    small, tall, large = (luma(made, at)[0] for at in (0.5, 1.5, 2.5))
    for whole in (small, large):
        assert whole.min() > 80  # no bars
    assert tall[:, 125:195].min() > 80
    assert max(tall[:, :100].max(), tall[:, 220:].max()) < 30  # bars, and nothing stretched into them


async def test_interlaced_video_is_deinterlaced(tmp_path: Path) -> None:
    source = tmp_path / "camera.mp4"
    fields = ("-vf", "tinterlace=interleave_top,fieldorder=tff", "-flags", "+ildct+ilme", "-x264-params", "tff=1")
    ffmpeg(
        *moving("720x576", 0.6, 50), *fields, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", source
    )

    made = await built(source, MP4, tmp_path)
    poster = np.asarray(opened(await built(source, POSTER, tmp_path)).convert("L"), dtype=int)[np.newaxis]

    assert combed(luma(source)) > 1  # percent, else this would test nothing
    assert combed(luma(made)) < 0.4 * combed(luma(source))
    assert combed(poster) < 0.5 * combed(luma(source))
    assert Fraction(stream(made)["avg_frame_rate"]) == 25


def combed(frames: npt.NDArray[np.int_]) -> float:
    """Return the percentage of pixels that stick out from the rows above and below, which are alike."""
    above, row, below = frames[:, :-2], frames[:, 1:-1], frames[:, 2:]
    alike = np.abs(above - below) <= 12
    return float((alike & (np.minimum(np.abs(row - above), np.abs(row - below)) > 12)).mean() * 100)


@pytest.mark.parametrize("rate", [240, 120])
async def test_fast_frames_become_sixty_a_second(tmp_path: Path, rate: int) -> None:
    source = tmp_path / "slow-motion.mp4"
    ffmpeg(*moving("1280x720", 0.5, rate), *H264, source)

    found = stream(await built(source, MP4, tmp_path))

    assert Fraction(found["avg_frame_rate"]) == 60
    assert int(found["level"]) <= 42
    assert int(found["nb_frames"]) == pytest.approx(30, abs=1)


async def test_a_recording_that_states_no_rate_stays_within_the_level(tmp_path: Path) -> None:
    source = tmp_path / "recording.webm"
    ffmpeg(*moving("640x360", 2, 30), *VP8, "-f", "webm", "-live", "1", source)

    found = stream(await built(source, MP4, tmp_path))

    assert int(found["level"]) <= 42
    assert Fraction(found["avg_frame_rate"]) == pytest.approx(30, abs=0.5)


@pytest.mark.parametrize(
    ("shape", "made"), [((1, 1), (2, 2)), ((101, 1), (100, 2)), ((3, 50), (2, 50)), ((2000, 3), (1280, 2))]
)
async def test_no_side_is_below_two_pixels(tmp_path: Path, shape: tuple[int, int], made: tuple[int, int]) -> None:
    picture, source = tmp_path / "picture.png", tmp_path / "tiny.avi"
    Image.new("RGB", shape, "red").save(picture)
    ffmpeg("-loop", "1", "-r", "10", "-t", "1", "-i", picture, "-c:v", "ffv1", "-pix_fmt", "bgr0", source)

    assert size(await built(source, MP4, tmp_path)) == made
    assert opened(await built(source, POSTER, tmp_path)).size == shape
    assert opened(await built(source, STRIP, tmp_path)).size == (640, 90)


async def test_the_poster_of_a_turned_video_with_wide_pixels_has_its_displayed_size(tmp_path: Path) -> None:
    flat, source = tmp_path / "flat.mp4", tmp_path / "turned.mp4"
    ffmpeg(*moving("360x288", 0.5), "-vf", "setsar=64/45", *H264, flat)
    ffmpeg("-i", flat, "-c", "copy", "-metadata:s:v:0", "rotate=90", source)

    assert opened(await built(source, POSTER, tmp_path)).size == (288, 512)
    assert size(await built(source, MP4, tmp_path)) == (288, 512)
