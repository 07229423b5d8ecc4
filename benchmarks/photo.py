"""The photo every benchmark uses: 9 megapixels, as a phone takes it."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

#: Pixels of the photo that is made when the corpus is not there: those of the one that is.
SIZE = (4608, 1976)


@cache
def photo() -> Path:
    """Return ``photo_9mp.jpg`` of the directory ``RINDLE_CORPUS``, or an image of its size made from scikit-image's.

    The made one is scikit-image's astronaut, enlarged and mirrored into the frame with grain over it, so that it costs
    a decoder about as much as a photo of that size.
    """
    if corpus := os.environ.get("RINDLE_CORPUS"):
        real = Path(corpus) / "photo_9mp.jpg"
        if real.is_file():
            return real
    return _made()


def _made() -> Path:
    import numpy
    from PIL import Image, ImageOps
    from skimage import data

    width, height = SIZE
    tile = Image.fromarray(data.astronaut()).resize((height, height), Image.Resampling.BICUBIC)
    image = Image.new("RGB", SIZE)
    for number, left in enumerate(range(0, width, height)):
        image.paste(ImageOps.mirror(tile) if number % 2 else tile, (left, 0))
    grain = numpy.random.default_rng(9).normal(0, 6, (height, width, 1))  # the same grain in every run
    pixels = numpy.clip(numpy.asarray(image) + grain, 0, 255).astype("uint8")
    path = Path(tempfile.mkdtemp(prefix="rindle-bench-")) / "photo_9mp.jpg"
    Image.fromarray(pixels).save(path, quality=88)
    return path
