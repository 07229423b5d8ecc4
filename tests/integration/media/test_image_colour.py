"""Colours: profiles that nobody can use, spaces that a file names without a profile, and grey of limited range."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from rindle.media.render_pool import RenderOrder, RenderPool
from rindle.recipes import ImageVariant
from tests.media import heif
from tests.media.pictures import opened

TYPES = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "tiff": "image/tiff",
    "avif": "image/avif",
    "heic": "image/heic",
}
PATCHES = [(200, 40, 40), (40, 170, 60), (40, 60, 200), (230, 210, 60), (128, 128, 128), (20, 20, 20)]
SIDE = 48


@pytest.fixture(scope="module")
def p3_profile() -> bytes:
    """The Display P3 profile that comes with libvips."""
    program = "import pyvips, sys; sys.stdout.buffer.write(bytes(pyvips.Operation.call('profile_load', 'p3')))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout


Patches = Callable[..., Awaitable[list[tuple[int, ...]]]]


@pytest.fixture
def shown(pool: RenderPool, tmp_path: Path) -> Patches:
    """Probe and render a file; the colours in the middle of its patches."""

    async def shown(content: bytes, kind: str, **options: Any) -> list[tuple[int, ...]]:
        source = tmp_path / f"source.{kind}"
        source.write_bytes(content)
        await pool.probe(source, TYPES[kind], max_pixels=1_000_000)
        recipe = ImageVariant(mode="fit", width=2000, format="png", **options)
        order = RenderOrder("it", recipe, tmp_path / "it.png")
        [result] = await pool.render(source, TYPES[kind], [order], max_pixels=1_000_000)
        assert result.error is None, result.error.detail
        image = opened(tmp_path / "it.png")
        assert ("icc_profile" in image.info) == ("kept" in str(options))
        return [image.convert("RGB").getpixel((SIDE * n + SIDE // 2, SIDE // 2)) for n in range(len(PATCHES))]

    return shown


def chart(colours: list[tuple[int, ...]] = PATCHES) -> Image.Image:
    image = Image.new("RGB", (SIDE * len(colours), SIDE))
    for number, colour in enumerate(colours):
        image.paste(colour, (SIDE * number, 0, SIDE * (number + 1), SIDE))
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **({"quality": 95} if kind in ("jpeg", "avif") else {}), **options)
    return target.getvalue()


def near(found: list[tuple[int, ...]], expected: list[tuple[int, ...]], levels: int) -> None:
    assert np.abs(np.array(found, dtype=int) - np.array(expected, dtype=int)).max() <= levels, (found, expected)


def srgb_of(colours: list[tuple[int, ...]], profile: bytes) -> list[tuple[int, ...]]:
    """Return the colours of a profile in sRGB, as lcms computes them through Pillow."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    image = ImageCms.profileToProfile(chart(colours), source, ImageCms.createProfile("sRGB"))
    return [image.getpixel((SIDE * n + 5, 5)) for n in range(len(colours))]


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Insert chunks after the header of a PNG."""
    made = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return png[:33] + made + png[33:]


# --- profiles that cannot be used --------------------------------------------------------------------------------


def damaged(tag: bytes | None) -> bytes:
    """Return an sRGB profile with a tag of an unknown type, or of the class of device links."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if tag is None:
        profile[12:16] = b"link"
        return bytes(profile)
    entry = profile.index(tag, 128)
    at = int.from_bytes(profile[entry + 4 : entry + 8])
    profile[at : at + 4] = b"?!?!"
    return bytes(profile)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "avif"])
@pytest.mark.parametrize("tag", [b"rTRC", b"gXYZ", None], ids=["curve", "colorant", "device link"])
async def test_a_profile_that_cannot_be_linked_is_ignored(shown: Patches, kind: str, tag: bytes | None) -> None:
    options = {"lossless": True} if kind == "webp" else {}
    plain = await shown(encoded(chart(), kind, **options), kind)
    near(plain, PATCHES, 3)
    assert await shown(encoded(chart(), kind, icc_profile=damaged(tag), **options), kind) == plain
    assert await shown(encoded(chart(), kind, icc_profile=damaged(tag), **options), kind, keep_icc=True) == plain


async def test_a_cmyk_profile_that_cannot_be_linked_is_ignored(shown: Patches) -> None:
    profile = bytearray(damaged(None))
    profile[16:20] = b"CMYK"
    ink = chart().convert("CMYK")
    assert await shown(encoded(ink, "jpeg", icc_profile=bytes(profile)), "jpeg") == await shown(
        encoded(ink, "jpeg"), "jpeg"
    )


# --- spaces that are named ---------------------------------------------------------------------------------------


def avif_of(colour: tuple[int, int]) -> bytes:
    """Return an AVIF that names these code points in place of those of its encoder."""
    avif = encoded(chart(), "avif", subsampling="4:4:4")
    at = avif.index(b"colrnclx") + 8
    return avif[:at] + struct.pack(">HH", *colour) + avif[at + 4 :]


def heic_of(colour: tuple[int, int, int, int]) -> bytes:
    image = chart()
    pixels = np.asarray(image.convert("YCbCr")).transpose(2, 0, 1).tobytes()
    return heif.heic(heif.Coded("yuvj444p", *image.size, pixels), colour)


async def test_display_p3_is_honoured_however_it_is_named(shown: Patches, p3_profile: bytes) -> None:
    expected = srgb_of(PATCHES, p3_profile)
    assert expected[0] == (218, 0, 27)
    png = encoded(chart(), "png")
    near(await shown(encoded(chart(), "png", icc_profile=p3_profile), "png"), expected, 1)
    near(await shown(with_chunks(png, (b"cICP", bytes([12, 13, 0, 1]))), "png"), expected, 1)
    near(await shown(avif_of((12, 13)), "avif"), expected, 6)
    near(await shown(heic_of(heif.P3_FULL), "heic"), expected, 6)


async def test_wider_and_linear_spaces_are_converted_too(shown: Patches) -> None:
    png = encoded(chart(), "png")
    wide = await shown(with_chunks(png, (b"cICP", bytes([9, 1, 0, 1]))), "png")
    assert wide[0][0] > 215  # BT.2020's red is redder still
    near(wide[4:], PATCHES[4:], 1)  # grey is grey
    near(await shown(avif_of((9, 13)), "avif"), wide, 6)
    near(await shown(with_chunks(png, (b"cICP", bytes([1, 8, 0, 1]))), "png"), lightened(1.0), 2)


@pytest.mark.parametrize(
    "codes",
    [(1, 13, 0, 1), (2, 2, 0, 1), (12, 16, 0, 1), (12, 13, 0, 0), (12, 13, 6, 1), (200, 13, 0, 1), (1, 1, 0, 1)],
    ids=["sRGB", "unspecified", "PQ", "limited range", "YCbCr", "unknown", "BT.709"],
)
async def test_code_points_that_name_no_other_colours_change_nothing(
    shown: Patches, codes: tuple[int, int, int, int]
) -> None:
    assert await shown(with_chunks(encoded(chart(), "png"), (b"cICP", bytes(codes))), "png") == PATCHES


async def test_the_chunks_of_a_png_have_an_order_of_precedence(shown: Patches, p3_profile: bytes) -> None:
    expected = srgb_of(PATCHES, p3_profile)
    png = encoded(chart(), "png")
    gamma = (b"gAMA", struct.pack(">I", 100_000))
    embedded = encoded(chart(), "png", icc_profile=p3_profile)
    assert await shown(with_chunks(embedded, (b"cICP", bytes([1, 13, 0, 1]))), "png") == PATCHES
    near(await shown(with_chunks(embedded, gamma), "png"), expected, 1)
    assert await shown(with_chunks(png, gamma, (b"sRGB", b"\0")), "png") == PATCHES
    near(await shown(with_chunks(png, gamma, (b"cICP", bytes([12, 13, 0, 1]))), "png"), expected, 1)


def lightened(gamma: float) -> list[tuple[int, ...]]:
    """Return the patches, whose numbers have this power, in sRGB."""
    linear = (np.array(PATCHES) / 255) ** gamma
    curve = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return [tuple(int(value) for value in row) for row in np.rint(curve * 255)]


@pytest.mark.parametrize("written", [100_000, 55_556, 35_000])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "I;16"])
async def test_the_gamma_of_a_png_is_applied(shown: Patches, written: int, mode: str) -> None:
    expected = lightened(100_000 / written)
    image = chart()
    if mode in ("L", "LA", "I;16"):
        image = image.convert("L")
        grey = [image.getpixel((SIDE * n + 5, 5)) for n in range(len(PATCHES))]
        linear = (np.array(grey) / 255) ** (100_000 / written)
        curve = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
        expected = [(round(float(value) * 255),) * 3 for value in curve]
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image
    image = image.quantize(16) if mode == "P" else image.convert(mode) if mode in ("RGBA", "LA") else image
    png = with_chunks(encoded(image, "png"), (b"gAMA", struct.pack(">I", written)))
    near(await shown(png, "png"), expected, 3)


@pytest.mark.parametrize("written", [45_455, 45_000, 0, 1, 4_000_000_000])
async def test_the_usual_gamma_and_impossible_ones_change_nothing(shown: Patches, written: int) -> None:
    png = with_chunks(encoded(chart(), "png"), (b"gAMA", struct.pack(">I", written)))
    assert await shown(png, "png") == PATCHES


async def test_the_chromaticities_of_a_png_are_honoured(shown: Patches, p3_profile: bytes) -> None:
    png = encoded(chart(), "png")
    p3 = (31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)
    near(await shown(with_chunks(png, (b"cHRM", struct.pack(">8I", *p3))), "png"), srgb_of(PATCHES, p3_profile), 2)
    for without_effect in (
        (31_269, 32_899, 63_999, 33_001, 30_000, 60_000, 15_000, 5_999),  # sRGB, as some programs round it
        (31_270, 32_900, 0, 0, 0, 0, 0, 0),
        (31_270, 32_900, 30_000, 30_000, 30_000, 30_000, 30_000, 30_000),
        (0, 0, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000),
        (2**32 - 1,) * 8,
    ):
        assert await shown(with_chunks(png, (b"cHRM", struct.pack(">8I", *without_effect))), "png") == PATCHES


# --- grey --------------------------------------------------------------------------------------------------------

GREYS = [0, 60, 128, 200, 240, 255]


def grey_samples(*, depth: int, is_limited: bool, height: int = SIDE) -> bytes:
    """Return raw samples of the grey patches."""
    scale = 1 << depth - 8
    levels = [(16 + grey * 219 / 255) * scale if is_limited else grey * ((1 << depth) - 1) / 255 for grey in GREYS]
    row = np.repeat(np.rint(levels), SIDE).astype(np.uint8 if depth == 8 else "<u2")
    return np.tile(row, height).tobytes()


def grey_avif(tmp_path: Path, *, depth: int, is_limited: bool) -> bytes:
    pixel_format, colour_range = "gray" if depth == 8 else f"gray{depth}le", "tv" if is_limited else "pc"
    size, target = f"{SIDE * len(GREYS)}x{SIDE}", tmp_path / "grey.avif"
    described = ["-pix_fmt", pixel_format, "-color_range", colour_range]
    raw = ["-f", "rawvideo", *described, "-s", size, "-i", "-"]
    coder = ["-c:v", "libaom-av1", "-still-picture", "1", "-cpu-used", "8", "-crf", "8", *described]
    pixels = grey_samples(depth=depth, is_limited=is_limited)
    subprocess.run(["ffmpeg", "-v", "error", "-y", *raw, *coder, str(target)], input=pixels, check=True)
    return target.read_bytes()


@pytest.mark.parametrize("is_limited", [True, False], ids=["limited", "full"])
@pytest.mark.parametrize("depth", [8, 10])
async def test_grey_has_the_full_range(shown: Patches, tmp_path: Path, depth: int, is_limited: bool) -> None:
    """libheif leaves limited range in grey images; if a release expands it, ``full_range`` has to go."""
    expected = [(grey,) * 3 for grey in GREYS]
    near(await shown(grey_avif(tmp_path, depth=depth, is_limited=is_limited), "avif"), expected, 3)
    unnamed = grey_avif(tmp_path, depth=depth, is_limited=is_limited).replace(b"colrnclx", b"freenclx")
    near(await shown(unnamed, "avif"), expected, 3)
    colour = heif.SRGB_LIMITED if is_limited else heif.SRGB_FULL
    pixels = grey_samples(depth=depth, is_limited=is_limited)
    coded = heif.Coded("gray" if depth == 8 else f"gray{depth}le", SIDE * len(GREYS), SIDE, pixels)
    near(await shown(heif.heic(coded, colour), "heic"), expected, 3)
    opaque = heif.Coded("gray", SIDE * len(GREYS), SIDE, bytes([255]) * SIDE * SIDE * len(GREYS))
    near(await shown(heif.heic(coded, colour, alpha=opaque), "heic"), expected, 3)


@pytest.mark.parametrize(("width", "height"), [(288, 48), (287, 47), (31, 65)])
@pytest.mark.parametrize("depth", [8, 10, 12])
async def test_a_monochrome_heic_is_a_grey_image(
    pool: RenderPool, tmp_path: Path, depth: int, width: int, height: int
) -> None:
    """Also with odd sizes, whose rows libheif pads."""
    ramp = np.add.outer(np.arange(height), np.arange(width)) * 255 / max(1, width + height - 2)
    top = (1 << depth) - 1
    samples = np.rint(ramp / 255 * top).astype(np.uint8 if depth == 8 else "<u2")
    pixel_format = "gray" if depth == 8 else f"gray{depth}le"
    source = tmp_path / "grey.heic"
    source.write_bytes(heif.heic(heif.Coded(pixel_format, width, height, samples.tobytes())))
    facts = await pool.probe(source, "image/heic", max_pixels=1_000_000)
    assert (facts.width, facts.height, facts.metadata["has_alpha"]) == (width, height, False)
    order = RenderOrder("it", ImageVariant(mode="fit", width=2000, format="png"), tmp_path / "it.png")
    [result] = await pool.render(source, "image/heic", [order], max_pixels=1_000_000)
    assert result.error is None
    made = np.asarray(opened(tmp_path / "it.png").convert("RGB"), dtype=float)
    assert made.shape == (height, width, 3)
    assert np.abs(made - ramp[..., None]).max() < 6
