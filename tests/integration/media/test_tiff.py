"""TIFF: which page is the image, what its samples mean, and what is refused with advice."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rindle.errors import ContentRejected
from rindle.media.render_pool import RenderOrder, RenderPool
from rindle.protocols import ProbeResult
from rindle.recipes import ImageVariant
from tests.media.pictures import opened
from tests.media.tiff import Page, tiff

WIDTH, HEIGHT = 40, 24


Made = Callable[[bytes], Awaitable[tuple[ProbeResult, np.ndarray]]]


@pytest.fixture
def made(pool: RenderPool, tmp_path: Path) -> Made:
    """Probe and render a TIFF; the facts and the pixels of a PNG of its size."""

    async def made(content: bytes) -> tuple[ProbeResult, np.ndarray]:
        source = tmp_path / "source.tif"
        source.write_bytes(content)
        facts = await pool.probe(source, "image/tiff", max_pixels=1_000_000)
        order = RenderOrder("it", ImageVariant(mode="fit", width=2000, format="png"), tmp_path / "it.png")
        [result] = await pool.render(source, "image/tiff", [order], max_pixels=1_000_000)
        assert result.error is None, result.error.detail
        pixels = np.asarray(opened(tmp_path / "it.png"), dtype=int)
        assert pixels.shape[:2] == (facts.height, facts.width)
        assert (pixels.shape[2] == 4) is facts.metadata["has_alpha"]
        return facts, pixels

    return made


def colours(dtype: Any = np.uint8, *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Three gradients in three directions."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.rint(np.stack([x, 1 - x, y], axis=-1) * np.iinfo(dtype).max).astype(dtype)


def plane(share: float, like: np.ndarray) -> np.ndarray:
    return np.full((*like.shape[:2], 1), round(share * np.iinfo(like.dtype).max), dtype=like.dtype)


def extra(*kinds: int) -> dict[int, tuple[int, list[int]]]:
    return {338: (3, list(kinds))}


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    return np.rint(pixels / np.iinfo(pixels.dtype).max * 255).astype(int)


# --- samples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_planar", [False, True], ids=["chunky", "planar"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
async def test_samples_that_are_no_alpha_are_left_out(made: Made, dtype: Any, order: str, is_planar: bool) -> None:
    rgb = colours(dtype)
    spare, alpha = plane(0.3, rgb), plane(0.6, rgb)
    for samples, tags, shown_alpha in (
        ([rgb, spare], extra(0), None),
        ([rgb, spare], {}, None),
        ([rgb, spare, spare, spare, spare], extra(0, 0, 0, 0), None),
        ([rgb, alpha], extra(2), 0.6),
        ([rgb, alpha, spare], extra(2, 0), 0.6),
        ([rgb, spare, alpha], extra(0, 2), 0.6),
        ([rgb[..., :1], spare], extra(0), None),
        ([rgb[..., :1], alpha, spare, spare], {**extra(2, 0, 0), 262: (3, [1])}, 0.6),
    ):
        if is_planar and samples[0].shape[2] == 1:
            continue  # read wrongly, and refused
        _, pixels = await made(tiff(Page(np.concatenate(samples, axis=-1), tags, planar=is_planar), order=order))
        assert pixels.shape[2] == (3 if shown_alpha is None else 4)
        expected = eight_bits(samples[0])
        assert np.abs(pixels[..., :3] - expected).max() <= 1
        if shown_alpha is not None:
            assert np.abs(pixels[..., 3] - shown_alpha * 255).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
async def test_colours_that_are_multiplied_by_their_alpha_are_divided(made: Made, dtype: Any) -> None:
    rgb = colours(dtype)
    alpha = plane(0.5, rgb)
    premultiplied = (rgb.astype(float) * 0.5).astype(dtype)
    for samples, kinds in (([premultiplied, alpha], [1]), ([premultiplied, plane(0.1, rgb), alpha], [0, 1])):
        _, pixels = await made(tiff(Page(np.concatenate(samples, axis=-1), extra(*kinds))))
        assert np.abs(pixels[..., :3] - eight_bits(rgb)).max() <= 3
        assert np.abs(pixels[..., 3] - 128).max() <= 1


async def test_ordinary_layouts_are_read_as_before(made: Made) -> None:
    rgb = Image.fromarray(colours())
    ycbcr = np.asarray(rgb.convert("YCbCr"))
    for image, options, reference in (
        (rgb, {}, rgb),
        (rgb, {"compression": "tiff_lzw"}, rgb),
        (rgb.convert("L"), {}, rgb.convert("L")),
        (rgb.convert("1"), {"compression": "group4"}, rgb.convert("1")),
        (rgb.quantize(16), {}, rgb.quantize(16)),
        (rgb, {"compression": "jpeg"}, rgb),
    ):
        target = io.BytesIO()
        image.save(target, "TIFF", **options)
        _, pixels = await made(target.getvalue())
        difference = np.abs(pixels[..., :3] - np.asarray(reference.convert("RGB"), dtype=int))
        assert difference.max() <= (40 if "jpeg" in options.values() else 1)
    inverted = 255 - colours()[..., :1]
    _, pixels = await made(tiff(Page(inverted, {262: (3, [0])})))
    assert np.abs(pixels - colours()[..., :1]).max() <= 1
    blocks = ycbcr.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3)
    units = np.concatenate(
        [blocks[..., 0].transpose(0, 2, 1, 3).reshape(HEIGHT // 2, WIDTH // 2, 4), blocks[:, 0, :, 0, 1:]], axis=-1
    )
    described = {256: (4, [WIDTH]), 257: (4, [HEIGHT]), 258: (3, [8] * 3), 277: (3, [3]), 262: (3, [6])}
    subsampled = Page(units, {**described, 278: (4, [HEIGHT]), 530: (3, [2, 2])})
    _, pixels = await made(tiff(subsampled))
    assert pixels.shape[2] == 3
    assert np.abs(pixels - np.asarray(rgb, dtype=int)).mean() < 12


def refused_layouts() -> dict[str, Page]:
    rgb, grey = colours(), colours()[..., :1]
    lab = {262: (3, [8])}
    return {
        "float": Page(grey.astype(np.float32) / 255, {339: (3, [3])}),
        "float rgb": Page(rgb.astype(np.float32) / 255, {339: (3, [3] * 3)}),
        "double": Page(grey.astype(np.float64), {339: (3, [3])}),
        "half": Page(rgb.astype(np.float16), {339: (3, [3] * 3)}),
        "complex": Page(grey.astype(np.complex64), {339: (3, [6])}),
        "int32": Page(grey.astype(np.int32) * 257, {339: (3, [2])}),
        "uint32": Page(grey.astype(np.uint32) * 257),
        "uint64": Page(grey.astype(np.uint64)),
        "int16": Page(grey.astype(np.int16), {339: (3, [2])}),
        "int8": Page((grey // 2).astype(np.int8), {339: (3, [2])}),
        "lab": Page(rgb, lab),
        "icclab": Page(rgb, {262: (3, [9])}),
        "ycbcr 4:4:4": Page(rgb, {262: (3, [6]), 530: (3, [1, 1])}),
        "3 inks": Page(rgb, {262: (3, [5]), 332: (3, [2]), 334: (3, [3])}),
        "5 inks": Page(np.concatenate([rgb, rgb[..., :2]], axis=-1), {262: (3, [5]), 332: (3, [2]), 334: (3, [5])}),
        "palette and alpha": Page(rgb[..., :2], {262: (3, [3]), **extra(2), 320: (3, [0] * 768)}),
        "12 bits": Page(np.zeros((HEIGHT, WIDTH * 3 // 2, 1), np.uint8), {256: (4, [WIDTH]), 258: (3, [12])}),
        "4 bits of rgb": Page(np.zeros((HEIGHT, WIDTH // 2, 3), np.uint8), {256: (4, [WIDTH]), 258: (3, [4] * 3)}),
        "planes of grey": Page(rgb[..., :2], extra(0), planar=True),
        "planes of lab": Page(colours(np.uint16), lab, planar=True),
        "mixed bits": Page(rgb, {258: (3, [5, 6, 5])}),
        "transparent": Page(np.concatenate([rgb, plane(0, rgb)], axis=-1), extra(2)),
        "transparent, premultiplied": Page(np.concatenate([rgb, plane(0, rgb)], axis=-1), extra(1)),
    }


@pytest.mark.parametrize("name", refused_layouts())
async def test_layouts_that_would_come_out_wrong_are_refused_with_advice(made: Made, name: str) -> None:
    with pytest.raises(ContentRejected) as refused:
        await made(tiff(refused_layouts()[name]))
    assert refused.value.code == "unsupported_variant_of_format"
    assert "export" in refused.value.message
    assert refused.value.detail["reason"]


# --- pages -------------------------------------------------------------------------------------------------------

REDUCED = {254: (4, [1])}
FULL = {254: (4, [0])}


def thumbnail(**tags: Any) -> Page:
    return Page(np.full((6, 10, 3), 200, np.uint8), {**REDUCED, **tags})


@pytest.mark.parametrize("is_big", [False, True], ids=["TIFF", "BigTIFF"])
@pytest.mark.parametrize("order", ["<", ">"])
async def test_a_reduced_page_is_not_the_image(made: Made, order: str, is_big: bool) -> None:
    full = colours()
    mask = Page(np.zeros((HEIGHT, WIDTH, 1), np.uint8), {254: (4, [4])})
    for pages in (
        [Page(full, FULL)],
        [thumbnail(), Page(full, FULL)],
        [thumbnail(), mask, Page(full), thumbnail()],
        [thumbnail(), Page(full, {254: (4, [2])})],
        [Page(np.zeros((6, 10, 3), np.uint8), {255: (3, [2])}), Page(full, {255: (3, [1])})],
        [Page(full), Page(np.zeros((60, 80, 3), np.uint8))],
        [Page(thumbnail().pixels, REDUCED, [Page(full, FULL), thumbnail()])],
        [Page(thumbnail().pixels, REDUCED, [thumbnail(), Page(full, FULL)])],
    ):
        facts, pixels = await made(tiff(*pages, order=order, is_big=is_big))
        assert (facts.width, facts.height) == (WIDTH, HEIGHT)
        assert np.array_equal(pixels, full)


async def test_a_page_is_turned_by_its_own_orientation(made: Made) -> None:
    full = colours()
    turned = np.rot90(full)  # orientation 6: to be shown a quarter clockwise
    facts, pixels = await made(tiff(thumbnail(), Page(np.ascontiguousarray(turned), {274: (3, [6])})))
    assert (facts.width, facts.height, facts.metadata["orientation"]) == (WIDTH, HEIGHT, 6)
    assert np.array_equal(pixels, full)


async def test_a_tiff_of_reduced_pages_only_is_refused(made: Made) -> None:
    with pytest.raises(ContentRejected) as refused:
        await made(tiff(thumbnail(), thumbnail()))
    assert refused.value.code == "unsupported_variant_of_format"


# --- camera raw --------------------------------------------------------------------------------------------------


def sensor(**tags: Any) -> Page:
    return Page(colours(np.uint16)[..., :1], {262: (3, [32803]), **FULL, **tags})


def raw_files() -> dict[str, bytes]:
    """Containers of several makers, all with a preview as their first page."""
    preview = thumbnail().pixels
    cr2 = bytearray(tiff(Page(colours()), Page(preview), order="<"))
    cr2[4:8] = (int.from_bytes(cr2[4:8], "little") + 8).to_bytes(4, "little")
    packed = Page(colours(np.uint16)[..., :1], {259: (3, [34713]), 262: (3, [1])})
    return {
        "DNG": tiff(Page(preview, {**REDUCED, 50706: (1, [1, 4, 0, 0])}, [sensor()])),
        "DNG of one page": tiff(Page(colours(), {50706: (1, [1, 4, 0, 0])})),
        "linear DNG": tiff(Page(preview, REDUCED, [Page(colours(np.uint16), {**FULL, 262: (3, [34892])})])),
        "NEF": tiff(Page(preview, REDUCED, [Page(colours(), REDUCED), sensor()]), order=">"),
        "compressed NEF": tiff(Page(preview, REDUCED, [packed])),
        "PEF": tiff(sensor(), thumbnail()),
        "preview not marked": tiff(Page(colours()), thumbnail(), sensor()),
        "pattern only": tiff(Page(colours(np.uint16)[..., :1], {33421: (3, [2, 2]), 33422: (1, [0, 1, 1, 2])})),
        "BigTIFF": tiff(Page(preview, REDUCED, [sensor()]), is_big=True),
    }


@pytest.mark.parametrize("name", raw_files())
async def test_the_raw_file_of_a_camera_is_refused_as_such(made: Made, name: str) -> None:
    with pytest.raises(ContentRejected) as refused:
        await made(raw_files()[name])
    assert refused.value.code == "camera_raw"
    assert "export the photo as JPEG" in refused.value.message


async def test_the_mark_of_canon_is_known(made: Made) -> None:
    plain = tiff(Page(colours()))
    marked = plain[:8] + b"CR\x02\0" + plain[12:]
    with pytest.raises(ContentRejected) as refused:
        await made(marked)
    assert refused.value.code == "camera_raw"


# --- damage ------------------------------------------------------------------------------------------------------


async def test_damaged_directories_are_left_to_the_decoder(made: Made) -> None:
    whole = tiff(Page(colours(), extra(), [thumbnail()]), thumbnail())
    for length in [*range(8, 200, 17), len(whole) // 2, len(whole) - 3]:
        try:
            _, pixels = await made(whole[:length])
        except ContentRejected as refused:
            assert refused.code == "decode_failed", length
        else:  # only the last page was lost
            assert pixels.shape == (HEIGHT, WIDTH, 3)
