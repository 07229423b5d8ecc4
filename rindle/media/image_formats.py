"""Facts about image formats that the parent process may know: nothing here opens an image or loads libvips."""

from __future__ import annotations

from dataclasses import dataclass

#: Sniffed types that the bundled image probe and renderer read. Everything else is never decoded.
READABLE_TYPES: frozenset[str] = frozenset(
    {
        "image/jpeg",
        "image/png",
        "image/webp",
        "image/gif",
        "image/avif",
        "image/tiff",
        "image/heic",
        "image/heif",
    }
)

#: Oldest libvips whose untrusted loaders can be blocked (libvips 8.13 release notes, VIPS_BLOCK_UNTRUSTED).
LIBVIPS_FLOOR = (8, 13)

#: Frames of an animation that are read at most.
MAX_FRAMES = 300


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What the image libraries of this machine can really do, tried out in a child process.

    ``readable`` holds media types; ``writable`` holds output formats whose encoder produced an image.
    """

    libvips: str
    pyvips: str
    pi_heif: str
    libheif: str
    readable: frozenset[str]
    writable: frozenset[str]
    untrusted_blocked: bool
