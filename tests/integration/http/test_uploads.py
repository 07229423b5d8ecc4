"""The routers as a browser meets them: real SQLite, real local storage, and a Temporal server that is not there."""

from __future__ import annotations

import logging
import os
import re
import sys
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request
from sqlalchemy import event, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.routing import Mount

from rindle import MediaAsset, MediaOutbox, MediaUploadSession, Profile, Rindle
from rindle.db.promotion import promote
from rindle.db.uploads import insert_upload
from rindle.errors import (
    CODES,
    Misconfigured,
    StorageTransient,
    Unauthenticated,
    Unauthorized,
    UnknownProfile,
    UploadRejected,
    http_status_of,
)
from rindle.http import assets_router, create_asgi_app, create_router, upload_router
from rindle.protocols import AssetSubject, Quarantine, Storage, UploadSubject
from rindle.states import AssetState, VariantState
from rindle.storage.local import LocalStorage
from rindle.uploads import sessions
from tests.gallery import BASE_URL, SECRET, VARIANTS, Gallery, opened, png

ORIGIN = "http://gallery.test"
CLOSED_PORT = "127.0.0.1:1"

SESSION_FIELDS = {
    "id",
    "asset_id",
    "state",
    "upload_key",
    "upload_strategy",
    "resumable_protocol",
    "upload_length",
    "last_known_offset",
    "expires_at",
    "verified_at",
    "failure_reason",
}
ASSET_FIELDS = {"id", "state", "profile", "content_type", "byte_size", "filename"}
RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


class NoEicar:
    def scan(self, path: Path, *, asset: object) -> None:
        if b"EICAR" in path.read_bytes():
            raise Quarantine


def make_profiles(store: Storage) -> list[type[Profile]]:
    class Avatar(Profile):
        name = "accounts.Avatar"
        storage = store
        allow_mime = ["image/png", "image/jpeg"]
        allow_extensions = [".png", ".jpg"]
        max_bytes = 32 << 20
        scanner = NoEicar()
        variants = VARIANTS

    class Logo(Profile):
        name = "logo"
        storage = store
        allow_mime = ["image/svg+xml"]
        variants = {}

    class Banner(Profile):
        name = "banner"
        storage = store
        variants = {}
        delivery = {"public": True}

    class Internal(Profile):
        name = "internal"
        storage = store
        variants = VARIANTS

    return [Avatar, Logo, Banner, Internal]


def actor_of(request: Request) -> str | None:
    return request.headers.get("X-User")


class Site:
    """An application with the router at ``/media`` and a client that checks each answer against the OpenAPI."""

    def __init__(self, gallery: Gallery, client: httpx.AsyncClient, app: FastAPI) -> None:
        self.gallery, self.client, self.app = gallery, client, app

    @property
    def rindle(self) -> Rindle:
        return self.gallery.rindle

    @property
    def avatar(self) -> type[Profile]:
        return self.rindle.profiles.get("accounts.Avatar")

    async def call(self, method: str, path: str, *, actor: str | None = "alice", **kwargs: Any) -> httpx.Response:
        headers = {"X-Rindle": "1", **({} if actor is None else {"X-User": actor}), **kwargs.pop("headers", {})}
        return await self.client.request(method, f"/media{path}", headers=headers, **kwargs)

    async def ticket(self, *, actor: str | None = "alice", **body: Any) -> dict[str, Any]:
        answer = await self.call(
            "POST", "/uploads", actor=actor, json={"profile": "avatar", "filename": "me.png", **body}
        )
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def put(self, upload: dict[str, Any], data: bytes) -> httpx.Response:
        return await self.client.request(upload["method"], upload["url"], headers=upload["headers"], content=data)

    async def verified(self, *, actor: str | None = "alice") -> dict[str, Any]:
        ticket = await self.ticket(actor=actor)
        assert (await self.put(ticket["upload"], png())).status_code == 200
        answer = await self.call("POST", f"/uploads/{ticket['session']['id']}/verify", actor=actor)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def operations(app: FastAPI) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def documentation(app: FastAPI) -> Any:
    """Return a hook that fails a test whose answer its route does not document."""
    patterns = [
        # Fixed paths first, as the router matches them.
        (path.count("{"), re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), method, operation)
        for path, method, operation in operations(app)
    ]

    async def check(response: httpx.Response) -> None:
        path, method = response.request.url.path, response.request.method
        for _, pattern, documented_method, operation in sorted(patterns, key=lambda entry: entry[0]):
            if documented_method == method and pattern.fullmatch(path):
                assert str(response.status_code) in operation["responses"], (method, path, response.status_code)
                return

    return check


@asynccontextmanager
async def site(
    directory: Path, *, storage: Storage | None = None, prepare: Any = None, **options: Any
) -> AsyncIterator[Site]:
    async with opened(directory, make_profiles, storage=storage) as gallery:
        get = gallery.rindle.profiles.get
        offered = {"avatar": get("accounts.Avatar"), "logo": get("logo"), "banner": get("banner")}
        rules: dict[str, Any] = {"actor_from_request": actor_of, **options}
        if "authorizer" not in rules:
            rules["allow_anonymous"] = True
        app = FastAPI()
        app.include_router(create_router(gallery.rindle, profiles=offered, **rules), prefix="/media")
        if prepare is not None:
            prepare(gallery, app)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        hooks = {"response": [documentation(app)]}
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, event_hooks=hooks) as client:
            yield Site(gallery, client, app)


@pytest.fixture
async def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    monkeypatch.setenv("RINDLE_STRICT_EVENTS", "1")
    async with site(tmp_path) as made:
        yield made


def error_of(answer: httpx.Response) -> tuple[int, str]:
    assert set(answer.json()) == {"error"} and set(answer.json()["error"]) == {"code", "message", "detail"}
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, answer.json()["error"]["code"]


# --- direct uploads ----------------------------------------------------------------------------------------------


async def test_a_direct_upload_from_ticket_to_asset(web: Site):
    data = png()

    ticket = await web.ticket(size=len(data), content_type="image/png")
    session, upload = ticket["session"], ticket["upload"]
    sent = await web.put(upload, data)
    verified = await web.call("POST", f"/uploads/{session['id']}/verify")
    again = await web.call("POST", f"/uploads/{session['id']}/verify")

    assert set(ticket) == {"session", "upload"} and set(session) == SESSION_FIELDS
    assert (session["state"], session["upload_strategy"]) == ("signed", "presigned_put")
    assert set(upload) == {"url", "method", "headers", "expires_at"}
    assert sent.status_code == 200
    assert verified.status_code == 200 and verified.json() == again.json()
    assert verified.headers["cache-control"] == "no-store"
    assert set(verified.json()) == {"session", "asset"} and set(verified.json()["asset"]) == ASSET_FIELDS
    assert verified.json()["session"]["state"] == "completed"
    asset = verified.json()["asset"]
    assert (asset["state"], asset["profile"], asset["byte_size"]) == ("validating", "avatar", len(data))
    for moment in (session["expires_at"], upload["expires_at"], verified.json()["session"]["verified_at"]):
        assert RFC_3339_UTC.fullmatch(moment)


async def test_answers_hide_what_is_not_the_client_s(web: Site):
    ticket = await web.ticket(actor="alice-the-actor")
    shown = await web.call("GET", f"/uploads/{ticket['session']['id']}", actor="alice-the-actor")

    assert set(shown.json()) == {"session"} and set(shown.json()["session"]) == SESSION_FIELDS
    for text in (str(ticket["session"]), shown.text):
        assert "alice" not in text and "session_uri" not in text and "accounts.Avatar" not in text


async def test_complete_and_verify_by_key_are_verify(web: Site):
    ticket = await web.ticket()
    await web.put(ticket["upload"], png())
    session = ticket["session"]

    by_key = await web.call("POST", "/uploads/verify", json={"key": session["upload_key"]})
    completed = await web.call("POST", f"/uploads/{session['id']}/complete", json={"parts": []})
    bare = await web.call("POST", f"/uploads/{session['id']}/complete")
    with_parts = await web.call("POST", f"/uploads/{session['id']}/complete", json={"parts": [{"part_number": 1}]})

    assert by_key.status_code == 200 and by_key.json() == completed.json() == bare.json()
    assert error_of(with_parts) == (400, "invalid_argument")


async def test_signing_again_gives_a_fresh_url_until_the_upload_has_ended(web: Site):
    ticket = await web.ticket()
    path = f"/uploads/{ticket['session']['id']}"

    signed = await web.call("POST", f"{path}/sign")
    await web.put(signed.json()["upload"], png())
    await web.call("POST", f"{path}/verify")
    ended = await web.call("POST", f"{path}/sign")

    assert set(signed.json()) == {"session", "upload"} and signed.headers["cache-control"] == "no-store"
    assert error_of(ended) == (409, "invalid_transition")


async def test_a_verify_before_the_bytes_may_be_repeated(web: Site):
    ticket = await web.ticket()
    path = f"/uploads/{ticket['session']['id']}"

    early = await web.call("POST", f"{path}/verify")
    await web.put(ticket["upload"], png())
    late = await web.call("POST", f"{path}/verify")

    assert error_of(early) == (409, "storage_object_missing")
    assert late.status_code == 200


async def test_bytes_that_were_not_announced_are_refused(web: Site):
    ticket = await web.ticket(size=5)
    refused = await web.put(ticket["upload"], b"too many bytes")
    empty = await web.ticket()
    await web.put(empty["upload"], b"")
    nothing = await web.call("POST", f"/uploads/{empty['session']['id']}/verify")
    repeated = await web.call("POST", f"/uploads/{empty['session']['id']}/verify")

    assert refused.status_code == 400
    assert error_of(nothing) == error_of(repeated) == (422, "empty_upload")


async def test_cancelling_is_idempotent_and_refused_once_complete(web: Site):
    ticket = await web.ticket()
    path = f"/uploads/{ticket['session']['id']}"
    done = await web.verified()

    first = await web.call("DELETE", path)
    second = await web.call("DELETE", path)
    late = await web.call("POST", f"{path}/verify")
    too_late = await web.call("DELETE", f"/uploads/{done['session']['id']}")

    assert first.status_code == 200 and first.json()["session"]["state"] == "aborted"
    assert second.json()["session"] == first.json()["session"]
    assert error_of(late) == (409, "upload_cancelled")
    assert error_of(too_late) == (409, "upload_already_completed")


async def test_an_idempotency_key_returns_the_first_session_to_its_own_actor(web: Site):
    key = {"Idempotency-Key": "k-1"}
    body = {"profile": "avatar", "filename": "me.png"}

    first = await web.call("POST", "/uploads", json=body, headers=key)
    again = await web.call("POST", "/uploads", json=body, headers=key)
    other = await web.call("POST", "/uploads", json=body, headers=key, actor="bob")
    elsewhere = await web.call("POST", "/uploads", json={"profile": "banner", "filename": "me.png"}, headers=key)

    assert first.status_code == again.status_code == 201
    assert first.json()["session"]["id"] == again.json()["session"]["id"] != other.json()["session"]["id"]
    assert error_of(elsewhere) == (400, "invalid_argument")


async def test_a_stranger_who_guesses_a_key_gets_neither_the_session_nor_a_url(web: Site):
    key = {"Idempotency-Key": "k-1"}
    body = {"profile": "avatar", "filename": "me.png"}
    first = await web.call("POST", "/uploads", json=body, headers=key)

    stranger = await web.call("POST", "/uploads", actor=None, json=body, headers=key)
    strangers_own = await web.call("POST", "/uploads", actor=None, json=body, headers={"Idempotency-Key": "k-2"})
    without_key = await web.call("POST", "/uploads", actor=None, json=body)
    guessed_by_bob = await web.call("POST", "/uploads", actor="bob", json=body, headers=key)

    assert error_of(stranger) == error_of(strangers_own) == (400, "invalid_argument")
    assert stranger.json()["error"]["detail"] == {"option": "idempotency_key"}
    assert without_key.status_code == guessed_by_bob.status_code == 201
    ids = {answer.json()["session"]["id"] for answer in (first, without_key, guessed_by_bob)}
    assert len(ids) == 3
    assert await web.rindle.database.read(_count, MediaUploadSession) == 3


async def test_a_repeated_ticket_is_signed_afresh_and_refused_once_the_upload_has_ended(web: Site):
    key = {"Idempotency-Key": "k-1"}
    body = {"profile": "avatar", "filename": "me.png"}
    first = (await web.call("POST", "/uploads", json=body, headers=key)).json()

    again = (await web.call("POST", "/uploads", json=body, headers=key)).json()
    sent = await web.put(again["upload"], png())
    await web.call("DELETE", f"/uploads/{first['session']['id']}")
    late = await web.call("POST", "/uploads", json=body, headers=key)

    assert again["session"]["state"] == first["session"]["state"] == "signed"
    assert sent.status_code == 200
    assert error_of(late) == (409, "invalid_transition")


@contextmanager
def counted(rindle: Rindle) -> Iterator[Counter[str]]:
    """Count the transactions and the statements that read or lock an upload session, by kind."""
    counts: Counter[str] = Counter()
    engine = rindle.database.engine
    assert isinstance(engine, AsyncEngine)

    def begun(connection: Any) -> None:
        counts["transactions"] += 1

    def executed(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT") and "JOIN media_assets" in statement and "media_upload_sessions" in statement:
            counts["reads of the upload"] += 1

    event.listen(engine.sync_engine, "begin", begun)
    event.listen(engine.sync_engine, "before_cursor_execute", executed)
    try:
        yield counts
    finally:
        event.remove(engine.sync_engine, "begin", begun)
        event.remove(engine.sync_engine, "before_cursor_execute", executed)


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k-1"}])
async def test_a_ticket_is_one_transaction(web: Site, headers: dict[str, str]):
    body = {"profile": "avatar", "filename": "me.png"}
    with counted(web.rindle) as counts:
        answer = await web.call("POST", "/uploads", json=body, headers=headers)

    assert answer.status_code == 201 and answer.json()["session"]["state"] == "signed"
    assert counts["transactions"] == 1


@pytest.mark.parametrize("by_key", [False, True])
async def test_verifying_reads_the_upload_once(web: Site, by_key: bool):
    ticket = await web.ticket()
    await web.put(ticket["upload"], png())
    path = "/uploads/verify" if by_key else f"/uploads/{ticket['session']['id']}/verify"
    body = {"key": ticket["session"]["upload_key"]} if by_key else None
    with counted(web.rindle) as first:
        answer = await web.call("POST", path, json=body)
    with counted(web.rindle) as second:
        again = await web.call("POST", path, json=body)

    assert answer.status_code == 200 and again.json() == answer.json()
    assert first == {"transactions": 2, "reads of the upload": 1}  # it is read, and then moved
    assert second == {"transactions": 1, "reads of the upload": 1}


async def test_signing_again_reads_the_upload_once(web: Site):
    ticket = await web.ticket()
    with counted(web.rindle) as counts:
        answer = await web.call("POST", f"/uploads/{ticket['session']['id']}/sign")

    assert answer.status_code == 200
    assert counts == {"transactions": 2, "reads of the upload": 1}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"profile": "avatar", "filename": "a.exe"}, (422, "extension_not_allowed")),
        ({"profile": "avatar", "filename": "a"}, (422, "missing_extension")),
        ({"profile": "avatar", "filename": "a.png", "size": 33 << 20}, (413, "max_bytes_exceeded")),
        ({"profile": "nobody", "filename": "a.png"}, (422, "unknown_profile")),
        ({"profile": "internal", "filename": "a.png"}, (422, "unknown_profile")),
        ({"profile": "accounts.Avatar", "filename": "a.png"}, (422, "unknown_profile")),
        ({"profile": "avatar", "filename": "a.png", "strategy": "multipart"}, (422, "upload_unsupported")),
        ({"profile": "avatar", "filename": "a.png", "strategy": "pigeon"}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "a.png", "expires_in": 59}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "a.png", "expires_in": 604_801}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "a.png", "size": -1}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "a.png", "size": "5"}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "a.png", "size": 2**63}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "x" * 2000 + ".png"}, (400, "invalid_argument")),
        (
            {"profile": "avatar", "filename": "a.png", "content_type": "image/png\r\nX-Evil: 1"},
            (400, "invalid_argument"),
        ),
        ({"profile": "avatar", "filename": "a.png", "content_type": "ïmage/png"}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "a.png", "state": "ready", "uploaded_by": "x"}, (400, "invalid_argument")),
        ({"profile": "avatar"}, (400, "invalid_argument")),
        ([], (400, "invalid_argument")),
    ],
)
async def test_a_bad_ticket_is_refused_before_any_row_exists(web: Site, body: Any, expected: tuple[int, str]):
    answer = await web.call("POST", "/uploads", json=body)

    assert error_of(answer) == expected
    assert await web.rindle.database.read(_count, MediaAsset) == 0


@pytest.mark.parametrize(
    "content",
    [b"{", b"", b"\xff\xfe", b"null", b'{"\\ud800": 1}', b'{"profile":"avatar","filename":"\\ud800.png"}'],
)
async def test_a_body_that_is_no_json_is_refused_in_our_shape(web: Site, content: bytes):
    answer = await web.call("POST", "/uploads", content=content, headers={"Content-Type": "application/json"})

    assert error_of(answer) == (400, "invalid_argument")


async def test_a_huge_json_body_is_refused_unread(web: Site):
    consumed = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal consumed
        for _ in range(1000):
            consumed += 65536
            yield b" " * 65536

    announced = await web.call("POST", "/uploads", content=b" " * 70_000, headers={"Content-Type": "application/json"})
    async with aclosing(endless()) as body:
        chunked = await web.call("POST", "/uploads", content=body, headers={"Content-Type": "application/json"})

    assert error_of(announced) == error_of(chunked) == (413, "max_bytes_exceeded")
    assert consumed < 1 << 20


async def test_wrong_values_are_named_and_not_repeated(web: Site):
    answer = await web.call("POST", "/uploads", json={"profile": "avatar", "filename": "a.png", "size": "the-value"})

    assert answer.json()["error"]["detail"]["option"] == "size"
    assert "the-value" not in answer.text


@pytest.mark.parametrize(
    "filename",
    [
        "../../etc/passwd.png",
        "a\r\nSet-Cookie: x.png",
        "\u202egnp.exe.png",
        "<script>.png",
        "a\0b.png",
        "%2e%2e%2f.png",
    ],
)
async def test_a_hostile_filename_never_reaches_key_url_or_header(web: Site, filename: str):
    ticket = await web.ticket(filename=filename)
    await web.put(ticket["upload"], png())
    verified = await web.call("POST", f"/uploads/{ticket['session']['id']}/verify")
    asset = verified.json()["asset"]
    await web.gallery.moved(asset["id"], AssetState.ANALYZING)
    await web.rindle.database.write(_promote, asset["id"], web.avatar)

    url = (await web.call("GET", f"/assets/{asset['id']}/url?disposition=attachment")).json()["url"]
    served = await web.client.get(url)

    assert re.fullmatch(r"accounts-avatar/[0-9a-f-]{36}/[0-9a-f-]{36}\.png", ticket["session"]["upload_key"])
    assert re.fullmatch(r"[A-Za-z0-9._-]+", asset["filename"])
    assert served.status_code == 200 and served.content == png()
    disposition = served.headers["content-disposition"]
    assert re.fullmatch(r"attachment; filename=\"[A-Za-z0-9._-]+\"; filename\*=UTF-8''[A-Za-z0-9._-]+", disposition)
    assert "set-cookie" not in served.headers and served.headers["x-content-type-options"] == "nosniff"


def _promote(session: Session, asset_id: str, profile: type[Profile]) -> None:
    promote(session, asset_id, profile, kind="image", content_type="image/png")


def _count(session: Session, model: Any) -> int:
    return int(session.scalar(select(func.count()).select_from(model)) or 0)


async def test_a_session_whose_time_is_over_says_so(web: Site):
    def begin(session: Session) -> str:
        asset, upload = sessions.new_upload(
            web.avatar, filename="a.png", actor="alice", strategy="presigned_put", ttl_seconds=-1
        )
        return insert_upload(session, asset, upload).session.id

    session_id = await web.rindle.database.write(begin)

    assert error_of(await web.call("POST", f"/uploads/{session_id}/sign")) == (410, "upload_session_expired")


# --- inline uploads ----------------------------------------------------------------------------------------------


async def test_a_form_uploads_without_scripts(tmp_path: Path):
    async def has_token(request: Request) -> bool:
        return (await request.form()).get("csrf") == "token"

    async with site(tmp_path, csrf=has_token) as web:
        form = {"profile": "avatar", "csrf": "token", "next": "/me?tab=photo#top"}
        files = {"file": ("Me.png", png(), "text/html")}
        headers = {"X-User": "alice"}

        answer = await web.client.post("/media/uploads/inline", data=form, files=files, headers=headers)
        plain = await web.client.post("/media/uploads/inline", data={**form, "next": ""}, files=files, headers=headers)
        forged = await web.client.post(
            "/media/uploads/inline", data={**form, "csrf": "guess"}, files=files, headers=headers
        )

        asset = plain.json()["asset"]
        assert answer.status_code == 303 and answer.headers["cache-control"] == "no-store"
        assert re.fullmatch(r"/me\?tab=photo&asset_id=[0-9a-f-]{36}#top", answer.headers["location"])
        assert plain.status_code == 201 and set(plain.json()) == {"asset"} and set(asset) == ASSET_FIELDS
        assert (asset["state"], asset["content_type"], asset["filename"]) == ("analyzing", "image/png", "Me.png")
        assert error_of(forged) == (403, "unauthorized")
        assert (await web.rindle.asset(asset["id"])).uploaded_by == "alice"


async def test_a_raw_body_is_taken_in_too(web: Site):
    answer = await web.call("POST", "/uploads/inline?profile=avatar&filename=raw.png", content=png())

    assert answer.status_code == 201 and answer.json()["asset"]["byte_size"] == len(png())


@pytest.mark.parametrize(
    "target",
    [
        "//evil.test",
        "/\\evil.test",
        "\\\\evil.test",
        "https://evil.test/",
        "javascript:alert(1)",
        "evil.test",
        "/\t/evil.test",
        "/a\r\nSet-Cookie: x=y",
        " /a",
        "/é",
        "/" + "a" * 3000,
    ],
)
async def test_next_leads_nowhere_else(web: Site, target: str):
    answer = await web.call(
        "POST", "/uploads/inline", data={"profile": "avatar", "next": target}, files={"file": ("a.png", png())}
    )

    assert error_of(answer) == (400, "invalid_argument")
    assert await web.rindle.database.read(_count, MediaAsset) == 0


@pytest.mark.parametrize(
    ("filename", "data", "expected"),
    [
        ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", (422, "mime_not_allowed")),
        ("a.jpg", png(), (422, "extension_mime_mismatch")),
        ("a.png", b"", (422, "empty_upload")),
        ("a.png", png() + b"EICAR", (422, "scanner_rejected")),
        ("a.exe", png(), (422, "extension_not_allowed")),
    ],
)
async def test_a_file_the_profile_refuses_leaves_nothing_behind(
    web: Site, filename: str, data: bytes, expected: tuple[int, str]
):
    form = await web.call("POST", "/uploads/inline", data={"profile": "avatar"}, files={"file": (filename, data)})
    raw = await web.call("POST", f"/uploads/inline?profile=avatar&filename={filename}", content=data)

    assert error_of(form) == error_of(raw) == expected
    assert await web.rindle.database.read(_count, MediaAsset) == 0
    [storage] = web.rindle.storages.values()
    assert (await storage.list_keys("")).objects == ()


async def test_incomplete_inline_requests_are_explained(web: Site):
    file = {"file": ("a.png", png())}
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}

    answers = [
        await web.call("POST", "/uploads/inline", files=file),
        await web.call("POST", "/uploads/inline", data={"profile": "avatar"}),
        await web.call("POST", "/uploads/inline", data={"profile": "avatar", "file": "text"}, files={"x": ("", b"")}),
        await web.call("POST", "/uploads/inline", content=png()),
        await web.call("POST", "/uploads/inline?profile=avatar", content=png()),
        await web.call("POST", "/uploads/inline", content=b"--y\r\nrubbish", headers=multipart),
        await web.call("POST", "/uploads/inline", content=b"", headers={"Content-Type": "multipart/form-data"}),
    ]

    assert {error_of(answer) for answer in answers} == {(400, "invalid_argument")}
    unknown = await web.call("POST", "/uploads/inline?profile=internal&filename=a.png", content=png())
    assert error_of(unknown) == (422, "unknown_profile")


async def test_an_inline_body_over_the_limit_is_cut_short(tmp_path: Path):
    consumed = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal consumed
        for _ in range(1000):
            consumed += 65536
            yield b"\0" * 65536

    async with site(tmp_path, max_inline_bytes=1 << 20) as web:
        path = "/uploads/inline?profile=avatar&filename=a.png"
        async with aclosing(endless()) as body:
            chunked = await web.call("POST", path, content=body)
        announced = await web.call("POST", path, content=png() + bytes(1 << 20))
        form = await web.call(
            "POST", "/uploads/inline", data={"profile": "avatar"}, files={"file": ("a.png", png() + bytes(1 << 20))}
        )

        assert {error_of(answer) for answer in (chunked, announced, form)} == {(413, "max_bytes_exceeded")}
        assert consumed < 4 << 20
        assert await web.rindle.database.read(_count, MediaAsset) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_a_file_that_is_refused_halfway_is_closed_at_once(web: Site, tmp_path: Path):
    large = tmp_path / "large.png"
    large.touch()
    os.truncate(large, 33 << 20)  # sparse: no disk is used

    with pytest.raises(UploadRejected):
        await web.rindle.upload(web.avatar, large, filename="large.png")

    assert str(large) not in {os.path.realpath(handle) for handle in Path("/proc/self/fd").iterdir()}


async def test_an_inline_upload_does_not_fill_the_memory(web: Site):
    piece = bytes(1 << 18)

    async def photo() -> AsyncIterator[bytes]:
        yield png()  # what follows the image is nobody's business, but it has to pass
        for _ in range(96):
            yield piece

    tracemalloc.start()
    try:
        answer = await web.call("POST", "/uploads/inline?profile=banner&filename=a.png", content=photo())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert answer.status_code == 201 and answer.json()["asset"]["byte_size"] == len(png()) + (24 << 20)
    assert peak < 12 << 20  # half of the body; it would be more than all of it if it were held


# --- assets ------------------------------------------------------------------------------------------------------


async def test_an_asset_is_shown_with_its_variants(web: Site):
    asset = await web.gallery.ready(web.avatar, "thumb", actor="alice")

    answer = await web.call("GET", f"/assets/{asset.id}")

    shown = answer.json()["asset"]
    variants = {variant["name"]: variant for variant in shown["variants"]}
    assert set(answer.json()) == {"asset"}
    assert set(shown) == ASSET_FIELDS | {"kind", "width", "height", "duration_ms", "error_code", "variants"}
    assert (shown["state"], shown["kind"], shown["width"], shown["height"]) == ("degraded", "image", 800, 600)
    assert variants["thumb"] == {
        "name": "thumb",
        "state": "ready",
        "progress": 100,
        "width": 64,
        "height": 64,
        "duration_ms": None,
        "content_type": "image/webp",
        "byte_size": 99,
        "error_code": None,
    }
    assert (variants["large"]["state"], variants["large"]["error_code"]) == ("failed", "render_failed")
    assert asset.storage_key not in answer.text and "alice" not in answer.text


async def test_urls_of_originals_and_variants_serve_the_bytes(web: Site):
    asset = await web.gallery.available(web.avatar, actor="alice")

    answer = await web.call("GET", f"/assets/{asset.id}/url")
    fallback = await web.call("GET", f"/assets/{asset.id}/url?variant=thumb&disposition=attachment")
    redirect = await web.call("GET", f"/assets/{asset.id}/url?redirect=1")

    assert set(answer.json()) == {"url", "expires_at"} and RFC_3339_UTC.fullmatch(answer.json()["expires_at"])
    assert answer.headers["cache-control"] == redirect.headers["cache-control"] == "no-store"
    served = await web.client.get(answer.json()["url"])
    assert (served.content, served.headers["content-type"]) == (png(), "image/png")
    assert "content-disposition" not in served.headers
    saved = await web.client.get(fallback.json()["url"])
    assert saved.content == png() and saved.headers["content-disposition"].startswith("attachment")
    assert redirect.status_code == 302 and redirect.headers["referrer-policy"] == "no-referrer"
    assert (await web.client.get(redirect.headers["location"])).content == png()


async def test_a_public_url_is_served_and_does_not_expire(web: Site):
    asset = await web.gallery.available(web.rindle.profiles.get("banner"), actor="alice")

    answer = await web.call("GET", f"/assets/{asset.id}/url")
    private = await web.gallery.available(web.avatar)

    assert answer.json() == {"url": f"{BASE_URL}/p/{asset.storage_key}", "expires_at": None}
    assert (await web.client.get(answer.json()["url"])).content == png()
    assert (await web.client.get(f"{BASE_URL}/p/{private.storage_key}")).status_code == 404


async def test_a_public_key_is_served_only_once_its_asset_was_judged(web: Site):
    banner = web.rindle.profiles.get("banner")
    unjudged = await web.gallery.uploaded(banner, actor="alice")
    assert (await web.client.get(f"{BASE_URL}/p/{unjudged.storage_key}")).status_code == 404
    for key in ("banner/x", "banner/../avatar/x/y", f"banner/{unjudged.id}/other.png"):
        assert (await web.client.get(f"{BASE_URL}/p/{key}")).status_code == 404


async def test_an_svg_is_never_shown_in_place(web: Site):
    data = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    logo = web.rindle.profiles.get("logo")
    asset = await web.gallery.available(logo, filename="logo.svg", data=data, actor="alice")

    url = (await web.call("GET", f"/assets/{asset.id}/url?disposition=inline")).json()["url"]
    served = await web.client.get(url)

    assert served.headers["content-disposition"].startswith('attachment; filename="logo.svg"')
    assert served.headers["x-content-type-options"] == "nosniff"
    assert served.headers["content-security-policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize("variant", ["nothing_of_the_kind", "original", "THUMB", "thumb%00", "..%2f..", "dyn_x", "%27"])
async def test_a_variant_the_profile_does_not_declare_is_not_found(web: Site, variant: str):
    asset = await web.gallery.ready(web.avatar, actor="alice")

    assert error_of(await web.call("GET", f"/assets/{asset.id}/url?variant={variant}")) == (404, "not_found")


@pytest.mark.parametrize("state", [AssetState.STAGED, AssetState.ANALYZING, AssetState.QUARANTINED, AssetState.DELETED])
async def test_an_asset_that_is_not_delivered_has_no_url(tmp_path: Path, state: AssetState):
    async with site(tmp_path, authorizer=Ruling()) as web:
        asset = await web.gallery.in_state(web.avatar, state)

        answer = await web.call("GET", f"/assets/{asset.id}/url", actor="admin")

        assert error_of(answer) == (409, "asset_not_deliverable")
        assert answer.json()["error"]["detail"] == {"state": state}


async def test_builds_are_cancelled_and_queued_again(web: Site):
    asset = await web.gallery.available(web.avatar, actor="alice")
    path = f"/assets/{asset.id}"

    cancelled = await web.call("POST", f"{path}/cancel")
    twice = await web.call("POST", f"{path}/cancel")
    one = await web.call("POST", f"{path}/requeue", json={"variant_names": ["thumb"]})
    rest = await web.call("POST", f"{path}/requeue")
    unknown = await web.call("POST", f"{path}/requeue", json={"variant_names": ["x"]})

    assert (cancelled.status_code, cancelled.json()) == (202, {"asset_id": asset.id, "cancelled": 2})
    assert error_of(twice) == (409, "not_processing")
    assert one.status_code == 202 and one.json()["enqueued"] == 1
    assert rest.json() == {
        "asset_id": asset.id,
        "selected": 1,
        "enqueued": 1,
        "skipped": 0,
        "errors": 0,
        "failures": [],
    }
    assert error_of(unknown) == (422, "unknown_variant_names")
    states = {row.name: row.state for row in (await web.rindle.asset(asset.id)).variants}
    assert states == {"thumb": VariantState.QUEUED, "large": VariantState.QUEUED}
    audit = [event for event in await web.rindle.timeline(asset.id) if event.audit]
    assert [event.actor for event in audit] == ["alice"] * 3


# --- who may -----------------------------------------------------------------------------------------------------

#: Every route about something that exists, and what it is asked with.
OWNED: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/uploads/{session}", {}),
    ("POST", "/uploads/{session}/sign", {}),
    ("POST", "/uploads/{session}/complete", {}),
    ("POST", "/uploads/{session}/verify", {}),
    ("DELETE", "/uploads/{session}", {}),
    ("POST", "/uploads/verify", {"json": {"key": "{key}"}}),
    ("GET", "/assets/{asset}", {}),
    ("GET", "/assets/{asset}/url", {}),
    ("POST", "/assets/{asset}/cancel", {}),
    ("POST", "/assets/{asset}/requeue", {}),
]
ACTIONS = {
    "GET /uploads/{session}": "upload.read",
    "POST /uploads/{session}/sign": "upload.sign",
    "POST /uploads/{session}/complete": "upload.verify",
    "POST /uploads/{session}/verify": "upload.verify",
    "DELETE /uploads/{session}": "upload.cancel",
    "POST /uploads/verify": "upload.verify",
    "GET /assets/{asset}": "read",
    "GET /assets/{asset}/url": "read",
    "POST /assets/{asset}/cancel": "operate",
    "POST /assets/{asset}/requeue": "operate",
}
owned_routes = pytest.mark.parametrize(
    ("method", "path", "body"), OWNED, ids=[f"{method} {path}" for method, path, _ in OWNED]
)


class Ruling:
    """An authorizer: the admin may everything, ``nobody`` nothing, others what is theirs."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, str, Any]] = []

    async def authorize(self, actor: Any, action: str, subject: Any) -> bool:
        self.asked.append((actor, action, subject))
        if isinstance(subject, AssetSubject):
            owner = subject.uploaded_by
        else:
            assert isinstance(subject, UploadSubject)
            owner = actor if subject.session is None else subject.token_actor
        if actor == "explodes":
            raise RuntimeError("the-secret")
        return actor == "admin" or (actor == owner and actor != "nobody")


async def ask(web: Site, upload: MediaUploadSession, route: tuple[str, str, Any], actor: str | None) -> httpx.Response:
    """Ask one of :data:`OWNED` about an upload and its asset."""
    method, path, body = route
    filled = path.format(session=upload.id, asset=upload.asset_id)
    if "json" in body:
        body = {"json": {name: value.format(key=upload.upload_key) for name, value in body["json"].items()}}
    return await web.call(method, filled, actor=actor, **body)


def test_the_matrix_covers_every_route():
    assert {f"{method} {path}" for method, path, _ in OWNED} == ACTIONS.keys()


async def test_the_matrix_is_the_whole_api(web: Site):
    creating = {("POST", "/media/uploads"), ("POST", "/media/uploads/inline")}
    known = {
        (method, f"/media{path}".replace("{session}", "{session_id}").replace("{asset}", "{asset_id}"))
        for method, path, _ in OWNED
    }

    following = {("GET", "/media/events")}  # what may be followed is tested in test_events_http.py
    open_to_all = {("GET", "/media/livez"), ("GET", "/media/readyz")}  # what they tell is tested in test_health.py

    assert {(method, path) for path, method, _ in operations(web.app)} == known | creating | following | open_to_all


@owned_routes
async def test_what_another_actor_owns_does_not_exist(web: Site, method: str, path: str, body: Any):
    route = (method, path, body)
    asset = await web.gallery.available(web.avatar, actor="alice")
    upload = await web.gallery.session_of(asset)
    stranger = MediaUploadSession(id=str(uuid4()), asset_id=str(uuid4()), upload_key="accounts-avatar/a/b.png")

    own = await ask(web, upload, route, "alice")
    foreign = await ask(web, upload, route, "bob")
    anonymous = await ask(web, upload, route, None)
    missing = await ask(web, stranger, route, "bob")

    assert own.status_code not in (403, 404)
    assert error_of(foreign) == error_of(anonymous) == error_of(missing) == (404, "not_found")
    assert foreign.json() == anonymous.json() == missing.json()
    states = {row.state for row in (await web.rindle.asset(asset.id)).variants}
    assert states <= {"queued", "cancelled"}


@owned_routes
async def test_an_authorizer_decides_about_each_route(tmp_path: Path, method: str, path: str, body: Any):
    route, ruling = (method, path, body), Ruling()
    async with site(tmp_path, authorizer=ruling) as web:
        upload = await web.gallery.session_of(await web.gallery.available(web.avatar, actor="alice"))
        nobodys = await web.gallery.session_of(await web.gallery.available(web.avatar, actor="nobody"))

        allowed = await ask(web, upload, route, "admin")
        [(actor, action, subject)] = ruling.asked
        foreign = await ask(web, upload, route, "bob")
        own_denied = await ask(web, nobodys, route, "nobody")
        exploding = await ask(web, upload, route, "explodes")

        assert allowed.status_code not in (403, 404)
        assert (actor, action, subject.profile) == ("admin", ACTIONS[f"{method} {path}"], "accounts.Avatar")
        if isinstance(subject, UploadSubject):
            assert subject.session is not None
            assert (subject.session["id"], subject.token_actor, subject.method) == (upload.id, "alice", method)
        else:
            assert (subject.asset_id, subject.uploaded_by) == (upload.asset_id, "alice")
        assert error_of(foreign) == error_of(exploding) == (404, "not_found")
        assert error_of(own_denied) == (403, "unauthorized")
        assert "the-secret" not in exploding.text


async def test_an_authorizer_decides_who_may_upload(tmp_path: Path):
    ruling = Ruling()
    async with site(tmp_path, authorizer=ruling) as web:
        ticket = {"profile": "avatar", "filename": "a.png", "size": 7}
        raw = "/uploads/inline?profile=avatar&filename=a.png"
        answers = [
            await web.call("POST", "/uploads", json=ticket, actor="nobody"),
            await web.call("POST", raw, content=png(), actor="nobody"),
            await web.call("POST", "/uploads", json=ticket, actor="explodes"),
            await web.call("POST", "/uploads", json=ticket, actor="bob"),
        ]

        assert [answer.status_code for answer in answers] == [403, 403, 403, 201]
        _, action, subject = ruling.asked[0]
        assert action == "upload.create"
        assert subject == UploadSubject("accounts.Avatar", filename="a.png", size=7, method="POST")
        assert await web.rindle.database.read(_count, MediaAsset) == 1


@owned_routes
async def test_rows_of_a_profile_that_is_not_offered_do_not_exist(web: Site, method: str, path: str, body: Any):
    internal = web.rindle.profiles.get("internal")
    upload = await web.gallery.session_of(await web.gallery.available(internal, actor="alice"))

    assert error_of(await ask(web, upload, (method, path, body), "alice")) == (404, "not_found")


@pytest.mark.parametrize("identifier", ["x", "%00", "'--", "00000000-0000-0000-0000-000000000000", "a" * 64])
async def test_an_id_that_cannot_be_one_is_not_found(web: Site, identifier: str):
    for path in (f"/uploads/{identifier}", f"/assets/{identifier}", f"/assets/{identifier}/url"):
        assert error_of(await web.call("GET", path)) == (404, "not_found")


async def test_the_profile_s_own_authorizer_is_asked_for_urls(tmp_path: Path):
    class Never:
        def authorize(self, actor: Any, action: str, subject: Any) -> bool:
            assert action == "deliver"
            return False

    def hide(store: Storage) -> list[type[Profile]]:
        class Hidden(Profile):
            name = "hidden"
            storage = store
            variants = {}
            delivery = {"authorizer": Never()}

        return [Hidden]

    async with opened(tmp_path, hide) as gallery:
        hidden = gallery.rindle.profiles.get("hidden")
        asset = await gallery.available(hidden, actor="alice")
        app = create_asgi_app(
            gallery.rindle, profiles={"hidden": hidden}, actor_from_request=actor_of, allow_anonymous=True
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
            answer = await client.get(f"/assets/{asset.id}/url", headers={"X-User": "alice"})

        assert error_of(answer) == (403, "unauthorized")


async def test_an_actor_may_be_an_object_with_an_id(tmp_path: Path):
    class User:
        def __init__(self, name: str) -> None:
            self.id = name

    async def user(request: Request) -> User | None:
        name = request.headers.get("X-User")
        if name == "expired":
            raise Unauthenticated("log in again")
        if name == "theirs":
            raise HTTPException(418, "the application's own answer")
        return object() if name == "nameless" else None if name is None else User(name)  # type: ignore[return-value]

    async with site(tmp_path, actor_from_request=user) as web:
        done = await web.verified(actor="7")
        asset = await web.rindle.asset(done["asset"]["id"])
        path = f"/assets/{asset.id}"

        assert asset.uploaded_by == "7"
        assert (await web.call("GET", path, actor="7")).status_code == 200
        assert error_of(await web.call("GET", path, actor="8")) == (404, "not_found")
        assert error_of(await web.call("GET", path, actor="expired")) == (401, "unauthenticated")
        assert error_of(await web.call("GET", path, actor="nameless")) == (500, "misconfigured")
        web.client.event_hooks = {}
        own = await web.call("GET", path, actor="theirs")
        assert (own.status_code, own.json()) == (418, {"detail": "the application's own answer"})


# --- forged requests ---------------------------------------------------------------------------------------------


async def test_every_state_changing_route_refuses_a_forged_request(web: Site):
    asset = await web.gallery.available(web.avatar, actor="alice")
    upload = await web.gallery.session_of(asset)
    async with web.rindle.database.engine.connect() as connection:  # type: ignore[union-attr]
        before = (await connection.execute(select(MediaOutbox.id))).all()

    bodies = {"/uploads": {"profile": "avatar", "filename": "a.png"}, "/uploads/verify": {"key": upload.upload_key}}
    for path, method, _ in operations(web.app):
        if method == "GET":
            continue
        filled = path.format(session_id=upload.id, asset_id=asset.id)
        body = bodies.get(path.removeprefix("/media"))
        for sent in ({}, {"X-Rindle": "0"}, {"X-Rindle": ""}):
            answer = await web.client.request(method, filled, headers={"X-User": "alice", **sent}, json=body)
            assert error_of(answer) == (403, "unauthorized"), (method, path, sent)
            assert answer.json()["error"]["detail"] == {"reason": "csrf"}

    async with web.rindle.database.engine.connect() as connection:  # type: ignore[union-attr]
        assert (await connection.execute(select(MediaOutbox.id))).all() == before


@pytest.mark.parametrize("verdict", [True, None, False, Unauthorized("no"), RuntimeError("broken")])
async def test_the_application_s_csrf_check_decides_without_the_header(tmp_path: Path, verdict: Any):
    def check(request: Request) -> bool | None:
        if isinstance(verdict, Exception):
            raise verdict
        return verdict  # type: ignore[no-any-return]

    async with site(tmp_path, csrf=check) as web:
        body = {"profile": "avatar", "filename": "a.png"}
        answer = await web.client.post("/media/uploads", json=body, headers={"X-User": "alice"})
        with_header = await web.call("POST", "/uploads", json=body)

        expected = 201 if verdict in (True, None) else 500 if isinstance(verdict, RuntimeError) else 403
        assert answer.status_code == expected
        assert with_header.status_code == 201


# --- construction ------------------------------------------------------------------------------------------------


async def test_open_routes_are_not_built_by_accident(tmp_path: Path):
    async with opened(tmp_path, make_profiles) as gallery:
        rindle, avatar = gallery.rindle, gallery.rindle.profiles.get("accounts.Avatar")
        for make in (create_router, create_asgi_app, upload_router, assets_router):
            with pytest.raises(Misconfigured, match="allow_anonymous"):
                make(rindle, profiles={"avatar": avatar})
            with pytest.raises(Misconfigured, match="no profile"):
                make(rindle, profiles={}, allow_anonymous=True)

        class Stranger(Profile):
            storage = "elsewhere"
            variants = {}

        with pytest.raises(UnknownProfile):
            create_router(rindle, profiles={"x": Stranger}, allow_anonymous=True)
        with pytest.raises(Misconfigured, match="tus"):
            create_router(rindle, profiles={"avatar": avatar}, allow_anonymous=True, include={"tus"})


async def test_parts_can_be_left_out(tmp_path: Path):
    async with site(tmp_path, include={"assets"}) as web:
        web.client.event_hooks = {}
        assert (await web.call("POST", "/uploads")).status_code == 404
        assert {path for path, _, _ in operations(web.app)} == {
            "/media/assets/{asset_id}",
            "/media/assets/{asset_id}/url",
            "/media/assets/{asset_id}/cancel",
            "/media/assets/{asset_id}/requeue",
        }


@pytest.mark.parametrize("base_url", ["http://x.test", "http://x.test/", "http://x.test/media/uploads"])
async def test_a_local_storage_needs_a_place_of_its_own(tmp_path: Path, base_url: str):
    storage = LocalStorage(tmp_path / "objects", base_url=base_url, secrets=[SECRET])

    with pytest.raises(Misconfigured, match="base_url"):
        async with site(tmp_path, storage=storage):
            pass


async def test_two_local_storages_are_served_side_by_side(tmp_path: Path):
    async def tell(names: tuple[str, str]) -> list[bytes]:
        one, two = (
            LocalStorage(tmp_path / str(place), base_url=f"{ORIGIN}/{name}", secrets=[SECRET], fsync=False)
            for place, name in enumerate(names)
        )

        def both(_: Storage) -> list[type[Profile]]:
            class First(Profile):
                name = "first"
                storage = one
                variants = {}

            class Second(Profile):
                name = "second"
                storage = two
                variants = {}

            return [First, Second]

        async with opened(tmp_path, both, storage=one) as gallery:
            profiles = {profile.name: profile for profile in gallery.rindle.profiles}
            app = create_asgi_app(gallery.rindle, profiles=profiles, allow_anonymous=True)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
                served = []
                for size, profile in enumerate(profiles.values(), start=1):
                    asset = await gallery.available(profile, data=png(size))
                    served.append((await client.get(await gallery.rindle.url(profile, asset))).content)
                return served

    assert await tell(("a", "b")) == [png(1), png(2)]
    with pytest.raises(Misconfigured, match="two local storages"):
        await tell(("a", "a"))


class Watched(Rindle):
    """Counts how often it was entered and left."""

    entered = left = 0

    async def __aenter__(self) -> Watched:
        self.entered += 1
        await super().__aenter__()
        return self

    async def close(self) -> None:
        self.left += 1
        await super().close()


async def test_the_router_s_lifespan_runs_rindle_beside_the_application_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    own: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        own.append("start")
        yield
        own.append("stop")

    async with opened(tmp_path, make_profiles) as gallery:
        profiles = [*gallery.rindle.profiles]
        rindle = Watched(engine=gallery.rindle.database.engine, profiles=profiles, settings=gallery.rindle.settings)
        options: dict[str, Any] = {"profiles": {"avatar": profiles[0]}, "allow_anonymous": True}
        app = FastAPI(lifespan=lifespan)
        app.include_router(create_router(rindle, **options), prefix="/media")

        async with app.router.lifespan_context(app):
            assert (rindle.entered, rindle.left, own) == (1, 0, ["start"])
        assert (rindle.entered, rindle.left, own) == (1, 1, ["start", "stop"])

        alone = create_asgi_app(rindle, **options)
        async with alone.router.lifespan_context(alone):
            assert rindle.entered == 2
        mounted = Starlette(routes=[Mount("/media", alone)])
        async with mounted.router.lifespan_context(mounted):
            assert rindle.entered == 2  # as documented: write ``async with rindle`` there
            transport = httpx.ASGITransport(mounted)
            async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
                answer = await client.get(f"/media/assets/{uuid4()}")
        assert error_of(answer) == (404, "not_found")


async def test_uploads_work_while_temporal_is_away(web: Site):
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(web.app.router.lifespan_context(web.app))
        done = await web.verified()
        inline = await web.call("POST", "/uploads/inline?profile=avatar&filename=a.png", content=png())
        cancelled = await web.call("DELETE", f"/uploads/{(await web.ticket())['session']['id']}")

    assert inline.status_code == 201 and cancelled.status_code == 200
    assert done["asset"]["state"] == "validating"
    states = await web.rindle.database.read(lambda session: {*session.scalars(select(MediaOutbox.state))})
    assert states == {"pending"}


# --- errors ------------------------------------------------------------------------------------------------------


async def test_what_nobody_foresaw_is_answered_without_its_text(
    web: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async def broken(services: Any, upload: Any) -> None:
        raise RuntimeError("password=the-secret X-Amz-Signature=the-secret")

    ticket = await web.ticket()
    monkeypatch.setattr(sessions, "verify", broken)

    with caplog.at_level(logging.ERROR, logger="rindle"):
        answer = await web.call("POST", f"/uploads/{ticket['session']['id']}/verify")

    assert error_of(answer) == (500, "unexpected")
    assert answer.json()["error"]["detail"] == {"error": "RuntimeError"}
    assert "the-secret" not in answer.text + caplog.text
    assert "in broken" in caplog.text  # the traceback is there


@pytest.mark.parametrize(
    ("raised", "expected", "retry_after"),
    [
        (StorageTransient("busy"), (503, "storage_transient"), "5"),
        (StorageTransient("busy", retry_after=11.2), (503, "storage_transient"), "12"),
        (OperationalError("SELECT the-secret", {}, Exception("gone")), (503, "inspection_failed"), "5"),
        (Unauthorized("no", code="forbidden"), (403, "forbidden"), None),
    ],
)
async def test_errors_carry_their_status_and_when_to_come_back(
    web: Site, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: tuple[int, str], retry_after: str | None
):
    async def broken(services: Any, upload: Any) -> None:
        raise raised

    ticket = await web.ticket()
    monkeypatch.setattr(sessions, "verify", broken)
    answer = await web.call("POST", f"/uploads/{ticket['session']['id']}/verify")

    assert error_of(answer) == expected
    assert answer.headers.get("retry-after") == retry_after
    assert "the-secret" not in answer.text


async def test_the_application_s_own_errors_stay_as_they_are(tmp_path: Path):
    def prepare(gallery: Gallery, app: FastAPI) -> None:
        @app.get("/own/{number}")
        async def own(number: int) -> int:
            return number

    async with site(tmp_path, prepare=prepare) as web:
        answer = await web.client.get("/own/x")

        assert answer.status_code == 422 and "detail" in answer.json()


# --- OpenAPI -----------------------------------------------------------------------------------------------------


async def test_the_description_is_complete(web: Site):
    document = web.app.openapi()

    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    for reference in references(document):
        found = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
    names = [operation["operationId"] for _, _, operation in operations(web.app)]
    assert len(names) == len(set(names)) and all(name.startswith("rindle_") for name in names)
    for path, method, operation in operations(web.app):
        assert operation["summary"] and operation["description"], path
        in_path = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path))
        for status, response in operation["responses"].items():
            assert response["description"], (path, status)
            if status.startswith("3") or status == "204" or "text/event-stream" in response.get("content", {}):
                continue
            schema = response["content"]["application/json"]["schema"]
            is_error = status == "default" or int(status) >= 400
            assert (schema["$ref"] == "#/components/schemas/ErrorAnswer") is is_error, (path, status)
            if is_error and status != "default":
                for code in re.findall(r"`(\w+)`", response["description"]):
                    assert str(http_status_of(code)) == status and code in CODES
        # What says how the process is takes no arguments and asks for no actor.
        refusals = set() if operation["tags"] == ["health"] else {"400", "401", "403", "503"}
        assert {"500", "default"} | refusals <= operation["responses"].keys()
        assert ("404" in operation["responses"]) is ("{" in path or path.endswith("/verify")), (method, path)
    assert "HTTPValidationError" not in document["components"]["schemas"]
    inline = document["paths"]["/media/uploads/inline"]["post"]["requestBody"]["content"]
    assert inline.keys() == {"multipart/form-data", "application/octet-stream"}


async def test_the_clock_of_a_url_is_not_ahead_of_the_url(web: Site):
    asset = await web.gallery.available(web.avatar, actor="alice")

    answer = (await web.call("GET", f"/assets/{asset.id}/url")).json()

    told = datetime.fromisoformat(answer["expires_at"].replace("Z", "+00:00"))
    [storage] = web.rindle.storages.values()
    assert isinstance(storage, LocalStorage)
    grant = storage.grant_of(answer["url"].rpartition("/")[2], "GET")
    assert told <= grant.expires <= datetime.now(UTC) + timedelta(seconds=900)
