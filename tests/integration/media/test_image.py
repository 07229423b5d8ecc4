"""Real pictures through the real engine; outputs are read back with Pillow, never with the library that made them."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import piexif
import pytest
import skimage.data
from PIL import Image, ImageCms, ImageEnhance, ImageOps, features

from rindle.errors import ContentRejected, Misconfigured, ProbeFailed, UploadRejected
from rindle.media.image_formats import LIBVIPS_FLOOR
from rindle.media.render_pool import ImageProbe, RenderOrder, RenderPool, RenderResult
from rindle.recipes import ImageVariant
from tests.media import bombs
from tests.media.pictures import difference, opened

MAX_PIXELS = 100_000_000
#: Mean absolute difference of two downscaled pictures, 0 to 1, up to which they look the same.
SAME = 0.03
ROOT = Path(__file__).parents[3]
CORPUS = Path(os.environ["RINDLE_CORPUS"]) if os.environ.get("RINDLE_CORPUS") else None
CORPUS_ORIENTATIONS = sorted(CORPUS.glob("orientation_[1-8].jpg")) if CORPUS else []
TYPES = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".tif": "image/tiff",
    ".heic": "image/heic",
}

needs_corpus = pytest.mark.skipif(CORPUS is None, reason="RINDLE_CORPUS is not set")


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[RenderPool]:
    pool = RenderPool(2)
    pool.start()
    yield pool
    await pool.close()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A picture without any symmetry, 512 x 384."""
    return Image.fromarray(skimage.data.astronaut()).crop((0, 0, 512, 384))


@pytest.fixture(scope="module")
def p3_profile() -> bytes:
    """The Display P3 profile that comes with libvips."""
    program = "import pyvips, sys; sys.stdout.buffer.write(bytes(pyvips.Operation.call('profile_load', 'p3')))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout


#: Renders recipes given by name from one source: the results by name.
Render = Callable[..., Awaitable[dict[str, RenderResult]]]


@pytest.fixture
def render(pool: RenderPool, tmp_path: Path) -> Render:
    """Render recipes given by name from one source; the results by name."""

    async def render(
        source: Path, *, mime: str | None = None, max_pixels: int = MAX_PIXELS, **recipes: dict[str, Any]
    ) -> dict[str, RenderResult]:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        orders = [
            RenderOrder(name, made := ImageVariant(**recipe), out / f"{name}{made.extension}")
            for name, recipe in recipes.items()
        ]
        results = await pool.render(source, mime or TYPES[source.suffix], orders, max_pixels=max_pixels)
        assert {path.name for path in out.iterdir()} >= {result.path.name for result in results if result.path}
        assert not [path for path in out.iterdir() if path.name.startswith(".")]
        return {result.name: result for result in results}

    return render


def picture(result: RenderResult) -> Image.Image:
    """Open what was rendered, after checking what was said about it."""
    assert result.error is None, (result.error.code, result.error.detail)
    image = opened(result.path)
    assert image.size == (result.width, result.height)
    assert result.path.stat().st_size == result.byte_size
    assert Image.MIME[image.format] == result.content_type
    return image


def on(image: Image.Image, colour: str) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, colour), image.convert("RGBA")).convert("RGB")


def turned(photo: Image.Image, orientation: int) -> Image.Image:
    """Return the pixels a camera would store so that the tag turns them into ``photo``."""
    how = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    for step in how.get(orientation, []):
        photo = photo.transpose(step)
    return photo


def gps_exif(orientation: int = 1) -> bytes:
    return piexif.dump(
        {
            "0th": {piexif.ImageIFD.Orientation: orientation, piexif.ImageIFD.Make: b"CanaryCam"},
            "GPS": {piexif.GPSIFD.GPSLatitude: ((48, 1), (51, 1), (29, 1)), piexif.GPSIFD.GPSLatitudeRef: b"N"},
        }
    )


# --- probing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_all_eight_orientations_come_out_upright(
    pool: RenderPool, render: Render, tmp_path: Path, photo: Image.Image, orientation: int
) -> None:
    source = tmp_path / "turned.jpg"
    turned(photo, orientation).save(source, exif=gps_exif(orientation), quality=92)
    assert difference(ImageOps.exif_transpose(opened(source)), photo) < SAME

    facts = await pool.probe(source, "image/jpeg", max_pixels=MAX_PIXELS)
    made = await render(
        source,
        fit={"mode": "fit", "width": 256},
        north={"mode": "crop", "width": 256, "height": 64, "gravity": "north", "format": "png"},
        large={"mode": "fit", "width": 2000, "upscale": True, "format": "webp"},
    )

    assert (facts.width, facts.height, facts.metadata["orientation"]) == (512, 384, orientation)
    assert picture(made["fit"]).size == (256, 192)
    assert difference(picture(made["fit"]), photo) < SAME
    assert difference(picture(made["north"]), photo.crop((0, 0, 512, 128))) < SAME
    assert picture(made["large"]).size == (2000, 1500)
    for result in made.values():
        assert not picture(result).getexif()


@pytest.mark.parametrize("source", CORPUS_ORIENTATIONS, ids=lambda path: path.name)
async def test_the_orientations_of_the_corpus_look_alike(pool: RenderPool, render: Render, source: Path) -> None:
    facts = await pool.probe(source, "image/jpeg", max_pixels=MAX_PIXELS)
    made = await render(source, thumb={"mode": "crop", "width": 128, "height": 128})
    reference = ImageOps.exif_transpose(opened(CORPUS_ORIENTATIONS[0]))
    assert (facts.width, facts.height) == reference.size
    # The pictures differ by the number written in their middle.
    assert difference(picture(made["thumb"]), ImageOps.fit(reference, (128, 128))) < 2 * SAME


@pytest.mark.parametrize(
    ("name", "build", "has_alpha"),
    [
        ("grey.jpg", lambda photo: photo.convert("L"), False),
        ("grey.png", lambda photo: photo.convert("L"), False),
        ("grey_alpha.png", lambda photo: photo.convert("LA"), True),
        ("palette.png", lambda photo: photo.convert("P"), False),
        ("bilevel.png", lambda photo: photo.convert("1"), False),
        ("deep.png", lambda photo: Image.fromarray(np.asarray(photo.convert("L")).astype("uint16") * 257), False),
        ("plain.tif", lambda photo: photo, False),
        ("cmyk.tif", lambda photo: photo.convert("CMYK"), False),
        ("plain.avif", lambda photo: photo, False),
        ("plain.webp", lambda photo: photo.convert("RGBA"), False),
        ("still.gif", lambda photo: photo, False),
        ("options[n=-1].png", lambda photo: photo, False),
    ],
)
async def test_every_kind_of_pixels_becomes_eight_bit_srgb(
    pool: RenderPool,
    render: Render,
    tmp_path: Path,
    photo: Image.Image,
    name: str,
    build: Callable[[Image.Image], Image.Image],
    has_alpha: bool,
) -> None:
    source = tmp_path / name
    build(photo).save(source)
    facts = await ImageProbe(pool, MAX_PIXELS).probe(source)
    made = await render(source, thumb={"mode": "fit", "width": 128, "format": "png"})
    image = picture(made["thumb"])
    assert (facts.width, facts.height, facts.metadata["has_alpha"]) == (512, 384, has_alpha)
    assert image.mode == ("RGBA" if has_alpha else "RGB")
    # CMYK without a profile is nobody's colour exactly; everything else must match.
    expected = opened(source).convert("RGB")
    if name != "deep.png":  # Pillow clips 16 bit
        assert difference(image, expected) < (4 * SAME if "cmyk" in name else SAME)
    else:
        assert difference(image, photo.convert("L")) < SAME


async def test_a_placeholder_is_a_tiny_webp_of_the_picture(
    pool: RenderPool, tmp_path: Path, photo: Image.Image
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (300, 400, 4), dtype=np.uint8)
    for name, image in {"photo": photo, "noise": Image.fromarray(noise), "dot": photo.crop((0, 0, 1, 1))}.items():
        source = tmp_path / f"{name}.png"
        image.save(source)
        facts = await pool.probe(source, "image/png", max_pixels=MAX_PIXELS)
        assert len(facts.placeholder) <= 700
        scheme, _, body = facts.placeholder.partition(",")
        assert scheme == "data:image/webp;base64"
        small = Image.open(io.BytesIO(base64.b64decode(body)))
        assert max(small.size) <= 32
        if name == "photo":
            assert difference(small, photo) < 2 * SAME


async def test_probing_says_nothing_of_what_the_camera_wrote(
    pool: RenderPool, tmp_path: Path, photo: Image.Image
) -> None:
    source = tmp_path / "gps.jpg"
    photo.save(source, exif=gps_exif(), comment=b"CanaryCam")
    facts = await pool.probe(source, "image/jpeg", max_pixels=MAX_PIXELS)
    assert facts.metadata == {"format": "jpeg", "has_alpha": False, "has_icc_profile": False, "orientation": 1}


async def test_the_bundled_probe_accepts_pictures_only(pool: RenderPool) -> None:
    probe = ImageProbe(pool, MAX_PIXELS)
    assert all(probe.accepts(mime) for mime in [*TYPES.values(), "image/heif"])
    assert not any(probe.accepts(mime) for mime in ("image/svg+xml", "application/pdf", "video/mp4", "image/jxl"))


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".gif"])
async def test_a_file_larger_than_the_memory_of_a_child_is_judged_and_rendered(
    pool: RenderPool, render: Render, tmp_path: Path, photo: Image.Image, suffix: str
) -> None:
    source = tmp_path / f"large{suffix}"
    photo.save(source)
    os.truncate(source, 3 << 30)  # zeros behind its end, as a sparse file: no decoder cares
    assert (await pool.probe(source, TYPES[suffix], max_pixels=MAX_PIXELS)).width == 512
    made = await render(source, thumb={"mode": "fit", "width": 128}, other={"mode": "fit", "width": 100})
    assert difference(picture(made["thumb"]), photo) < SAME
    assert picture(made["other"]).size == (100, 75)


# --- verdicts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".avif", ".tif"])
async def test_a_picture_that_was_cut_off_is_condemned(
    pool: RenderPool, tmp_path: Path, photo: Image.Image, suffix: str
) -> None:
    whole = io.BytesIO()
    photo.save(whole, {".jpg": "jpeg", ".tif": "tiff"}.get(suffix, suffix[1:]))
    source = tmp_path / f"cut{suffix}"
    source.write_bytes(whole.getvalue()[: len(whole.getvalue()) * 3 // 5])
    with pytest.raises(ContentRejected) as verdict:
        await pool.probe(source, TYPES[suffix], max_pixels=MAX_PIXELS)
    assert verdict.value.code == "decode_failed"
    assert str(tmp_path) not in str(verdict.value.to_dict())


async def test_damage_inside_is_found_although_the_header_is_fine(
    pool: RenderPool, tmp_path: Path, photo: Image.Image
) -> None:
    source = tmp_path / "damaged.png"
    photo.save(source)
    body = bytearray(source.read_bytes())
    body[len(body) // 2 : len(body) // 2 + 200] = bytes(200)
    source.write_bytes(body)
    with pytest.raises(ContentRejected) as verdict:
        await pool.probe(source, "image/png", max_pixels=MAX_PIXELS)
    assert verdict.value.code == "decode_failed"


@needs_corpus
@pytest.mark.parametrize("name", ["truncated.jpg", "corrupted.jpg"])
async def test_the_damaged_pictures_of_the_corpus_are_condemned_and_not_rendered(
    pool: RenderPool, render: Render, name: str
) -> None:
    with pytest.raises(ContentRejected) as verdict:
        await pool.probe(CORPUS / name, max_pixels=MAX_PIXELS)
    assert verdict.value.code == "decode_failed"
    made = await render(CORPUS / name, thumb={"mode": "fit", "width": 64})
    assert made["thumb"].error.code == "render_failed"


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def jpeg_claiming(photo: Image.Image, width: int, height: int) -> bytes:
    body = io.BytesIO()
    photo.save(body, "jpeg")
    frame = body.getvalue().index(b"\xff\xc0")
    return body.getvalue()[: frame + 5] + struct.pack(">HH", height, width) + body.getvalue()[frame + 9 :]


def gif_claiming(width: int, height: int) -> bytes:
    picture = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + picture + b";"


async def test_bombs_are_condemned_by_their_header(tmp_path: Path, photo: Image.Image) -> None:
    bombs = {
        "image/png": png_claiming(16_384, 16_384),
        "image/jpeg": jpeg_claiming(photo, 65_500, 65_500),
        "image/gif": gif_claiming(20_000, 20_000),
    }
    if CORPUS:
        bombs["image/avif"] = (CORPUS / "bomb_17000x17000.avif").read_bytes()
    # Less memory than any of them would take: what is refused by its header does not need it.
    pool = RenderPool(1, memory_bytes=768 << 20)
    pool.start()
    try:
        for mime, body in bombs.items():
            source = tmp_path / "bomb"
            source.write_bytes(body)
            with pytest.raises(ContentRejected) as verdict:
                await pool.probe(source, mime, max_pixels=MAX_PIXELS)
            assert verdict.value.code == "max_pixels_exceeded", mime
            assert verdict.value.detail["limit"] == MAX_PIXELS
            order = RenderOrder("thumb", ImageVariant(mode="fit", width=10), tmp_path / "thumb.jpg")
            [refused] = await pool.render(source, mime, [order], max_pixels=MAX_PIXELS)
            assert refused.error.code == "max_pixels_exceeded"
            assert not refused.error.retryable
    finally:
        await pool.close()


@pytest.mark.parametrize(
    ("mime", "content"),
    [
        ("image/jpeg", lambda: bombs.jpeg_of_scans(20_000)),
        ("image/webp", lambda: bombs.webp_of_frames(40_000)),
        ("image/gif", lambda: bombs.gif_of_frames(40_000)),
        ("image/tiff", lambda: bombs.tiff_of_pages(10_000)),
    ],
    ids=["scans", "webp", "gif", "tiff"],
)
async def test_files_of_too_many_parts_are_refused_unopened(
    pool: RenderPool, render: Render, tmp_path: Path, mime: str, content: Callable[[], bytes]
) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(content())
    with pytest.raises(ContentRejected) as refused:
        await pool.probe(path, mime, max_pixels=MAX_PIXELS)
    assert refused.value.code == "content_too_complex"
    results = await render(path, mime=mime, small={"mode": "fit", "width": 8})
    assert results["small"].error.code == "content_too_complex"


async def test_animations_of_many_frames_are_read_up_to_the_three_hundredth(pool: RenderPool, tmp_path: Path) -> None:
    for name, content in (("webp", bombs.webp_of_frames(5_000)), ("gif", bombs.gif_of_frames(5_000))):
        path = tmp_path / name
        path.write_bytes(content)
        found = await pool.probe(path, f"image/{name}", max_pixels=300 * 16 * 16)
        assert found.metadata["pages"] == 5_000


async def test_the_limit_itself_is_allowed(pool: RenderPool, tmp_path: Path, photo: Image.Image) -> None:
    source = tmp_path / "limit.png"
    photo.save(source)
    assert (await pool.probe(source, "image/png", max_pixels=512 * 384)).width == 512
    with pytest.raises(ContentRejected):
        await pool.probe(source, "image/png", max_pixels=512 * 384 - 1)


ACTIVE = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><rect width="10" height="10"/></svg>',
    "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n",
    "exr": b"\x76\x2f\x31\x01\x02\x00\x00\x00" + bytes(64),
    "jxl": b"\xff\x0a" + bytes(64),
    "magick": b"push graphic-context\nviewbox 0 0 10 10\nimage over 0,0 0,0 '/etc/passwd'\npop graphic-context\n",
    "matlab": b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + bytes(64),
    "ppm": b"P6\n2 2\n255\n" + bytes(12),
    "csv": b"1,2,3\n4,5,6\n",
    "vips": b"\xb6\xa6\xf2\x08" + bytes(124),
}


@pytest.mark.parametrize("kind", ACTIVE)
async def test_nothing_but_the_allowed_loaders_ever_opens_a_file(pool: RenderPool, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "innocent.jpg"
    source.write_bytes(ACTIVE[kind])
    with pytest.raises((ContentRejected, UploadRejected)) as sniffed:
        await pool.probe(source, max_pixels=MAX_PIXELS)
    assert sniffed.value.code in ("no_probe_for_mime", "unknown_mime")
    for mime in ("image/jpeg", "image/png", "image/tiff", "image/avif", "image/heic"):
        with pytest.raises(ContentRejected) as forced:  # even when somebody names the wrong type
            await pool.probe(source, mime, max_pixels=MAX_PIXELS)
        assert forced.value.code == "decode_failed"


@needs_corpus
@pytest.mark.parametrize("name", ["logo.svg", "document.pdf"])
async def test_the_active_formats_of_the_corpus_are_no_pictures(pool: RenderPool, tmp_path: Path, name: str) -> None:
    disguised = tmp_path / "photo.jpg"
    disguised.write_bytes((CORPUS / name).read_bytes())
    with pytest.raises(ContentRejected) as verdict:
        await pool.probe(disguised, max_pixels=MAX_PIXELS)
    assert verdict.value.code == "no_probe_for_mime"


async def test_a_missing_file_is_no_verdict(pool: RenderPool, render: Render, tmp_path: Path) -> None:
    for mime in ("image/jpeg", None):
        with pytest.raises(ProbeFailed) as failure:
            await pool.probe(tmp_path / "gone.jpg", mime, max_pixels=MAX_PIXELS)
        assert failure.value.retryable
        assert str(tmp_path) not in str(failure.value.to_dict())
    made = await render(tmp_path / "gone.jpg", thumb={"mode": "fit", "width": 10})
    assert made["thumb"].error.code == "render_failed"
    assert made["thumb"].error.retryable


@pytest.mark.parametrize("inherited", [None, "0", "1"])
def test_untrusted_loaders_are_shut_whatever_the_environment_says(inherited: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIPS_BLOCK_UNTRUSTED"}
    if inherited is not None:
        environment["VIPS_BLOCK_UNTRUSTED"] = inherited
    program = "from rindle.media import image; print(image.features().untrusted_blocked)"
    answer = subprocess.run(
        [sys.executable, "-c", program], env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    assert answer.stdout.strip() == b"True"


async def test_the_doctor_learns_what_the_libraries_can_do(pool: RenderPool) -> None:
    facts = await pool.features()
    assert tuple(map(int, facts.libvips.split(".")[:2])) >= LIBVIPS_FLOOR
    assert facts.untrusted_blocked
    assert facts.readable >= set(TYPES.values())
    assert facts.writable >= {"jpeg", "png", "webp"}
    assert facts.pi_heif
    assert facts.libheif


async def test_a_libvips_below_the_floor_is_refused_at_the_start() -> None:
    pool = RenderPool(1, engine="tests.integration.media.engine_of_old_libvips")
    with pytest.raises(Misconfigured, match=r"libvips .* cannot block untrusted loaders"):
        pool.start()
    await pool.close()


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        ({"mode": "fit", "width": 100, "height": 100}, (100, 75)),
        ({"mode": "fit", "height": 96}, (128, 96)),
        ({"mode": "fit", "width": 4000}, (512, 384)),
        ({"mode": "fit", "width": 1024, "upscale": True}, (1024, 768)),
        ({"mode": "fill", "width": 100, "height": 100}, (100, 100)),
        ({"mode": "fill", "width": 64}, (64, 48)),
        ({"mode": "crop", "width": 1000, "height": 10}, (1000, 10)),
        ({"mode": "crop", "width": 64, "height": 300, "gravity": "entropy"}, (64, 300)),
        ({"mode": "pad", "width": 600, "height": 600}, (600, 600)),
        ({"mode": "stretch", "width": 77, "height": 300}, (77, 300)),
    ],
)
@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp", "avif"])
async def test_outputs_have_exactly_the_size_and_format_asked_for(
    render: Render, tmp_path: Path, photo: Image.Image, recipe: dict[str, Any], size: tuple[int, int], image_format: str
) -> None:
    source = tmp_path / "photo.png"
    photo.save(source)
    made = await render(source, it={**recipe, "format": image_format})
    assert picture(made["it"]).size == size
    assert picture(made["it"]).format == {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "avif": "AVIF"}[image_format]


async def test_one_pixel_is_a_picture_too(pool: RenderPool, render: Render, tmp_path: Path) -> None:
    source = tmp_path / "dot.png"
    Image.new("RGB", (1, 1), "#3366cc").save(source)
    facts = await pool.probe(source, "image/png", max_pixels=MAX_PIXELS)
    made = await render(
        source,
        crop={"mode": "crop", "width": 10, "height": 10, "format": "png"},
        fit={"mode": "fit", "width": 10, "format": "png"},
    )
    assert (facts.width, facts.height) == (1, 1)
    assert picture(made["fit"]).size == (1, 1)
    assert picture(made["crop"]).getcolors() == [(100, (0x33, 0x66, 0xCC))]


async def test_gravity_decides_what_a_crop_keeps(render: Render, tmp_path: Path) -> None:
    source = tmp_path / "stripes.png"
    stripes = Image.new("RGB", (300, 100), "#00ff00")
    stripes.paste("#ff0000", (0, 0, 100, 100))
    stripes.paste("#0000ff", (200, 0, 300, 100))
    stripes.save(source)
    stripes.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "rows.png")
    square = {"mode": "crop", "width": 50, "height": 50, "format": "png"}
    across = await render(source, **{g: {**square, "gravity": g} for g in ("west", "centre", "east")})
    down = await render(tmp_path / "rows.png", **{g: {**square, "gravity": g} for g in ("north", "south")})
    kept = {name: picture(made).getpixel((25, 25)) for name, made in {**across, **down}.items()}
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    assert kept == {"west": red, "centre": green, "east": blue, "north": red, "south": blue}


@pytest.mark.parametrize("gravity", ["attention", "entropy"])
async def test_smart_gravity_finds_the_interesting_part(
    render: Render, tmp_path: Path, photo: Image.Image, gravity: str
) -> None:
    source = tmp_path / "lonely.png"
    wide = Image.new("RGB", (1200, 200), "#777777")
    wide.paste(photo.crop((150, 0, 350, 200)), (900, 0))
    wide.save(source)
    made = await render(source, it={"mode": "crop", "width": 100, "height": 100, "gravity": gravity, "format": "png"})
    assert np.asarray(picture(made["it"]), dtype=float).std() > 20


# --- colour, transparency, metadata ------------------------------------------------------------------------------


@pytest.fixture
def transparent(tmp_path: Path, photo: Image.Image) -> Path:
    """A photo whose left half is invisible; under the transparency lies bright green."""
    image = photo.convert("RGBA")
    image.paste((0, 255, 0, 0), (0, 0, 256, 384))
    path = tmp_path / "alpha.png"
    image.save(path)
    return path


async def test_transparency_is_flattened_on_the_background_for_jpeg_only(
    render: Render, transparent: Image.Image
) -> None:
    made = await render(
        transparent,
        white={"mode": "fit", "width": 128},
        blue={"mode": "fit", "width": 128, "background": "#0000ff"},
        none={"mode": "fit", "width": 128, "background": None},
        png={"mode": "fit", "width": 128, "format": "png"},
        webp={"mode": "fit", "width": 128, "format": "webp"},
        avif={"mode": "fit", "width": 128, "format": "avif"},
    )
    original = opened(transparent)
    for name, colour in {"white": "#ffffff", "blue": "#0000ff", "none": "#ffffff"}.items():
        assert difference(picture(made[name]), on(original, colour)) < SAME
    for name in ("png", "webp", "avif"):
        image = picture(made[name])
        assert image.mode == "RGBA"
        assert image.getpixel((10, 48))[3] == 0
        assert image.getpixel((120, 48))[3] == 255
        assert difference(on(image, "#ff0000"), on(original, "#ff0000")) < SAME


async def test_padding_is_coloured_or_transparent(
    render: Render, transparent: Image.Image, tmp_path: Path, photo: Image.Image
) -> None:
    box = {"mode": "pad", "width": 200, "height": 200}
    opaque = tmp_path / "opaque.png"
    photo.save(opaque)
    made = await render(
        transparent,
        red={**box, "background": "#ff0000", "format": "png"},
        clear={**box, "background": None, "format": "png"},
        jpeg={**box, "background": None},
    )
    clear_opaque = await render(opaque, opaque={**box, "background": None, "format": "webp"})
    assert picture(made["red"]).convert("RGB").getpixel((100, 5)) == (255, 0, 0)
    assert picture(made["red"]).convert("RGB").getpixel((20, 100)) == (255, 0, 0)  # under the invisible half
    assert picture(made["clear"]).getpixel((100, 5)) == (0, 0, 0, 0)
    assert all(channel > 250 for channel in picture(made["jpeg"]).getpixel((100, 5)))
    assert picture(clear_opaque["opaque"]).getpixel((100, 5))[3] == 0
    middle = picture(clear_opaque["opaque"]).crop((0, 25, 200, 175))
    assert difference(middle, photo) < SAME


async def test_cmyk_becomes_rgb(render: Render, tmp_path: Path, photo: Image.Image) -> None:
    source = tmp_path / "print.jpg"
    photo.convert("CMYK").save(source, quality=95)
    made = await render(source, it={"mode": "fit", "width": 256})
    assert picture(made["it"]).mode == "RGB"
    assert difference(picture(made["it"]), photo) < 4 * SAME  # no profile says what these inks look like


@pytest.fixture
def vivid(photo: Image.Image) -> Image.Image:
    return ImageEnhance.Color(photo).enhance(3)


@pytest.fixture
def wide_gamut(tmp_path: Path, vivid: Image.Image, p3_profile: bytes) -> Path:
    """The vivid picture with its pixels in Display P3."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(p3_profile))
    path = tmp_path / "wide.jpg"
    ImageCms.profileToProfile(vivid, ImageCms.createProfile("sRGB"), profile).save(
        path, icc_profile=p3_profile, quality=95, subsampling=0
    )
    return path


async def test_wide_gamut_becomes_srgb_through_its_profile(
    render: Render, wide_gamut: Path, vivid: Image.Image
) -> None:
    raw = difference(opened(wide_gamut), vivid)  # what taking the numbers for sRGB would look like
    made = await render(
        wide_gamut,
        large={"mode": "fit", "width": 512, "format": "png"},
        derived={"mode": "fit", "width": 256, "format": "png"},
        jpeg={"mode": "fit", "width": 256, "quality": 95},
    )
    assert raw > SAME
    for result in made.values():
        image = picture(result)
        assert difference(image, vivid) < raw / 3
        assert "icc_profile" not in image.info


async def test_keep_icc_keeps_the_colours_and_their_profile(
    render: Render, wide_gamut: Path, p3_profile: bytes
) -> None:
    made = await render(
        wide_gamut,
        kept={"mode": "fit", "width": 512, "keep_icc": True, "format": "png"},
        derived={"mode": "fit", "width": 256, "keep_icc": True, "format": "webp"},
        plain={"mode": "fit", "width": 128},
    )
    for name in ("kept", "derived"):
        assert picture(made[name]).info["icc_profile"] == p3_profile
        assert difference(picture(made[name]), opened(wide_gamut)) < 0.01
    assert "icc_profile" not in picture(made["plain"]).info


async def test_a_broken_colour_profile_spoils_nothing(
    pool: RenderPool, render: Render, tmp_path: Path, photo: Image.Image
) -> None:
    source = tmp_path / "junk.jpg"
    photo.save(source, icc_profile=b"junk" * 100)
    await pool.probe(source, "image/jpeg", max_pixels=MAX_PIXELS)
    made = await render(source, it={"mode": "fit", "width": 256})
    assert difference(picture(made["it"]), photo) < SAME


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
async def test_no_metadata_reaches_a_variant(render: Render, tmp_path: Path, photo: Image.Image, suffix: str) -> None:
    source = tmp_path / f"gps{suffix}"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>CanaryCam</rdf:RDF></x:xmpmeta>'
    extra = {".jpg": {"comment": b"CanaryCam", "xmp": xmp}, ".webp": {"xmp": xmp}}.get(suffix, {})
    photo.save(source, exif=gps_exif(), **extra)
    assert b"CanaryCam" in source.read_bytes()
    made = await render(
        source,
        **{name: {"mode": "fit", "width": 300, "format": name} for name in ("jpeg", "png", "webp", "avif")},
        with_icc={"mode": "fit", "width": 300, "keep_icc": True},
        derived={"mode": "fit", "width": 100},
    )
    for result in made.values():
        image = picture(result)
        assert not image.getexif()
        assert not {"xmp", "exif", "comment", "photoshop"} & set(image.info)
        assert b"CanaryCam" not in result.path.read_bytes()
        assert b"Exif" not in result.path.read_bytes()


async def test_jpegs_are_progressive_and_subsampled(render: Render, tmp_path: Path, photo: Image.Image) -> None:
    source = tmp_path / "photo.png"
    photo.save(source)
    made = await render(
        source,
        usual={"mode": "fit", "width": 256},
        fine={"mode": "fit", "width": 256, "quality": 95},
        exact={"mode": "fit", "width": 512, "format": "webp", "lossless": True},
    )
    for name in ("usual", "fine"):
        image = picture(made[name])
        assert image.info["progressive"]
        assert [component[1:3] for component in image.layer] == [(2, 2), (1, 1), (1, 1)]
    assert made["fine"].byte_size > made["usual"].byte_size
    assert np.array_equal(np.asarray(picture(made["exact"]).convert("RGB")), np.asarray(photo))


# --- several outputs ---------------------------------------------------------------------------------------------


async def test_an_output_derived_from_a_larger_one_looks_like_one_made_alone(
    render: Render, tmp_path: Path, photo: Image.Image
) -> None:
    source = tmp_path / "photo.jpg"
    photo.resize((2048, 1536), Image.Resampling.LANCZOS).save(source, exif=gps_exif(6), quality=95)
    recipes = {
        "large": {"mode": "fit", "width": 1024, "format": "png"},
        "nearly": {"mode": "fit", "width": 800, "format": "png"},
        "half": {"mode": "fit", "width": 400, "format": "png"},
        "thumb": {"mode": "crop", "width": 128, "height": 128, "format": "png"},
        "odd": {"mode": "stretch", "width": 300, "height": 50, "format": "png"},
    }
    together = {name: picture(result) for name, result in (await render(source, **recipes)).items()}
    for name, recipe in recipes.items():
        alone = picture((await render(source, **{name: recipe}))[name])
        assert alone.size == together[name].size
        pixels = [np.asarray(each.convert("RGB"), dtype=float) for each in (alone, together[name])]
        assert np.abs(pixels[0] - pixels[1]).mean() / 255 < 0.01


async def test_an_order_that_cannot_be_built_fails_alone(render: Render, tmp_path: Path, photo: Image.Image) -> None:
    source = tmp_path / "strip.png"
    photo.resize((20, 3000)).save(source)
    made = await render(
        source,
        max_pixels=2_000_000,
        ok={"mode": "fit", "height": 300},
        on_the_way={"mode": "crop", "width": 900, "height": 900},
        too_wide={"mode": "stretch", "width": 20_000, "height": 10, "format": "webp"},
    )
    assert picture(made["ok"]).size == (2, 300)
    assert made["on_the_way"].error.code == "render_failed"
    assert not made["on_the_way"].error.retryable
    assert made["too_wide"].error.code == "render_failed"
    assert str(tmp_path) not in str(made["too_wide"].error.to_dict())


async def test_a_format_without_an_encoder_is_a_missing_capability(tmp_path: Path, photo: Image.Image) -> None:
    source = tmp_path / "photo.png"
    photo.save(source)
    pool = RenderPool(1, engine="tests.integration.media.engine_without_avif")
    pool.start()
    try:
        orders = [
            RenderOrder(name, ImageVariant(mode="fit", width=10, format=name), tmp_path / name)
            for name in ("jpeg", "avif")
        ]
        jpeg, avif = await pool.render(source, "image/png", orders, max_pixels=MAX_PIXELS)
        assert jpeg.error is None
        assert (avif.error.code, avif.error.detail) == ("processor_capability_missing", {"format": "avif"})
        assert "avif" not in (await pool.features()).writable
    finally:
        await pool.close()


# --- animations --------------------------------------------------------------------------------------------------


def animation(path: Path, frames: int, size: tuple[int, int] = (60, 40)) -> list[Image.Image]:
    """Write an animation of a red square that moves over a changing blue; return its frames."""
    pictures = []
    for number in range(frames):
        image = Image.new("RGB", size, (0, 0, 40 + number % 200))
        left = number * (size[0] - 20) // max(1, frames - 1)
        image.paste("#ff0000", (left, 10, left + 20, 30))
        pictures.append(image)
    options = {"lossless": True} if path.suffix == ".webp" else {"disposal": 1}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, loop=0, **options)
    return pictures


def frames_of(image: Image.Image) -> list[Image.Image]:
    found = []
    for number in range(image.n_frames):
        image.seek(number)
        found.append(image.convert("RGBA"))
    return found


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
async def test_an_animation_stays_one_only_when_asked(
    pool: RenderPool, render: Render, tmp_path: Path, suffix: str
) -> None:
    source = tmp_path / f"moving{suffix}"
    originals = animation(source, 6)
    facts = await pool.probe(source, TYPES[suffix], max_pixels=MAX_PIXELS)
    assert (facts.width, facts.height) == (60, 40)
    assert (facts.metadata["pages"], facts.metadata["page_height"]) == (6, 40)

    box = {"mode": "pad", "width": 80, "height": 80}
    made = await render(
        source,
        still={"mode": "fit", "width": 30, "format": "png"},
        webp={"mode": "fit", "width": 30, "format": "webp"},
        moving={"mode": "fit", "width": 60, "format": "webp", "animated": True, "lossless": True},
        derived={"mode": "fit", "width": 30, "format": "webp", "animated": True, "lossless": True},
        cropped={"mode": "crop", "width": 20, "height": 20, "format": "webp", "animated": True, "lossless": True},
        padded={**box, "format": "webp", "animated": True, "lossless": True, "background": "#00ff00"},
    )

    for name in ("still", "webp"):
        assert getattr(picture(made[name]), "n_frames", 1) == 1
        assert difference(picture(made[name]), originals[0]) < SAME
    for name in ("moving", "derived"):
        found = frames_of(picture(made[name]))
        assert len(found) == 6
        assert all(difference(one, other) < SAME for one, other in zip(found, originals, strict=True))
    assert (picture(made["moving"]).info["loop"], picture(made["moving"]).info["duration"]) == (0, 100)
    assert picture(made["cropped"]).n_frames == 6
    assert picture(made["cropped"]).size == (20, 20)
    padded = frames_of(picture(made["padded"]))
    assert len(padded) == 6
    assert difference(padded[3].crop((10, 20, 70, 60)), originals[3]) < SAME
    assert difference(padded[3].crop((0, 0, 80, 18)), Image.new("RGB", (80, 18), "#00ff00")) < SAME


async def test_an_animation_ends_at_three_hundred_frames(pool: RenderPool, render: Render, tmp_path: Path) -> None:
    source = tmp_path / "long.gif"
    animation(source, 320, size=(40, 40))
    facts = await pool.probe(source, "image/gif", max_pixels=40 * 40)  # frames do not count here
    assert facts.metadata["pages"] == 320
    recipe = {"mode": "fit", "width": 20, "format": "webp", "lossless": True}
    made = await render(source, moving={**recipe, "animated": True})
    assert picture(made["moving"]).n_frames == 300
    small = await render(source, max_pixels=50_000, moving={**recipe, "animated": True}, still=recipe)
    assert picture(small["moving"]).n_frames == 50_000 // (40 * 40)
    assert picture(small["still"]).size == (20, 20)


# --- the corpus --------------------------------------------------------------------------------------------------


@needs_corpus
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("photo_9mp.jpg", (4608, 1976)),
        ("photo_gps.jpg", (640, 480)),
        ("ultra_hdr.jpg", (3840, 2160)),
        ("photo_iphone13.heic", (3024, 4032)),
        ("orientation_6.avif", (3024, 4032)),
        ("alpha.png", (128, 128)),
        ("animated.gif", (85, 77)),
        ("looks_like_svg.webp", (256, 256)),
    ],
)
async def test_real_pictures_are_probed_and_rendered_without_metadata(
    pool: RenderPool, render: Render, name: str, size: tuple[int, int]
) -> None:
    facts = await ImageProbe(pool, MAX_PIXELS).probe(CORPUS / name)
    assert (facts.width, facts.height) == size
    assert len(facts.placeholder) <= 700
    made = await render(
        CORPUS / name,
        thumb={"mode": "crop", "width": 128, "height": 128},
        large={"mode": "fit", "width": 1024, "format": "webp"},
        avif={"mode": "fit", "width": 300, "format": "avif"},
    )
    for result in made.values():
        assert not picture(result).getexif()
        assert b"GPS" not in result.path.read_bytes()
    assert picture(made["large"]).size == (min(1024, size[0]), round(size[1] * min(1, 1024 / size[0])))
    readable = not name.endswith(".heic") and (not name.endswith(".avif") or features.check("avif"))
    if readable:
        original = on(ImageOps.exif_transpose(opened(CORPUS / name)).convert("RGBA"), "#ffffff")
        assert difference(on(picture(made["large"]), "#ffffff"), original) < 2 * SAME


@needs_corpus
async def test_heic_is_upright_and_in_srgb(render: Render) -> None:
    import pi_heif

    made = await render(CORPUS / "photo_iphone13.heic", it={"mode": "fit", "width": 300, "format": "png"})
    heic = pi_heif.open_heif(CORPUS / "photo_iphone13.heic").to_pillow()
    profile = ImageCms.ImageCmsProfile(io.BytesIO(heic.info["icc_profile"]))
    expected = ImageCms.profileToProfile(heic, profile, ImageCms.createProfile("sRGB"))
    assert difference(picture(made["it"]), expected) < SAME


@needs_corpus
async def test_a_heic_that_was_cut_off_is_condemned(pool: RenderPool, tmp_path: Path) -> None:
    whole = (CORPUS / "photo_iphone13.heic").read_bytes()
    for part in (2000, len(whole) // 2):
        source = tmp_path / "cut.heic"
        source.write_bytes(whole[:part])
        with pytest.raises(ContentRejected) as verdict:
            await pool.probe(source, "image/heic", max_pixels=MAX_PIXELS)
        assert verdict.value.code == "decode_failed"
