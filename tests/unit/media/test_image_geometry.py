from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rindle.media.image_geometry import Frame, decoder_shrink, enlarged_window, frame_of
from rindle.recipes import ImageVariant

SIDES = st.integers(1, 20_000)
BOXES = st.integers(1, 4_000)


@pytest.mark.parametrize(
    ("recipe", "size", "expected"),
    [
        ({"mode": "fit", "width": 1024}, (4608, 1976), Frame(1024, 439, 1024, 439)),
        ({"mode": "fit", "height": 100}, (4608, 1976), Frame(233, 100, 233, 100)),
        ({"mode": "fit", "width": 100, "height": 100}, (200, 400), Frame(50, 100, 50, 100)),
        ({"mode": "fit", "width": 100, "height": 100}, (20, 40), Frame(20, 40, 20, 40)),
        ({"mode": "fit", "width": 100, "height": 100, "upscale": True}, (20, 40), Frame(50, 100, 50, 100)),
        ({"mode": "fit", "width": 10}, (10_000, 1), Frame(10, 1, 10, 1)),
        ({"mode": "fill", "width": 50}, (100, 80), Frame(50, 40, 50, 40)),
        ({"mode": "fill", "width": 50}, (20, 10), Frame(20, 10, 20, 10)),
        ({"mode": "fill", "width": 50, "height": 50}, (100, 80), Frame(62, 50, 50, 50)),
        ({"mode": "crop", "width": 10, "height": 10}, (1, 1), Frame(1, 1, 10, 10)),
        ({"mode": "crop", "width": 256, "height": 256}, (1, 20_000), Frame(1, 20_000, 256, 256)),
        ({"mode": "fill", "width": 100, "height": 100}, (100, 300), Frame(100, 300, 100, 100)),
        ({"mode": "crop", "width": 128, "height": 128}, (4608, 1976), Frame(298, 128, 128, 128)),
        ({"mode": "pad", "width": 300, "height": 300}, (4608, 1976), Frame(300, 129, 300, 300)),
        ({"mode": "pad", "width": 300, "height": 300}, (30, 10), Frame(30, 10, 300, 300)),
        ({"mode": "pad", "width": 300, "height": 300, "upscale": True}, (30, 10), Frame(300, 100, 300, 300)),
        ({"mode": "stretch", "width": 7, "height": 9}, (100, 10), Frame(7, 9, 7, 9)),
    ],
)
def test_each_mode_has_its_sizes(recipe: dict[str, Any], size: tuple[int, int], expected: Frame) -> None:
    assert frame_of(ImageVariant(**recipe), *size) == expected


@given(width=SIDES, height=SIDES, box_width=BOXES, box_height=BOXES, upscale=st.booleans())
def test_fit_stays_in_the_box_and_never_enlarges_unasked(
    width: int, height: int, box_width: int, box_height: int, upscale: bool
) -> None:
    recipe = ImageVariant(mode="fit", width=box_width, height=box_height, upscale=upscale)
    frame = frame_of(recipe, width, height)
    assert 1 <= frame.width <= box_width
    assert 1 <= frame.height <= box_height
    if upscale:
        assert frame.width == box_width or frame.height == box_height
    else:
        assert frame.width <= width
        assert frame.height <= height


@given(width=SIDES, height=SIDES, box_width=BOXES, box_height=BOXES)
def test_crop_covers_the_box_exactly_and_no_more_than_needed(
    width: int, height: int, box_width: int, box_height: int
) -> None:
    frame = frame_of(ImageVariant(mode="crop", width=box_width, height=box_height), width, height)
    assert (frame.width, frame.height) == (box_width, box_height)
    if frame.enlargement > 1:  # the window is cut from the image as it is
        assert (frame.scaled_width, frame.scaled_height) == (width, height)
        assert width < box_width or height < box_height
    else:
        assert box_width <= frame.scaled_width <= width
        assert box_height <= frame.scaled_height <= height
        assert frame.scaled_width == box_width or frame.scaled_height == box_height


@given(width=SIDES, height=SIDES, box_width=BOXES, box_height=BOXES, across=st.floats(0, 1), down=st.floats(0, 1))
def test_a_window_is_enlarged_with_little_more_than_the_output_shows(
    width: int, height: int, box_width: int, box_height: int, across: float, down: float
) -> None:
    frame = frame_of(ImageVariant(mode="crop", width=box_width, height=box_height), width, height)
    assume(frame.enlargement > 1)
    scale = frame.enlargement
    window = enlarged_window(frame, (width - box_width / scale) * across, (height - box_height / scale) * down)
    for first, size, scaled, start, whole, box in (
        (window.left, window.width, window.scaled_width, window.x, width, box_width),
        (window.top, window.height, window.scaled_height, window.y, height, box_height),
    ):
        assert 0 <= first < first + size <= whole
        assert size <= box / scale + 6
        assert 0 <= start <= start + box <= scaled
        assert abs(scaled / size / scale - 1) < 0.5 / min(scaled, size * scale) + 0.01


@given(width=SIDES, height=SIDES, box=BOXES)
def test_the_decoder_leaves_a_factor_of_two_to_the_resampler(width: int, height: int, box: int) -> None:
    frame = frame_of(ImageVariant(mode="fit", width=box, height=box), width, height)
    shrink = decoder_shrink(width, height, frame)
    assert shrink in (1, 2, 4, 8)
    assert shrink == 1 or min(width / frame.scaled_width, height / frame.scaled_height) >= 2 * shrink
