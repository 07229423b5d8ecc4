"""What the tests of command lines are about: sources with known tracks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rindle.media.av_probe import AudioTrack, Media, VideoTrack
from rindle.media.ffmpeg import AvLimits

SOURCE, DEST = Path("/run/build/source"), Path("/run/build/variant.mp4")
LIMITS = AvLimits(threads=2)
PLAIN = AvLimits()
SOUND = AudioTrack(index=1, codec="aac", sample_rate=48_000, channels=2, duration_ms=20_000, layout="stereo")


def picture(width: int, height: int, **facts: Any) -> VideoTrack:
    """Return a track of square pixels, upright unless told otherwise."""
    given = {"square_width": width, "square_height": height, "has_square_samples": True, "tagged_rotation": 0, **facts}
    return VideoTrack(index=2, codec="h264", width=width, height=height, duration_ms=20_000, **given)


def media(track: VideoTrack | None = None, sound: AudioTrack | None = SOUND) -> Media:
    """Return a source of twenty seconds."""
    return Media(frozenset({"mp4"}), 20_000, 2, track, sound, {})


def option(arguments: list[str], name: str) -> str:
    """Return the value of an option that stands there once."""
    assert arguments.count(name) == 1
    return arguments[arguments.index(name) + 1]
