"""Pixels kept from the judgement for the render: the same outputs, and nothing lost when they are not there."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import skimage.data
from PIL import Image, ImageCms

from rindle import MediaAsset, run_directories
from rindle.activities.decode_cache import MAX_AGE_SECONDS, DecodeCache
from rindle.errors import ContentRejected
from rindle.media.render_pool import RenderOrder, RenderPool
from rindle.recipes import ImageVariant
from rindle.security.mime import sniff
from tests.stage import Stage, photo

MAX_PIXELS = 100_000_000
CORPUS = Path(os.environ["RINDLE_CORPUS"]) if os.environ.get("RINDLE_CORPUS") else None
CORPUS_PICTURES = [
    CORPUS / name
    for name in ("photo_9mp.jpg", "ultra_hdr.jpg", "photo_iphone13.heic", "orientation_6.avif", "alpha.png")
    if CORPUS
]
RECIPES = {
    "large": ImageVariant(mode="fit", width=640, height=640),
    "nearly": ImageVariant(mode="fit", width=500, format="png"),
    "thumb": ImageVariant(mode="crop", width=96, height=96, gravity="attention", format="webp"),
    "padded": ImageVariant(mode="pad", width=300, height=300, format="png", background="#00ff00"),
    "bent": ImageVariant(mode="stretch", width=200, height=300),
}


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[RenderPool]:
    pool = RenderPool(1)
    pool.start()
    yield pool
    await pool.close()


async def rendered(
    pool: RenderPool, source: Path, kept: Path | None = None, recipes: dict[str, ImageVariant] | None = None
) -> dict[str, bytes]:
    """Render the recipes from a source; the bytes of each output by name."""
    out = source.parent / "out"
    out.mkdir(exist_ok=True)
    orders = [RenderOrder(name, recipe, out / name) for name, recipe in (recipes or RECIPES).items()]
    made = await pool.render(source, sniff(source), orders, max_pixels=MAX_PIXELS, kept=kept)
    assert [result.error for result in made] == [None] * len(orders)
    return {result.name: result.path.read_bytes() for result in made if result.path}


def drawing(suffix: str) -> Image.Image:
    image = Image.fromarray(skimage.data.astronaut()).crop((0, 0, 512, 384)).resize((1500, 1125))
    return image.convert("LA" if suffix == ".grey.png" else "RGBA" if suffix == ".png" else "RGB")


@pytest.fixture(params=[".jpg", ".turned.jpg", ".profile.jpg", ".png", ".grey.png", ".webp", ".gif", ".tif"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A picture of each kind: 300 dpi, on its side, in the colours of another space, with alpha, grey."""
    options: dict[str, object] = {"dpi": (300, 300)} if request.param in (".jpg", ".tif") else {}
    if request.param == ".turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    if request.param == ".profile.jpg":
        options["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / f"source{request.param}"
    drawing(request.param).save(path, **options)
    return path


async def test_outputs_are_the_same_bytes_with_kept_pixels_and_without(
    pool: RenderPool, tmp_path: Path, source: Path
) -> None:
    kept = tmp_path / "kept"
    plain = await pool.probe(source, max_pixels=MAX_PIXELS)
    facts = await pool.probe(source, max_pixels=MAX_PIXELS, recipes=list(RECIPES.values()), keep=kept)
    assert kept.is_file()
    assert (facts.width, facts.height, facts.metadata) == (plain.width, plain.height, plain.metadata)
    assert await rendered(pool, source, kept) == await rendered(pool, source)
    for fewer in ("large", "thumb", "nearly"):
        recipes = {fewer: RECIPES[fewer]}
        assert await rendered(pool, source, kept, recipes) == await rendered(pool, source, None, recipes)


@pytest.mark.parametrize("picture", CORPUS_PICTURES, ids=lambda path: path.name)
async def test_real_pictures_come_out_the_same_too(pool: RenderPool, tmp_path: Path, picture: Path) -> None:
    source, kept = tmp_path / picture.name, tmp_path / "kept"
    source.symlink_to(picture)
    await pool.probe(source, max_pixels=MAX_PIXELS, recipes=list(RECIPES.values()), keep=kept)
    assert kept.is_file()
    assert await rendered(pool, source, kept) == await rendered(pool, source)


async def test_kept_pixels_are_what_is_rendered_and_belong_to_nobody_else(pool: RenderPool, tmp_path: Path) -> None:
    """Proves that the file is really read: pixels of another picture of the same size would be taken for its own."""
    one, other, kept = tmp_path / "one.png", tmp_path / "other.png", tmp_path / "pixels" / "kept"
    drawing(".png").convert("RGB").save(one)
    Image.new("RGB", (1500, 1125), "#ff0000").save(other)
    await pool.probe(one, max_pixels=MAX_PIXELS, recipes=list(RECIPES.values()), keep=kept)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert (await rendered(pool, other, kept))["large"] == (await rendered(pool, one))["large"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: b"",
        lambda body: body[:20],
        lambda body: body[:-1],
        lambda body: body + b"x",
        lambda body: body[:40] + bytes(len(body) - 40),
        lambda body: b"RPX0" + body[4:],
        lambda body: None,
    ],
    ids=["empty", "half a header", "cut off", "too long", "zeros", "of another release", "missing"],
)
async def test_damaged_pixels_cost_a_decode_and_nothing_else(
    pool: RenderPool, tmp_path: Path, damage: Callable[[bytes], bytes | None]
) -> None:
    source, kept = tmp_path / "source.jpg", tmp_path / "kept"
    drawing(".jpg").save(source)
    await pool.probe(source, max_pixels=MAX_PIXELS, recipes=list(RECIPES.values()), keep=kept)
    body = damage(kept.read_bytes())
    kept.unlink()
    if body is not None:
        kept.write_bytes(body)
    assert await rendered(pool, source, kept) == await rendered(pool, source)


async def test_pixels_for_other_recipes_are_left_alone(pool: RenderPool, tmp_path: Path) -> None:
    source, kept = tmp_path / "source.jpg", tmp_path / "kept"
    drawing(".jpg").save(source)
    await pool.probe(source, max_pixels=MAX_PIXELS, recipes=[ImageVariant(mode="fit", width=700)], keep=kept)
    assert await rendered(pool, source, kept) == await rendered(pool, source)
    own_colours = {"own": ImageVariant(mode="fit", width=700, keep_icc=True)}
    assert await rendered(pool, source, kept, own_colours) == await rendered(pool, source, None, own_colours)


async def test_a_placeholder_is_made_only_where_one_is_wanted(pool: RenderPool, tmp_path: Path) -> None:
    source = tmp_path / "source.jpg"
    drawing(".jpg").save(source)
    for keep in (None, tmp_path / "kept"):
        for wanted in (True, False):
            facts = await pool.probe(
                source, max_pixels=MAX_PIXELS, placeholder=wanted, recipes=list(RECIPES.values()), keep=keep
            )
            assert (facts.placeholder is not None) is wanted


async def test_damage_is_found_while_pixels_are_kept(pool: RenderPool, tmp_path: Path) -> None:
    whole, source = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    drawing(".jpg").save(whole)
    source.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ContentRejected) as verdict:
        await pool.probe(
            source, max_pixels=MAX_PIXELS, placeholder=False, recipes=list(RECIPES.values()), keep=tmp_path / "kept"
        )
    assert verdict.value.code == "decode_failed"
    assert not (tmp_path / "kept").exists()


async def test_nothing_is_kept_where_it_would_help_no_render(pool: RenderPool, tmp_path: Path) -> None:
    source, moving = tmp_path / "source.png", tmp_path / "moving.gif"
    drawing(".png").save(source)
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("#ff0000", "#00ff00")]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    for path, recipe in (
        (source, ImageVariant(mode="fit", width=3000, upscale=True)),  # 6 megapixels
        (source, ImageVariant(mode="fit", width=300, keep_icc=True)),
        (moving, ImageVariant(mode="fit", width=30)),
    ):
        await pool.probe(path, max_pixels=MAX_PIXELS, recipes=[recipe], keep=tmp_path / "kept")
        assert not (tmp_path / "kept").exists()


async def test_a_disk_that_cannot_be_written_costs_the_probe_nothing(pool: RenderPool, tmp_path: Path) -> None:
    source = tmp_path / "source.jpg"
    drawing(".jpg").save(source)
    (tmp_path / "file").touch()
    recipes = list(RECIPES.values())
    facts = await pool.probe(source, max_pixels=MAX_PIXELS, recipes=recipes, keep=tmp_path / "file" / "kept")
    assert facts.width == 1500


# --- where they lie -----------------------------------------------------------------------------------------------


def asset(**facts: str | None) -> MediaAsset:
    return MediaAsset(**{"id": "a", "storage_key": "k", "stored_etag": "e", **facts})


def test_every_original_has_a_file_of_its_own(tmp_path: Path) -> None:
    kept = DecodeCache(tmp_path)
    others = [asset(), asset(id="b"), asset(storage_key="l"), asset(stored_etag="f")]
    assert len({kept.path(each) for each in others}) == 4
    assert kept.path(asset(stored_etag=None)) is None  # nothing would tell its bytes from later ones


def test_files_are_bounded_in_number_and_age(tmp_path: Path) -> None:
    kept = DecodeCache(tmp_path, max_bytes=1000)
    first, second = asset(), asset(id="b")
    place = kept.place(first)
    assert place is not None
    place.parent.mkdir()
    place.write_bytes(bytes(1000))
    assert kept.place(second) is None
    old = place.stat().st_mtime - MAX_AGE_SECONDS - 60
    os.utime(place, (old, old))
    assert kept.place(second) is not None
    assert not place.exists()


def test_the_sweep_of_scratch_space_takes_them(tmp_path: Path) -> None:
    kept = DecodeCache(tmp_path)
    place = kept.place(asset())
    assert place is not None
    place.parent.mkdir()
    place.touch()
    os.utime(place.parent, (1, 1))
    assert run_directories.sweep(tmp_path).deleted == 1
    assert not place.exists()


def kept_files(stage: Stage) -> list[Path]:
    pixels = stage.rindle.settings.scratch / "pixels"
    return list(pixels.iterdir()) if pixels.is_dir() else []


async def test_a_render_takes_the_pixels_its_judgement_has_kept(lite_stage: Stage) -> None:
    await lite_stage.member()
    done = await lite_stage.ready(body=photo(lite_stage.home / "p.jpg"))
    assert done.state == "ready"
    assert (lite_stage.rindle.settings.scratch / "pixels").is_dir()
    assert kept_files(lite_stage) == []


async def test_a_purge_takes_pixels_that_no_render_has_used(lite_stage: Stage) -> None:
    await lite_stage.member()
    done = await lite_stage.ready(actor="a")
    place = DecodeCache(lite_stage.rindle.settings.scratch).path(done)
    assert place is not None
    place.write_bytes(b"left by a probe on a host whose render ran elsewhere")
    await lite_stage.rindle.purge_asset(done.id)
    await lite_stage.gone(done.id)
    assert kept_files(lite_stage) == []
