"""The sizes of parts: any file up to 5 TiB has at most 10000 of them, and clients' lists are read in every form."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rindle.db.models import MediaUploadSession
from rindle.errors import InvalidArgument, InvalidMultipartParts, UploadRejected
from rindle.protocols import Part
from rindle.uploads.multipart import (
    DEFAULT_PART_BYTES,
    MAX_OBJECT_BYTES,
    MAX_PART_BYTES,
    MAX_PART_COUNT,
    MIB,
    MIN_PART_BYTES,
    named_parts,
    part_count_of,
    part_size_for,
)

GIB = 1024 * MIB


@given(
    size=st.integers(0, MAX_OBJECT_BYTES),
    asked=st.none() | st.integers(MIN_PART_BYTES, MAX_PART_BYTES),
)
def test_every_file_fits_into_its_parts(size: int, asked: int | None) -> None:
    part_size = part_size_for(asked, size=size)

    count = part_count_of(MediaUploadSession(expected_size=size, part_size=part_size))
    assert count is not None and 1 <= count <= MAX_PART_COUNT
    assert (count - 1) * part_size <= size <= count * part_size
    assert MIN_PART_BYTES <= part_size <= MAX_PART_BYTES
    wanted = asked or DEFAULT_PART_BYTES
    assert part_size == wanted or (part_size > wanted and part_size % MIB == 0)


@pytest.mark.parametrize(
    ("size", "max_bytes", "expected"),
    [
        (1, None, 8 * MIB),
        (80_000 * MIB, None, 8 * MIB),
        (80_000 * MIB + 1, None, 9 * MIB),
        (MAX_OBJECT_BYTES, None, 525 * MIB),
        (None, None, 8 * MIB),
        (None, 100 * GIB, 11 * MIB),
        (None, 2**62, 525 * MIB),
        (5, 100 * GIB, 8 * MIB),
    ],
)
def test_parts_grow_only_where_ten_thousand_do_not_suffice(
    size: int | None, max_bytes: int | None, expected: int
) -> None:
    assert part_size_for(None, size=size, max_bytes=max_bytes) == expected


def test_no_store_keeps_more() -> None:
    with pytest.raises(UploadRejected) as refused:
        part_size_for(None, size=MAX_OBJECT_BYTES + 1)

    assert (refused.value.code, refused.value.detail["limit"]) == ("max_bytes_exceeded", MAX_OBJECT_BYTES)


@pytest.mark.parametrize("asked", [0, -1, MIN_PART_BYTES - 1, MAX_PART_BYTES + 1, True])
def test_a_part_size_out_of_range_is_refused(asked: int) -> None:
    with pytest.raises(InvalidArgument):
        part_size_for(asked, size=1)


def test_a_file_of_unknown_size_has_an_unknown_number_of_parts() -> None:
    assert part_count_of(MediaUploadSession(expected_size=None, part_size=8 * MIB)) is None
    assert part_count_of(MediaUploadSession(expected_size=0, part_size=8 * MIB)) == 1


@pytest.mark.parametrize(
    "parts",
    [
        [{"part_number": 2, "etag": "b"}, {"part_number": 1, "etag": "a"}],
        [{"PartNumber": 2, "ETag": '"b"'}, {"PartNumber": 1, "ETag": 'W/"a"'}],
        ({"part_number": 1, "etag": "a", "size": 7}, Part(2, "b", 5)),
    ],
)
def test_lists_of_clients_are_read_in_every_form(parts: Any) -> None:
    assert list(named_parts(parts).items()) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        "parts",
        {"part_number": 1, "etag": "a"},
        7,
        [None],
        ["a"],
        [{}],
        [{"part_number": 1}],
        [{"etag": "a"}],
        [{"part_number": "1", "etag": "a"}],
        [{"part_number": 1.0, "etag": "a"}],
        [{"part_number": True, "etag": "a"}],
        [{"part_number": 0, "etag": "a"}],
        [{"part_number": 10_001, "etag": "a"}],
        [{"part_number": 1, "etag": ""}],
        [{"part_number": 1, "etag": 'W/""'}],
        [{"part_number": 1, "etag": 7}],
        [{"part_number": 1, "etag": "a"}, {"PartNumber": 1, "ETag": "a"}],
        [{"part_number": number, "etag": "a"} for number in range(1, 10_002)],
    ],
)
def test_other_lists_are_refused(parts: Any) -> None:
    with pytest.raises(InvalidMultipartParts):
        named_parts(parts)
