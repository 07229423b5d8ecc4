"""Header fields and messages of Resumable Uploads for HTTP; each requirement of the draft has its test."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from starlette.datastructures import Headers

from rindle.errors import InvalidArgument, UploadSessionExpired
from rindle.http.resumable.fields import (
    Digest,
    Limits,
    digests,
    limits,
    read_boolean,
    read_digest,
    read_filename,
    read_integer,
    read_preference,
)
from rindle.http.resumable.messages import (
    InconsistentLength,
    Transfer,
    appended_headers,
    created_headers,
    inconsistent_length,
    interim_created,
    interim_progress,
    is_partial,
    mismatching_offset,
    options_headers,
    problem_of,
    read_append,
    read_creation,
    status_headers,
    takes_interim,
    too_large,
)
from rindle.uploads.digests import WholeDigest

LIMITS = Limits(max_size=1000, max_age=60)
SHA_256, SHA_512 = hashlib.sha256(b"x").digest(), hashlib.sha512(b"x").digest()


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


# --- fields ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0),
        (" 7 ", 7),
        ("999999999999999", 999_999_999_999_999),
        ('5;a;b=?1;c="x\\"y";d=:aGk=:;e=tok/en;f=1.5', 5),
    ],
)
def test_an_integer_is_read(value: str, expected: int) -> None:
    assert read_integer(value) == expected


@pytest.mark.parametrize(
    "value",
    [None, "", "-1", "+1", "1.0", "1000000000000000", "1, 2", "1,1", "?1", '"1"', "1;", "1;A", "x", "1 2", "٣", "1\n"],
)
def test_other_values_of_an_integer_are_ignored(value: str | None) -> None:
    assert read_integer(value) is None


@pytest.mark.parametrize(("value", "expected"), [("?1", True), ("?0", False), ("?1;x=1", True), (" ?0", False)])
def test_a_boolean_is_read(value: str, expected: bool) -> None:
    assert read_boolean(value) is expected


@pytest.mark.parametrize("value", [None, "", "1", "true", "?2", "?1, ?1", "?01", '"?1"', "?", "?1" + ";a" * 4000])
def test_other_values_of_a_boolean_are_ignored(value: str | None) -> None:
    assert read_boolean(value) is None


def test_limits_are_a_dictionary_and_never_empty() -> None:
    every = Limits(max_size=10**13, min_size=0, max_append_size=3, min_append_size=4, max_age=5)

    assert limits(every) == ("max-size=10000000000000, min-size=0, max-append-size=3, min-append-size=4, max-age=5")
    assert limits(Limits()) == "min-size=0"
    assert limits(Limits(max_size=10**20, max_age=-3)) == "max-size=999999999999999, max-age=0"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (f"sha-256=:{b64(SHA_256)}:", Digest("sha-256", SHA_256)),
        (f"sha-256=:{b64(SHA_256)}: , sha-512=:{b64(SHA_512)}:;q=1", Digest("sha-512", SHA_512)),
        ("md5=:1B2M2Y8AsgTpgAmY7PhCfg==:", None),
    ],
)
def test_the_strongest_known_digest_is_read(value: str | None, expected: Digest | None) -> None:
    assert read_digest("Content-Digest", value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "sha-256",
        "sha-256=abc",
        "sha-256=:aGk=:",
        "sha-256=:a:",
        f"sha-256=:{b64(SHA_256)}:,",
        "a=:" + "A" * 9000,
    ],
)
def test_a_digest_that_cannot_be_read_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_digest("Content-Digest", value)

    assert caught.value.detail["option"] == "Content-Digest"


def test_a_digest_is_written_as_it_is_read() -> None:
    digest = Digest("sha-256", SHA_256)

    assert read_digest("Repr-Digest", digests([digest])) == digest


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("sha-256=1", "sha-256"),
        ("sha-512=3, sha-256=10, unixsum=0", "sha-256"),
        ("sha-256=5, sha-512=5", "sha-512"),
        ("sha-256=1, sha-256=0", None),
        ("sha-256=0, sha-512=0", None),
        ("sha-256=-1", None),
        ("sha-256=1.5", None),
        ("sha-256=?1", None),
        ("sha-256=10;q=1", "sha-256"),
        ("sha-256=1,", None),
        ("x=1, " * 2000, None),
    ],
)
def test_the_preferred_known_algorithm_is_read(value: str | None, expected: str | None) -> None:
    assert read_preference(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("inline", None),
        ('inline; filename="file name.jpg"', "file name.jpg"),
        ("inline; filename=\"file name.jpg\"; filename*=UTF-8''f%C3%BCle%20name.jpg", "füle name.jpg"),
        ("inline; filename*=UTF-8''f%C3%BCle.jpg; filename=\"file.jpg\"", "füle.jpg"),
        ("attachment; FILENAME=a.png", "a.png"),
        ('inline; filename=""', None),
        ("inline; filename*=unknown''a.png; filename=b.png", "b.png"),
    ],
)
def test_the_file_name_is_read_in_both_forms(value: str | None, expected: str | None) -> None:
    assert read_filename(value) == expected


# --- requests ----------------------------------------------------------------------------------------------------


def test_only_a_request_with_completeness_creates() -> None:
    assert read_creation(Headers({"Content-Length": "5"})) is None
    assert read_creation(Headers({"Upload-Complete": "yes"})) is None
    twice = [(b"upload-complete", b"?1"), (b"upload-complete", b"?1")]
    assert read_creation(Headers(raw=twice)) is None
    assert read_creation(Headers({"Upload-Complete": "?0"})) == Transfer(is_complete=False)
    headers = {
        "Upload-Complete": "?1",
        "Content-Length": "5",
        "Upload-Length": "5",
        "Repr-Digest": f"sha-256=:{b64(SHA_256)}:",
    }
    assert read_creation(Headers(headers)) == Transfer(
        is_complete=True, declared_length=5, content_length=5, whole_digest=WholeDigest("sha-256", expected=SHA_256)
    )


def test_an_append_names_offset_and_completeness() -> None:
    headers = {"Upload-Complete": "?0", "Upload-Offset": "3", "Content-Length": "2"}

    assert read_append(Headers(headers)) == (3, Transfer(is_complete=False, content_length=2))
    for missing in ("Upload-Complete", "Upload-Offset"):
        with pytest.raises(InvalidArgument) as caught:
            read_append(Headers({name: value for name, value in headers.items() if name != missing}))
        assert caught.value.detail["option"] == missing


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("application/partial-upload", True),
        ("Application/Partial-Upload; x=1", True),
        ("application/offset+octet-stream", False),
        (None, False),
    ],
)
def test_an_append_is_known_by_its_type(value: str | None, expected: bool) -> None:
    assert is_partial(value) is expected


@pytest.mark.parametrize(("value", "expected"), [("8", True), ("7", False), ("x", False), (None, False)])
def test_interim_responses_are_for_this_iteration_only(value: str | None, expected: bool) -> None:
    headers = {} if value is None else {"Upload-Draft-Interop-Version": value}

    assert takes_interim(Headers(headers)) is expected


# --- lengths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transfer", "offset", "known", "expected"),
    [
        ({"is_complete": False}, 0, None, None),
        ({"is_complete": False, "content_length": 5}, 0, None, None),
        ({"is_complete": False, "declared_length": 9}, 0, None, 9),
        ({"is_complete": True, "content_length": 5}, 4, None, 9),
        ({"is_complete": True, "content_length": 5, "declared_length": 9}, 4, 9, 9),
        ({"is_complete": True}, 4, None, None),
        ({"is_complete": True, "content_length": 0}, 9, 9, 9),
    ],
)
def test_a_length_is_the_declared_one_or_that_of_the_rest(
    transfer: dict[str, Any], offset: int, known: int | None, expected: int | None
) -> None:
    assert Transfer(**transfer).length(offset=offset, known=known) == expected


@pytest.mark.parametrize(
    ("transfer", "offset", "known"),
    [
        ({"is_complete": True, "content_length": 5, "declared_length": 10}, 4, None),
        ({"is_complete": False, "declared_length": 8}, 4, 9),
        ({"is_complete": True, "content_length": 4}, 4, 9),
        ({"is_complete": False, "declared_length": 3}, 4, None),
    ],
)
def test_lengths_that_differ_are_refused(transfer: dict[str, Any], offset: int, known: int | None) -> None:
    with pytest.raises(InconsistentLength):
        Transfer(**transfer).length(offset=offset, known=known)


# --- responses ---------------------------------------------------------------------------------------------------


def test_responses_have_the_fields_that_the_draft_demands() -> None:
    limit = "max-size=1000, max-age=60"

    assert options_headers(LIMITS) == {"Upload-Limit": limit}
    assert created_headers("/u/1", LIMITS) == {"Location": "/u/1", "Upload-Limit": limit, "Upload-Complete": "?0"}
    assert status_headers(offset=3, is_complete=False, length=9, found=LIMITS) == {
        "Upload-Offset": "3",
        "Upload-Complete": "?0",
        "Upload-Length": "9",
        "Upload-Limit": limit,
        "Cache-Control": "no-store",
    }
    assert "Upload-Length" not in status_headers(offset=3, is_complete=True, length=None, found=LIMITS)
    assert appended_headers(offset=9, is_complete=True, found=LIMITS)["Upload-Complete"] == "?1"


def test_an_interim_response_names_the_iteration_and_only_the_first_one_the_upload() -> None:
    first, later = interim_created("/u/1", LIMITS), interim_progress(5)

    assert (first["Location"], first["Upload-Draft-Interop-Version"]) == ("/u/1", "8")
    assert later == {"Upload-Offset": "5", "Upload-Draft-Interop-Version": "8"}


def test_problems_have_their_registered_types() -> None:
    mismatch, length = mismatching_offset(expected=5, provided=7), inconsistent_length()

    assert mismatch.status == 409
    assert dict(mismatch.headers) == {"Upload-Offset": "5", "Upload-Complete": "?0"}
    assert mismatch.body["type"] == "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
    assert (mismatch.body["expected-offset"], mismatch.body["provided-offset"]) == (5, 7)
    assert (length.status, dict(length.headers)) == (400, {"Upload-Complete": "?0"})
    assert length.body["type"] == "https://iana.org/assignments/http-problem-types#inconsistent-upload-length"
    assert (too_large(LIMITS).status, too_large(LIMITS).headers["Upload-Limit"]) == (413, "max-size=1000, max-age=60")
    other = problem_of(UploadSessionExpired("it has expired"))
    assert (other.status, other.body["type"], other.body["code"]) == (410, "about:blank", "upload_session_expired")
