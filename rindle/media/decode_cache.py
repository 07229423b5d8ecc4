"""An image's pixels in a file, written by the probe for the render that follows: half of the decoding is saved.

It runs in render children only. The file is only a cache: if anything is wrong with it, the image is decoded again. It
holds the whole image, scaled for the largest variant, upright, in 8 bit sRGB, and without metadata.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path

import pyvips

#: Width, height, bands, horizontal and vertical resolution in pixels per millimetre, CRC 32 of the pixels that follow.
_HEADER = struct.Struct("<4sIIIddI")
#: Goes up with every change of how pixels are made, so that a new release never uses those of an old one.
_MAGIC = b"RPX2"


def write(image: pyvips.Image, path: Path) -> None:
    """Leave ``image`` at ``path`` (mode 0600), whole or not at all; a full disk is no error."""
    pixels = image.write_to_memory()
    facts = (image.width, image.height, image.bands, image.xres, image.yres, zlib.crc32(pixels))
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(_HEADER.pack(_MAGIC, *facts))
            file.write(pixels)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()


def read(path: Path) -> pyvips.Image | None:
    """Return the image at ``path``; ``None`` if the file is missing or damaged."""
    try:
        content = path.read_bytes()
        magic, width, height, bands, xres, yres, checksum = _HEADER.unpack_from(content)
    except (OSError, struct.error):
        return None
    pixels = memoryview(content)[_HEADER.size :]
    if magic != _MAGIC or len(pixels) != width * height * bands or zlib.crc32(pixels) != checksum:
        return None
    image = pyvips.Image.new_from_memory(pixels, width, height, bands, "uchar")
    return image.copy(interpretation="srgb", xres=xres, yres=yres)
