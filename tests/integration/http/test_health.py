"""``/livez`` and ``/readyz`` of the application, as a load balancer or a stranger asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event
from starlette.applications import Starlette
from starlette.routing import Mount

from rindle import Rindle
from rindle.http import create_asgi_app, create_router, health_router
from rindle.temporal_client import TemporalConnection
from tests.application import Avatar
from tests.patience import until
from tests.servers.temporal import StoppableTemporal
from tests.stage import Stage, staged

#: Seconds an answer may take on a loaded machine; the checks themselves end at 3.
ANSWER_SECONDS = 20.0
NOBODY = "127.0.0.1:1"
READY = {"status": "ready", "database": "ok", "temporal": "ok", "threads": "ok", "warnings": []}

Serve = Callable[[Rindle], AbstractAsyncContextManager[httpx.AsyncClient]]


def refuse(actor: object, action: str, subject: object) -> bool:
    return False


@asynccontextmanager
async def serving(app: FastAPI | Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://app.test", timeout=ANSWER_SECONDS) as client:
        yield client


def web_of(rindle: Rindle) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    """Serve the whole router with an authorizer that lets nobody do anything."""
    app = FastAPI()
    app.include_router(create_router(rindle, profiles={"avatar": Avatar}, authorizer=refuse), prefix="/media")
    return serving(app)


async def readiness(web: httpx.AsyncClient, **wanted: object) -> httpx.Response:
    """Return the answer that says ``wanted`` of the services; on a busy machine it may not be the first."""

    async def told() -> httpx.Response | None:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await web.get("/media/readyz")
        body = answer.json()
        facts = body["error"]["detail"] if "error" in body else body
        return answer if {name: facts.get(name) for name in wanted} == wanted else None

    found = await until(told, what=f"readiness to be {wanted}")
    assert found is not None
    return found


@pytest.fixture
async def quiet_stage(tmp_path: Path, database_url: str) -> AsyncIterator[Stage]:
    """A stage whose Temporal server is not there."""
    async with staged(tmp_path, database_url, NOBODY) as ready:
        yield ready


async def test_everything_answers(stage: Stage) -> None:
    async with web_of(stage.rindle) as web:
        ready = await readiness(web, database="ok", temporal="ok", threads="ok", warnings=[])
        live = await web.get("/media/livez")

        assert (live.status_code, live.json()) == (200, {"status": "live"})
        assert (ready.status_code, ready.json()) == (200, READY)
        for answer in (live, ready, await web.head("/media/livez")):
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert (await web.head("/media/readyz")).headers["cache-control"] == "no-store"


async def test_what_is_missing_is_named_and_nothing_else(quiet_stage: Stage) -> None:
    async with web_of(quiet_stage.rindle) as web:
        answer = await readiness(web, database="ok", threads="ok")

        assert answer.status_code == 503
        assert answer.json()["error"] == {
            "code": "temporal_unavailable",
            "message": "not ready: no answer from temporal",
            "detail": {"database": "ok", "temporal": "no answer", "threads": "ok"},
        }
        assert answer.headers["cache-control"] == "no-store"
        assert int(answer.headers["retry-after"]) >= 1
        assert NOBODY not in answer.text
        assert (await web.get("/media/livez")).status_code == 200


async def test_a_database_that_is_gone_is_named_first(tmp_path: Path) -> None:
    async with staged(tmp_path, f"sqlite+aiosqlite:///{tmp_path}/stage.db", NOBODY) as stage:
        engine = stage.rindle.database.engine

        @event.listens_for(engine.sync_engine, "do_connect")  # type: ignore[union-attr]
        def gone(*_arguments: object) -> None:
            raise ConnectionError(f"cannot open {tmp_path}")

        await engine.dispose()  # type: ignore[misc]
        async with web_of(stage.rindle) as web:
            answer = await readiness(web, threads="ok")

        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "inspection_failed")
        assert answer.json()["error"]["detail"] == {"database": "no answer", "temporal": "no answer", "threads": "ok"}
        assert str(tmp_path) not in answer.text


async def test_strangers_cannot_load_the_database_by_probing(quiet_stage: Stage) -> None:
    statements: list[str] = []
    engine = quiet_stage.rindle.database.engine

    @event.listens_for(engine.sync_engine, "before_cursor_execute")  # type: ignore[union-attr]
    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        statements.append(statement)

    loop = asyncio.get_running_loop()
    began = loop.time()
    async with web_of(quiet_stage.rindle) as web:
        for _ in range(5):
            await asyncio.gather(*(web.get("/media/readyz") for _ in range(40)))

    looks = [statement for statement in statements if statement == "SELECT 1"]
    assert 1 <= len(looks) <= 1 + (loop.time() - began)


async def test_a_server_that_hangs_is_told_in_time_and_so_is_its_return(
    tmp_path: Path, stoppable_temporal: StoppableTemporal
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, stoppable_temporal.target) as stage, web_of(stage.rindle) as web:
        await readiness(web, database="ok", temporal="ok")

        await stoppable_temporal.suspend()

        assert (await readiness(web, database="ok", temporal="no answer")).status_code == 503
        # Uploads are still taken in meanwhile: do not take every web process out of service for this.
        assert (await stage.rindle.initiate_upload("avatar", filename="me.jpg")).state == "initialized"
        stoppable_temporal.resume()
        assert (await readiness(web, database="ok", temporal="ok", threads="ok")).status_code == 200


async def test_the_question_to_a_server_that_hangs_ends_with_a_connection_and_without_one(
    stoppable_temporal: StoppableTemporal,
) -> None:
    environment = {"TEMPORAL_ADDRESS": stoppable_temporal.target, "TEMPORAL_NAMESPACE": stoppable_temporal.namespace}
    connected, new = (TemporalConnection(connect_seconds=1, environment=environment) for _ in range(2))
    assert await until(connected.healthy, what="the server to answer")
    await stoppable_temporal.suspend()

    async with asyncio.timeout(ANSWER_SECONDS):
        assert not await connected.healthy()
        assert not await new.healthy()

    stoppable_temporal.resume()
    assert await until(connected.healthy, what="the server to answer again")
    assert await until(new.healthy, what="a first connection to it")


async def test_the_routes_are_a_part_of_their_own(quiet_stage: Stage) -> None:
    without = FastAPI()
    parts = {"uploads", "assets"}
    options = {"profiles": {"avatar": Avatar}, "allow_anonymous": True}
    without.include_router(create_router(quiet_stage.rindle, **options, include=parts))  # type: ignore[arg-type]
    alone = FastAPI()
    alone.include_router(health_router(quiet_stage.rindle))
    mounted = Starlette(routes=[Mount("/media", create_asgi_app(quiet_stage.rindle, **options))])

    for app, path, status in ((without, "/livez", 404), (alone, "/livez", 200), (mounted, "/media/livez", 200)):
        async with serving(app) as web:
            assert (await web.get(path)).status_code == status


async def test_the_description_says_what_they_answer(quiet_stage: Stage) -> None:
    app = FastAPI()
    app.include_router(health_router(quiet_stage.rindle))

    described = app.openapi()["paths"]

    assert {path: list(methods) for path, methods in described.items()} == {"/livez": ["get"], "/readyz": ["get"]}
    assert "503" not in described["/livez"]["get"]["responses"]
    unready = described["/readyz"]["get"]["responses"]["503"]
    assert "`temporal_unavailable`" in unready["description"] and "`inspection_failed`" in unready["description"]
    assert "401" not in described["/readyz"]["get"]["responses"]
