"""Plug-ins of a web application that block: one request waits for them, the others go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from rindle import Profile, plugins
from rindle.http import create_router
from rindle.protocols import DeliverySubject, Storage
from tests.gallery import Gallery, opened, png
from tests.patience import PATIENCE_SECONDS


class Blocking:
    """Blocks while it decides about ``slow``, until it is released: a plain function that asks a database, say."""

    def __init__(self) -> None:
        self.reached, self.released = threading.Event(), threading.Event()

    def block(self, actor: str | None) -> None:
        """Wait as long as a test likes, if ``actor`` is the one."""
        if actor == "slow":
            self.reached.set()
            assert self.released.wait(PATIENCE_SECONDS)

    def authorize(self, actor: str | None, action: str, subject: Any) -> bool:
        """Allow everything."""
        self.block(actor)
        return True


@pytest.fixture
def blocking(monkeypatch: pytest.MonkeyPatch) -> Blocking:
    """A plug-in that may block as long as a test likes."""
    monkeypatch.setattr(plugins, "ANSWER_SECONDS", PATIENCE_SECONDS)
    return Blocking()


@pytest.fixture
async def gallery(tmp_path: Path, blocking: Blocking) -> AsyncIterator[Gallery]:
    def make_profiles(store: Storage) -> list[type[Profile]]:
        class Guarded(Profile):
            name = "guarded"
            storage = store
            variants: dict[str, Any] = {}
            delivery = {"authorizer": blocking}

        return [Guarded]

    async with opened(tmp_path, make_profiles) as made:
        try:
            yield made
        finally:
            blocking.released.set()


async def test_a_url_whose_authorizer_blocks_holds_up_no_other(gallery: Gallery, blocking: Blocking) -> None:
    asset = await gallery.available(gallery.rindle.profiles.get("guarded"))
    slow = asyncio.create_task(gallery.rindle.url("guarded", asset, actor="slow"))
    assert await asyncio.to_thread(blocking.reached.wait, PATIENCE_SECONDS)

    assert await gallery.rindle.url("guarded", asset, actor="quick")
    assert not slow.done()

    blocking.released.set()
    assert await slow


@pytest.mark.parametrize("hook", ["authorizer", "actor_from_request", "csrf"])
async def test_a_request_whose_plugin_blocks_holds_up_no_other(gallery: Gallery, blocking: Blocking, hook: str) -> None:
    def actor_of(request: Request) -> str | None:
        actor = request.headers.get("X-User")
        if hook == "actor_from_request":
            blocking.block(actor)
        return actor

    def check_token(request: Request) -> bool:
        blocking.block(request.headers.get("X-User"))
        return True

    class Silent:
        def authorize(self, actor: Any, action: str, subject: DeliverySubject) -> bool:
            return True

    app = FastAPI()
    router = create_router(
        gallery.rindle,
        profiles={"guarded": gallery.rindle.profiles.get("guarded")},
        actor_from_request=actor_of,
        authorizer=blocking if hook == "authorizer" else Silent(),
        csrf=check_token if hook == "csrf" else None,
        include=["uploads"],
    )
    app.include_router(router, prefix="/media")
    headers = {} if hook == "csrf" else {"X-Rindle": "1"}
    body = {"profile": "guarded", "filename": "me.png", "size": len(png())}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gallery.test") as client:

        async def create(actor: str) -> int:
            answer = await client.post("/media/uploads", json=body, headers={**headers, "X-User": actor})
            return answer.status_code

        slow = asyncio.create_task(create("slow"))
        assert await asyncio.to_thread(blocking.reached.wait, PATIENCE_SECONDS)

        assert await create("quick") == 201
        assert not slow.done()

        blocking.released.set()
        assert await slow == 201
