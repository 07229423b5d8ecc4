"""GIF canvases are those of the header, and the number of frames limits animated variants only."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from rindle.errors import ContentRejected
from rindle.media.render_pool import RenderOrder, RenderPool
from rindle.recipes import ImageVariant
from tests.media.pictures import opened

MAX_PIXELS = 100_000_000
PALETTE = bytes([255, 255, 255, 220, 30, 30, 30, 200, 30, 30, 30, 220])
#: Left, top, width, height and index of the colour of a frame.
Frame = tuple[int, int, int, int, int]


def gif(canvas: tuple[int, int], frames: list[Frame]) -> bytes:
    """Return a GIF whose frames are of one colour each; codes of three bits, without compression."""
    parts = [b"GIF89a", struct.pack("<HH", *canvas), b"\xf1\0\0", PALETTE]
    for left, top, width, height, colour in frames:
        codes = [code for n in range(width * height) for code in ([4] if n % 2 == 0 else []) + [colour]] + [5]
        bits = sum(code << 3 * n for n, code in enumerate(codes))
        data = bits.to_bytes((3 * len(codes) + 7) // 8, "little")
        blocks = [data[at : at + 255] for at in range(0, len(data), 255)]
        place = struct.pack("<HHHH", left, top, width, height)
        parts += [b"!\xf9\x04\x04\x05\0\0\0,", place, b"\0\x02"]
        parts += [part for block in blocks for part in (bytes([len(block)]), block)] + [b"\0"]
    return b"".join(parts) + b";"


async def rendered(pool: RenderPool, source: Path, max_pixels: int = MAX_PIXELS, **recipe: object) -> Image.Image:
    made = ImageVariant(mode="fit", width=2000, **recipe)
    order = RenderOrder("it", made, source.with_name(f"it{made.extension}"))
    [result] = await pool.render(source, "image/gif", [order], max_pixels=max_pixels)
    assert result.error is None and result.path is not None, result.error
    return opened(result.path)


@pytest.mark.parametrize(
    "canvas", [(800, 600), (640, 480), (640, 512), (1024, 768), (1280, 1024), (1600, 1200), (300, 200), (2500, 100)]
)
async def test_the_canvas_is_that_of_the_header(pool: RenderPool, tmp_path: Path, canvas: tuple[int, int]) -> None:
    source = tmp_path / "source.gif"
    source.write_bytes(gif(canvas, [(20, 30, 10, 10, 1), (50, 40, 40, 30, 3)]))
    facts = await pool.probe(source, "image/gif", max_pixels=MAX_PIXELS)
    assert (facts.width, facts.height, facts.metadata["has_alpha"]) == (*canvas, True)
    if canvas[0] > 2000:
        return
    still = await rendered(pool, source, format="png")
    assert still.size == canvas
    assert still.getpixel((25, 35)) == (220, 30, 30, 255)
    assert still.getpixel((5, 5))[3] == 0
    moving = await rendered(pool, source, format="webp", animated=True, lossless=True)
    assert (moving.size, getattr(moving, "n_frames", 1)) == (canvas, 2)
    moving.seek(1)
    assert moving.convert("RGB").getpixel((60, 50)) == (30, 30, 220)


@pytest.mark.parametrize(
    ("canvas", "frame", "size"),
    [
        ((40, 30), (50, 50, 10, 10, 1), (40, 30)),
        ((40, 30), (0, 0, 60, 60, 1), (40, 30)),
        ((0, 0), (0, 0, 40, 30, 1), (40, 30)),
        ((800, 600), (0, 0, 800, 600, 1), (800, 600)),
    ],
    ids=["off", "larger", "no canvas", "covered"],
)
async def test_a_first_frame_off_the_canvas_does_not_change_it(
    pool: RenderPool, tmp_path: Path, canvas: tuple[int, int], frame: Frame, size: tuple[int, int]
) -> None:
    source = tmp_path / "source.gif"
    source.write_bytes(gif(canvas, [frame]))
    facts = await pool.probe(source, "image/gif", max_pixels=MAX_PIXELS)
    assert (facts.width, facts.height) == size
    assert (await rendered(pool, source, format="png")).size == size


async def test_the_frames_limit_animated_variants_only(pool: RenderPool, tmp_path: Path) -> None:
    source = tmp_path / "source.gif"
    source.write_bytes(gif((100, 80), [(0, 0, 100, 80, 1), *[(n, n, 10, 10, 2 + n % 2) for n in range(29)]]))
    limit = 10 * 100 * 80
    facts = await pool.probe(source, "image/gif", max_pixels=limit)
    assert (facts.width, facts.height, facts.metadata["pages"]) == (100, 80, 30)
    assert (await rendered(pool, source, limit, format="jpeg")).size == (100, 80)
    moving = await rendered(pool, source, limit, format="webp", animated=True)
    assert (moving.size, getattr(moving, "n_frames", 1)) == ((100, 80), 10)
    whole = await rendered(pool, source, format="webp", animated=True)
    assert getattr(whole, "n_frames", 1) == 30


async def test_a_canvas_above_the_limit_is_refused_with_its_size(pool: RenderPool, tmp_path: Path) -> None:
    source = tmp_path / "source.gif"
    source.write_bytes(gif((60_000, 60_000), [(0, 0, 10, 10, 1)]))
    with pytest.raises(ContentRejected) as refused:
        await pool.probe(source, "image/gif", max_pixels=MAX_PIXELS)
    assert refused.value.code == "max_pixels_exceeded"
    assert (refused.value.detail["width"], refused.value.detail["height"]) == (60_000, 60_000)


async def test_an_avif_sequence_shows_its_primary_image(pool: RenderPool, tmp_path: Path) -> None:
    source = tmp_path / "source.avif"
    frames = [Image.new("RGB", (120, 80), colour) for colour in ("red", "lime", "blue")]
    written = io.BytesIO()
    frames[0].save(written, "AVIF", save_all=True, append_images=frames[1:], duration=100)
    source.write_bytes(written.getvalue())
    facts = await pool.probe(source, None, max_pixels=MAX_PIXELS)
    assert (facts.width, facts.height) == (120, 80)
