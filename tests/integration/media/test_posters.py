"""The poster of a video is not black if the video is not, and the search for it is cheap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rindle.media import av_processor
from rindle.media import ffmpeg as ffmpeg_module
from rindle.media.av_processor import AvProcessor
from rindle.media.ffmpeg import FfmpegTools
from rindle.recipes import FrameVariant
from tests.media.clips import H264, Clips, ffmpeg, moving
from tests.media.pictures import opened

#: One key frame, the first.
ONE_KEY_FRAME = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "9999", "-sc_threshold", "0", "-pix_fmt", "yuv420p")
RECORDER = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "9999")


def colour(shade: str, seconds: float, size: str = "160x90", rate: int = 10) -> tuple[str, ...]:
    """Return the input of a picture of one colour."""
    return ("-f", "lavfi", "-i", f"color={shade}:size={size}:rate={rate}:duration={seconds}")


async def poster(source: Path, directory: Path) -> Path:
    """Return the poster of a video."""
    dest = directory / "poster.jpg"
    await AvProcessor(FfmpegTools.find()).build(source, FrameVariant("video_poster_scene"), dest)
    return dest


def luma(path: Path) -> float:
    """Return the mean luma of a picture."""
    return float(np.asarray(opened(path).convert("L")).mean())


async def test_a_fade_from_black_with_one_key_frame(tmp_path: Path) -> None:
    source = tmp_path / "fade.mp4"
    ffmpeg(*moving("320x180", 4), "-vf", "fade=in:d=1.5", *ONE_KEY_FRAME, source)

    assert luma(await poster(source, tmp_path)) >= 38  # a clear frame, not the first that is barely visible


async def test_a_recording_of_a_browser_that_begins_black(tmp_path: Path) -> None:
    source = tmp_path / "recording.webm"
    ffmpeg(*colour("black", 0.5), *moving("160x90", 2, 10), "-filter_complex", "[0][1]concat=n=2", *RECORDER, source)

    assert luma(await poster(source, tmp_path)) > 60


async def test_a_flash_in_the_dark_is_found(tmp_path: Path) -> None:
    flash = "drawbox=t=fill:color=white:enable='between(t,2,2.05)'"
    source = tmp_path / "flash.mp4"
    ffmpeg(*colour("black", 4, rate=25), "-vf", flash, *ONE_KEY_FRAME, source)

    assert luma(await poster(source, tmp_path)) > 200


@pytest.mark.parametrize("seconds", [7, 70])
async def test_a_bright_rest_after_a_black_minute_is_found(tmp_path: Path, seconds: int) -> None:
    source = tmp_path / "late.mp4"
    parts = (*colour("black", 62, "64x36", 5), *colour("white", seconds, "64x36", 5))
    ffmpeg(*parts, "-filter_complex", "[0][1]concat=n=2", *ONE_KEY_FRAME, source)

    assert luma(await poster(source, tmp_path)) > 200


async def test_a_dark_video_has_its_brightest_kind_of_frame(tmp_path: Path) -> None:
    """All frames are between the floor and what is clear: the first is good enough."""
    source = tmp_path / "night.mp4"
    ffmpeg(*colour("0x1e1e1e", 2), *H264, source)

    assert luma(await poster(source, tmp_path)) == pytest.approx(0x1E, abs=3)


async def test_a_change_of_scene_is_preferred(tmp_path: Path) -> None:
    source = tmp_path / "scenes.mp4"
    ffmpeg(*colour("0x305030", 2), *colour("0xe0c080", 2), "-filter_complex", "[0][1]concat=n=2", *H264, source)

    assert np.asarray(opened(await poster(source, tmp_path))).mean(axis=(0, 1))[0] == pytest.approx(0xE0, abs=8)


async def test_the_size_is_that_of_the_frame_where_the_size_changes(tmp_path: Path) -> None:
    parts = [tmp_path / "small.ts", tmp_path / "tall.ts"]
    ffmpeg(*colour("black", 1, "160x90"), *H264, parts[0])
    ffmpeg(*moving("90x160", 1, 10), *H264, parts[1])
    whole = tmp_path / "whole.ts"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))

    made = opened(await poster(whole, tmp_path))

    assert made.size == (90, 160)


async def test_only_key_frames_are_decoded_where_one_of_them_is_bright(
    clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Sequence[str]] = []

    async def run_ffmpeg(tools: FfmpegTools, command: Sequence[str], *rest: Any) -> bytes:
        runs.append(command)
        return await ffmpeg_module.run_ffmpeg(tools, command, *rest)

    monkeypatch.setattr(av_processor, "run_ffmpeg", run_ffmpeg)
    source = clips.film()

    await poster(source, tmp_path)

    assert len(runs) == 2
    assert all(run[run.index("-skip_frame") + 1] == "nokey" for run in runs)
