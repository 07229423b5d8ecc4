"""Which tracks of a file are used, and how audio fits an encoder."""

from __future__ import annotations

from typing import Any

import pytest

from rindle.media.av_tracks import first_usable, mixed, nearest_rate


def track(index: int, *flags: str, **facts: Any) -> dict[str, Any]:
    """Return an audio stream as ffprobe describes it."""
    plain = {"codec_type": "audio", "codec_name": "aac", "channels": 2, "sample_rate": "48000"}
    return {"index": index, **plain, "disposition": dict.fromkeys(flags, 1), **facts}


def picture(index: int, *flags: str, **facts: Any) -> dict[str, Any]:
    """Return a video stream as ffprobe describes it."""
    plain = {"codec_type": "video", "codec_name": "h264", "width": 640, "height": 360}
    return {"index": index, **plain, "disposition": dict.fromkeys(flags, 1), **facts}


@pytest.mark.parametrize(
    ("streams", "used"),
    [
        ([], None),
        ([track(1), track(2)], 1),
        ([track(1), track(2, "default")], 2),
        ([track(1, "default", "comment"), track(2, "default")], 2),
        ([track(1, "comment"), track(2, "visual_impaired")], 1),
        ([track(1, "default", codec_name="unknown"), track(2)], 2),
        ([track(1, "default", channels=0), track(2)], 2),
        ([track(1, codec_name=None)], None),
        ([picture(0, "default", width=0), picture(1)], 1),
        ([picture(0, "default", codec_name="mjpeg", nb_frames="1"), picture(1, nb_frames="60")], 1),
        ([picture(0, nb_frames="1")], 0),
        ([picture(0, "timed_thumbnails", codec_name="mjpeg"), picture(1)], 1),
    ],
)
async def test_the_first_that_can_be_decoded_the_default_one_before_others(
    streams: list[dict[str, Any]], used: int | None
) -> None:
    async def has_samples(stream: Any) -> bool:
        return True

    found = await first_usable(streams, has_samples)

    assert (None if found is None else found["index"]) == used


async def test_a_track_without_samples_is_passed_over_and_no_more_are_looked_at() -> None:
    looked: list[int] = []

    async def has_samples(stream: Any) -> bool:
        looked.append(stream["index"])
        return stream["index"] == 2

    found = await first_usable([track(1), track(2), track(3)], has_samples)

    assert found is not None
    assert (found["index"], looked) == (2, [1, 2])


@pytest.mark.parametrize(
    ("codec", "rate", "at_most", "nearest"),
    [
        ("mp3", 37_800, 48_000, 32_000),
        ("mp3", 44_056, 48_000, 44_100),
        ("mp3", 384_000, 48_000, 48_000),
        ("mp3", 6_000, 48_000, 8_000),
        ("aac", 64_000, 96_000, 64_000),
        ("aac", 64_000, 48_000, 48_000),
        ("aac", 11_127, 48_000, 11_025),
        ("aac", 56_000, 96_000, 64_000),  # two are as near: the higher one
    ],
)
def test_sample_rates(codec: str, rate: int, at_most: int, nearest: int) -> None:
    assert nearest_rate(codec, rate, at_most=at_most) == nearest


class Node:
    """Stands for a node of ffmpeg-python."""

    def __init__(self, *filters: str) -> None:
        self.filters = filters

    def filter(self, name: str, value: str) -> Node:
        return Node(*self.filters, f"{name}={value}")


@pytest.mark.parametrize(
    ("channels", "layout", "wanted", "codec", "made"),
    [
        (2, "stereo", None, "aac", ((), None)),
        (2, "stereo", 1, "aac", ((), 1)),
        (6, "5.1", None, "aac", ((), None)),
        (6, "5.1", None, "mp3", ((), 2)),
        (6, "hexagonal", None, "aac", ((), 2)),
        (8, "7.1", None, "aac", ((), 2)),
        (3, None, None, "aac", ((), 2)),
        (1, None, None, "aac", ((), 1)),
        (2, None, None, "aac", ((), 2)),
        (0, None, None, "aac", ((), None)),
        (9, None, 1, "f32le", (("pan=mono|c0<c0+c1+c2+c3+c4+c5+c6+c7+c8",), None)),
        (9, None, None, "aac", (("pan=stereo|c0<c0+c2+c4+c6+c8|c1<c1+c3+c5+c7",), None)),
    ],
)
def test_channels(channels: int, layout: str | None, wanted: int | None, codec: str, made: tuple[Any, Any]) -> None:
    node, option = mixed(Node(), channels=channels, layout=layout, wanted=wanted, codec=codec)

    assert (node.filters, option) == made
