"""Steps of the image engine that place the scaled image in the output: cut, enlarge, pad, flatten.

Like :mod:`rindle.media.image`, this module runs in render children only. Each step takes the image, the recipe and the
frame, and returns an image.
"""

from __future__ import annotations

from collections.abc import Callable

import pyvips

from rindle.media.image_geometry import Frame, enlarged_window
from rindle.recipes import ImageVariant

#: Where gravity puts a window, as shares of the free space left of it and above it.
_SHARES = {"west": (0.0, 0.5), "east": (1.0, 0.5), "north": (0.5, 0.0), "south": (0.5, 1.0)}


def place(image: pyvips.Image, recipe: ImageVariant, frame: Frame) -> pyvips.Image:
    """Cut the image to the box, or put it into the middle of a larger one.

    Where the box needs more pixels than the image has, the window is cut first and then enlarged: the work depends on
    the size of the output, not on the shape of the image.
    """
    if recipe.mode == "pad":
        return _padded(image, recipe, frame)
    if (frame.width, frame.height) == (frame.scaled_width, frame.scaled_height):
        return image
    if frame.enlargement > 1:
        return _enlarged(image, recipe, frame)
    left, top = _offset(image, recipe.gravity, frame, (frame.width, frame.height))
    left, top = int(left), int(top)
    return _each_page(image, lambda page: page.crop(left, top, frame.width, frame.height))


def flatten(image: pyvips.Image, recipe: ImageVariant, frame: Frame, *, always: bool = False) -> pyvips.Image:
    """Put the image on the background colour, since JPEG has no alpha."""
    if image.hasalpha() and (always or recipe.format == "jpeg"):
        return image.flatten(background=_rgb(recipe.background))
    return image


def _enlarged(image: pyvips.Image, recipe: ImageVariant, frame: Frame) -> pyvips.Image:
    cut = (frame.width / frame.enlargement, frame.height / frame.enlargement)
    window = enlarged_window(frame, *_offset(image, recipe.gravity, frame, cut))

    def enlarge(page: pyvips.Image) -> pyvips.Image:
        part = page.crop(window.left, window.top, window.width, window.height)
        scaled = part.thumbnail_image(
            window.scaled_width, height=window.scaled_height, size="force", no_rotate=True, linear=False
        )
        return scaled.crop(window.x, window.y, frame.width, frame.height)

    return _each_page(image, enlarge)


def _offset(image: pyvips.Image, gravity: str, frame: Frame, size: tuple[float, float]) -> tuple[float, float]:
    """Return where a window of ``size`` begins, in pixels of the scaled image."""
    if gravity in ("attention", "entropy"):
        # One window for all frames, chosen on the first: a window per frame would jump.
        first = image.crop(0, 0, frame.scaled_width, frame.scaled_height)
        whole = [max(1, round(side)) for side in size]
        window = first.smartcrop(*whole, interesting=gravity)
        return -window.xoffset, -window.yoffset
    left, top = _SHARES.get(gravity, (0.5, 0.5))
    return (frame.scaled_width - size[0]) * left, (frame.scaled_height - size[1]) * top


def _padded(image: pyvips.Image, recipe: ImageVariant, frame: Frame) -> pyvips.Image:
    if recipe.background is None and recipe.format != "jpeg":
        image = image if image.hasalpha() else image.addalpha()
        colour = [0, 0, 0, 0]
    else:
        image, colour = flatten(image, recipe, frame, always=True), _rgb(recipe.background)
    return _each_page(
        image,
        lambda page: page.gravity("centre", frame.width, frame.height, extend="background", background=colour),
    )


def _each_page(image: pyvips.Image, step: Callable[[pyvips.Image], pyvips.Image]) -> pyvips.Image:
    if _frames(image) == 1:
        return step(image)
    pages = [step(page) for page in image.pagesplit()]
    joined = pyvips.Image.arrayjoin(pages, across=1).copy()
    joined.set_type(pyvips.GValue.gint_type, "page-height", pages[0].height)
    return joined


def _frames(image: pyvips.Image) -> int:
    # Not ``get_n_pages``, which counts what the file has rather than what was loaded.
    return int(image.height // image.get_page_height())


def _rgb(colour: str | None) -> list[int]:
    return list(bytes.fromhex((colour or "#ffffff").removeprefix("#")))
