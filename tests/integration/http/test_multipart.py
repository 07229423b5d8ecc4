"""Uploads in parts over HTTP: the lane of a ticket, parts, continuing after a reload, completion, and two actors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rindle.storage.s3 import S3Storage
from tests.integration.http.site import CLOSED_PORT, SESSION_FIELDS, Site, error_of, site
from tests.patience import PATIENCE_SECONDS
from tests.servers.minio import MinioServer

pytestmark = pytest.mark.external

PART_BYTES = 5 * 1024 * 1024
SIZE = PART_BYTES + 11


@pytest.fixture
async def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minio: MinioServer) -> AsyncIterator[Site]:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    store = S3Storage(
        minio.new_bucket(),
        endpoint_url=minio.endpoint_url,
        access_key_id=minio.access_key,
        secret_access_key=minio.secret_key,
    )
    async with site(tmp_path, storage=store) as made:
        yield made


async def begun(web: Site, *, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    wanted = {"profile": "avatar", "filename": "me.png", "size": SIZE, "strategy": "multipart"}
    answer = await web.call("POST", "/uploads", json={**wanted, "part_size": PART_BYTES, **body}, headers=headers or {})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def send(web: Site, session_id: str, number: int, piece: bytes) -> str:
    answer = await web.call("POST", f"/uploads/{session_id}/parts/{number}/sign")
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    grant = answer.json()
    assert grant.keys() == {"url", "method", "headers", "part_number", "expires_at"}
    assert grant["part_number"] == number
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as store:
        stored = await store.request(grant["method"], grant["url"], content=piece, headers=grant["headers"])
    assert stored.status_code == 200, stored.text
    return stored.headers["etag"]


async def test_an_upload_in_parts_from_ticket_to_asset(web: Site) -> None:
    ticket = await begun(web)
    session_id = ticket["session"]["id"]
    assert ticket.keys() == {"session", "multipart"}
    assert ticket["session"].keys() == SESSION_FIELDS
    assert ticket["multipart"] == {"part_size": PART_BYTES, "part_count": 2}
    etags = [await send(web, session_id, 1, bytes(PART_BYTES)), await send(web, session_id, 2, bytes(11))]
    listed = await web.call("GET", f"/uploads/{session_id}/parts")
    assert listed.json() == [
        {"part_number": 1, "etag": etags[0].strip('"'), "size": PART_BYTES},
        {"part_number": 2, "etag": etags[1].strip('"'), "size": 11},
    ]

    body = {"parts": [{"PartNumber": 2, "ETag": etags[1]}, {"PartNumber": 1, "ETag": etags[0]}]}
    done = await web.call("POST", f"/uploads/{session_id}/complete", json=body)

    assert done.status_code == 200, done.text
    assert (done.json()["session"]["state"], done.json()["asset"]["byte_size"]) == ("completed", SIZE)
    assert (await web.call("POST", f"/uploads/{session_id}/complete")).json() == done.json()
    assert (await web.call("POST", f"/uploads/{session_id}/verify")).json() == done.json()
    assert (await web.call("GET", f"/uploads/{session_id}/parts")).json() == listed.json()
    assert (await web.call("GET", f"/uploads/{session_id}")).json().keys() == {"session"}  # nothing to continue


async def test_a_reloaded_page_learns_where_to_continue(web: Site) -> None:
    session_id = (await begun(web))["session"]["id"]
    await send(web, session_id, 1, bytes(PART_BYTES))

    found = (await web.call("GET", f"/uploads/{session_id}")).json()
    missing = {1, 2} - {part["part_number"] for part in (await web.call("GET", f"/uploads/{session_id}/parts")).json()}
    for number in missing:
        await send(web, session_id, number, bytes(11))
    done = await web.call("POST", f"/uploads/{session_id}/complete", json={})

    assert found["multipart"] == {"part_size": PART_BYTES, "part_count": 2}
    assert missing == {2}
    assert done.status_code == 200, done.text


async def test_an_idempotency_key_returns_the_same_upload(web: Site) -> None:
    key = {"Idempotency-Key": "one"}

    first, second = await begun(web, headers=key), await begun(web, headers=key)

    assert first == second
    direct = await web.call("POST", "/uploads", json={"profile": "avatar", "filename": "me.png"}, headers=key)
    assert error_of(direct) == (400, "invalid_argument")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"size": (32 << 20) + 1}, (413, "max_bytes_exceeded")),
        ({"filename": "me.exe"}, (422, "extension_not_allowed")),
        ({"part_size": 5}, (400, "invalid_argument")),
        ({"part_size": "large"}, (400, "invalid_argument")),
        ({"strategy": "presigned_put"}, (400, "invalid_argument")),
        ({"strategy": "tus", "part_size": None}, (422, "upload_unsupported")),
        ({"strategy": "resumable", "part_size": None}, (422, "upload_unsupported")),
    ],
)
async def test_a_bad_ticket_is_refused(web: Site, body: dict[str, Any], code: tuple[int, str]) -> None:
    wanted = {"profile": "avatar", "filename": "me.png", "strategy": "multipart", "part_size": PART_BYTES}

    assert error_of(await web.call("POST", "/uploads", json={**wanted, **body})) == code


async def test_bad_parts_are_refused_by_their_codes(web: Site) -> None:
    session_id = (await begun(web))["session"]["id"]
    many = [{"part_number": number, "etag": "0" * 32} for number in range(1, 10_002)]

    for number in ("0", "3", "10001", "-1"):
        refused = await web.call("POST", f"/uploads/{session_id}/parts/{number}/sign")
        assert error_of(refused) == (400, "invalid_part_number"), number
    assert error_of(await web.call("POST", f"/uploads/{session_id}/parts/x/sign")) == (400, "invalid_argument")
    for parts in ([], [{}], [1], [{"part_number": 1, "etag": "unknown"}], many):
        refused = await web.call("POST", f"/uploads/{session_id}/complete", json={"parts": parts})
        assert error_of(refused) == (400, "invalid_multipart_parts")
    oversized = await web.call("POST", f"/uploads/{session_id}/complete", json={"parts": ["x" * (1 << 20)]})
    assert error_of(oversized) == (413, "max_bytes_exceeded")
    assert error_of(await web.call("POST", f"/uploads/{session_id}/sign")) == (422, "upload_unsupported")
    assert (await web.call("GET", f"/uploads/{session_id}")).json()["session"]["state"] == "initialized"


async def test_nobody_else_reaches_the_parts(web: Site) -> None:
    session_id = (await begun(web))["session"]["id"]

    for method, path in (
        ("GET", ""),
        ("GET", "/parts"),
        ("POST", "/parts/1/sign"),
        ("POST", "/complete"),
        ("DELETE", ""),
    ):
        answer = await web.call(method, f"/uploads/{session_id}{path}", actor="mallory")
        assert error_of(answer) == (404, "not_found"), (method, path)
    forged = await web.client.request("POST", f"/media/uploads/{session_id}/parts/1/sign", headers={"X-User": "alice"})
    assert error_of(forged)[1] == "unauthorized"


async def test_cancelling_ends_it(web: Site) -> None:
    session_id = (await begun(web))["session"]["id"]

    cancelled = await web.call("DELETE", f"/uploads/{session_id}")

    assert cancelled.json()["session"]["state"] == "aborted"
    assert error_of(await web.call("GET", f"/uploads/{session_id}/parts")) == (409, "upload_cancelled")
    assert error_of(await web.call("POST", f"/uploads/{session_id}/complete")) == (409, "upload_cancelled")
    assert error_of(await web.call("POST", f"/uploads/{session_id}/parts/1/sign")) == (409, "invalid_transition")
