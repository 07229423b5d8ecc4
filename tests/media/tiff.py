"""TIFF files written tag by tag, for layouts that no image library writes (TIFF 6.0)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_SIZES = {1: "B", 3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True, slots=True)
class Page:
    """A directory: an array of height x width x samples, further tags (type and values), and sub-images."""

    pixels: np.ndarray
    tags: dict[int, tuple[int, list[int]]] = field(default_factory=dict)
    sub_images: Sequence[Page] = ()
    planar: bool = False


def tiff(*pages: Page, order: str = "<", is_big: bool = False) -> bytes:
    """Return the file of some pages, little-endian or big-endian, as TIFF or BigTIFF."""
    link, count, entry = ("Q", "Q", 20) if is_big else ("I", "H", 12)
    mark = b"II" if order == "<" else b"MM"
    content = bytearray(mark + struct.pack(f"{order}H", 43 if is_big else 42))
    content += struct.pack(f"{order}HH", 8, 0) if is_big else b""
    at = len(content)
    content += bytes(struct.calcsize(link))

    def stored(body: bytes) -> int:
        content.extend(bytes(len(content) % 2))
        content.extend(body)
        return len(content) - len(body)

    def directory(page: Page) -> tuple[int, int]:
        """Return where it begins and where it links to the next one."""
        height, width, samples = page.pixels.shape
        pixels = page.pixels.astype(page.pixels.dtype.newbyteorder(order))
        strips = [pixels[..., n] for n in range(samples)] if page.planar else [pixels]
        bits = page.pixels.dtype.itemsize * 8
        tags = {
            256: (4, [width]),
            257: (4, [height]),
            258: (3, [bits] * samples),
            259: (3, [1]),
            262: (3, [2 if samples >= 3 else 1]),
            273: (4, [stored(strip.tobytes()) for strip in strips]),
            277: (3, [samples]),
            278: (4, [height]),
            279: (4, [strip.nbytes for strip in strips]),
            284: (3, [2 if page.planar else 1]),
            **page.tags,
        }
        if page.sub_images:
            tags[330] = (4, [directory(sub)[0] for sub in page.sub_images])
        rows = b""
        for tag in sorted(tags):
            kind, values = tags[tag]
            body = struct.pack(f"{order}{len(values)}{_SIZES[kind]}", *values)
            room = struct.calcsize(link)
            inline = body.ljust(room, b"\0") if len(body) <= room else struct.pack(order + link, stored(body))
            rows += struct.pack(f"{order}HH{link}", tag, kind, len(values)) + inline
        begin = stored(struct.pack(order + count, len(tags)) + rows + bytes(struct.calcsize(link)))
        assert len(rows) == entry * len(tags)
        return begin, len(content) - struct.calcsize(link)

    for page in pages:
        begin, following = directory(page)
        struct.pack_into(order + link, content, at, begin)
        at = following
    return bytes(content)
