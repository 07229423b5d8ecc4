"""Sizes of images against their siblings: small originals stay sharp, and thin ones have variants like all others."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rindle.media.render_pool import RenderOrder, RenderPool
from rindle.recipes import ImageVariant
from tests.media.pictures import opened

MAX_PIXELS = 100_000_000
#: Mean difference of two pictures, in levels of 255, up to which they look the same.
SAME_LEVELS = 4.0


async def rendered(pool: RenderPool, source: Path, **recipes: dict[str, Any]) -> dict[str, Image.Image]:
    """Render PNGs together from one source."""
    orders = [
        RenderOrder(name, ImageVariant(**recipe, format="png"), source.parent / f"{name}.out")
        for name, recipe in recipes.items()
    ]
    mime = {".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg", ".webp": "image/webp"}[source.suffix]
    results = await pool.render(source, mime, orders, max_pixels=MAX_PIXELS)
    assert [result.error for result in results] == [None] * len(orders)
    return {result.name: opened(result.path) for result in results if result.path}


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGBA"), dtype=float)


def apart(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference in levels, 0 to 255."""
    assert one.size == other.size
    return float(np.abs(levels(one) - levels(other)).mean())


# --- beside siblings ---------------------------------------------------------------------------------------------


def board(width: int, height: int) -> Image.Image:
    """A checkerboard of single pixels: the first thing that a blur destroys."""
    return Image.fromarray((np.indices((height, width)).sum(axis=0) % 2 * 255).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize(
    "larger",
    [
        {"mode": "crop", "width": 256, "height": 256},
        {"mode": "fill", "width": 130, "height": 200},
        {"mode": "fit", "width": 512, "upscale": True},
        {"mode": "pad", "width": 400, "height": 400, "upscale": True},
        {"mode": "stretch", "width": 300, "height": 128},
    ],
    ids=lambda recipe: recipe["mode"],
)
async def test_an_image_that_fits_keeps_its_pixels_beside_enlarged_siblings(
    pool: RenderPool, tmp_path: Path, larger: dict[str, Any]
) -> None:
    source = tmp_path / "icon.png"
    board(64, 64).save(source)
    made = await rendered(pool, source, larger=larger, fit={"mode": "fit", "width": 300, "height": 300})
    assert np.array_equal(levels(made["fit"]), levels(opened(source)))


_SIDE = st.integers(1, 400)
_BOX = st.integers(1, 500)


@st.composite
def _recipe(draw: st.DrawFn) -> dict[str, Any]:
    mode = draw(st.sampled_from(["fit", "fill", "crop", "pad", "stretch"]))
    recipe = {"mode": mode, "width": draw(_BOX), "height": draw(_BOX)}
    if mode in ("fit", "pad"):
        recipe["upscale"] = draw(st.booleans())
    if mode in ("fill", "crop"):
        recipe["gravity"] = draw(st.sampled_from(["centre", "north", "south", "east", "west"]))
    return recipe


@given(width=_SIDE, height=_SIDE, recipes=st.lists(_recipe(), min_size=2, max_size=5), has_alpha=st.booleans())
@settings(max_examples=25, deadline=None)
async def test_outputs_look_the_same_with_siblings_and_without(
    pool: RenderPool, width: int, height: int, recipes: list[dict[str, Any]], has_alpha: bool
) -> None:
    photo = Image.fromarray(skimage.data.astronaut()).resize((width, height), Image.Resampling.LANCZOS)
    if has_alpha:
        photo.putalpha(Image.linear_gradient("L").resize((width, height)))
    named = {f"v{number}": recipe for number, recipe in enumerate(recipes)}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "photo.png"
        photo.save(source)
        together = await rendered(pool, source, **named)
        for name, recipe in named.items():
            alone = (await rendered(pool, source, **{name: recipe}))[name]
            assert apart(alone, together[name]) < SAME_LEVELS
            if recipe["mode"] == "fit" and alone.size == photo.size:
                assert np.array_equal(levels(together[name]), levels(photo))


# --- thin images -------------------------------------------------------------------------------------------------


def stripes(width: int, height: int) -> Image.Image:
    """Red, green and blue thirds along the longer side."""
    image = Image.new("RGB", (width, height), "#00ff00")
    if width > height:
        image.paste("#ff0000", (0, 0, width // 3, height))
        image.paste("#0000ff", (width - width // 3, 0, width, height))
    else:
        image.paste("#ff0000", (0, 0, width, height // 3))
        image.paste("#0000ff", (0, height - height // 3, width, height))
    return image


THIN = [(1, 20_000), (20_000, 1), (3, 9_000), (16_383, 2), (2, 60_000), (5, 40)]


@pytest.mark.parametrize(
    ("suffix", "size"),
    # WebP has at most 16,383 pixels per side.
    [
        (suffix, size)
        for suffix in (".png", ".jpg", ".webp", ".gif")
        for size in THIN
        if suffix != ".webp" or max(size) < 16_384
    ],
)
async def test_a_thin_image_has_square_crops(
    pool: RenderPool, tmp_path: Path, size: tuple[int, int], suffix: str
) -> None:
    source = tmp_path / f"thin{suffix}"
    stripes(*size).save(source)
    square = {"mode": "crop", "width": 256, "height": 256}
    ends = ("west", "east") if size[0] > size[1] else ("north", "south")
    made = await rendered(
        pool,
        source,
        **{gravity: {**square, "gravity": gravity} for gravity in ("centre", *ends, "attention", "entropy")},
        filled={"mode": "fill", "width": 300, "height": 100},
        fitted={"mode": "fit", "width": 300, "height": 300},
    )
    assert made["filled"].size == (300, 100)
    assert max(made["fitted"].size) == min(300, max(size))
    for gravity, colour in zip((ends[0], "centre", ends[1]), np.eye(3) * 255, strict=True):
        assert made[gravity].size == (256, 256)
        assert np.abs(levels(made[gravity])[..., :3] - colour).mean() < 12, gravity
    assert made["attention"].size == made["entropy"].size == (256, 256)


async def test_the_pixel_limit_holds_for_enlarged_outputs_but_not_for_bars(pool: RenderPool, tmp_path: Path) -> None:
    source = tmp_path / "small.png"
    stripes(30, 20).save(source)
    box = {"width": 200, "height": 200, "format": "png"}
    orders = [
        RenderOrder(mode, ImageVariant(mode=mode, **box), tmp_path / f"{mode}.png")
        for mode in ("crop", "stretch", "pad")
    ]
    results = await pool.render(source, "image/png", orders, max_pixels=39_999)
    assert [result.error and result.error.code for result in results] == ["render_failed", "render_failed", None]
    results = await pool.render(source, "image/png", orders, max_pixels=40_000)
    assert [result.error for result in results] == [None, None, None]


async def test_an_enlarged_crop_shows_the_same_part_as_the_enlarged_image(pool: RenderPool, tmp_path: Path) -> None:
    photo = Image.fromarray(skimage.data.astronaut()).resize((97, 61), Image.Resampling.LANCZOS)
    source = tmp_path / "small.png"
    photo.save(source)
    large = photo.resize((97 * 8, 61 * 8), Image.Resampling.BICUBIC)
    for gravity, left in (("west", 0), ("centre", (97 * 8 - 488) // 2), ("east", 97 * 8 - 488)):
        recipe = {"mode": "crop", "width": 488, "height": 488, "gravity": gravity}
        made = (await rendered(pool, source, crop=recipe))["crop"]
        assert apart(made, large.crop((left, 0, left + 488, 488))) < SAME_LEVELS


async def test_each_frame_of_an_animation_is_enlarged_on_its_own(pool: RenderPool, tmp_path: Path) -> None:
    source = tmp_path / "blink.gif"
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("#ff0000", "#0000ff")]
    frames[0].save(source, save_all=True, append_images=frames[1:], duration=100, loop=0)
    recipe = ImageVariant(mode="crop", width=64, height=64, format="webp", animated=True, lossless=True)
    [result] = await pool.render(
        source, "image/gif", [RenderOrder("it", recipe, tmp_path / "it.webp")], max_pixels=MAX_PIXELS
    )
    assert result.error is None
    moving = opened(tmp_path / "it.webp")
    assert (moving.n_frames, moving.size) == (2, (64, 64))
    for number, colour in enumerate([(255, 0, 0), (0, 0, 255)]):
        moving.seek(number)
        assert np.abs(levels(moving)[..., :3] - colour).max() <= 2
