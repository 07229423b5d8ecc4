"""``GET /events`` in other surroundings: the description, Starlette, Django, and servers that restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount

from rindle.http import create_asgi_app
from tests.live import SECRET, Clip, Newsroom, following, newsroom, routes, served
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import free_port
from tests.stage import REPOSITORY, status_of


async def test_the_route_is_described(news: Newsroom) -> None:
    described = routes(news.rindle, allow_anonymous=True).openapi()["paths"]["/media/events"]["get"]

    assert described["operationId"] == "rindle_follow_events"
    assert list(described["responses"]["200"]["content"]) == ["text/event-stream"]
    assert {"200", "204", "400", "403", "429", "503", "default"} <= described["responses"].keys()
    assert {parameter["name"] for parameter in described["parameters"]} == {
        "scope",
        "id",
        "snapshot",
        "until",
        "last_event_id",
        "Last-Event-ID",
        "ticket",
    }


async def test_it_works_in_starlette_behind_gzip(news: Newsroom) -> None:
    asset = await news.running()
    media = create_asgi_app(news.rindle, profiles={"clip": Clip}, include={"events"}, allow_anonymous=True)
    app = Starlette(routes=[Mount("/media", media)], middleware=[Middleware(GZipMiddleware, minimum_size=1)])

    async with served(app) as address, following(address, ("asset", asset.id)) as stream:
        await news.progressed(asset, 10)
        (block,) = await stream.events(1)

    assert block.event == "variant_progress"
    assert stream.response.headers["content-encoding"] == "identity"


async def test_it_works_beside_django(news: Newsroom) -> None:
    django = pytest.importorskip("django")
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse
    from django.urls import path

    urls = type(sys)("urls_of_a_django_application")
    urls.urlpatterns = [path("", lambda request: HttpResponse("django is here"))]  # type: ignore[attr-defined]
    sys.modules[urls.__name__] = urls
    if not settings.configured:
        settings.configure(ROOT_URLCONF=urls.__name__, ALLOWED_HOSTS=["*"], SECRET_KEY=SECRET, LOGGING_CONFIG=None)
    django.setup()
    pages = get_asgi_application()
    media = create_asgi_app(news.rindle, profiles={"clip": Clip}, include={"events"}, allow_anonymous=True)
    mounted = Starlette(routes=[Mount("/media", media), Mount("/", pages)])
    asset = await news.running()

    async with served(mounted, lifespan="off") as address:
        async with httpx.AsyncClient(timeout=None) as client:
            page = await client.get(address)
        async with following(address, ("asset", asset.id)) as stream:
            await news.progressed(asset, 10)
            (block,) = await stream.events(1)

    assert page.text == "django is here"
    assert block.event == "variant_progress"
    del sys.modules[urls.__name__]


@asynccontextmanager
async def server_process(url: str, port: int, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "--factory", "tests.live:create_app"),
            *("--host", "127.0.0.1", "--port", str(port), "--no-access-log"),
            cwd=REPOSITORY,
            env={**os.environ, "LIVE_DATABASE_URL": url},
            stdout=output,
            stderr=output,
        )
    try:

        async def answers() -> bool:
            return await status_of(f"http://127.0.0.1:{port}/openapi.json") == 200

        await until(answers, what="the web server")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_server_that_restarts_costs_no_event(tmp_path: Path, database_url: str, how: signal.Signals) -> None:
    port, log = free_port(), tmp_path / "web.log"
    address = f"http://127.0.0.1:{port}"
    async with newsroom(tmp_path, database_url) as news:
        asset = await news.running()
        known = await news.streamed(asset.id)

        async with server_process(database_url, port, log) as process:
            async with following(address, ("asset", asset.id)) as stream:
                await news.restarted(asset)
                received = await stream.events(1)
                process.send_signal(how)
                with contextlib.suppress(httpx.HTTPError):
                    assert await stream.rest() == []
            # An open stream keeps no server from going.
            assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) in (0, -how)
        await news.restarted(asset, 3)
        async with (
            server_process(database_url, port, log),
            following(address, ("asset", asset.id), last_id=received[-1].id) as stream,
        ):
            received += await stream.events(3)
            await news.restarted(asset)
            received += await stream.events(1)

        assert [int(block.id or 0) for block in received] == (await news.streamed(asset.id))[len(known) :]
