"""Facts about image formats that the parent process may know: nothing here opens an image or loads libvips."""

from __future__ import annotations

from dataclasses import dataclass

from rindle.security.readable import READABLE_IMAGES

#: Sniffed types that the bundled image probe and renderer read. Everything else is never decoded.
READABLE_TYPES: frozenset[str] = READABLE_IMAGES

#: Oldest libvips whose untrusted loaders can be blocked (libvips 8.13 release notes, VIPS_BLOCK_UNTRUSTED).
LIBVIPS_FLOOR = (8, 13)

#: Frames of an animation that are read at most.
MAX_FRAMES = 300
#: Frames that an animation may have; those after ``MAX_FRAMES`` are not read, but every reader of a header counts them.
MAX_LISTED_FRAMES = 5_000
#: Scans of a JPEG; encoders write at most 64, libjpeg's own fuzzer stops at 500.
MAX_SCANS = 100
#: Pages of a TIFF, of which the first is read.
MAX_PAGES = 2_000
#: Segments of a JPEG, chunks of a PNG or WebP, blocks of a GIF.
MAX_SEGMENTS = 100_000


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
