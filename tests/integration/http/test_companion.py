"""The S3 routes of Companion against MinIO, as a client of its protocol calls them; Uppy itself is in ``test_uppy``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from rindle import MediaUploadSession
from rindle.errors import Misconfigured
from rindle.http import companion_router
from rindle.protocols import Storage
from rindle.storage.s3 import S3Storage
from tests.gallery import png
from tests.integration.http.site import CLOSED_PORT, Ruling, Site, actor_of, site
from tests.patience import PATIENCE_SECONDS
from tests.servers.minio import MinioServer

pytestmark = pytest.mark.external

PART_BYTES = 5 * 1024 * 1024
#: How a browser marks the requests of a page of the same origin; Uppy 6 sends nothing else.
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}

#: Opens a site with the routes of the profile "avatar" at ``/uppy`` and of "banner" at ``/banners``.
Opened = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
def store(minio: MinioServer) -> S3Storage:
    return S3Storage(
        minio.new_bucket(),
        endpoint_url=minio.endpoint_url,
        access_key_id=minio.access_key,
        secret_access_key=minio.secret_key,
        key_prefix="media",
    )


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: S3Storage) -> Opened:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)

    @asynccontextmanager
    async def open_site(
        *, storage: Storage = store, companion: Sequence[str] = (), **rules: Any
    ) -> AsyncIterator[Site]:
        given = {"actor_from_request": actor_of, **rules}
        if "authorizer" not in given:
            given["allow_anonymous"] = True

        def include(gallery: Any, app: Any) -> None:
            for prefix, profile in (("/uppy", "accounts.Avatar"), ("/banners", "banner")):
                app.include_router(companion_router(gallery.rindle, profile=profile, **given), prefix=prefix)

        async with site(tmp_path, storage=storage, prepare=include, companion=companion) as made:
            yield made

    return open_site


@pytest.fixture
async def web(opened: Opened) -> AsyncIterator[Site]:
    async with opened() as made:
        yield made


async def ask(web: Site, method: str, path: str, *, actor: str = "alice", **kwargs: Any) -> httpx.Response:
    headers = {"X-User": actor, **kwargs.pop("headers", SAME_ORIGIN)}
    answer = await web.client.request(method, f"/uppy/s3{path}", headers=headers, **kwargs)
    assert answer.headers["cache-control"] == "no-store"
    return answer


async def begun(web: Site, **body: Any) -> dict[str, str]:
    wanted = {"filename": "me.png", "type": "image/png", "metadata": {"name": "me.png"}, **body}
    answer = await ask(web, "POST", "/multipart", json=wanted)
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"key", "uploadId"}
    return dict(answer.json())


async def send(web: Site, upload: dict[str, str], number: int, piece: bytes) -> str:
    answer = await ask(web, "GET", f"/multipart/{upload['uploadId']}/{number}", params={"key": upload["key"]})
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"url", "expires"}
    assert 3500 < answer.json()["expires"] <= 3600
    return await put(answer.json()["url"], piece)


async def put(url: str, piece: bytes) -> str:
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as client:
        stored = await client.put(url, content=piece)
    assert stored.status_code == 200, stored.text
    return stored.headers["etag"]


async def row_of(web: Site, session_id: str) -> MediaUploadSession:
    def read(session: Any) -> MediaUploadSession:
        return session.scalars(select(MediaUploadSession).where(MediaUploadSession.id == session_id)).one()

    return await web.rindle.services.database.read(read)


def error_of(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert body.keys() == {"error", "message"} and body["message"] == body["error"]["message"]
    assert body["error"].keys() == {"code", "message", "detail"}
    return answer.status_code, body["error"]["code"]


# --- single files ------------------------------------------------------------------------------------------------


async def test_a_single_file_is_a_form(web: Site, store: S3Storage) -> None:
    query = {"filename": "me.png", "type": "image/png", "metadata[name]": "me.png", "metadata[caption]": "ü\r\nX: y"}
    answer = await ask(web, "GET", "/params", params=query)

    found = answer.json()
    assert answer.status_code == 200, answer.text
    assert found.keys() == {"method", "url", "fields", "expires", "key", "session_id"}
    assert found["method"] == "POST" and 3500 < found["expires"] <= 3600
    fields = found["fields"]
    assert (fields["key"], fields["success_action_status"]) == (f"media/{found['key']}", "201")
    assert fields["content-type"] == "image/png"
    assert not [name for name in fields if "meta" in name]
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as client:
        sent = await client.post(found["url"], data=fields, files={"file": ("me.png", png())})
    assert (sent.status_code, sent.headers["etag"] != "") == (201, True)
    row = await row_of(web, found["session_id"])
    assert (row.state, row.upload_strategy, row.auto_verify, row.actor) == ("signed", "presigned_put", True, "alice")
    assert row.upload_metadata == '{"name":"me.png","caption":"\\u00fc\\r\\nX: y"}'
    assert row.client_content_type == "image/png"
    done = await web.rindle.verify_completion(found["session_id"])
    assert (done.session.state, done.asset.byte_size) == ("completed", len(png()))
    assert dict((await store.head(found["key"])).headers) == {}


async def test_the_type_of_a_form_is_ours(web: Site) -> None:
    answer = await ask(web, "GET", "/params", params={"filename": "me.png", "type": "text/html"})

    assert answer.json()["fields"]["content-type"] == "image/png"


async def test_a_store_without_forms_gives_a_put(opened: Opened, minio: MinioServer) -> None:
    without = S3Storage(
        minio.new_bucket(),
        endpoint_url=minio.endpoint_url,
        access_key_id=minio.access_key,
        secret_access_key=minio.secret_key,
        presigned_post=False,
    )
    async with opened(storage=without) as web:
        found = (await ask(web, "GET", "/params", params={"filename": "me.png"})).json()
        assert found.keys() == {"method", "url", "fields", "headers", "expires", "key", "session_id"}
        assert (found["method"], found["fields"]) == ("PUT", {})
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as client:
            sent = await client.put(found["url"], content=png(), headers=found["headers"])

        assert sent.status_code == 200, sent.text
        assert (await row_of(web, found["session_id"])).auto_verify
        assert (await web.rindle.verify_completion(found["session_id"])).session.state == "completed"


# --- files in parts ----------------------------------------------------------------------------------------------


async def test_a_file_in_parts_from_its_name_to_its_asset(web: Site) -> None:
    upload = await begun(web)
    where, key = f"/multipart/{upload['uploadId']}", {"key": upload["key"]}
    etags = [await send(web, upload, 1, png() + bytes(PART_BYTES)), await send(web, upload, 2, bytes(11))]
    listed = (await ask(web, "GET", where, params=key)).json()
    body = {"parts": [{"PartNumber": 2, "ETag": etags[1]}, {"PartNumber": 1, "ETag": etags[0].strip('"')}]}

    done = await ask(web, "POST", f"{where}/complete", params=key, json=body)

    size = len(png()) + PART_BYTES
    assert listed == [
        {"PartNumber": 1, "ETag": etags[0], "Size": size},
        {"PartNumber": 2, "ETag": etags[1], "Size": 11},
    ]
    assert done.status_code == 200, done.text
    row = await row_of(web, upload["uploadId"])
    assert done.json() == {
        "location": done.json()["location"],
        "key": upload["key"],
        "session_id": upload["uploadId"],
        "asset_id": row.asset_id,
        "state": "completed",
    }
    assert done.json()["location"].endswith(f"/media/{upload['key']}") and "?" not in done.json()["location"]
    assert row.upload_metadata == '{"name":"me.png"}'
    assert (await ask(web, "POST", f"{where}/complete", params=key, json=body)).json() == done.json()
    assert row.multipart_upload_id not in (None, upload["uploadId"])
    assert str(row.multipart_upload_id) not in done.text
    assert error_of(await ask(web, "DELETE", where, params=key)) == (409, "upload_already_completed")


async def test_a_batch_signs_several_parts(web: Site) -> None:
    upload = await begun(web)
    query = {"key": upload["key"], "partNumbers": "1,3,1"}

    answer = await ask(web, "GET", f"/multipart/{upload['uploadId']}/batch", params=query)

    assert answer.status_code == 200, answer.text
    assert answer.json()["presignedUrls"].keys() == {"1", "3"}
    for url in answer.json()["presignedUrls"].values():
        await put(url, bytes(PART_BYTES))
    listed = await ask(web, "GET", f"/multipart/{upload['uploadId']}", params={"key": upload["key"]})
    assert [part["PartNumber"] for part in listed.json()] == [1, 3]
    assert (await row_of(web, upload["uploadId"])).last_known_offset == 2 * PART_BYTES


async def test_an_abort_leaves_nothing_and_can_be_repeated(web: Site) -> None:
    upload = await begun(web)
    await send(web, upload, 1, bytes(11))
    where, key = f"/multipart/{upload['uploadId']}", {"key": upload["key"]}

    answers = [await ask(web, "DELETE", where, params=key) for _ in range(2)]

    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, {})] * 2
    assert (await row_of(web, upload["uploadId"])).state == "aborted"
    assert error_of(await ask(web, "GET", where, params=key)) == (409, "upload_cancelled")
    assert error_of(await ask(web, "GET", f"{where}/1", params=key)) == (409, "invalid_transition")


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "sent", "expected"),
    [
        ("GET", "/params", {}, (400, "invalid_argument")),
        ("GET", "/params", {"params": {"filename": ""}}, (400, "invalid_argument")),
        ("GET", "/params", {"params": {"filename": "a\0.png"}}, (400, "invalid_argument")),
        ("GET", "/params", {"params": {"filename": "a.png", "type": "image/png\r\nX: y"}}, (400, "invalid_argument")),
        ("GET", "/params", {"params": {"filename": "a.png", "metadata[a]": "x" * 9000}}, (400, "invalid_argument")),
        ("GET", "/params", {"params": {"filename": "a.exe"}}, (422, "extension_not_allowed")),
        ("POST", "/multipart", {"json": {"filename": "a.png"}}, (400, "invalid_argument")),
        ("POST", "/multipart", {"json": {"filename": "", "type": "image/png"}}, (400, "invalid_argument")),
        ("POST", "/multipart", {"json": {"filename": 1, "type": "image/png"}}, (400, "invalid_argument")),
        ("POST", "/multipart", {"json": {"filename": "a.png", "type": 1}}, (400, "invalid_argument")),
        ("POST", "/multipart", {"json": {"filename": "a.exe", "type": ""}}, (422, "extension_not_allowed")),
        ("POST", "/multipart", {"content": b"{"}, (400, "invalid_argument")),
        (
            *("POST", "/multipart"),
            {"json": {"filename": "a.png", "type": "", "metadata": {"a": "x" * 9000}}},
            (400, "invalid_argument"),
        ),
        (
            *("POST", "/multipart"),
            {"json": {"filename": "a.png", "type": "", "metadata": {"a": "x" * 70_000}}},
            (413, "max_bytes_exceeded"),
        ),
        ("GET", "/sts", {}, (404, "not_found")),
    ],
)
async def test_a_bad_request_opens_nothing(
    web: Site, method: str, path: str, sent: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert error_of(await ask(web, method, path, **sent)) == expected
    assert await web.rindle.services.database.read(lambda session: session.query(MediaUploadSession).count()) == 0


async def test_bad_parts_are_refused_by_their_codes(web: Site) -> None:
    upload = await begun(web)
    where, key = f"/multipart/{upload['uploadId']}", {"key": upload["key"]}
    await send(web, upload, 1, bytes(11))

    for number in ("0", "10001", "-1"):
        assert error_of(await ask(web, "GET", f"{where}/{number}", params=key)) == (400, "invalid_part_number")
        batch = await ask(web, "GET", f"{where}/batch", params={**key, "partNumbers": f"1,{number}"})
        assert batch.status_code == 400
    assert error_of(await ask(web, "GET", f"{where}/x", params=key)) == (400, "invalid_argument")
    many = ",".join(str(number) for number in range(1, 1002))
    for numbers in ("", "1,,2", "x", "1.5", "٣", many):
        batch = await ask(web, "GET", f"{where}/batch", params={**key, "partNumbers": numbers})
        assert error_of(batch) == (400, "invalid_argument")
    for parts in (None, [], [{}], "x", [{"PartNumber": "1", "ETag": "x"}], [{"PartNumber": 2, "ETag": "x"}]):
        refused = await ask(web, "POST", f"{where}/complete", params=key, json={"parts": parts})
        assert refused.status_code == 400 and error_of(refused)[1] in ("invalid_multipart_parts", "invalid_argument")
    oversized = await ask(web, "POST", f"{where}/complete", params=key, json={"parts": ["x" * (1 << 20)]})
    assert error_of(oversized) == (413, "max_bytes_exceeded")
    assert (await row_of(web, upload["uploadId"])).state in ("signed", "uploading")


# --- who may -----------------------------------------------------------------------------------------------------


def calls_of(upload: dict[str, str], key: dict[str, str]) -> list[tuple[str, str, dict[str, Any]]]:
    """Every request that names an upload."""
    where = f"/multipart/{upload['uploadId']}"
    return [
        ("GET", where, {"params": key}),
        ("GET", f"{where}/1", {"params": key}),
        ("GET", f"{where}/batch", {"params": {**key, "partNumbers": "1"}}),
        ("POST", f"{where}/complete", {"params": key, "json": {"parts": [{"PartNumber": 1, "ETag": "x"}]}}),
        ("DELETE", where, {"params": key}),
    ]


async def test_an_upload_is_reached_only_with_its_own_key(web: Site) -> None:
    upload, other = await begun(web), await begun(web)

    for method, path, sent in calls_of(upload, {"key": other["key"]}):
        assert error_of(await ask(web, method, path, **sent)) == (404, "not_found")
    for method, path, sent in calls_of(upload, {}):
        assert error_of(await ask(web, method, path, **sent)) == (400, "invalid_argument")


async def test_nobody_else_reaches_an_upload_and_no_other_profile(web: Site) -> None:
    upload = await begun(web)

    for method, path, sent in calls_of(upload, {"key": upload["key"]}):
        assert error_of(await ask(web, method, path, actor="mallory", **sent)) == (404, "not_found")
        headers = {"X-User": "alice", **SAME_ORIGIN}
        elsewhere = await web.client.request(method, f"/banners/s3{path}", headers=headers, **sent)
        assert error_of(elsewhere) == (404, "not_found")
    assert (await row_of(web, upload["uploadId"])).state == "initialized"


async def test_the_authorizer_decides_about_every_action(opened: Opened) -> None:
    ruling = Ruling()
    async with opened(authorizer=ruling) as web:
        upload = await begun(web)
        for method, path, sent in calls_of(upload, {"key": upload["key"]}):
            await ask(web, method, path, **sent)
        await ask(web, "GET", "/params", params={"filename": "me.png"})
        refused = await ask(web, "GET", "/params", params={"filename": "me.png"}, actor="nobody")

    actions = [action for _, action, _ in ruling.asked]
    assert actions == [
        *("upload.create", "upload.read", "upload.sign", "upload.sign", "upload.verify", "upload.cancel"),
        *("upload.create", "upload.create"),
    ]
    assert error_of(refused) == (403, "unauthorized")


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}])
async def test_a_request_of_another_site_changes_nothing(web: Site, headers: dict[str, str]) -> None:
    upload = await begun(web)
    forged = [
        ("GET", "/params", {"params": {"filename": "me.png"}}),
        ("POST", "/multipart", {"json": {"filename": "me.png", "type": "image/png"}}),
        *calls_of(upload, {"key": upload["key"]})[1:],
    ]

    for method, path, sent in forged:
        assert error_of(await ask(web, method, path, headers=headers, **sent)) == (403, "unauthorized")

    assert (await row_of(web, upload["uploadId"])).state == "initialized"
    with_header = await ask(web, "GET", "/params", params={"filename": "me.png"}, headers={"X-Rindle": "1"})
    assert with_header.status_code == 200


async def test_csrf_may_accept_the_page_of_another_origin(opened: Opened) -> None:
    async with opened(csrf=lambda request: request.headers.get("origin") == "https://app.example") as web:
        query = {"filename": "me.png"}
        allowed = await ask(web, "GET", "/params", params=query, headers={"Origin": "https://app.example"})
        refused = await ask(web, "GET", "/params", params=query, headers={"Origin": "https://evil.example"})

    assert (allowed.status_code, error_of(refused)) == (200, (403, "unauthorized"))


async def test_create_router_serves_each_profile_that_it_is_told_to(opened: Opened, store: S3Storage) -> None:
    async with opened(companion=["avatar", "banner"]) as web:

        async def at(name: str, method: str, path: str, **sent: Any) -> httpx.Response:
            headers = {"X-User": "alice", **SAME_ORIGIN}
            return await web.client.request(method, f"/media/companion/{name}/s3{path}", headers=headers, **sent)

        form = await at("avatar", "GET", "/params", params={"filename": "me.png"})
        begun_there = await at("avatar", "POST", "/multipart", json={"filename": "me.png", "type": "image/png"})
        upload = dict(begun_there.json())
        for method, path, sent in calls_of(upload, {"key": upload["key"]}):
            assert error_of(await at("banner", method, path, **sent)) == (404, "not_found")
            assert error_of(await at("logo", method, path, **sent)) == (422, "unknown_profile")
            found = await at("avatar", method, path, **sent)
            assert found.status_code == 200 or error_of(found)[1] == "invalid_multipart_parts"
        strange = await at("logo", "GET", "/params", params={"filename": "me.png"})

        assert (form.json()["method"], error_of(strange)) == ("POST", (422, "unknown_profile"))
        assert (await row_of(web, upload["uploadId"])).state == "aborted"
        assert await web.rindle.services.database.read(lambda session: session.query(MediaUploadSession).count()) == 2


async def test_open_routes_are_confirmed(web: Site) -> None:
    with pytest.raises(Misconfigured):
        companion_router(web.rindle, profile="banner")
