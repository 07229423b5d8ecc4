"""Whether the data of the shown image is in its file is read from the container, whatever else is missing or added."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rindle.media.completeness import completed_jpeg, completed_webp, shown_items
from tests.media.iso import box, heif

HVC1 = b"hvc1"
#: A grid (1) of two tiles (2, 3), its alpha (4), and the metadata of a camera (5): offset and length of the data.
ITEMS = {1: b"grid", 2: HVC1, 3: HVC1, 4: HVC1, 5: b"Exif"}
PLACES = {1: (500, 8), 2: (600, 100), 3: (700, 100), 4: (800, 50), 5: (850, 100)}
REFERENCES = [(b"dimg", 1, [2, 3]), (b"auxl", 4, [1]), (b"cdsc", 5, [1])]


def noise(size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def encoded(format_: str, **options: object) -> bytes:
    written = io.BytesIO()
    noise().save(written, format_, **options)
    return written.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_the_items_of_a_whole_image_are_named_and_complete(path: Path) -> None:
    path.write_bytes(heif(ITEMS, PLACES, references=REFERENCES, alphas=[4]))
    shown = shown_items(path)
    assert (shown.codings, shown.is_whole, shown.absent_bytes) == ({b"grid", HVC1}, True, 0)


@pytest.mark.parametrize(
    "tail",
    [
        b"\r\n",
        bytes(3),
        b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
        b"\x00\x00\x01\x0a\x0e\x00\x00\x00Image_UTC_Data1SEFT",
    ],
    ids=["newline", "zeros", "xmp", "sef"],
)
def test_bytes_behind_the_last_box_do_not_matter(path: Path, tail: bytes) -> None:
    path.write_bytes(heif(ITEMS, PLACES, references=REFERENCES) + tail)
    assert shown_items(path).is_whole


@pytest.mark.parametrize("item", [1, 2, 3, 4])
def test_an_image_is_not_whole_without_the_data_of_any_part(path: Path, item: int) -> None:
    path.write_bytes(heif(ITEMS, {**PLACES, item: (950, 51)}, references=REFERENCES, alphas=[4]))
    assert not shown_items(path).is_whole


def test_data_of_what_is_not_shown_may_be_missing(path: Path) -> None:
    """Metadata, a thumbnail, a depth map: the image is whole without them."""
    path.write_bytes(heif(ITEMS, {**PLACES, 4: (950, 60), 5: (990, 100)}, references=REFERENCES))
    shown = shown_items(path)
    assert (shown.is_whole, shown.absent_bytes) == (True, 90)


def test_a_file_without_a_primary_item_is_left_to_its_decoder(path: Path) -> None:
    for content in (heif(ITEMS, PLACES, primary=None), box(b"ftyp", b"hevc"), b"", b"\xff" * 50):
        path.write_bytes(content)
        assert shown_items(path).is_whole
        assert shown_items(path).codings == frozenset()


@given(data=st.data())
def test_a_damaged_container_never_fails_otherwise(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(heif(ITEMS, PLACES, references=REFERENCES, alphas=[4]))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, 450))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "items"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    shown_items(path)


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_without_its_end_marker_gets_it(path: Path, options: dict[str, bool], missing: int) -> None:
    path.write_bytes(encoded("JPEG", **options)[:-missing])
    completed = completed_jpeg(path)
    assert completed is not None and completed.endswith(b"\xff\xd9")


def test_a_progressive_jpeg_without_its_last_scans_is_not_completed(path: Path) -> None:
    """Each of its scans has all rows; what is missing is detail."""
    whole = encoded("JPEG", progressive=True)
    scans = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    tables = [whole.rfind(b"\xff\xc4", 0, at) for at in scans]
    assert len(scans) > 5
    for cut in tables[1:]:
        path.write_bytes(whole[:cut])
        assert completed_jpeg(path) is None


def test_an_ordinary_jpeg_is_not_touched(path: Path) -> None:
    whole = encoded("JPEG")
    for content in (whole, whole + b"trailer", whole[:200], b"\xff\xd8", b""):
        path.write_bytes(content)
        assert completed_jpeg(path) is None


def test_a_webp_whose_metadata_is_cut_off_is_completed(path: Path) -> None:
    whole = encoded("WEBP", xmp=b"<x/>" * 50)
    path.write_bytes(whole[:-20])
    completed = completed_webp(path)
    assert completed is not None
    assert struct.unpack_from("<I", completed, 4)[0] + 8 == len(completed)
    assert Image.open(io.BytesIO(completed)).size == (64, 48)


def test_a_webp_whose_image_is_cut_off_is_not_completed(path: Path) -> None:
    whole = encoded("WEBP")
    for content in (whole[:-3], whole[:30], whole, whole + b"trailer", b"RIFF", b""):
        path.write_bytes(content)
        assert completed_webp(path) is None
