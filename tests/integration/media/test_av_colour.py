"""The colours of a video are those that its author saw, in every output: MP4, poster and strip."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rindle.media.av_processor import AvProcessor
from rindle.media.ffmpeg import FfmpegTools
from rindle.recipes import FrameVariant, VariantSpec, VideoVariant
from tests.media import patches
from tests.media.pictures import opened

MP4, POSTER, STRIP = VideoVariant("web_480p"), FrameVariant("video_poster_scene"), FrameVariant("video_thumbnail_strip")
#: Levels that a patch may be off.
NEAR = 6
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-qp", "6")
UNTAGGED = "h264_metadata=colour_primaries=2:transfer_characteristics=2:matrix_coefficients=2"


def tags(matrix: str, full: bool = False) -> tuple[str, ...]:
    """Return the options that convert to a matrix and range and state them."""
    reach = "pc" if full else "tv"
    convert = f"scale=out_color_matrix={matrix}:out_range={reach}:flags=accurate_rnd,format=yuv420p"
    named = f"setparams=colorspace={matrix}:color_primaries={matrix}:color_trc={matrix}:range={reach}"
    return ("-vf", f"{convert},{named}", *X264)


ENCODINGS: dict[str, Callable[[Path], Path]] = {
    "bt709.mp4": lambda path: patches.clip(path, *tags("bt709")),
    "bt709-full.mp4": lambda path: patches.clip(path, *tags("bt709", full=True)),
    "bt601.mp4": lambda path: patches.clip(path, *tags("smpte170m")),
    "bt601-hd.mp4": lambda path: patches.clip(path, *tags("smpte170m"), size=(1280, 720)),
    "untagged-hd.mp4": lambda path: patches.clip(path, *tags("bt709"), "-bsf:v", UNTAGGED, size=(1280, 720)),
    "untagged-sd.mp4": lambda path: patches.clip(path, *tags("smpte170m"), "-bsf:v", UNTAGGED),
    "wrongly-rgb.mp4": lambda path: patches.clip(
        path, *tags("bt709"), "-bsf:v", "h264_metadata=matrix_coefficients=0:colour_primaries=1"
    ),
    "rgb.mov": lambda path: patches.clip(path, "-c:v", "png", "-pix_fmt", "rgb24"),
    "rgb-hd.mp4": lambda path: patches.clip(path, "-c:v", "libx264rgb", "-qp", "6", size=(1280, 720)),
    "palette.mov": lambda path: patches.clip(path, "-c:v", "qtrle", "-pix_fmt", "rgb24"),
    "mjpeg.avi": lambda path: patches.clip(path, "-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj422p"),
    "vp8.webm": lambda path: patches.clip(path, "-c:v", "libvpx", "-crf", "4", "-b:v", "4M", "-pix_fmt", "yuv420p"),
    "pq.mp4": lambda path: patches.wide_clip(path, "smpte2084"),
    "hlg.mov": lambda path: patches.wide_clip(path, "arib-std-b67"),
    "bt2020.mp4": lambda path: patches.wide_clip(path, "bt2020-10"),
}


async def built(source: Path, spec: VariantSpec, directory: Path, tools: FfmpegTools | None = None) -> Path:
    """Return the variant of a source."""
    dest = directory / f"made{spec.extension}"
    await AvProcessor(tools or FfmpegTools.find()).build(source, spec, dest)
    return dest


def stream(path: Path) -> dict[str, str]:
    """Return what ffprobe reports of the first stream."""
    command = ["ffprobe", "-v", "error", "-print_format", "json", "-show_streams", str(path)]
    found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["streams"][0]
    return found


def frame(path: Path) -> Image.Image:
    """Return a frame as a player shows it that trusts the tags alone, which are those of BT.709."""
    shown = "scale=in_color_matrix=bt709:in_range=tv:flags=accurate_rnd,format=rgb24"
    command = ["ffmpeg", "-v", "error", "-ss", "0.3", "-i", str(path), "-frames:v", "1", "-vf", shown]
    taken = subprocess.run([*command, "-f", "image2pipe", "-c:v", "png", "-"], capture_output=True, check=True)
    return opened(taken.stdout)


def off(found: list[tuple[int, int, int]], wanted: tuple[tuple[int, int, int], ...] = patches.COLOURS) -> int:
    """Return how many levels the worst value is off."""
    return max(
        abs(one - other) for got, want in zip(found, wanted, strict=True) for one, other in zip(got, want, strict=True)
    )


@pytest.mark.parametrize("name", ENCODINGS)
async def test_every_output_shows_the_colours_of_the_source(tmp_path: Path, name: str) -> None:
    source = ENCODINGS[name](tmp_path / name)

    video = await built(source, MP4, tmp_path)
    poster = await built(source, POSTER, tmp_path)
    shown = {"video": patches.seen(frame(video)), "poster": patches.seen(opened(poster))}
    strip = opened(await built(source, STRIP, tmp_path))
    shown |= {f"tile {tile}": patches.seen(strip, (tile * 160, 0, tile * 160 + 160, 90)) for tile in range(4)}

    assert {place: found for place, found in shown.items() if off(found) > NEAR} == {}
    stated = stream(video)
    names = ("color_space", "color_primaries", "color_transfer", "color_range", "pix_fmt")
    assert [stated[name] for name in names] == ["bt709", "bt709", "bt709", "tv", "yuv420p"]


async def test_grey_stays_grey(tmp_path: Path) -> None:
    source = patches.clip(tmp_path / "grey.mp4", "-vf", "format=gray", *X264)

    for picture in (frame(await built(source, MP4, tmp_path)), opened(await built(source, POSTER, tmp_path))):
        found = patches.seen(picture)
        assert max(max(colour) - min(colour) for colour in found) <= 5
        assert [found[number][0] for number in (4, 6, 7)] == pytest.approx([120, 215, 45], abs=NEAR)


async def test_without_the_filters_a_log_line_names_the_variant(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tools = FfmpegTools.find()
    poor = dataclasses.replace(tools, filters=tools.filters - {"zscale"})
    source, plain = (
        patches.wide_clip(tmp_path / "hdr.mp4", "arib-std-b67"),
        ENCODINGS["bt709.mp4"](tmp_path / "sdr.mp4"),
    )

    with caplog.at_level(logging.WARNING, "rindle"):
        await built(plain, POSTER, tmp_path, poor)
        assert caplog.records == []
        poster = await built(source, POSTER, tmp_path, poor)

    (record,) = caplog.records
    assert (record.levelname, record.__dict__["variant_name"]) == ("WARNING", "made")
    assert opened(poster).size == (patches.WIDTH, patches.HEIGHT)
