"""A site with the media router, as a browser meets it: real SQLite, real local storage, and no Temporal server.

The tests of each router stand in the file named after its module; the ``web`` fixture is in ``conftest.py``.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from rindle import Profile, Rindle
from rindle.http import create_router
from rindle.protocols import AssetSubject, Quarantine, Storage, UploadSubject
from tests.gallery import VARIANTS, Gallery, opened, png

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


#: A path, a method and the statuses of its answers.
Documented = list[tuple[re.Pattern[str], str, set[str]]]
#: What applications with the same routes document: FastAPI needs a tenth of a second to tell it.
_documented: dict[tuple[Any, ...], Documented] = {}


def documentation(app: FastAPI) -> Any:
    """Return a hook that fails a test whose answer its route does not document."""
    routes = tuple(
        (route.path, *sorted(route.methods), route.status_code, *map(str, route.responses))
        for route in iter_route_contexts(app.routes)
        if isinstance(route.original_route, APIRoute)
    )
    if routes not in _documented:
        found = [
            (path.count("{"), re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), method, set(operation["responses"]))
            for path, method, operation in operations(app)
        ]
        # Fixed paths first, as the router matches them.
        _documented[routes] = [entry[1:] for entry in sorted(found, key=lambda entry: entry[0])]
    patterns = _documented[routes]

    async def check(response: httpx.Response) -> None:
        path, method = response.request.url.path, response.request.method
        for pattern, documented_method, statuses in patterns:
            if documented_method == method and pattern.fullmatch(path):
                assert str(response.status_code) in statuses, (method, path, response.status_code)
                return

    return check


@asynccontextmanager
async def site(
    directory: Path,
    *,
    storage: Storage | None = None,
    database_url: str | None = None,
    prepare: Any = None,
    mounted: Callable[[Rindle], Mapping[str, Any]] | None = None,
    **options: Any,
) -> AsyncIterator[Site]:
    async with opened(directory, make_profiles, storage=storage, database_url=database_url) as gallery:
        get = gallery.rindle.profiles.get
        offered = {"avatar": get("accounts.Avatar"), "logo": get("logo"), "banner": get("banner")}
        rules: dict[str, Any] = {"actor_from_request": actor_of, **options}
        if "authorizer" not in rules:
            rules["allow_anonymous"] = True
        app = FastAPI()
        if mounted is not None:
            mounts = mounted(gallery.rindle)
            for path, mount in mounts.items():
                app.mount(path, mount)
            rules["mounts"] = tuple(mounts.values())
        app.include_router(create_router(gallery.rindle, profiles=offered, **rules), prefix="/media")
        if prepare is not None:
            prepare(gallery, app)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        hooks = {"response": [documentation(app)]}
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, event_hooks=hooks) as client:
            yield Site(gallery, client, app)


class LongBody:
    """A body of 64 MB, sent in pieces; it counts how much of it was consumed."""

    def __init__(self, byte: bytes) -> None:
        self._piece = byte * 65536
        self.consumed = 0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        for _ in range(1000):
            self.consumed += len(self._piece)
            yield self._piece


def error_of(answer: httpx.Response) -> tuple[int, str]:
    assert set(answer.json()) == {"error"} and set(answer.json()["error"]) == {"code", "message", "detail"}
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, answer.json()["error"]["code"]


def count_of(session: Session, model: Any) -> int:
    return int(session.scalar(select(func.count()).select_from(model)) or 0)


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
