"""What the messages of ffmpeg and ffprobe say about files that are refused for more than damage."""

from __future__ import annotations

import re

from rindle.errors import ContentRejected

_OVERSIZED = re.compile(rb"Picture size (\d{1,9})x(\d{1,9}) exceeds specified max pixel count (\d{1,12})")


def oversized(words: bytes) -> ContentRejected | None:
    """Return the rejection of a video whose frames exceed the pixel limit of the decoders, from stderr.

    Such a decoder reports no size at all, so no later check could refuse the video for it.
    """
    found = _OVERSIZED.search(words)
    if found is None:
        return None
    width, height, limit = (int(number) for number in found.groups())
    return ContentRejected(
        f"the video has {width} x {height} pixels, more than the {limit} allowed",
        code="max_pixels_exceeded",
        detail={"limit": limit, "found": width * height, "width": width, "height": height, "kind": "video"},
    )
