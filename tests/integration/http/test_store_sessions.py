"""Resumable sessions over HTTP: the lane of a ticket, its status, continuing after a reload, and two actors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet

from tests.integration.http.site import CLOSED_PORT, ORIGIN, SESSION_FIELDS, Ruling, Site, error_of, site
from tests.patience import PATIENCE_SECONDS
from tests.servers.gcs import GCSServer

pytestmark = pytest.mark.external

UNIT = 256 * 1024
SIZE = UNIT + 11


@pytest.fixture
async def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_gcs: GCSServer) -> AsyncIterator[Site]:
    """A site whose store is the emulator that joins, lists and stores."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    async with site(tmp_path, storage=fake_gcs.storage(fake_gcs.new_bucket())) as made:
        yield made


@pytest.fixture
async def status_web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gcp_emulator: GCSServer) -> AsyncIterator[Site]:
    """A site whose store is the emulator that knows the status of sessions."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    async with site(tmp_path, storage=gcp_emulator.storage(gcp_emulator.new_bucket())) as made:
        yield made


async def begun(web: Site, *, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    wanted = {"profile": "avatar", "filename": "me.png", "size": SIZE, "strategy": "resumable"}
    answer = await web.call("POST", "/uploads", json={**wanted, **body}, headers=headers or {})
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return dict(answer.json())


async def put(ticket: dict[str, Any], piece: bytes, start: int) -> int:
    """Send one piece to the session URI, as a browser does; returns the status."""
    span = {"Content-Range": f"bytes {start}-{start + len(piece) - 1}/{SIZE}"}
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as browser:
        return (await browser.put(ticket["resumable"]["session_uri"], content=piece, headers=span)).status_code


async def test_a_resumable_upload_from_ticket_to_asset(web: Site) -> None:
    ticket = await begun(web)
    session_id = ticket["session"]["id"]
    assert ticket.keys() == {"session", "resumable"}
    assert ticket["session"].keys() == SESSION_FIELDS
    assert (ticket["session"]["state"], ticket["session"]["resumable_protocol"]) == ("signed", "gcs")
    assert ticket["resumable"].keys() == {"session_uri", "expires_at"}
    assert await put(ticket, bytes(UNIT), 0) == 308
    assert await put(ticket, bytes(11), UNIT) == 200

    done = await web.call("POST", f"/uploads/{session_id}/complete")

    assert done.status_code == 200, done.text
    assert (done.json()["session"]["state"], done.json()["asset"]["byte_size"]) == ("completed", SIZE)
    assert (await web.call("POST", f"/uploads/{session_id}/verify")).json() == done.json()
    status = (await web.call("GET", f"/uploads/{session_id}/resumable")).json()
    assert (status["committed_bytes"], status["state"]) == (SIZE, "complete")


async def test_a_reloaded_page_learns_where_to_continue(status_web: Site) -> None:
    web, key = status_web, {"Idempotency-Key": "one"}
    first = await begun(web, headers=key)
    session_id = first["session"]["id"]
    assert await put(first, bytes(UNIT), 0) == 308

    found = (await web.call("GET", f"/uploads/{session_id}")).json()
    status = (await web.call("GET", f"/uploads/{session_id}/resumable")).json()
    again = await begun(web, headers=key)
    assert await put(again, bytes(SIZE - status["committed_bytes"]), status["committed_bytes"]) == 200
    done = await web.call("POST", f"/uploads/{session_id}/verify")

    assert (found["session"]["id"], found["session"]["resumable_protocol"]) == (session_id, "gcs")
    assert status.keys() == {"session", "committed_bytes", "state"}
    assert (status["committed_bytes"], status["state"]) == (UNIT, "in_progress")
    assert (status["session"]["state"], status["session"]["last_known_offset"]) == ("uploading", UNIT)
    assert (again["session"]["id"], again["resumable"]) == (session_id, first["resumable"])
    assert done.json()["asset"]["byte_size"] == SIZE


async def test_another_offset_than_the_store_s_is_refused_with_both(status_web: Site) -> None:
    ticket = await begun(status_web)
    session_id = ticket["session"]["id"]
    assert await put(ticket, bytes(UNIT), 0) == 308

    right = await status_web.call("GET", f"/uploads/{session_id}/resumable?client_offset={UNIT}")
    wrong = await status_web.call("GET", f"/uploads/{session_id}/resumable?client_offset=7")

    assert (right.status_code, right.json()["committed_bytes"]) == (200, UNIT)
    assert error_of(wrong) == (409, "offset_mismatch")
    assert wrong.json()["error"]["detail"] == {"server": UNIT, "client": 7}
    for offset in ("-1", "x", str(2**63)):
        answer = await status_web.call("GET", f"/uploads/{session_id}/resumable?client_offset={offset}")
        assert error_of(answer) == (400, "invalid_argument"), offset


async def test_the_store_learns_the_origin_of_the_page(web: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    store, told = web.avatar.storage, []
    begin = store.initiate_resumable_upload

    async def noted(*arguments: Any, origin: str | None = None, **options: Any) -> Any:
        told.append(origin)
        return await begin(*arguments, origin=origin, **options)

    monkeypatch.setattr(store, "initiate_resumable_upload", noted)

    await begun(web, headers={"Origin": ORIGIN})
    await begun(web)

    assert told == [ORIGIN, None]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"size": (32 << 20) + 1}, (413, "max_bytes_exceeded")),
        ({"filename": "me.exe"}, (422, "extension_not_allowed")),
        ({"part_size": 5 << 20}, (400, "invalid_argument")),
        ({"expires_in": 59}, (400, "invalid_argument")),
        ({"strategy": "multipart"}, (422, "upload_unsupported")),
    ],
)
async def test_a_bad_ticket_is_refused(web: Site, body: dict[str, Any], code: tuple[int, str]) -> None:
    wanted = {"profile": "avatar", "filename": "me.png", "strategy": "resumable"}

    assert error_of(await web.call("POST", "/uploads", json={**wanted, **body})) == code


async def test_an_upload_of_another_lane_has_no_status(web: Site) -> None:
    ticket = await web.ticket()

    answer = await web.call("GET", f"/uploads/{ticket['session']['id']}/resumable")

    assert error_of(answer) == (422, "upload_unsupported")


async def test_a_cancelled_session_has_ended(web: Site) -> None:
    session_id = (await begun(web))["session"]["id"]

    cancelled = await web.call("DELETE", f"/uploads/{session_id}")

    assert cancelled.json()["session"]["state"] == "aborted"
    assert error_of(await web.call("GET", f"/uploads/{session_id}/resumable")) == (409, "upload_cancelled")
    assert error_of(await web.call("POST", f"/uploads/{session_id}/complete")) == (409, "upload_cancelled")


async def test_only_the_ticket_has_the_session_uri(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gcp_emulator: GCSServer, every_log: pytest.LogCaptureFixture
) -> None:
    """Not even who may read every upload gets it: with it anybody could send the bytes."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    monkeypatch.setenv("RINDLE_SESSION_URI_KEY", Fernet.generate_key().decode())  # drivers log what rows get
    store = gcp_emulator.storage(gcp_emulator.new_bucket())
    async with site(tmp_path, storage=store, authorizer=Ruling()) as web:
        ticket = await begun(web)
        session_id = ticket["session"]["id"]
        canary = ticket["resumable"]["session_uri"].partition("upload_id=")[2]
        assert len(canary) > 16
        assert await put(ticket, bytes(UNIT), 0) == 308
        told = []
        for actor in ("alice", "admin", "bob"):
            for method, path in (
                *(("GET", ""), ("GET", "/resumable"), ("GET", "/resumable?client_offset=7"), ("GET", "/parts")),
                *(("POST", "/sign"), ("POST", "/verify"), ("POST", "/complete"), ("DELETE", "")),
            ):
                answer = await web.call(method, f"/uploads/{session_id}{path}", actor=actor)
                told.append((actor, method, path, answer.text + json.dumps(dict(answer.headers))))
        ended = await web.call(
            "POST",
            "/uploads",
            json={"profile": "avatar", "filename": "me.png", "strategy": "resumable"},
            actor="nobody",
        )
        told.append(("nobody", "POST", "", ended.text))

    shown = [where for *where, text in told if canary in text]
    assert shown == []
    # The test's own client writes the URL that it requests into its log.
    ours = [record for record in every_log.records if not record.name.startswith(("httpx", "httpcore"))]
    assert [record.name for record in ours if canary in record.getMessage()] == []
    assert {"urllib3.connectionpool", "aiosqlite"} <= {record.name for record in ours}  # the logs that could have it
