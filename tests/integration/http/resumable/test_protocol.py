"""What Resumable Uploads for HTTP demand of servers: a test for each MUST, and for what the draft leaves to us."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from rindle.errors import StorageObjectMissing, UploadRejected
from rindle.http.tus import tus_router
from tests.integration.http.resumable.conftest import MAX_BYTES, PARTIAL, Mount, digest
from tests.tus import SECRET

PROBLEM = "https://iana.org/assignments/http-problem-types#"


async def in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def session_id_of(answer: httpx.Response) -> str:
    return str(answer.json()["session"]["id"])


# --- creation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_whole_file_is_complete_with_its_creation(mount: Mount, is_chunked: bool) -> None:
    content = in_pieces(b"hello ", b"world") if is_chunked else b"hello world"
    answer = await mount.call(
        "POST",
        "/files/",
        content,
        upload_complete="?1",
        content_type="text/plain",
        content_disposition="inline; filename=\"a.txt\"; filename*=UTF-8''b.txt",
    )

    assert (answer.status_code, answer.headers["upload-complete"]) == (200, "?1")
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()["session"]
    assert (found["state"], found["upload_length"], found["resumable_protocol"]) == ("uploaded", 11, "ietf")
    assert await mount.assembled(found["id"]) == ("completed", b"hello world")
    asset = await mount.rindle.asset(found["asset_id"])
    assert asset.filename == "b.txt"


async def test_an_empty_file_is_complete_with_its_creation(mount: Mount) -> None:
    answer = await mount.call("POST", upload_complete="?1")

    assert (answer.status_code, answer.json()["session"]["upload_length"]) == (200, 0)


async def test_a_file_in_several_requests(mount: Mount) -> None:
    url = await mount.create(b"he", upload_length="11")
    assert await mount.state(url) == (2, "?0", "11")

    middle = await mount.patch(url, 2, b"llo ")
    assert (middle.status_code, middle.headers["upload-complete"], middle.headers["upload-offset"]) == (204, "?0", "6")
    last = await mount.patch(url, 6, b"world", complete="?1")

    assert (last.status_code, last.headers["upload-complete"]) == (200, "?1")
    assert await mount.state(url) == (11, "?1", "11")
    assert await mount.assembled(session_id_of(last)) == ("completed", b"hello world")


async def test_a_creation_without_content_names_the_upload(mount: Mount) -> None:
    answer = await mount.call("POST", upload_complete="?0")

    assert (answer.status_code, answer.headers["upload-complete"]) == (201, "?0")
    assert answer.headers["location"].startswith("/files/")
    assert answer.headers["upload-limit"].startswith(f"max-size={5 * 1024**3}, max-age=")
    assert await mount.state(answer.headers["location"]) == (0, "?0", None)


async def test_the_length_does_not_complete_an_upload(mount: Mount) -> None:
    url = await mount.create(b"abc", upload_length="3")
    assert await mount.state(url) == (3, "?0", "3")
    assert (await mount.row(url)).state == "uploading"

    answer = await mount.patch(url, 3, b"", complete="?1")

    assert (answer.status_code, answer.headers["upload-complete"]) == (200, "?1")
    assert await mount.assembled(session_id_of(answer)) == ("completed", b"abc")


async def test_a_file_of_unknown_length_ends_with_its_last_request(mount: Mount) -> None:
    url = await mount.create(in_pieces(b"ab"))
    assert await mount.state(url) == (2, "?0", None)

    answer = await mount.patch(url, 2, in_pieces(b"c", b"d"), complete="?1")

    assert answer.status_code == 200
    assert await mount.state(url) == (4, "?1", "4")
    assert await mount.assembled(session_id_of(answer)) == ("completed", b"abcd")


@pytest.mark.parametrize("value", ["", "1", "?2", "true", "?1, ?1"])
async def test_a_creation_needs_upload_complete(mount: Mount, value: str) -> None:
    answer = await mount.call("POST", content=b"x", upload_complete=value)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_content_coding_is_refused(mount: Mount) -> None:
    answer = await mount.call("POST", content=b"x", upload_complete="?1", content_encoding="gzip")

    assert answer.status_code == 415


# --- length ------------------------------------------------------------------------------------------------------


async def test_two_lengths_in_one_request_must_match(mount: Mount) -> None:
    answer = await mount.call("POST", content=b"abc", upload_complete="?1", upload_length="4")

    assert (answer.status_code, answer.json()["type"]) == (400, f"{PROBLEM}inconsistent-upload-length")
    assert answer.headers["upload-complete"] == "?0"


@pytest.mark.parametrize(("complete", "headers"), [("?0", {"upload_length": "6"}), ("?1", {})])
async def test_the_lengths_of_several_requests_must_match(mount: Mount, complete: str, headers: dict[str, str]) -> None:
    url = await mount.create(b"ab", upload_length="5")

    answer = await mount.patch(url, 2, b"cd", complete=complete, **headers)

    assert (answer.status_code, answer.json()["type"]) == (400, f"{PROBLEM}inconsistent-upload-length")
    assert await mount.state(url) == (2, "?0", "5")


async def test_a_file_that_ends_before_its_length_is_not_complete(mount: Mount) -> None:
    url = await mount.create(b"ab", upload_length="5")

    answer = await mount.patch(url, 2, in_pieces(b"c"), complete="?1")

    assert (answer.status_code, answer.json()["type"]) == (400, f"{PROBLEM}inconsistent-upload-length")
    assert await mount.state(url) == (3, "?0", "5")


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_an_upload_is_invalid_once_more_bytes_than_its_length_are_sent(mount: Mount, is_chunked: bool) -> None:
    url = await mount.create(b"ab", upload_length="5")

    answer = await mount.patch(url, 2, in_pieces(b"cd", b"ef") if is_chunked else b"cdef")

    assert (answer.status_code, answer.json()["type"]) == (400, f"{PROBLEM}inconsistent-upload-length")
    assert (await mount.row(url)).state == "aborted"
    assert (await mount.call("HEAD", url)).status_code == 410
    assert (await mount.patch(url, 2, b"cde", complete="?1")).status_code == 410


# --- limits ------------------------------------------------------------------------------------------------------


async def test_options_announce_the_limits(mount: Mount) -> None:
    for path, most in (("/files/", 5 * 1024**3), ("/avatars/", MAX_BYTES)):
        answer = await mount.call("OPTIONS", path)
        assert (answer.status_code, answer.headers["upload-limit"]) == (204, f"max-size={most}")


@pytest.mark.parametrize(
    "headers",
    [
        {"upload_complete": "?0", "upload_length": str(MAX_BYTES + 1)},
        {"upload_complete": "?1", "content_length": str(MAX_BYTES + 1)},
    ],
)
async def test_a_file_over_the_limit_is_refused_with_the_limit(mount: Mount, headers: dict[str, str]) -> None:
    # The length is only announced: nothing of it is read.
    answer = await mount.call(
        "POST", "/avatars/", in_pieces(b"x"), x_user="ada", content_disposition='inline; filename="a.bin"', **headers
    )

    assert (answer.status_code, answer.headers["upload-limit"]) == (413, f"max-size={MAX_BYTES}")


async def test_a_stream_over_the_limit_is_refused_and_not_kept(mount: Mount) -> None:
    piece = b"x" * (MAX_BYTES // 2)
    answer = await mount.call(
        "POST",
        "/avatars/",
        in_pieces(piece, piece, b"x"),
        upload_complete="?1",
        x_user="ada",
        content_disposition='inline; filename="a.bin"',
    )

    assert (answer.status_code, answer.headers["upload-limit"]) == (413, f"max-size={MAX_BYTES}")
    assert not [path for path in mount.media.rglob("*") if path.is_file()]


# --- offsets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_the_offset_is_retrieved_and_not_cached(mount: Mount, method: str) -> None:
    url = await mount.create(b"ab", upload_length="5")

    answer = await mount.call(method, url)

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["cache-control"] == "no-store"
    assert {name: answer.headers[name] for name in ("upload-offset", "upload-complete", "upload-length")} == {
        "upload-offset": "2",
        "upload-complete": "?0",
        "upload-length": "5",
    }
    assert "max-age=" in answer.headers["upload-limit"]


@pytest.mark.parametrize("offset", [0, 3])
async def test_another_offset_is_refused_with_the_right_one(mount: Mount, offset: int) -> None:
    url = await mount.create(b"ab", upload_length="5")

    answer = await mount.patch(url, offset, b"cde"[: 5 - offset])

    assert (answer.status_code, answer.headers["upload-offset"], answer.headers["upload-complete"]) == (409, "2", "?0")
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["type"] == f"{PROBLEM}mismatching-upload-offset"
    assert (found["expected-offset"], found["provided-offset"]) == (2, offset)
    assert await mount.state(url) == (2, "?0", "5")


@pytest.mark.parametrize("headers", [{"upload_offset": ""}, {"upload_offset": "-1"}, {"upload_complete": ""}])
async def test_an_append_needs_offset_and_completeness(mount: Mount, headers: dict[str, str]) -> None:
    url = await mount.create(b"ab")
    sent = {"content_type": PARTIAL, "upload_offset": "2", "upload_complete": "?0", **headers}

    answer = await mount.call("PATCH", url, b"c", **sent)

    assert (answer.status_code, answer.headers["upload-complete"]) == (400, "?0")
    assert (await mount.state(url))[0] == 2


async def test_an_append_has_its_own_type(mount: Mount) -> None:
    url = await mount.create(b"ab")

    answer = await mount.patch(url, 2, b"c", content_type="application/octet-stream")

    assert (answer.status_code, answer.headers["accept-patch"]) == (415, PARTIAL)


async def test_an_answer_that_was_lost_is_given_again(mount: Mount) -> None:
    url = await mount.create(b"ab")
    first = await mount.patch(url, 2, b"c", complete="?1")

    again = await mount.patch(url, 3, b"", complete="?1")

    assert (again.status_code, again.headers["upload-complete"]) == (200, "?1")
    assert session_id_of(again) == session_id_of(first)


async def test_an_upload_is_complete_when_the_client_leaves_after_its_last_byte(mount: Mount) -> None:
    url = await mount.create(b"ab")
    sent = {"content-type": PARTIAL, "upload-offset": "2", "upload-complete": "?1", "content-length": "3"}
    received = iter(
        [{"type": "http.request", "body": b"cde", "more_body": True}, *[{"type": "http.disconnect"} for _ in range(9)]]
    )

    async def receive() -> dict[str, object]:
        return next(received)

    async def send(message: object) -> None:
        """Nobody reads the response."""

    scope = {
        **{"type": "http", "http_version": "1.1", "method": "PATCH", "path": url, "query_string": b"", "root_path": ""},
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
    }
    await mount.app(scope, receive, send)  # type: ignore[arg-type]

    assert await mount.state(url) == (5, "?1", "5")


async def test_a_complete_upload_takes_nothing_more(mount: Mount) -> None:
    url = await mount.create(b"ab")
    await mount.patch(url, 2, b"c", complete="?1")

    answers = [await mount.patch(url, 3, b"d"), await mount.patch(url, 3, in_pieces(b"d"), complete="?1")]
    elsewhere = await mount.patch(url, 2, b"c", complete="?1")

    assert [(one.status_code, one.headers["upload-complete"]) for one in answers] == [(403, "?0")] * 2
    assert (elsewhere.status_code, elsewhere.headers["upload-offset"]) == (409, "3")
    assert await mount.state(url) == (3, "?1", "3")


# --- cancellation ------------------------------------------------------------------------------------------------


async def test_a_cancelled_upload_is_gone_with_its_bytes(mount: Mount) -> None:
    url = await mount.create(b"ab", upload_length="5")

    assert (await mount.call("DELETE", url)).status_code == 204

    assert (await mount.row(url)).state == "aborted"
    assert not [path for path in mount.media.rglob("*") if path.is_file()]
    for answer in (await mount.call("HEAD", url), await mount.patch(url, 2, b"cde"), await mount.call("DELETE", url)):
        assert answer.status_code == 410


# --- digests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
async def test_content_with_its_digest_is_appended(mount: Mount, algorithm: str) -> None:
    url = await mount.create(b"ab", content_digest=digest(b"ab", algorithm))

    answer = await mount.patch(url, 2, b"cd", complete="?1", content_digest=digest(b"cd", algorithm))

    assert answer.status_code == 200
    assert await mount.assembled(session_id_of(answer)) == ("completed", b"abcd")


async def test_content_with_another_digest_is_not_appended(mount: Mount) -> None:
    url = await mount.create(b"ab")

    answer = await mount.patch(url, 2, b"cX", complete="?1", content_digest=digest(b"cd"))

    assert (answer.status_code, answer.json()["code"]) == (400, "tus_checksum_mismatch")
    assert answer.headers["upload-complete"] == "?0"
    assert (await mount.state(url))[:2] == (2, "?0")
    assert (await mount.patch(url, 2, b"cd", complete="?1", content_digest=digest(b"cd"))).status_code == 200


async def test_the_length_of_a_request_counts_although_its_content_has_another_digest(mount: Mount) -> None:
    url = await mount.create(b"ab")

    await mount.patch(url, 2, b"cX", complete="?1", content_digest=digest(b"cd"))

    assert await mount.state(url) == (2, "?0", "4")
    longer = await mount.patch(url, 2, b"cde", complete="?1")
    assert (longer.status_code, longer.json()["type"]) == (400, f"{PROBLEM}inconsistent-upload-length")


async def test_a_creation_with_another_digest_is_not_kept(mount: Mount) -> None:
    answer = await mount.call("POST", content=b"aX", upload_complete="?0", content_digest=digest(b"ab"))

    assert (answer.status_code, answer.json()["code"]) == (400, "tus_checksum_mismatch")
    assert not [path for path in mount.media.rglob("*") if path.is_file()]


async def test_bytes_with_another_digest_are_a_problem_that_names_the_field(mount: Mount) -> None:
    url = await mount.create(b"ab")

    found = (await mount.patch(url, 2, b"cX", content_digest=digest(b"cd"))).json()

    assert found["type"] == f"{PROBLEM}digest-mismatching-values"
    assert found["mismatching-digests"] == [
        {
            "algorithm": "sha-256",
            "provided-digest": digest(b"cd").removeprefix("sha-256="),
            "header": "Content-Digest",
        }
    ]


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
async def test_a_file_with_the_digest_of_its_creation_is_completed(mount: Mount, algorithm: str) -> None:
    url = await mount.create(b"hello ", repr_digest=digest(b"hello world", algorithm))
    answer = await mount.patch(url, 6, b"world", complete="?1")

    assert answer.status_code == 200
    assert await mount.assembled(session_id_of(answer)) == ("completed", b"hello world")
    for again in (await mount.call("HEAD", url), await mount.patch(url, 11, b"", complete="?1")):
        assert again.headers["repr-digest"] == digest(b"hello world", algorithm)


async def test_a_file_with_another_digest_than_its_creation_says_is_refused(mount: Mount) -> None:
    url = await mount.create(b"hello ", repr_digest=digest(b"hello World"))
    made = await mount.patch(url, 6, b"world", complete="?1")
    with pytest.raises(UploadRejected) as caught:
        await mount.assembled(session_id_of(made))

    row = await mount.row(url)
    asset = await mount.rindle.asset(str(row.asset_id))
    assert (caught.value.code, row.state, row.error_code) == ("digest_mismatch", "failed", "digest_mismatch")
    assert (asset.state, asset.error_code) == ("quarantined", "digest_mismatch")
    answer = await mount.patch(url, 11, b"", complete="?1")
    assert (answer.status_code, answer.headers["upload-complete"]) == (400, "?1")
    found = answer.json()
    assert (found["type"], found["code"]) == (f"{PROBLEM}digest-mismatching-values", "digest_mismatch")
    assert found["mismatching-digests"] == [
        {
            "algorithm": "sha-256",
            "provided-digest": digest(b"hello World").removeprefix("sha-256="),
            "header": "Repr-Digest",
        }
    ]
    assert "repr-digest" not in answer.headers


async def test_a_file_is_not_complete_before_its_digest_is_compared(mount: Mount) -> None:
    answer = await mount.call("POST", content=b"abc", upload_complete="?1", repr_digest=digest(b"abX"))
    row = await mount.session(session_id_of(answer))
    (mount.media / row.upload_key).parent.mkdir(parents=True, exist_ok=True)
    (mount.media / row.upload_key).write_bytes(b"abc")  # a worker that made the object and was lost

    with pytest.raises(StorageObjectMissing):
        await mount.rindle.verify_completion(row.id)
    with pytest.raises(UploadRejected):  # the next worker
        await mount.assembled(row.id)

    assert (await mount.session(row.id)).error_code == "digest_mismatch"


@pytest.mark.parametrize(
    ("wanted", "algorithm"),
    [
        ("sha-256=1", "sha-256"),
        ("sha-256=3, sha-512=10, unixsum=10", "sha-512"),
        ("sha-512=0, sha-256=1;a=1", "sha-256"),
    ],
)
async def test_the_digest_that_a_client_wants_is_answered(mount: Mount, wanted: str, algorithm: str) -> None:
    made = await mount.call("POST", content=b"abc", upload_complete="?0", want_repr_digest=wanted)
    url = made.headers["location"]
    done = await mount.patch(url, 3, b"", complete="?1")
    await mount.assembled(session_id_of(done))

    assert "repr-digest" not in done.headers  # no workflow has made the object
    again = await mount.patch(url, 3, b"", complete="?1")
    assert again.headers["repr-digest"] == digest(b"abc", algorithm)


@pytest.mark.parametrize("wanted", ["md5=10", "sha-256=0", "sha-256=11", "sha-256", "?"])
async def test_a_wish_that_cannot_be_met_or_read_is_ignored(mount: Mount, wanted: str) -> None:
    url = await mount.create(b"abc", want_repr_digest=wanted)
    done = await mount.patch(url, 3, b"", complete="?1")

    assert (await mount.assembled(session_id_of(done)))[0] == "completed"
    assert "repr-digest" not in (await mount.call("HEAD", url)).headers


async def test_digests_of_other_algorithms_are_ignored_and_unreadable_ones_are_refused(mount: Mount) -> None:
    unknown = await mount.call(
        "POST", content=b"abc", upload_complete="?1", repr_digest="md5=:1B2M2Y8AsgTpgAmY7PhCfg==:"
    )
    unreadable = await mount.call("POST", content=b"abc", upload_complete="?1", repr_digest="sha-256=abc")

    assert (await mount.assembled(session_id_of(unknown)))[0] == "completed"
    assert (unreadable.status_code, unreadable.json()["code"]) == (400, "invalid_argument")


async def test_a_digest_with_an_append_is_not_that_of_the_file(mount: Mount) -> None:
    url = await mount.create(b"ab")

    answer = await mount.patch(url, 2, b"cd", complete="?1", repr_digest=digest(b"cd"))

    assert (await mount.assembled(session_id_of(answer)))[0] == "completed"


async def test_a_response_has_the_digest_of_its_content_when_the_client_wants_it(mount: Mount) -> None:
    wanted = {"want_content_digest": "sha-512=2, sha-256=1"}
    answers = [
        await mount.call("POST", content=b"abc", upload_complete="?1", **wanted),
        await mount.call("PUT", **wanted),
    ]

    for answer in answers:
        assert answer.headers["content-digest"] == digest(answer.content, "sha-512")
    assert "content-digest" not in (await mount.call("POST", content=b"abc", upload_complete="?1")).headers


# --- access ------------------------------------------------------------------------------------------------------


async def test_only_the_actor_who_created_an_upload_continues_it(mount: Mount) -> None:
    named = {"content_disposition": 'inline; filename="a.bin"'}
    nobody = await mount.call("POST", "/avatars/", upload_complete="?0", **named)
    made = await mount.call("POST", "/avatars/", upload_complete="?0", x_user="ada", **named)
    url = made.headers["location"]

    assert (nobody.status_code, made.status_code) == (403, 201)
    for actor in ("", "eve"):
        assert (await mount.call("HEAD", url, x_user=actor)).status_code == 403
        assert (await mount.patch(url, 0, b"x", x_user=actor)).status_code == 403
        assert (await mount.call("DELETE", url, x_user=actor)).status_code == 403
    assert (await mount.patch(url, 0, b"x", x_user="ada")).status_code == 204


async def test_an_upload_has_the_address_of_its_mount_and_protocol_only(mount: Mount) -> None:
    url = await mount.create(b"ab")
    token = url.rpartition("/")[2]
    mount.app.mount("/tus", tus_router(mount.rindle, profile="plain", secrets=[SECRET], allow_anonymous=True))

    assert (await mount.call("HEAD", f"/avatars/{token}", x_user="ada")).status_code == 404
    assert (await mount.call("HEAD", f"/files/{token}x")).status_code == 404
    assert (await mount.call("HEAD", f"/tus/{token}", tus_resumable="1.0.0")).status_code == 404


@pytest.mark.parametrize(("method", "allowed"), [("PUT", "OPTIONS, POST"), ("HEAD", "OPTIONS, POST")])
async def test_other_methods_are_refused_with_those_that_are_allowed(mount: Mount, method: str, allowed: str) -> None:
    answer = await mount.call(method)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


async def test_an_extension_that_the_profile_does_not_allow_is_refused(mount: Mount) -> None:
    answer = await mount.call(
        "POST", "/avatars/", upload_complete="?0", x_user="ada", content_disposition='inline; filename="a.exe"'
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "extension_not_allowed")
