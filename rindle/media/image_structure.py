"""Counts the parts of an image file before a decoder opens it: scans, frames, pages, segments.

A small file can hold more work than its pixels show: a JPEG of 20,000 scans costs minutes, and with the frames of a
WebP the reading of its header grows quadratically. The parts are found by their headers and counted up to a limit,
without decoding. Damage is not looked for: a file that ends too early ends the count, and its decoder refuses it.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rindle.errors import ContentRejected
from rindle.media.image_formats import MAX_LISTED_FRAMES, MAX_PAGES, MAX_SCANS, MAX_SEGMENTS

#: Bytes of a file; a map of it, so that nothing is read that is not looked at.
_Bytes = mmap.mmap
#: A marker within the compressed data of a scan: not a stuffed byte (00), a restart (D0 to D7) or padding (FF).
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_LIMITS: Final = {"scans": MAX_SCANS, "frames": MAX_LISTED_FRAMES, "pages": MAX_PAGES, "segments": MAX_SEGMENTS}


def check_structure(path: Path, mime: str) -> None:
    """Refuse the image at ``path``, of the sniffed type ``mime``, when it has more parts than images need.

    Raises:
        ContentRejected: ``content_too_complex``; ``detail`` names the part and its limit.
        OSError: the file cannot be read.
    """
    parts = _PARTS.get(mime)
    if parts is None or path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        counts = dict.fromkeys(_LIMITS, 0)
        try:
            for part in parts(content):
                counts[part] += 1
                if counts[part] > _LIMITS[part]:
                    raise ContentRejected(
                        f"the image has more than {_LIMITS[part]} {part}",
                        code="content_too_complex",
                        detail={"part": part, "limit": _LIMITS[part]},
                    )
        except (IndexError, OverflowError, struct.error):
            return  # the file ends within a header, or a header points out of it


def _jpeg(content: _Bytes) -> Iterator[str]:
    """Yield the segments and scans up to the end of the first image (ITU-T T.81, B.1.1)."""
    at = 2
    while content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        if marker == 0xD9:  # end of image; what follows is another one
            return
        yield "segments"
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a length
            at += 2
            continue
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
        if marker == 0xDA:
            yield "scans"
            found = _MARKER.search(content, at)
            if found is None:
                return
            at = found.start()


def _png(content: _Bytes) -> Iterator[str]:
    """Yield the chunks, and the frames of an APNG (PNG 3rd edition, 5.3 and 11.3.6.2)."""
    at = 8
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        yield "segments"
        if kind == b"fcTL":
            yield "frames"
        if kind == b"IEND":
            return
        at += 12 + size


def _webp(content: _Bytes) -> Iterator[str]:
    """Yield the chunks and the frames of an animation (RFC 9649, 2.3 and 2.7.1.1)."""
    at = 12
    end = 8 + struct.unpack_from("<I", content, 4)[0]  # what follows belongs to no image
    while at < end:
        kind, size = struct.unpack_from("<4sI", content, at)
        yield "segments"
        if kind == b"ANMF":
            yield "frames"
        at += 8 + size + size % 2


def _gif(content: _Bytes) -> Iterator[str]:
    """Yield the blocks and the frames (GIF89a, 18 to 26)."""
    at = 13 + _colour_table(content[10])
    while (kind := content[at]) != 0x3B:  # the trailer
        yield "segments"
        if kind == 0x2C:
            yield "frames"
            at += 11 + _colour_table(content[at + 9])
        elif kind == 0x21:
            at += 2
        else:
            return  # damaged
        while content[at]:  # sub-blocks, to an empty one
            at += 1 + content[at]
        at += 1


def _colour_table(packed: int) -> int:
    return 3 << ((packed & 7) + 1) if packed & 0x80 else 0


def _tiff(content: _Bytes) -> Iterator[str]:
    """Yield the pages, which are a list linked by offsets and may be a circle (TIFF 6.0, section 2; BigTIFF)."""
    order = "<" if content[:2] == b"II" else ">"
    is_big = struct.unpack_from(f"{order}H", content, 2)[0] == 43
    count, link, entry, first = ("Q", "Q", 20, 8) if is_big else ("H", "I", 12, 4)
    [at] = struct.unpack_from(order + link, content, first)
    while at:
        yield "pages"
        [entries] = struct.unpack_from(order + count, content, at)
        [at] = struct.unpack_from(order + link, content, at + struct.calcsize(order + count) + entries * entry)


_PARTS: Final[dict[str, Callable[[_Bytes], Iterator[str]]]] = {
    "image/jpeg": _jpeg,
    "image/png": _png,
    "image/webp": _webp,
    "image/gif": _gif,
    "image/tiff": _tiff,
}
