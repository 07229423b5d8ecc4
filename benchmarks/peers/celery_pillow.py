"""Images of the Celery peer with Pillow: one decode per size with ``draft``, which for two sizes is faster than one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image, ImageOps


def size(source: Path) -> tuple[int, int]:
    """Read width and height from the header."""
    with Image.open(source) as header:
        return header.size


def render(source: Path, targets: Mapping[Path, tuple[str, int]]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Make a JPEG per target, which fits a square of its side; yields name and size of each."""
    for target, (name, side) in targets.items():
        with Image.open(source) as image:
            image.draft("RGB", (side, side))
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((side, side), Image.Resampling.LANCZOS)
            upright.save(target, "JPEG", quality=80, optimize=True, progressive=True)
            yield name, upright.size
