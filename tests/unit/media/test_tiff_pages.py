"""Directories of TIFF files whose bytes were changed: the answer may differ, other errors do not occur."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rindle.errors import ContentRejected
from rindle.media.tiff_pages import TiffImage, find_image
from tests.media.tiff import Page, tiff

_PIXELS = np.zeros((2, 3, 4), np.uint8)
_FILES = [
    tiff(Page(_PIXELS, {338: (3, [2])}, [Page(_PIXELS[..., :3])]), Page(_PIXELS[..., :1]), order=order, is_big=is_big)
    for order in "<>"
    for is_big in (False, True)
]


def test_the_samples_and_the_page_are_found(tmp_path: Path) -> None:
    for content in _FILES:
        path = tmp_path / "whole.tif"
        path.write_bytes(content)
        assert find_image(path) == TiffImage(page=0, sub_image=None, samples=4, colours=3, alpha=3)


@given(
    content=st.sampled_from(_FILES),
    changes=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=6),
    length=st.integers(0, 600),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_never_raises_anything_but_a_rejection(
    tmp_path: Path, content: bytes, changes: list[tuple[int, int]], length: int
) -> None:
    damaged = bytearray(content)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    path = tmp_path / "damaged.tif"
    path.write_bytes(damaged[:length])
    try:
        assert isinstance(find_image(path), TiffImage | None)
    except ContentRejected as refused:
        assert refused.code in ("camera_raw", "unsupported_variant_of_format")
