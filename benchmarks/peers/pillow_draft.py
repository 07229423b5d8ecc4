"""Pillow as its documentation advises: ``draft`` lets the JPEG decoder shrink, one decode serves all sizes."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from benchmarks.application import SIDES


def render(source: Path, dest: Path) -> None:
    """Make every size of ``source`` in the directory ``dest``, the smaller from the larger."""
    sizes = sorted(SIDES.items(), key=lambda item: item[1], reverse=True)
    longest = sizes[0][1]
    with Image.open(source) as image:
        image.draft("RGB", (longest, longest))
        image_copy = ImageOps.exif_transpose(image).convert("RGB")
        for name, side in sizes:
            image_copy.thumbnail((side, side), Image.Resampling.LANCZOS)
            image_copy.save(dest / f"{name}.jpg", "JPEG", quality=80, optimize=True, progressive=True)
