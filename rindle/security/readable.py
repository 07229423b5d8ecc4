"""Which types of content the bundled probes read; everything else needs a probe of the profile."""

from __future__ import annotations

from typing import Final

#: Image types that are read. Of a HEIC or AVIF sequence the primary still image is taken.
READABLE_IMAGES: Final = frozenset(
    {
        "image/jpeg",
        "image/png",
        "image/webp",
        "image/gif",
        "image/avif",
        "image/tiff",
        "image/heic",
        "image/heif",
        "image/heic-sequence",
        "image/heif-sequence",
    }
)


def is_readable(mime: str) -> bool:
    """Whether a bundled probe reads files of the sniffed type ``mime``: these images, and all audio and video."""
    return mime in READABLE_IMAGES or mime.startswith(("video/", "audio/"))
