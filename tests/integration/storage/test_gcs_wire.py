"""What GCSStorage sends, and how it reads the answers that Google documents and no emulator gives."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import google_crc32c
import pytest
from google.auth.credentials import AnonymousCredentials
from pydantic import SecretStr

from rindle.errors import (
    InvalidArgument,
    ObjectChanged,
    OffsetMismatch,
    SessionUriExpired,
    SessionUriUnknown,
    StorageConflict,
    StoragePermanent,
    StorageTransient,
)
from rindle.protocols import ServedAs
from rindle.storage.gcs import GCSStorage
from rindle.storage.gcs import client as gcs_client
from rindle.storage.gcs.signing import IamSigner
from tests.scripted_server import Reply, ScriptedServer, scripted_server

KEY = "a/b/c d.mp4"
MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}
PATH = "/upload/storage/v1/b/media/o"


@pytest.fixture
def google() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
async def storage(google: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GCSStorage]:
    monkeypatch.setattr(gcs_client, "FIRST_PAUSE_SECONDS", 0.001)
    storage = GCSStorage("media", api_endpoint=google.address, credentials=AnonymousCredentials())
    yield storage
    await storage.close()


def uri_of(google: ScriptedServer, upload_id: str = "canary") -> SecretStr:
    return SecretStr(f"{google.address}{PATH}?uploadType=resumable&upload_id={upload_id}")


def resource(body: bytes, generation: int = 7) -> Reply:
    facts = {"name": KEY, "size": str(len(body)), "generation": str(generation), "contentType": "video/mp4"}
    return Reply(200, {"Content-Type": "application/json"}, json.dumps(facts).encode())


def crc32c(body: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(body).digest()).decode()


async def test_a_named_project_pays_for_requests(google: ScriptedServer) -> None:
    storage = GCSStorage(
        "media", api_endpoint=google.address, credentials=AnonymousCredentials(), project="payer", max_attempts=1
    )
    google.script(resource(b"x"))

    await storage.head(KEY)
    await storage.close()

    assert google.asked[0].headers["x-goog-user-project"] == "payer"


# --- sessions of clients -----------------------------------------------------------------------------------------


async def test_a_session_is_begun_for_one_browser_and_one_new_object(
    google: ScriptedServer, storage: GCSStorage
) -> None:
    location = uri_of(google).get_secret_value()
    google.script(Reply(200, {"Location": location, "X-GUploader-UploadID": "id-1", "x-goog-upload-region": "eu"}))

    begun = await storage.initiate_resumable_upload(
        KEY, 4_000_000_000, content_type="video/mp4", origin="https://example.com"
    )

    (asked,) = google.asked
    assert (asked.method, asked.path) == ("POST", PATH)
    assert asked.query == {"uploadType": "resumable", "name": KEY, "ifGenerationMatch": "0"}
    assert json.loads(asked.body) == {"name": KEY, "contentType": "video/mp4"}
    assert asked.headers["x-upload-content-type"] == "video/mp4"
    assert asked.headers["x-upload-content-length"] == "4000000000"
    assert asked.headers["origin"] == "https://example.com"
    assert begun.session_uri.get_secret_value() == location
    assert (begun.upload_id, begun.region_hint) == ("id-1", "eu")
    assert "canary" not in repr(begun)


async def test_a_session_of_unknown_size_has_no_length_and_its_id_is_in_the_uri(
    google: ScriptedServer, storage: GCSStorage
) -> None:
    google.script(Reply(201, {"Location": uri_of(google, "id-2").get_secret_value()}))

    begun = await storage.initiate_resumable_upload(KEY, None)

    assert "x-upload-content-length" not in google.asked[0].headers
    assert "origin" not in google.asked[0].headers
    assert (begun.upload_id, begun.region_hint) == ("id-2", None)


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ([Reply(200)], StoragePermanent),  # no Location
        ([Reply(412)], StorageConflict),
        ([Reply(503)] * 3, StorageTransient),
    ],
)
async def test_a_session_that_does_not_begin(
    google: ScriptedServer, storage: GCSStorage, replies: list[Reply], error: type[Exception]
) -> None:
    google.script(*replies)

    with pytest.raises(error):
        await storage.initiate_resumable_upload(KEY, 1)
    assert not google.replies


async def test_an_outage_of_a_moment_is_not_seen(google: ScriptedServer, storage: GCSStorage) -> None:
    google.script(Reply(503), Reply(breaks_after=0), Reply(200, {"Location": uri_of(google).get_secret_value()}))

    assert (await storage.initiate_resumable_upload(KEY, 1)).upload_id == "canary"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(308), (0, "in_progress")),
        (Reply(308, {"Range": "bytes=0-524287"}), (524_288, "in_progress")),
        (Reply(308, {"Location": "https://evil.example/"}), (0, "in_progress")),  # no redirect is followed
        (resource(b"x" * 9), (9, "complete")),
        (Reply(200, {"x-goog-stored-content-length": "12"}), (12, "complete")),
    ],
)
async def test_a_status_asks_the_session_uri_alone(
    google: ScriptedServer, storage: GCSStorage, reply: Reply, expected: tuple[int, str]
) -> None:
    google.script(reply)

    found = await storage.resumable_upload_status(KEY, uri_of(google))

    (asked,) = google.asked
    assert (asked.method, asked.path, asked.query["upload_id"]) == ("PUT", PATH, "canary")
    assert (asked.headers["content-range"], asked.headers["content-length"]) == ("bytes */*", "0")
    assert "authorization" not in asked.headers
    assert (found.committed_bytes, found.state) == expected


async def test_a_client_that_is_wrong_about_its_offset_is_told(google: ScriptedServer, storage: GCSStorage) -> None:
    google.script(*[Reply(308, {"Range": "bytes=0-99"})] * 2)

    assert (await storage.resumable_upload_status(KEY, uri_of(google), client_offset=100)).committed_bytes == 100
    with pytest.raises(OffsetMismatch) as caught:
        await storage.resumable_upload_status(KEY, uri_of(google), client_offset=50)

    assert (caught.value.server, caught.value.client, caught.value.detail["server"]) == (100, 50, 100)


@pytest.mark.parametrize(("status", "error"), [(404, SessionUriUnknown), (410, SessionUriExpired)])
async def test_a_session_that_is_gone(
    google: ScriptedServer, storage: GCSStorage, status: int, error: type[Exception]
) -> None:
    google.script(Reply(status, body=b"canary"), Reply(status))

    with pytest.raises(error) as caught:
        await storage.resumable_upload_status(KEY, uri_of(google))

    assert "canary" not in str(caught.value) + repr(caught.value)
    assert await storage.cancel_resumable_upload(KEY, uri_of(google)) is False


@pytest.mark.parametrize("status", [200, 204, 499])
async def test_a_session_is_cancelled(google: ScriptedServer, storage: GCSStorage, status: int) -> None:
    google.script(Reply(status))

    assert await storage.cancel_resumable_upload(KEY, uri_of(google)) is True
    assert (google.asked[0].method, google.asked[0].path) == ("DELETE", PATH)
    assert "authorization" not in google.asked[0].headers


async def test_a_cancellation_that_fails_is_an_error(google: ScriptedServer, storage: GCSStorage) -> None:
    google.script(*[Reply(503)] * 3)

    with pytest.raises(StorageTransient) as caught:
        await storage.cancel_resumable_upload(KEY, uri_of(google))
    assert "canary" not in str(caught.value) + repr(caught.value.detail)


# --- files of this process ---------------------------------------------------------------------------------------


async def test_a_small_file_is_one_request_with_its_checksum(
    google: ScriptedServer, storage: GCSStorage, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    google.script(resource(b"hello", 11))

    stored = await storage.store(
        KEY, tmp_path / "file", content_type="image/png", content_disposition="attachment", if_absent=True
    )

    (asked,) = google.asked
    assert asked.query == {"uploadType": "multipart", "name": KEY, "ifGenerationMatch": "0"}
    described = json.loads(asked.body.split(b"\r\n\r\n", 2)[1].split(b"\r\n")[0])
    assert described == {
        "name": KEY,
        "contentType": "image/png",
        "contentDisposition": "attachment",
        "crc32c": crc32c(b"hello"),
    }
    assert (stored.key, stored.size, stored.etag) == (KEY, 5, "11")


async def test_a_large_file_continues_where_the_connection_broke(
    google: ScriptedServer, storage: GCSStorage, tmp_path: Path
) -> None:
    body = os.urandom(3 * MIB)
    (tmp_path / "file").write_bytes(body)
    google.script(
        Reply(200, {"Location": uri_of(google).get_secret_value()}),
        Reply(breaks_after=MIB),
        Reply(308, {"Range": f"bytes=0-{MIB - 1}"}),
        Reply(503),
        Reply(308, {"Range": f"bytes=0-{2 * MIB - 1}"}),
        resource(body),
    )

    stored = await storage.store(KEY, tmp_path / "file")

    begin, first, asks, second, asks_again, last = google.asked
    assert json.loads(begin.body)["crc32c"] == crc32c(body)
    assert first.headers["content-range"] == f"bytes 0-{3 * MIB - 1}/{3 * MIB}"
    assert asks.headers["content-range"] == asks_again.headers["content-range"] == "bytes */*"
    assert second.body == body[MIB:]
    assert last.body == body[2 * MIB :]
    assert last.headers["content-range"] == f"bytes {2 * MIB}-{3 * MIB - 1}/{3 * MIB}"
    assert (stored.size, stored.etag) == (3 * MIB, "7")


async def test_an_object_whose_answer_was_lost_is_found_again(
    google: ScriptedServer, storage: GCSStorage, tmp_path: Path
) -> None:
    body = os.urandom(2 * MIB)
    (tmp_path / "file").write_bytes(body)
    google.script(
        Reply(200, {"Location": uri_of(google).get_secret_value()}), Reply(breaks_after=2 * MIB), resource(body)
    )

    assert (await storage.store(KEY, tmp_path / "file", if_absent=True)).etag == "7"


async def test_a_transfer_that_fails_gives_its_session_up(
    google: ScriptedServer, storage: GCSStorage, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(bytes(2 * MIB))
    google.script(
        Reply(200, {"Location": uri_of(google).get_secret_value()}),
        *[Reply(503), Reply(308), Reply(503), Reply(308), Reply(503)],
        Reply(499),
    )

    with pytest.raises(StorageTransient):
        await storage.store(KEY, tmp_path / "file")

    assert google.asked[-1].method == "DELETE"
    assert not google.replies


async def test_bytes_that_changed_on_their_way_are_sent_again(
    google: ScriptedServer, storage: GCSStorage, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    refusal = {"error": {"code": 400, "message": 'Provided CRC32C "a" doesn\'t match calculated CRC32C "b".'}}
    google.script(Reply(400, body=json.dumps(refusal).encode()), resource(b"hello"))

    assert (await storage.store(KEY, tmp_path / "file")).etag == "7"


# --- reading -----------------------------------------------------------------------------------------------------


async def test_a_download_is_pinned_and_checked(google: ScriptedServer, storage: GCSStorage, tmp_path: Path) -> None:
    facts = {"x-goog-generation": "7", "x-goog-hash": f"crc32c={crc32c(b'hello')},md5=x"}
    google.script(Reply(200, facts, b"hello"), Reply(200, facts, b"hullo"), Reply(412))

    await storage.download(KEY, tmp_path / "copy", if_match='"7"')
    with pytest.raises(StorageTransient) as caught:
        await storage.download(KEY, tmp_path / "other", if_match="7")
    with pytest.raises(ObjectChanged):
        await storage.download(KEY, tmp_path / "other", if_match="7")

    assert google.asked[0].path == "/download/storage/v1/b/media/o/a%2Fb%2Fc%20d.mp4"
    assert google.asked[0].query == {"alt": "media", "ifGenerationMatch": "7"}
    assert google.asked[0].headers["accept-encoding"] == "gzip"
    assert caught.value.detail["reason"] == "checksum"
    assert {path.name for path in tmp_path.iterdir()} == {"copy"}


async def test_a_store_that_ignores_the_pin_is_not_believed(
    google: ScriptedServer, storage: GCSStorage, tmp_path: Path
) -> None:
    google.script(*[Reply(200, {"x-goog-generation": "8"}, b"other"), Reply(206, {"x-goog-generation": "8"}, b"o")])

    with pytest.raises(ObjectChanged):
        await storage.download(KEY, tmp_path / "copy", if_match="7")
    with pytest.raises(ObjectChanged):
        await storage.read_range(KEY, 0, 1, if_match="7")


async def test_headers_are_replaced_by_one_change_of_the_metadata(
    google: ScriptedServer, storage: GCSStorage, tmp_path: Path
) -> None:
    before = {"name": KEY, "size": "5", "generation": "7", "contentType": "text/html", "contentEncoding": "gzip"}
    after = {"name": KEY, "size": "5", "generation": "7", "contentType": "image/jpeg"}
    replies = [
        Reply(200, {"Content-Type": "application/json"}, json.dumps(found).encode()) for found in (before, after)
    ]
    google.script(replies[0], Reply(200, body=b"{}"), replies[1])

    stored = await storage.replace_headers(KEY, tmp_path / "none", ServedAs("image/jpeg"), if_match="7")

    assert (google.asked[1].method, google.asked[1].query) == ("PATCH", {"ifGenerationMatch": "7"})
    assert json.loads(google.asked[1].body) == {
        "contentType": "image/jpeg",
        "contentDisposition": None,
        "contentEncoding": None,
        "contentLanguage": None,
        "cacheControl": None,
        "metadata": None,
    }
    assert stored.etag == "7"


# --- signatures without a key ------------------------------------------------------------------------------------


async def test_iam_signs_for_a_workload_without_a_key(google: ScriptedServer, storage: GCSStorage) -> None:
    email = "app@project.iam.gserviceaccount.com"
    google.script(
        Reply(503), Reply(200, body=json.dumps({"signedBlob": base64.b64encode(b"\x01\x02").decode()}).encode())
    )
    storage._signatures._signer = IamSigner(email, storage._client, google.address)

    url = await storage.url(KEY, expires_in=60)

    asked = google.asked[-1]
    assert asked.path == f"/v1/projects/-/serviceAccounts/{email}:signBlob"
    assert base64.b64decode(json.loads(asked.body)["payload"]).startswith(b"GOOG4-RSA-SHA256\n")
    assert url.endswith("&X-Goog-Signature=0102")
    assert "X-Goog-Credential=app%40project.iam.gserviceaccount.com%2F" in url


@pytest.mark.parametrize("reply", [Reply(200, body=b"{}"), Reply(200, body=b"canary"), Reply(403)])
async def test_an_answer_without_a_signature_is_an_error(
    google: ScriptedServer, storage: GCSStorage, reply: Reply
) -> None:
    google.script(reply)
    storage._signatures._signer = IamSigner("app@project.iam.gserviceaccount.com", storage._client, google.address)

    with pytest.raises(Exception, match=r"IAM|refused") as caught:
        await storage.url(KEY)
    assert "canary" not in str(caught.value)


async def test_no_source_is_no_object(storage: GCSStorage) -> None:
    with pytest.raises(InvalidArgument):
        await storage.concatenate(KEY, [])


async def test_the_sdk_requests_nothing_of_its_own(google: ScriptedServer, storage: GCSStorage) -> None:
    """Since 3.17 it reads the bucket for labels of its traces, which needs a permission of its own."""
    google.script(resource(b"hello"), Reply(204), Reply(404, JSON, b"{}"), Reply(200, JSON, b'{"items": []}'))

    await storage.head(KEY)
    assert (await storage.delete(KEY)).existed is True
    assert (await storage.delete(KEY)).existed is False
    await storage.ping()
    await storage.close()

    assert [asked.method for asked in google.asked] == ["GET", "DELETE", "DELETE", "GET"]
