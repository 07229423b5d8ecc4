"""Pictures read back with Pillow, and how far apart two of them are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def opened(picture: Path | bytes) -> Image.Image:
    """Return a picture in memory, as its format has it, so that no file stays open."""
    image = Image.open(io.BytesIO(picture if isinstance(picture, bytes) else picture.read_bytes()))
    image.load()
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two pictures in RGB, both shrunk to 32 x 32, 0 to 1."""
    small = [
        np.asarray(each.convert("RGB").resize((32, 32), Image.Resampling.BOX), dtype=float) for each in (one, other)
    ]
    return float(np.abs(small[0] - small[1]).mean() / 255)
