"""The parts of an image are counted before it is opened; ordinary images and damaged ones pass to the decoder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rindle.errors import ContentRejected
from rindle.media.image_formats import MAX_LISTED_FRAMES, MAX_PAGES, MAX_SCANS, MAX_SEGMENTS
from rindle.media.image_structure import check_structure
from tests.media import bombs

#: Files that are too many of something: type, content, part and limit.
BOMBS = {
    "scans": ("image/jpeg", lambda: bombs.jpeg_of_scans(20_000), "scans", MAX_SCANS),
    "webp": ("image/webp", lambda: bombs.webp_of_frames(40_000), "frames", MAX_LISTED_FRAMES),
    "gif": ("image/gif", lambda: bombs.gif_of_frames(40_000), "frames", MAX_LISTED_FRAMES),
    "apng": ("image/png", lambda: bombs.apng_of_frames(40_000), "frames", MAX_LISTED_FRAMES),
    "chunks": ("image/png", lambda: bombs.png_of_chunks(200_000), "segments", MAX_SEGMENTS),
    "tiff": ("image/tiff", lambda: bombs.tiff_of_pages(10_000), "pages", MAX_PAGES),
    "bigtiff": ("image/tiff", lambda: bombs.tiff_of_pages(10_000, is_big=True), "pages", MAX_PAGES),
    "circle": ("image/tiff", bombs.tiff_in_a_circle, "pages", MAX_PAGES),
}
#: Files of as many parts as allowed, less the few that every file has.
LARGEST = {
    "scans": ("image/jpeg", lambda: bombs.jpeg_of_scans(MAX_SCANS - 12)),
    "webp": ("image/webp", lambda: bombs.webp_of_frames(MAX_LISTED_FRAMES)),
    "gif": ("image/gif", lambda: bombs.gif_of_frames(MAX_LISTED_FRAMES)),
    "apng": ("image/png", lambda: bombs.apng_of_frames(MAX_LISTED_FRAMES)),
    "tiff": ("image/tiff", lambda: bombs.tiff_of_pages(MAX_PAGES)),
    "bigtiff": ("image/tiff", lambda: bombs.tiff_of_pages(MAX_PAGES, is_big=True)),
}
SMALL = {
    "image/jpeg": bombs.jpeg_of_scans(2),
    "image/webp": bombs.webp_of_frames(3),
    "image/gif": bombs.gif_of_frames(3),
    "image/png": bombs.apng_of_frames(3),
    "image/tiff": bombs.tiff_of_pages(3),
}


@pytest.mark.parametrize("name", BOMBS)
def test_too_many_parts_are_refused_with_their_limit(name: str, tmp_path: Path) -> None:
    mime, content, part, limit = BOMBS[name]
    path = tmp_path / "bomb"
    path.write_bytes(content())
    with pytest.raises(ContentRejected) as refused:
        check_structure(path, mime)
    assert refused.value.code == "content_too_complex"
    assert refused.value.detail == {"part": part, "limit": limit}


@pytest.mark.parametrize("name", LARGEST)
def test_the_limit_itself_is_allowed(name: str, tmp_path: Path) -> None:
    mime, content = LARGEST[name]
    path = tmp_path / "large"
    path.write_bytes(content())
    check_structure(path, mime)


def test_a_link_out_of_everything_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bombs.tiff_of_pages(1, is_big=True)[:-8] + b"\xff" * 8)
    check_structure(path, "image/tiff")


def test_only_the_first_image_of_a_jpeg_counts(tmp_path: Path) -> None:
    """Phones put a second image, or a film, behind the end of the first."""
    path = tmp_path / "photo"
    path.write_bytes(bombs.jpeg_of_scans(1) * 1_000)
    check_structure(path, "image/jpeg")


@pytest.mark.parametrize("mime", sorted(SMALL))
def test_bytes_behind_the_image_do_not_count(mime: str, tmp_path: Path) -> None:
    path = tmp_path / "padded"
    path.write_bytes(SMALL[mime] + bytes(16 * MAX_SEGMENTS))
    check_structure(path, mime)


def test_files_without_content_and_of_other_types_pass(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    for mime in (*SMALL, "image/heic", "image/avif"):
        check_structure(path, mime)


@given(mime=st.sampled_from(sorted(SMALL)), data=st.data())
def test_damage_is_left_to_the_decoder(
    mime: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray(SMALL[mime])
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        check_structure(path, mime)
    except ContentRejected as refused:  # a link that was bent into a circle
        assert refused.code == "content_too_complex"
