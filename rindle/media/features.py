"""What the media libraries and programs of this machine can do: tried out, then printed as one JSON object.

Run as ``python -m rindle.media.features images`` or ``... av [FFMPEG [FFPROBE]]``, always in a process of its own:
libvips must not be loaded where the application runs, and may crash. ``doctor`` starts it and reads what it prints.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rindle.errors import Misconfigured, MissingExtra
from rindle.extras import requires

#: Filters of ffmpeg that the recipes of a capability are made with.
NEEDED_FILTERS: Final = {
    "video_transcode": {"scale", "pad", "setparams", "fps", "bwdif"},
    "video_frame_extract": {"scale", "select", "setparams", "signalstats", "metadata", "estdif"},
    "video_thumbnail_strip": {"scale", "pad", "setparams", "select", "tile"},
    "audio_normalize": {"loudnorm"},
}


def image_features() -> dict[str, Any]:
    """Return what libvips and pi-heif can do; ``problem`` is why this libvips cannot be used, or ``None``."""
    with requires("images"):
        from rindle.media.image import features, require_safe_libvips

    found = features()
    try:
        require_safe_libvips()
        problem = None
    except Misconfigured:
        problem = f"libvips {found.libvips} cannot block untrusted loaders"
    return {
        "problem": problem,
        "libvips": found.libvips,
        "is_wheel": _has_wheel(),
        "pi_heif": found.pi_heif,
        "readable": sorted(found.readable),
        "writable": sorted(found.writable),
        "untrusted_blocked": found.untrusted_blocked,
    }


def av_features(ffmpeg: Path | None = None, ffprobe: Path | None = None) -> dict[str, Any]:
    """Return versions of ffmpeg and ffprobe, and the capabilities for which they have every encoder and filter.

    ``converts_colours``: whether HDR is tone mapped and wide gamut converted.

    Args:
        ffmpeg: the program, else the one on ``PATH``; likewise ``ffprobe``.
    """
    from rindle.media.ffmpeg import FfmpegTools

    tools = FfmpegTools.find(ffmpeg, ffprobe)
    return {
        "problem": tools.problem,
        "ffmpeg": tools.version,
        "ffprobe": tools.ffprobe_version,
        "capabilities": sorted(name for name in tools.capabilities if NEEDED_FILTERS.get(name, set()) <= tools.filters),
        "converts_colours": tools.converts_colours,
    }


def _has_wheel() -> bool:
    try:
        return bool(importlib.metadata.version("pyvips-binary"))
    except importlib.metadata.PackageNotFoundError:
        return False


def main(arguments: Sequence[str]) -> None:
    """Print the requested features; ``error`` names the class of the exception."""
    kind, *programs = arguments
    try:
        found = image_features() if kind == "images" else av_features(*(Path(one) if one else None for one in programs))
    except MissingExtra as error:
        found = {"error": error.message}
    except Exception as error:
        # Only the class: a library's message may hold paths.
        found = {"error": type(error).__name__}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
