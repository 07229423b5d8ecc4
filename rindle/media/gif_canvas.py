"""The canvas of a GIF whose first frame does not cover it, as its header states it.

libnsgif does not believe some sizes that old programs wrote by habit, such as 800 × 600, nor any above 2048; it takes
the size of the first frame instead. Browsers take the header's size. Such a file is read with a size that the library
believes, and every frame is then cut to the canvas. What the first frame leaves free is transparent.

Runs in the child processes of :mod:`rindle.media.render_pool` only.

Source: GIF89a, 18 (logical screen descriptor) and 20 (image descriptor); libnsgif, ``nsgif_data_scan``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyvips

#: Sizes that libnsgif does not believe, and the longest side that it does.
_DISBELIEVED: Final = frozenset({(640, 480), (640, 512), (800, 600), (1024, 768), (1280, 1024), (1600, 1200)})
_LONGEST_SIDE: Final = 2048
#: Bytes in which the first frame must begin.
_HEAD_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Canvas:
    """The canvas of a GIF and the place of its first frame on it.

    Attributes:
        width: pixels.
        height: pixels.
        frame: left, top, width and height of the first frame, cut to the canvas.
        content: the file with a size that libnsgif believes, one pixel wider; ``None`` when it reads the file itself.
    """

    width: int
    height: int
    frame: tuple[int, int, int, int]
    content: bytes | None

    def applied(self, image: pyvips.Image) -> pyvips.Image:
        """Return the frames of ``image``, as loaded, on the canvas."""
        page_height = image.get_page_height()
        count = image.height // page_height
        if count == 1:
            return self._first(image)
        image = image.copy_memory()  # frames are read out of order
        pages = [self._cut(image.crop(0, page_height * n, image.width, page_height)) for n in range(count)]
        joined = pyvips.Image.arrayjoin(pages, across=1).copy()
        joined.set_type(pyvips.GValue.gint_type, "page-height", self.height)
        return joined

    def _first(self, image: pyvips.Image) -> pyvips.Image:
        if image.hasalpha():
            return self._cut(image)
        left, top, width, height = self.frame
        width, height = min(width, image.width - left), min(height, image.height - top)
        if (width, height) == (self.width, self.height):
            return self._cut(image)
        if width <= 0 or height <= 0:
            return pyvips.Image.black(self.width, self.height, bands=4).copy(interpretation="srgb")
        return image.crop(left, top, width, height).addalpha().embed(left, top, self.width, self.height)

    def _cut(self, page: pyvips.Image) -> pyvips.Image:
        if page.width < self.width or page.height < self.height:
            page = page if page.hasalpha() else page.addalpha()
            width, height = max(page.width, self.width), max(page.height, self.height)
            page = page.embed(0, 0, width, height)
        return page.crop(0, 0, self.width, self.height)


def canvas_of(path: Path) -> Canvas | None:
    """Return the canvas of the GIF at ``path``; ``None`` when its first frame covers it exactly, or cannot be found.

    A canvas without a width or height is not one: the first frame decides, as in browsers.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        try:
            width, height = struct.unpack_from("<HH", head, 6)
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", head, _first_frame(head) + 1)
        except (IndexError, struct.error):
            return None
        if 0 in (width, height) or (left, top, frame_width, frame_height) == (0, 0, width, height):
            return None
        frame_width, frame_height = max(0, min(frame_width, width - left)), max(0, min(frame_height, height - top))
        content = None
        if (width, height) in _DISBELIEVED:
            file.seek(0)
            whole = file.read()
            content = whole[:6] + struct.pack("<H", width + 1) + whole[8:]
        return Canvas(width, height, (left, top, frame_width, frame_height), content)


def _first_frame(head: bytes) -> int:
    """Return where the image descriptor of the first frame begins."""
    at = 13 + (3 << ((head[10] & 7) + 1) if head[10] & 0x80 else 0)
    while head[at] == 0x21:  # an extension
        at += 2
        while head[at]:
            at += 1 + head[at]
        at += 1
    if head[at] != 0x2C:
        raise IndexError(at)
    return at
