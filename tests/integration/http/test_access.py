"""Who may do what over HTTP: owners, authorizers, profiles that are not offered, forged requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import HTTPException, Request
from sqlalchemy import select

from rindle import MediaAsset, MediaOutbox, MediaUploadSession, Profile
from rindle.errors import Unauthenticated, Unauthorized
from rindle.http import create_asgi_app
from rindle.protocols import Storage, UploadSubject
from tests.gallery import opened, png
from tests.integration.http.site import ORIGIN, Ruling, Site, actor_of, count_of, error_of, operations, site

#: Every route about something that exists, and what it is asked with.
OWNED: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/uploads/{session}", {}),
    ("POST", "/uploads/{session}/sign", {}),
    ("POST", "/uploads/{session}/parts/{part_number}/sign", {}),
    ("GET", "/uploads/{session}/parts", {}),
    ("GET", "/uploads/{session}/resumable", {}),
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
    "POST /uploads/{session}/parts/{part_number}/sign": "upload.sign",
    "GET /uploads/{session}/parts": "upload.read",
    "GET /uploads/{session}/resumable": "upload.read",
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


async def ask(web: Site, upload: MediaUploadSession, route: tuple[str, str, Any], actor: str | None) -> httpx.Response:
    """Ask one of :data:`OWNED` about an upload and its asset."""
    method, path, body = route
    filled = path.format(session=upload.id, asset=upload.asset_id, part_number=1)
    if "json" in body:
        body = {"json": {name: value.format(key=upload.upload_key) for name, value in body["json"].items()}}
    return await web.call(method, filled, actor=actor, **body)


def test_the_matrix_covers_every_route() -> None:
    assert {f"{method} {path}" for method, path, _ in OWNED} == ACTIONS.keys()


async def test_the_matrix_is_the_whole_api(web: Site) -> None:
    creating = {("POST", "/media/uploads"), ("POST", "/media/uploads/inline"), ("POST", "/media/uploads/direct")}
    # Needs an asset at a streaming provider: tested in test_to_provider.py.
    at_provider = {("DELETE", "/media/uploads/direct/{asset_id}")}
    known = {
        (method, f"/media{path}".replace("{session}", "{session_id}").replace("{asset}", "{asset_id}"))
        for method, path, _ in OWNED
    }

    following = {("GET", "/media/events")}  # what may be followed is tested in test_events.py
    open_to_all = {("GET", "/media/livez"), ("GET", "/media/readyz")}  # what they tell is tested in test_health.py

    routes = {(method, path) for path, method, _ in operations(web.app)}
    assert routes == known | creating | at_provider | following | open_to_all


@owned_routes
async def test_what_another_actor_owns_does_not_exist(web: Site, method: str, path: str, body: Any) -> None:
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
async def test_an_authorizer_decides_about_each_route(tmp_path: Path, method: str, path: str, body: Any) -> None:
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


async def test_an_authorizer_decides_who_may_upload(tmp_path: Path) -> None:
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
        assert await web.rindle.database.read(count_of, MediaAsset) == 1


@owned_routes
async def test_rows_of_a_profile_that_is_not_offered_do_not_exist(web: Site, method: str, path: str, body: Any) -> None:
    internal = web.rindle.profiles.get("internal")
    upload = await web.gallery.session_of(await web.gallery.available(internal, actor="alice"))

    assert error_of(await ask(web, upload, (method, path, body), "alice")) == (404, "not_found")


@pytest.mark.parametrize("identifier", ["x", "'--", "00000000-0000-0000-0000-000000000000", "a" * 64])
async def test_an_id_that_cannot_be_one_is_not_found(web: Site, identifier: str) -> None:
    for path in (f"/uploads/{identifier}", f"/assets/{identifier}", f"/assets/{identifier}/url"):
        assert error_of(await web.call("GET", path)) == (404, "not_found")


async def test_the_profile_s_own_authorizer_is_asked_for_urls(tmp_path: Path) -> None:
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


async def test_an_actor_may_be_an_object_with_an_id(tmp_path: Path) -> None:
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


async def test_every_state_changing_route_refuses_a_forged_request(web: Site) -> None:
    asset = await web.gallery.available(web.avatar, actor="alice")
    upload = await web.gallery.session_of(asset)
    async with web.rindle.database.engine.connect() as connection:  # type: ignore[union-attr]
        before = (await connection.execute(select(MediaOutbox.id))).all()

    bodies = {
        "/uploads": {"profile": "avatar", "filename": "a.png"},
        "/uploads/direct": {"profile": "avatar"},
        "/uploads/verify": {"key": upload.upload_key},
    }
    for path, method, _ in operations(web.app):
        if method == "GET":
            continue
        filled = path.format(session_id=upload.id, asset_id=asset.id, part_number=1)
        body = bodies.get(path.removeprefix("/media"))
        for sent in ({}, {"X-Rindle": "0"}, {"X-Rindle": ""}):
            answer = await web.client.request(method, filled, headers={"X-User": "alice", **sent}, json=body)
            assert error_of(answer) == (403, "unauthorized"), (method, path, sent)
            assert answer.json()["error"]["detail"] == {"reason": "csrf"}

    async with web.rindle.database.engine.connect() as connection:  # type: ignore[union-attr]
        assert (await connection.execute(select(MediaOutbox.id))).all() == before


@pytest.mark.parametrize("verdict", [True, None, False, Unauthorized("no"), RuntimeError("broken")])
async def test_the_application_s_csrf_check_decides_without_the_header(tmp_path: Path, verdict: Any) -> None:
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
