"""Headers of tus requests may be anything: they are read, ignored or refused, and nothing else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as some

from rindle.arguments import MAX_FILENAME_CHARS, MAX_TEXT_CHARS
from rindle.errors import InvalidArgument
from rindle.http.tus.headers import MAX_METADATA_BYTES, read_checksum, read_concat, read_length, read_metadata
from rindle.text import storable

#: What a server makes of the bytes of a header.
HEADERS = some.text(some.characters(max_codepoint=255), max_size=200)


@given(HEADERS)
def test_any_metadata_is_read_or_refused(header: str) -> None:
    try:
        found = read_metadata(header)
    except InvalidArgument:
        assert any(ord(char) < 32 or ord(char) == 127 for char in header)
        return
    assert found.header == header
    for text, limit in ((found.filename, MAX_FILENAME_CHARS), (found.content_type, MAX_TEXT_CHARS)):
        assert text is None or (len(text) <= limit and storable(text) == text)


@given(some.text(max_size=300), some.booleans())
def test_a_file_name_is_read_with_and_without_padding(name: str, is_padded: bool) -> None:
    encoded = base64.b64encode(name.encode("utf-8", "surrogatepass")).decode()

    found = read_metadata(f"other dGV4dA==,filename {encoded if is_padded else encoded.rstrip('=')}")

    if name and not any(0xD800 <= ord(char) < 0xE000 for char in name):
        assert found.filename == storable(name)
    else:
        assert found.filename is None


def test_the_limit_of_metadata_counts_bytes() -> None:
    read_metadata("a" * MAX_METADATA_BYTES)
    with pytest.raises(InvalidArgument):
        read_metadata("a" * (MAX_METADATA_BYTES + 1))


@pytest.mark.parametrize("header", ["filename YQ==\r\nX-Evil: 1", "filename YQ==\x00", "name YQ==\x7f"])
def test_no_header_is_smuggled_back_to_the_client(header: str) -> None:
    with pytest.raises(InvalidArgument):
        read_metadata(header)


@given(HEADERS)
def test_any_other_header_is_read_or_refused(header: str) -> None:
    for read in (
        read_checksum,
        read_concat,
        lambda value: read_length(value, None),
        lambda value: read_length("1", value),
    ):
        try:
            read(header)
        except InvalidArgument as error:
            assert error.detail["option"].startswith("Upload-")
