"""Which size an image gets: pure arithmetic on pixels after orientation; no image is opened here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rindle.recipes import ImageVariant


@dataclass(frozen=True, slots=True)
class Frame:
    """How an output is made from the whole image.

    ``scaled_*`` is the size to which the **whole** image is scaled; ``width`` and ``height`` are those of the output,
    smaller where something is cut off and larger where bars are added, or where a window is cut and then enlarged.
    """

    scaled_width: int
    scaled_height: int
    width: int
    height: int

    @property
    def enlargement(self) -> float:
        """By how much a window of the whole image is enlarged to cover the box; 1 or less where it is only cut."""
        return max(self.width / self.scaled_width, self.height / self.scaled_height)


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of an image is enlarged, to which size, and where in the result the output begins.

    The part is a few pixels larger than the output shows, so that the interpolation at the edges has neighbours.
    """

    left: int
    top: int
    width: int
    height: int
    scaled_width: int
    scaled_height: int
    x: int
    y: int


#: Pixels around a window that the bicubic interpolation of its edge reads.
_MARGIN = 2


def frame_of(recipe: ImageVariant, width: int, height: int) -> Frame:
    """Return the sizes of ``recipe`` for an image of ``width`` x ``height`` pixels.

    ``fit`` stays inside the box and keeps the aspect ratio, a single dimension decides alone, and it enlarges only
    with ``upscale``; ``fill`` and ``crop`` cover the box exactly, enlarging when needed; ``fill`` with one dimension
    is ``fit``; ``pad`` is ``fit`` with bars up to the exact box; ``stretch`` is the exact box.
    """
    box = (recipe.width, recipe.height)
    if box[0] is None or box[1] is None:
        fitted = _inside(box, width, height, recipe.upscale)
        return Frame(*fitted, *fitted)
    exact = (box[0], box[1])
    if recipe.mode == "stretch":
        return Frame(*exact, *exact)
    if recipe.mode in ("fill", "crop"):
        scale = max(exact[0] / width, exact[1] / height)
        if scale > 1:  # a thin image would grow without bounds: the window is cut before it is enlarged
            return Frame(width, height, *exact)
        # Rounding must never leave the cover one pixel short of the box.
        return Frame(max(exact[0], round(width * scale)), max(exact[1], round(height * scale)), *exact)
    fitted = _inside(exact, width, height, recipe.upscale)
    return Frame(*fitted, *(exact if recipe.mode == "pad" else fitted))


def enlarged_window(frame: Frame, left: float, top: float) -> Window:
    """Return the window whose upper left corner is at ``left`` and ``top`` of the whole image of ``frame``."""
    across = _enlarged_side(frame.scaled_width, frame.width, frame.enlargement, left)
    down = _enlarged_side(frame.scaled_height, frame.height, frame.enlargement, top)
    return Window(*(side for pair in zip(across, down, strict=True) for side in pair))


def _enlarged_side(whole: int, wanted: int, scale: float, start: float) -> tuple[int, int, int, int]:
    """Return first pixel, pixels, scaled pixels, and where the output begins in these."""
    first = max(0, math.floor(start) - _MARGIN)
    end = min(whole, math.ceil(start + wanted / scale) + _MARGIN)
    scaled = max(wanted, round((end - first) * scale))
    return first, end - first, scaled, min(scaled - wanted, round((start - first) * scale))


def decoder_shrink(width: int, height: int, frame: Frame) -> int:
    """Return the factor (1, 2, 4, 8) that a JPEG or WebP decoder itself may shrink by.

    At least a factor of two is left to the real resampler, because the decoder's own block average sharpens
    (the rule of libvips' ``thumbnail``).
    """
    factor = min(width / frame.scaled_width, height / frame.scaled_height)
    return next((shrink for shrink in (8, 4, 2) if factor >= 2 * shrink), 1)


def _inside(box: tuple[int | None, int | None], width: int, height: int, upscale: bool) -> tuple[int, int]:
    scale = min(limit / size for limit, size in zip(box, (width, height), strict=True) if limit is not None)
    if not upscale:
        scale = min(scale, 1.0)
    wanted = (max(1, round(width * scale)), max(1, round(height * scale)))
    return (min(wanted[0], box[0] or wanted[0]), min(wanted[1], box[1] or wanted[1]))
