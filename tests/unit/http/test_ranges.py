"""The Range header (RFC 9110 section 14): the table of the specification, and anything at all (S7)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rindle.http.ranges import ByteRange, NoRange, parse_range

WHOLE, UNSATISFIABLE, UNPARSEABLE = NoRange.WHOLE, NoRange.UNSATISFIABLE, NoRange.UNPARSEABLE


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, WHOLE),
        ("bytes=4-7", ByteRange(4, 7)),
        ("bytes=0-0", ByteRange(0, 0)),
        ("bytes=15-15", ByteRange(15, 15)),
        ("bytes=-4", ByteRange(12, 15)),
        ("bytes=10-", ByteRange(10, 15)),
        ("bytes=0-", ByteRange(0, 15)),
        ("bytes=4-999", ByteRange(4, 15)),
        ("bytes=-999", ByteRange(0, 15)),
        ("bytes=4-9223372036854775808", ByteRange(4, 15)),
        ("bytes=4-" + "9" * 5000, ByteRange(4, 15)),
        ("bytes=0000000000000000000000000004-07", ByteRange(4, 7)),
        ("  Bytes=4-7 \t", ByteRange(4, 7)),
        ("bytes= 4-7", ByteRange(4, 7)),
        ("bytes=16-", UNSATISFIABLE),
        ("bytes=16-20", UNSATISFIABLE),
        ("bytes=9223372036854775808-", UNSATISFIABLE),
        ("bytes=" + "9" * 5000 + "-", UNSATISFIABLE),
        ("bytes=-0", UNSATISFIABLE),
        ("", UNPARSEABLE),
        ("bytes", UNPARSEABLE),
        ("bytes=", UNPARSEABLE),
        ("bytes=-", UNPARSEABLE),
        ("bytes=7-4", UNPARSEABLE),
        ("bytes=a-b", UNPARSEABLE),
        ("bytes=4", UNPARSEABLE),
        ("bytes=--4", UNPARSEABLE),
        ("bytes=+4-7", UNPARSEABLE),
        ("bytes=4 - 7", UNPARSEABLE),
        ("bytes=4-7;x", UNPARSEABLE),
        ("bytes=0x4-7", UNPARSEABLE),
        ("bytes=٤-٧", UNPARSEABLE),
        ("bytes=4-7,9-10", UNPARSEABLE),
        ("bytes=0-0,1-1,2-2", UNPARSEABLE),
        ("items=4-7", UNPARSEABLE),
    ],
)
def test_one_range_is_understood_and_nothing_else(header: str | None, expected: ByteRange | NoRange) -> None:
    assert parse_range(header, 16) == expected


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=5-9", "bytes=-1", "bytes=-0"])
def test_an_empty_file_is_served_whole(header: str) -> None:
    assert parse_range(header, 0) is WHOLE


def test_a_range_tells_its_length_and_header() -> None:
    wanted = parse_range("bytes=4-7", 16)

    assert isinstance(wanted, ByteRange)
    assert (wanted.length, wanted.content_range(16)) == (4, "bytes 4-7/16")


HEADERS = st.one_of(
    st.text(max_size=200),
    st.text("bytes=-,0123456789 \t", max_size=60).map("bytes={}".format),
    st.tuples(st.integers(0, 2**70), st.integers(0, 2**70)).map(lambda pair: f"bytes={pair[0]}-{pair[1]}"),
)


@given(header=HEADERS, size=st.integers(0, 2**63))
def test_an_answer_always_lies_within_the_file(header: str, size: int) -> None:
    answer = parse_range(header, size)

    if isinstance(answer, ByteRange):
        assert 0 <= answer.first <= answer.last < size
        assert 1 <= answer.length <= size
        assert re.fullmatch(r"bytes \d+-\d+/\d+", answer.content_range(size))
    else:
        assert answer in NoRange


@given(first=st.integers(0, 1000), length=st.integers(1, 1000), size=st.integers(1, 2000))
def test_a_well_formed_range_selects_what_a_slice_does(first: int, length: int, size: int) -> None:
    expected = range(size)[first : first + length]

    answer = parse_range(f"bytes={first}-{first + length - 1}", size)

    if expected:
        assert answer == ByteRange(expected[0], expected[-1])
    else:
        assert answer is UNSATISFIABLE


@given(suffix=st.integers(1, 3000), size=st.integers(1, 2000))
def test_a_suffix_selects_the_end(suffix: int, size: int) -> None:
    expected = range(size)[-suffix:]

    assert parse_range(f"bytes=-{suffix}", size) == ByteRange(expected[0], expected[-1])
