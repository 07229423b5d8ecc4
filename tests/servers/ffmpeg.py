"""ffmpeg and ffprobe, programs of the system that the tests run and never replace by doubles."""

from __future__ import annotations

from rindle.errors import FfmpegNotFound
from rindle.media.ffmpeg import FfmpegTools
from tests.servers import Unavailable


def version() -> str:
    """Return the version in use.

    Raises:
        Unavailable: missing, too old, or without an encoder that a recipe needs.
    """
    try:
        tools = FfmpegTools.find().require()
    except FfmpegNotFound as error:
        raise Unavailable(
            f"{error.message}: install ffmpeg 5.1 or newer (Debian: apt-get install ffmpeg; macOS: brew install ffmpeg)"
        ) from error
    if len(tools.capabilities) < 6:
        raise Unavailable("this ffmpeg lacks libx264, libmp3lame or another encoder: install a full build")
    return tools.version
