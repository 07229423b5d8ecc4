"""Images that are whole are read, whatever is missing or added around them; those that lack data are refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from rindle.errors import ContentRejected
from rindle.media.render_pool import RenderOrder, RenderPool
from rindle.protocols import ProbeResult
from rindle.recipes import ImageVariant
from tests.media.pictures import difference, opened

MAX_PIXELS = 100_000_000
HEIC = Path(__file__).parents[2] / "media" / "plain.heic"
#: What phones and programs write behind the last box of a HEIC.
TAILS = {
    "newline": b"\r\n",
    "zeros": bytes(64),
    "xmp": b"/>\n<rdf:Description/><?xpacket end='w'?>",
    "sef": b"\x00\x00\x01\x0a\x0e\x00\x00\x00Image_UTC_Data1700000000000SEFH\x65\0\0\0\x01\0\0\0SEFT",
}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(skimage.data.astronaut()).crop((0, 0, 300, 200))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    written = io.BytesIO()
    image.save(written, format_, **options)
    return written.getvalue()


async def probed(pool: RenderPool, path: Path, content: bytes, mime: str) -> ProbeResult:
    path.write_bytes(content)
    return await pool.probe(path, mime, max_pixels=MAX_PIXELS)


async def rejected(pool: RenderPool, path: Path, content: bytes, mime: str) -> ContentRejected:
    with pytest.raises(ContentRejected) as caught:
        await probed(pool, path, content, mime)
    return caught.value


async def rendered(pool: RenderPool, path: Path, mime: str) -> Image.Image:
    order = RenderOrder("it", ImageVariant(mode="fit", width=300, format="png"), path.with_name("it.png"))
    [made] = await pool.render(path, mime, [order], max_pixels=MAX_PIXELS)
    assert made.error is None and made.path is not None
    return opened(made.path)


@pytest.mark.parametrize("tail", TAILS)
async def test_a_heic_with_bytes_behind_its_last_box_shows_the_same_pixels(
    pool: RenderPool, path: Path, tail: str
) -> None:
    await probed(pool, path, HEIC.read_bytes(), "image/heic")
    plain = await rendered(pool, path, "image/heic")
    facts = await probed(pool, path, HEIC.read_bytes() + TAILS[tail], "image/heic")
    assert (facts.width, facts.height) == plain.size
    assert (await rendered(pool, path, "image/heic")).tobytes() == plain.tobytes()


@pytest.mark.parametrize("cut", [1, 5, 300])
async def test_a_heic_that_lacks_data_is_refused(pool: RenderPool, path: Path, cut: int) -> None:
    error = await rejected(pool, path, HEIC.read_bytes()[:-cut], "image/heic")
    assert error.code == "decode_failed"


@pytest.mark.parametrize("codec", [b"unci", b"vvc1", b"xxxx"])
async def test_a_heic_of_another_codec_is_refused_at_once_by_its_own_code(
    pool: RenderPool, path: Path, codec: bytes
) -> None:
    content = HEIC.read_bytes()
    at = content.index(b"hvc1", content.index(b"infe"))
    error = await rejected(pool, path, content[:at] + codec + content[at + 4 :], "image/heic")
    assert (error.code, error.retryable) == ("unsupported_variant_of_format", False)
    assert codec.decode() in error.detail["reason"]


async def test_the_primary_image_of_a_heic_sequence_is_taken(pool: RenderPool, path: Path) -> None:
    content = HEIC.read_bytes()
    facts = await probed(pool, path, content[:8] + b"hevc" + content[12:], "image/heic-sequence")
    assert (facts.width, facts.height) == (240, 160)


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}],
    ids=["baseline", "progressive", "444", "restarts"],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
async def test_a_jpeg_is_whole_exactly_when_its_rows_are(
    pool: RenderPool, path: Path, photo: Image.Image, options: dict[str, object], mode: str
) -> None:
    whole = encoded(photo.convert(mode), "JPEG", **options)
    for missing in (1, 2):
        await probed(pool, path, whole[:-missing], "image/jpeg")
        assert difference(await rendered(pool, path, "image/jpeg"), photo.convert(mode)) < 0.03
    for missing in (*range(3, 9), 20, 60, len(whole) // 100, len(whole) // 2):
        assert (await rejected(pool, path, whole[:-missing], "image/jpeg")).code == "decode_failed"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("keyword", [b"f\xfcr das Bild", b"T\xedtulo", b"\xff\xfe"])
async def test_a_png_with_a_keyword_that_is_not_utf_8_is_ready(
    pool: RenderPool, path: Path, photo: Image.Image, keyword: bytes
) -> None:
    whole = encoded(photo, "PNG")
    texts = chunk(b"tEXt", keyword + b"\0J\xf6rg") + chunk(b"zTXt", keyword + b"\0\0" + zlib.compress(b"\xff"))
    facts = await probed(pool, path, whole[:33] + texts + whole[33:], "image/png")
    assert facts.placeholder
    made = await rendered(pool, path, "image/png")
    assert made.convert("RGB").tobytes() == photo.tobytes()
    assert set(made.info) <= {"dpi"}


async def test_metadata_that_is_cut_off_is_left_out(pool: RenderPool, path: Path, photo: Image.Image) -> None:
    webp = encoded(photo, "WEBP", xmp=b"<x/>" * 100)
    assert (await probed(pool, path, webp[:-50], "image/webp")).width == 300
    png = encoded(photo, "PNG")
    text = chunk(b"tEXt", b"Comment\0" + b"x" * 500)
    assert (await probed(pool, path, png[:-12] + text[:-100], "image/png")).width == 300
    exif = Image.Exif()
    exif[0x10F] = "CanaryCam" * 10
    avif = bytearray(encoded(photo, "AVIF", exif=exif.tobytes()))
    data = avif.index(b"CanaryCam")
    ends = avif.index(b"mdat")
    place = next(at for n in range(200) if (at := avif.find(struct.pack(">I", data - n), 0, ends)) > 0)
    avif[place : place + 4] = struct.pack(">I", len(avif) + 1000)
    assert (await probed(pool, path, bytes(avif), "image/avif")).width == 300


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "AVIF", "TIFF", "GIF"])
async def test_missing_data_is_refused_in_every_format(
    pool: RenderPool, path: Path, photo: Image.Image, format_: str
) -> None:
    whole = encoded(photo.convert("P") if format_ == "GIF" else photo, format_)
    error = await rejected(pool, path, whole[: int(len(whole) * 0.9)], Image.MIME[format_])
    assert error.code == "decode_failed"


@pytest.mark.parametrize("compression", ["zstd", "lzma"])
async def test_a_tiff_of_a_compression_that_is_not_read_is_not_called_damaged(
    pool: RenderPool, path: Path, photo: Image.Image, compression: str
) -> None:
    error = await rejected(pool, path, encoded(photo, "TIFF", compression=f"{compression}"), "image/tiff")
    assert error.code == "unsupported_variant_of_format"
    assert compression in error.detail["reason"].lower()


@pytest.mark.parametrize("content", [b"\xff\xd8\xff no image", b"\xff\xd8\xff\xee\x00\x02\xff\x01junk"])
async def test_damage_that_the_decoder_calls_unsupported_is_damage(
    pool: RenderPool, path: Path, content: bytes
) -> None:
    assert (await rejected(pool, path, content, "image/jpeg")).code == "decode_failed"
