"""What tus 1.0.0 demands of servers: one test for each MUST, and for what it leaves to us."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime

import pytest

from rindle.errors import UploadRejected
from rindle.http.tus import TUS_ALLOW_HEADERS, TUS_EXPOSE_HEADERS
from tests.integration.http.tus.conftest import MAX_BYTES, Mount
from tests.tus import BYTES, checksum, encoded


async def in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


# --- core ---------------------------------------------------------------------------------------------------------


async def test_options_name_versions_extensions_and_limits_and_ignore_tus_resumable(mount: Mount) -> None:
    for version in ("", "0.2.2"):
        answer = await mount.call("OPTIONS", tus_resumable=version)

        assert answer.status_code == 204
        assert answer.headers["tus-version"] == "1.0.0"
        assert answer.headers["tus-max-size"] == str(5 * 1024**3)
        assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256"
        assert answer.headers["tus-extension"].split(",") == [
            *("creation", "creation-with-upload", "creation-defer-length", "expiration", "termination", "checksum"),
            "concatenation",
        ]


async def test_the_limit_is_the_smaller_one_of_mount_and_profile(mount: Mount) -> None:
    answer = await mount.call("OPTIONS", "/avatars/")

    assert answer.headers["tus-max-size"] == str(MAX_BYTES)


@pytest.mark.parametrize("version", ["", "0.2.2"])
async def test_another_version_is_refused_with_412_and_nothing_is_done(mount: Mount, version: str) -> None:
    answer = await mount.call("POST", upload_length="10", tus_resumable=version)

    assert (answer.status_code, answer.headers["tus-version"]) == (412, "1.0.0")
    url = await mount.create(3)
    refused = await mount.patch(url, 0, b"abc", tus_resumable=version)
    assert refused.status_code == 412
    assert await mount.offset(url) == 0


async def test_every_response_has_tus_resumable(mount: Mount) -> None:
    url = await mount.create(3)
    answers = [
        await mount.call("OPTIONS", tus_resumable=""),
        await mount.call("HEAD", url),
        await mount.call("HEAD", f"{url}x"),
        await mount.patch(url, 7, b"abc"),
        await mount.call("PUT", url),
    ]

    assert [answer.status_code for answer in answers] == [204, 204, 404, 409, 405]
    assert {answer.headers["tus-resumable"] for answer in answers} == {"1.0.0"}


async def test_the_method_may_be_overridden(mount: Mount) -> None:
    url = await mount.create(3)

    answer = await mount.call(
        "POST", url, b"abc", x_http_method_override="PATCH", upload_offset="0", content_type=BYTES
    )

    assert (answer.status_code, answer.headers["upload-offset"]) == (204, "3")


async def test_head_has_offset_and_length_and_is_not_cached(mount: Mount) -> None:
    url = await mount.create(3)

    for content, offset in ((b"", "0"), (b"ab", "2"), (b"c", "3")):
        if content:
            await mount.patch(url, int(offset) - len(content), content)
        answer = await mount.call("HEAD", url)
        assert (answer.headers["upload-offset"], answer.headers["upload-length"]) == (offset, "3")
        assert answer.headers["cache-control"] == "no-store"


async def test_a_get_is_a_head_only_when_it_speaks_tus(mount: Mount) -> None:
    url = await mount.create(3)

    assert (await mount.call("GET", url)).headers["upload-offset"] == "0"
    assert (await mount.call("GET", url, tus_resumable="")).status_code == 412


async def test_a_patch_at_another_offset_changes_nothing(mount: Mount) -> None:
    url = await mount.create(10, b"hello")

    for offset in (0, 4, 6):
        answer = await mount.patch(url, offset, b"world")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "tus_offset_conflict")
    assert await mount.offset(url) == 5


@pytest.mark.parametrize("offset", ["", "-1", "x", "1.0", "9" * 30])
async def test_a_patch_needs_an_offset(mount: Mount, offset: str) -> None:
    url = await mount.create(10)

    assert (await mount.patch(url, 0, b"x", upload_offset=offset)).status_code == 400
    assert await mount.offset(url) == 0


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream"])
async def test_a_patch_needs_its_content_type(mount: Mount, content_type: str) -> None:
    url = await mount.create(10)

    assert (await mount.patch(url, 0, b"x", content_type=content_type)).status_code == 415
    assert (await mount.patch(url, 0, b"x", content_type=f"{BYTES}; charset=binary")).status_code == 204


async def test_bytes_arrive_in_order_and_become_the_object(mount: Mount) -> None:
    url = await mount.create(11, upload_metadata=encoded(filename="me.png", filetype="image/png"))
    assert (await mount.patch(url, 0, b"hello")).headers["upload-offset"] == "5"
    last = await mount.patch(url, 5, in_pieces(b" wo", b"", b"rld"))

    assert (last.status_code, last.headers["upload-offset"]) == (204, "11")
    assert (await mount.row(url)).state == "uploaded"
    row = await mount.assembled(url)
    assert (row.state, row.client_content_type, row.expected_size) == ("completed", "image/png", 11)
    assert (mount.media / row.upload_key).read_bytes() == b"hello world"
    assert row.upload_key.endswith(".png")
    assert mount.files() == set()
    asset = await mount.rindle.asset(str(row.asset_id))
    assert (asset.state, asset.byte_size, asset.filename) == ("validating", 11, "me.png")


async def test_more_bytes_than_the_length_are_refused_before_they_are_read(mount: Mount) -> None:
    url = await mount.create(4, b"ab")

    assert (await mount.patch(url, 2, b"cde")).status_code == 413
    assert await mount.offset(url) == 2


async def test_a_body_of_unknown_length_is_cut_at_the_length_of_the_upload(mount: Mount) -> None:
    url = await mount.create(4)

    answer = await mount.patch(url, 0, in_pieces(b"abc", b"defgh"))

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "tus_size_exceeded")
    assert await mount.offset(url) == 4
    row = await mount.assembled(url)
    assert (mount.media / row.upload_key).read_bytes() == b"abcd"


async def test_an_empty_patch_at_the_end_is_accepted(mount: Mount) -> None:
    url = await mount.create(3, b"abc")

    for _ in range(2):
        assert (await mount.patch(url, 3, b"")).status_code == 204
        await mount.assembled(url)
    assert (await mount.patch(url, 3, b"x")).status_code == 413
    assert await mount.offset(url) == 3


# --- creation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"upload_length": "-1"},
        {"upload_length": "ten"},
        {"upload_length": "10", "upload_defer_length": "1"},
        {"upload_defer_length": "2"},
        {"upload_length": "10", "upload_concat": "half"},
        {"upload_length": "10", "upload_metadata": "filename " + "A" * 8200},
    ],
)
async def test_a_creation_with_wrong_headers_is_refused(mount: Mount, headers: dict[str, str]) -> None:
    assert (await mount.call("POST", **headers)).status_code == 400


async def test_a_creation_over_the_limit_is_refused(mount: Mount) -> None:
    answer = await mount.call("POST", upload_length=str(5 * 1024**3 + 1))

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "tus_size_exceeded")


async def test_metadata_comes_back_as_it_was_sent(mount: Mount) -> None:
    header = "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential, odd !!, name"
    url = await mount.create(3, upload_metadata=header)

    assert (await mount.call("HEAD", url)).headers["upload-metadata"] == header


@pytest.mark.parametrize("name", ["../../etc/passwd.png", "a\\b\\c.png", "/x.png", "..%2f.png", "\u202egnp.png"])
async def test_no_path_of_a_file_name_reaches_the_key(mount: Mount, name: str) -> None:
    row = await mount.row(await mount.create(3, upload_metadata=encoded(filename=name)))

    assert row.upload_key.count("/") == 2
    assert row.upload_key.startswith(f"plain/{row.asset_id}/")
    assert row.upload_key.endswith(".png")


@pytest.mark.parametrize("value", [b"\xff\xfe.png", b"a\x00b.png", b"x" * 5000 + b".png"])
async def test_odd_file_names_are_harmless(mount: Mount, value: bytes) -> None:
    row = await mount.row(await mount.create(3, upload_metadata=encoded(filename=value)))

    asset = await mount.rindle.asset(str(row.asset_id))
    assert asset.filename is not None
    assert len(asset.filename) <= 255


async def test_the_profile_refuses_an_extension(mount: Mount) -> None:
    answer = await mount.call(
        "POST", "/avatars/", upload_length="3", upload_metadata=encoded(filename="me.exe"), x_user="alice"
    )

    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "extension_not_allowed")


async def test_an_empty_upload_is_complete_at_once_and_then_refused(mount: Mount) -> None:
    url = await mount.create(0)

    assert await mount.offset(url) == 0
    with pytest.raises(UploadRejected):
        await mount.assembled(url)
    row = await mount.row(url)
    assert (row.state, row.error_code) == ("failed", "empty_upload")
    assert (await mount.call("HEAD", url)).status_code == 204
    assert (await mount.patch(url, 0, b"")).status_code == 403


async def test_a_creation_may_bring_bytes(mount: Mount) -> None:
    answer = await mount.call("POST", "/files/", b"hello", upload_length="10", content_type=BYTES)

    assert (answer.status_code, answer.headers["upload-offset"]) == (201, "5")
    assert await mount.offset(answer.headers["location"]) == 5


async def test_a_creation_with_another_body_is_refused(mount: Mount) -> None:
    answer = await mount.call("POST", "/files/", b"hello", upload_length="10", content_type="text/plain")

    assert answer.status_code == 415


# --- deferred length ----------------------------------------------------------------------------------------------


async def test_a_deferred_length_is_reported_and_set_by_any_patch(mount: Mount) -> None:
    url = await mount.create(None)
    for offset in (0, 2):
        answer = await mount.call("HEAD", url)
        assert answer.headers["upload-defer-length"] == "1"
        assert "upload-length" not in answer.headers
        await mount.patch(url, offset, b"ab")

    assert (await mount.patch(url, 4, b"c", upload_length="5")).status_code == 204
    answer = await mount.call("HEAD", url)
    assert (answer.headers["upload-length"], answer.headers.get("upload-defer-length")) == ("5", None)
    row = await mount.assembled(url)
    assert (mount.media / row.upload_key).read_bytes() == b"ababc"


async def test_setting_the_length_to_the_offset_completes_the_upload(mount: Mount) -> None:
    url = await mount.create(None, b"abc")

    assert (await mount.patch(url, 3, b"", upload_length="3")).status_code == 204
    assert (await mount.row(url)).state == "uploaded"


async def test_a_length_does_not_change_and_is_not_below_the_offset(mount: Mount) -> None:
    known, unknown = await mount.create(10, b"abc"), await mount.create(None, b"abc")

    assert (await mount.patch(known, 3, b"d", upload_length="11")).status_code == 400
    assert (await mount.patch(unknown, 3, b"", upload_length="2")).status_code == 400
    assert (await mount.patch(unknown, 3, b"", upload_length=str(6 * 1024**3))).status_code == 413
    assert (await mount.row(unknown)).upload_length is None


# --- expiration ---------------------------------------------------------------------------------------------------


async def test_responses_name_the_expiry(mount: Mount) -> None:
    created = await mount.call("POST", upload_length="10")
    patched = await mount.patch(created.headers["location"], 0, b"abc")

    for answer in (created, patched):
        assert answer.headers["upload-expires"].endswith(" GMT")
        parsedate_to_datetime(answer.headers["upload-expires"])


# --- checksum -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
async def test_a_right_checksum_is_accepted_and_a_wrong_one_discards_the_bytes(mount: Mount, algorithm: str) -> None:
    url = await mount.create(6)

    wrong = await mount.patch(url, 0, b"abX", upload_checksum=checksum(b"abc", algorithm))
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (460, "tus_checksum_mismatch")
    assert await mount.offset(url) == 0
    assert (await mount.patch(url, 0, b"abc", upload_checksum=checksum(b"abc", algorithm))).status_code == 204
    assert await mount.offset(url) == 3


@pytest.mark.parametrize(
    "value", ["md5 1B2M2Y8AsgTpgAmY7PhCfg==", "sha1", "sha1 !!!", "SHA1 2jmj7l5rSw0yVb/vlWAYkK/YBwk="]
)
async def test_an_unknown_checksum_is_refused(mount: Mount, value: str) -> None:
    url = await mount.create(6)

    assert (await mount.patch(url, 0, b"abc", upload_checksum=value)).status_code == 400
    assert await mount.offset(url) == 0


# --- termination --------------------------------------------------------------------------------------------------


async def test_a_terminated_upload_is_gone_with_its_bytes(mount: Mount) -> None:
    url = await mount.create(10, b"abc")
    assert len(mount.files()) == 1

    assert (await mount.call("DELETE", url)).status_code == 204
    assert mount.files() == set()
    row = await mount.row(url)
    assert (row.state, row.backing_released_at is not None) == ("aborted", True)
    assert [(await mount.call(method, url)).status_code for method in ("HEAD", "DELETE")] == [410, 410]
    assert (await mount.patch(url, 3, b"d")).status_code == 410


async def test_a_complete_upload_is_not_terminated(mount: Mount) -> None:
    url = await mount.create(3, b"abc")
    await mount.assembled(url)

    answer = await mount.call("DELETE", url)

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "upload_already_completed")
    assert (await mount.row(url)).state == "completed"


# --- concatenation ------------------------------------------------------------------------------------------------


async def test_partial_uploads_are_joined_in_their_order(mount: Mount) -> None:
    first = await mount.create(5, b"hello", upload_concat="partial")
    second = await mount.create(6, upload_concat="partial")
    await mount.patch(second, 0, b" world")
    head = await mount.call("HEAD", first)
    assert (head.headers["upload-concat"], head.headers["upload-offset"]) == ("partial", "5")
    listed = f"final;{first} http://files.test{second} {first}"

    made = await mount.call("POST", upload_concat=listed, upload_metadata=encoded(filename="all.bin"))

    assert made.status_code == 201, made.text
    url = made.headers["location"]
    waiting = await mount.call("HEAD", url)
    assert (waiting.headers["upload-length"], waiting.headers.get("upload-offset")) == ("16", None)
    assert waiting.headers["upload-concat"] == listed
    row = await mount.assembled(url)
    assert (mount.media / row.upload_key).read_bytes() == b"hello worldhello"
    joined = await mount.call("HEAD", url)
    assert (joined.headers["upload-length"], joined.headers["upload-offset"]) == ("16", "16")
    assert (await mount.patch(url, 16, b"x")).status_code == 403
    for part in (first, second):
        source = await mount.row(part)
        assert (source.state, source.failure_reason, source.asset_id) == ("aborted", "concatenated", None)


async def test_a_concatenation_needs_finished_partial_uploads_of_its_own(mount: Mount) -> None:
    whole = await mount.create(3, b"abc")
    open_one = await mount.create(5, b"abc", upload_concat="partial")
    foreign = await mount.create(3, b"abc", upload_concat="partial", x_user="bob")
    good = await mount.create(3, b"abc", upload_concat="partial")

    for source in (whole, open_one, foreign, f"{good}x", "/files/none", "", f"{good}?a=b"):
        assert (await mount.call("POST", upload_concat=f"final;{source}")).status_code == 400, source
    sized = await mount.call("POST", upload_concat=f"final;{good}", upload_length="3")
    assert sized.status_code == 400


# --- access -------------------------------------------------------------------------------------------------------


async def test_a_token_of_another_mount_or_a_changed_one_is_404(mount: Mount) -> None:
    url = await mount.create(3)
    token = url.rpartition("/")[2]

    for wrong in (f"/avatars/{token}", f"{url[:-2]}AA", "/files/x", "/files/a.b", f"/files/{token}/x"):
        answer = await mount.call("HEAD", wrong, x_user="alice")
        assert answer.status_code == 404, wrong


async def test_only_its_own_actor_continues_an_upload(mount: Mount) -> None:
    named = {"upload_metadata": encoded(filename="me.png")}
    made = await mount.call("POST", "/avatars/", upload_length="3", x_user="alice", **named)
    url = made.headers["location"]

    for actor in ("bob", ""):
        assert [(await mount.call(method, url, x_user=actor)).status_code for method in ("HEAD", "DELETE")] == [
            401,
            401,
        ]
        assert (await mount.patch(url, 0, b"abc", x_user=actor)).status_code == 401
    assert (await mount.call("POST", "/avatars/", upload_length="3", **named)).status_code == 403
    assert (await mount.patch(url, 0, b"abc", x_user="alice")).status_code == 204


async def test_the_url_does_not_name_its_actor(mount: Mount) -> None:
    made = await mount.call("POST", upload_length="3", x_user="alice@example.com")
    payload = made.headers["location"].rpartition("/")[2].partition(".")[0]

    assert b"alice" not in base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))


def test_cors_headers_cover_what_clients_read_and_send() -> None:
    assert {"Location", "Upload-Offset", "Upload-Length", "Tus-Resumable"} <= set(TUS_EXPOSE_HEADERS)
    assert {"Upload-Offset", "Upload-Checksum", "X-HTTP-Method-Override", "Authorization"} <= set(TUS_ALLOW_HEADERS)
