"""Uploads to a streaming provider over HTTP: opened and cancelled by those who may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rindle.errors import ProviderQuotaExceeded, ProviderSyncFailed
from rindle.http import create_router
from rindle.protocols import UploadSubject
from rindle.streaming.memory import InMemoryProvider
from tests.gallery import opened
from tests.integration.http.site import CLOSED_PORT, actor_of, documentation, error_of
from tests.unit.streaming.studio import ORIGIN, Studio, make_profiles


class Room:
    """A site on which creators open uploads."""

    def __init__(self, studio: Studio, client: httpx.AsyncClient) -> None:
        self.studio, self.client = studio, client

    @property
    def provider(self) -> InMemoryProvider:
        return self.studio.provider

    async def call(self, method: str, path: str = "", *, actor: str | None = "ada", **options: Any) -> httpx.Response:
        headers = {"X-Rindle": "1", **({} if actor is None else {"X-User": actor}), **options.pop("headers", {})}
        return await self.client.request(method, f"/media/uploads/direct{path}", headers=headers, **options)

    async def open(self, *, actor: str | None = "ada", **body: Any) -> httpx.Response:
        return await self.call("POST", actor=actor, json={"profile": "talk", **body}, headers={"Origin": ORIGIN})


@asynccontextmanager
async def a_room(home: Path, **rules: Any) -> AsyncIterator[Room]:
    provider = InMemoryProvider()
    async with opened(home, make_profiles, providers=[provider]) as gallery:
        app = FastAPI()
        offered = {name: gallery.rindle.profiles.get(name) for name in ("talk", "plain")}
        router = create_router(gallery.rindle, profiles=offered, actor_from_request=actor_of, **rules)
        app.include_router(router, prefix="/media")
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        hooks = {"response": [documentation(app)]}
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, event_hooks=hooks) as client:
            yield Room(Studio(gallery, provider), client)


@pytest.fixture(autouse=True)
def _no_temporal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with a_room(tmp_path, allow_anonymous=True) as made:
        yield made


async def test_an_upload_is_opened_for_the_origin_of_the_page(room: Room) -> None:
    origins: list[str] = []
    create = room.provider.create_direct_upload

    async def noted(**options: Any) -> Any:
        origins.append(options["cors_origin"])
        return await create(**options)

    room.provider.create_direct_upload = noted  # type: ignore[method-assign]
    answer = await room.open(filename="talk.mp4")
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert answer.json().keys() == {"upload_url", "asset_id"}
    [upload] = room.provider.uploads.values()
    assert answer.json()["upload_url"] == upload.url
    asset = await room.studio.rindle.asset(answer.json()["asset_id"])
    assert (asset.state, asset.uploaded_by, asset.filename) == ("staged", "ada", "talk.mp4")
    await room.open(cors_origin="https://studio.example")
    assert origins == [ORIGIN, "https://studio.example"]


async def test_what_is_wrong_is_refused(room: Room) -> None:
    create = room.call
    body = {"profile": "talk"}
    assert error_of(await create("POST", json=body)) == (422, "invalid_cors_origin")
    assert error_of(await create("POST", json=body, headers={"Origin": "null"})) == (422, "invalid_cors_origin")
    assert error_of(await room.open(cors_origin="*")) == (422, "invalid_cors_origin")
    assert error_of(await room.open(filename="talk.exe")) == (422, "extension_not_allowed")
    assert error_of(await room.open(filename="\0")) == (400, "invalid_argument")
    assert error_of(await room.open(profile="plain")) == (422, "streaming_not_configured")
    assert error_of(await room.open(profile="pushed")) == (422, "unknown_profile")
    assert error_of(await create("POST", json=body, headers={"Origin": ORIGIN, "X-Rindle": "0"})) == (
        403,
        "unauthorized",
    )
    assert room.provider.calls == []


async def test_a_provider_that_refuses_is_not_hidden(room: Room) -> None:
    room.provider.fail_next("create_direct_upload", ProviderQuotaExceeded("too many", retry_after=7))
    refused = await room.open()
    assert error_of(refused) == (429, "provider_quota_exceeded") and refused.headers["retry-after"] == "7"
    room.provider.fail_next("create_direct_upload", ProviderSyncFailed("status 500", status=500, transient=True))
    assert error_of(await room.open()) == (502, "provider_sync_failed")


async def test_an_upload_is_cancelled_by_its_actor_alone(room: Room) -> None:
    asset_id = (await room.open()).json()["asset_id"]
    for actor in ("eve", None):
        assert error_of(await room.call("DELETE", f"/{asset_id}", actor=actor)) == (404, "not_found")
    refused = await room.call("DELETE", f"/{asset_id}", headers={"X-Rindle": "0"})
    assert error_of(refused) == (403, "unauthorized")
    assert (await room.studio.rindle.asset(asset_id)).state == "staged"
    for _ in range(2):
        answer = await room.call("DELETE", f"/{asset_id}")
        assert (answer.status_code, answer.content) == (204, b"")
    assert [upload.status for upload in room.provider.uploads.values()] == ["cancelled"]


async def test_what_cannot_be_cancelled(room: Room) -> None:
    asset_id = (await room.open()).json()["asset_id"]
    await room.studio.change(await room.studio.rindle.asset(asset_id), state="ready")
    refused = await room.call("DELETE", f"/{asset_id}")
    assert error_of(refused) == (409, "not_cancellable")
    assert refused.json()["error"]["detail"] == {"reason": "state", "state": "ready"}
    film = await room.studio.film("plain")
    for unknown in (film.id, "01890a5d-ac96-774b-bcce-b302099a8057", "none"):
        assert error_of(await room.call("DELETE", f"/{unknown}")) == (404, "not_found")


class Creators:
    """Lets everybody but ``nobody`` open uploads, and cancel their own; the admin may all."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, str, UploadSubject]] = []

    async def authorize(self, actor: Any, action: str, subject: Any) -> bool:
        self.asked.append((actor, action, subject))
        return actor == "admin" or (actor != "nobody" and action == "direct.create") or actor == subject.token_actor


async def test_an_authorizer_decides(tmp_path: Path) -> None:
    ruling = Creators()
    async with a_room(tmp_path, authorizer=ruling) as room:
        assert error_of(await room.open(actor="nobody")) == (403, "unauthorized")
        asset_id = (await room.open(filename="talk.mp4")).json()["asset_id"]
        assert error_of(await room.call("DELETE", f"/{asset_id}", actor="eve")) == (404, "not_found")
        assert (await room.call("DELETE", f"/{asset_id}", actor="admin")).status_code == 204
    asked = [(actor, action, subject.profile, subject.token_actor) for actor, action, subject in ruling.asked]
    assert asked == [
        ("nobody", "direct.create", "talk", None),
        ("ada", "direct.create", "talk", None),
        ("eve", "direct.cancel", "talk", "ada"),
        ("admin", "direct.cancel", "talk", "ada"),
    ]
    last = ruling.asked[-1][2]
    assert (last.filename, last.method) == ("talk.mp4", "DELETE")
