"""Sequence headers of AV1: their range is found, and damaged ones are no error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rindle.media.av1_header import grey_is_limited


def bits(*fields: tuple[int, int]) -> bytes:
    """Return fields of (value, bits) in a row, filled up to whole bytes."""
    text = "".join(f"{value:0{count}b}" for value, count in fields)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8)


_TIMING = [(1, 1), (1, 32), (25, 32), (1, 1), (0b00101, 5)]
_DECODER_MODEL = [(1, 1), (9, 5), (1, 32), (9, 10)]
_TIMED_POINT = [(0, 12), (3, 5), (1, 1), (7, 21), (1, 1), (9, 4)]
#: Fields of a header in front of the size, by the way in which an encoder writes them.
FRONTS = {
    "reduced": [(0, 3), (1, 1), (1, 1), (8, 5)],
    "plain": [(0, 3), (0, 1), (0, 1), (0, 1), (0, 1), (0, 5), (0, 12), (9, 5), (1, 1)],
    "timed": [(0, 3), (0, 1), (0, 1), *_TIMING, *_DECODER_MODEL, (1, 1), (0, 5), *_TIMED_POINT],
}
#: Tools between the size and the colours, which a reduced header leaves out.
TOOLS = [(1, 1), (3, 7), (0, 3), (0, 4), (1, 1), (3, 2), (0, 1), (1, 1), (0, 1), (1, 1), (6, 3)]


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize(("is_full_range", "is_monochrome"), [(0, 1), (1, 1), (0, 0)])
def test_the_range_of_a_monochrome_image_is_found(
    tmp_path: Path, front: str, is_full_range: int, is_monochrome: int
) -> None:
    size = [(7, 4), (7, 4), (200, 8), (100, 8)]
    tools = [(0, 3)] if front == "reduced" else TOOLS
    colours = [(0, 3), (1, 1), (is_monochrome, 1), (1, 1), (2, 8), (2, 8), (2, 8), (is_full_range, 1)]
    header = bits(*FRONTS[front], *size, *tools, *colours)
    unit = bytes([1 << 3 | 2, len(header)]) + header
    record = bytes([0x81, 0, is_monochrome << 4 | 0x4C, 0])
    for content in (
        b"\0\0\0" + bytes([12 + len(unit)]) + b"av1C" + record + unit,
        b"\0\0\0\x0cav1C" + record + b"\0\0\0\0mdat" + b"\x12\0" + unit,
    ):
        path = tmp_path / "grey.avif"
        path.write_bytes(b"\0\0\0\x08ftyp" + content)
        assert grey_is_limited(path) is (is_monochrome == 1 and is_full_range == 0)


@given(tail=st.binary(max_size=80), record=st.binary(min_size=4, max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_headers_are_no_error(tmp_path: Path, record: bytes, tail: bytes) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(b"\0\0\0" + bytes([8 + len(record)]) + b"av1C" + record + tail)
    assert grey_is_limited(path) in (True, False)
