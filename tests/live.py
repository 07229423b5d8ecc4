"""What tests of live events need: an application whose assets keep changing, a real web server, a client that reads."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaEvent, MediaVariant, Profile, Rindle, Settings
from rindle.db import variants as variant_rows
from rindle.db.transitions import lock_asset, move_asset, move_variant, recompute, tombstone
from rindle.errors import StateConflict
from rindle.events import STREAMED_TYPES
from rindle.http import create_router
from rindle.states import AssetState, VariantState
from rindle.storage.memory import MemoryStorage
from tests.contract.serving import listening
from tests.gallery import Gallery, png
from tests.patience import PATIENCE_SECONDS, until
from tests.tables import create_tables

SECRET = "a secret of the news, long enough to sign with"
#: An id that nothing has.
UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"
#: As quick as a test wants it, on a machine that others use too.
QUICK: dict[str, Any] = {"event_poll_seconds": 0.05, "event_idle_poll_seconds": 0.2}


class Clip(Profile):
    """One variant that is always being built."""

    name = "clip"
    storage = "media"
    variants = {"poster": {"mode": "fit", "width": 64, "height": 64}}


class Other(Profile):
    """Not offered by the routers."""

    name = "other"
    storage = "media"
    variants = {}


@dataclass
class Running:
    """An asset whose variant is ``processing``."""

    id: str
    variant_id: str
    generation: int


class Newsroom:
    """An application and how to make something happen in it."""

    def __init__(self, rindle: Rindle) -> None:
        self.rindle = rindle
        self.gallery = Gallery(rindle)

    async def running(self, *, actor: str | None = None) -> Running:
        """Return an asset whose variant is being built."""
        asset = await self.gallery.available(Clip, data=png(), actor=actor)

        def claim(session: Session) -> Running:
            run = {"run_id": "run", "worker": "render", "attempt": 1}
            claimed = variant_rows.claim_group(session, asset.id, "images", self.rindle.profiles.get, run)
            assert claimed is not None
            (one,) = claimed.claims
            return Running(asset.id, one.variant_id, one.generation)

        return await self.write(claim)

    async def write(self, step: Callable[..., Any], *args: Any) -> Any:
        """Run a transaction, again when another one was first."""
        while True:
            with suppress(StateConflict):
                return await self.rindle.database.write(step, *args)

    async def restarted(self, asset: Running, times: int = 1) -> None:
        """Begin the build anew; each time is one ``variant_started``."""
        for _ in range(times):
            await self.write(restart, asset.variant_id)

    async def progressed(self, asset: Running, percent: int) -> bool:
        """Tell how far the build is."""
        return bool(await self.write(variant_rows.record_progress, asset.variant_id, asset.generation, percent))

    async def finished(self, asset: Running) -> None:
        """End the build; the asset is ``ready``."""
        await self._build(asset, [(VariantState.READY, {"storage_key": "made", "content_type": "image/webp"})])

    async def failed(self, asset: Running) -> None:
        """Give the build up; the asset is ``degraded``."""
        await self._build(asset, [(VariantState.FAILED, {"error_code": "render_failed", "error_reason": "no"})])

    async def retried(self, asset: Running) -> None:
        """Begin a build that was given up anew; the asset is ``processing``."""
        await self._build(asset, [(VariantState.QUEUED, {}), (VariantState.PROCESSING, {})])

    async def _build(self, asset: Running, moves: Sequence[tuple[VariantState, dict[str, Any]]]) -> None:
        def move(session: Session) -> None:
            lock_asset(session, asset.id)
            variant = session.get(MediaVariant, asset.variant_id, populate_existing=True)
            assert variant is not None
            for state, facts in moves:
                move_variant(session, variant, state, **facts)
            recompute(session, asset.id)

        await self.write(move)

    async def deleted(self, asset_id: str) -> None:
        """Tombstone an asset, as a purge does."""

        def delete(session: Session) -> None:
            locked = lock_asset(session, asset_id, "exclusive")
            assert locked is not None
            tombstone(session, locked)

        await self.write(delete)

    async def condemned(self, asset_id: str) -> None:
        """Quarantine an asset."""

        def condemn(session: Session) -> None:
            locked = lock_asset(session, asset_id)
            assert locked is not None
            move_asset(session, locked, AssetState.QUARANTINED)

        await self.write(condemn)

    async def streamed(self, asset_id: str) -> list[int]:
        """Return the ids of what subscribers of an asset are told, as the table has them."""
        found = await self.rindle.timeline(asset_id, limit=10_000)
        return [event.id for event in found if event.type in STREAMED_TYPES]

    async def listening(self) -> int:
        """Count the connections of this database that listen for events."""
        engine = self.rindle.database.engine
        assert isinstance(engine, AsyncEngine)
        async with engine.connect() as connection:
            return int(
                await connection.scalar(
                    text(
                        "SELECT count(*) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND query = 'LISTEN rindle_events'"
                    )
                )
                or 0
            )

    async def is_at_rest(self) -> bool:
        """Whether nobody listens: no task, and on Postgres no connection."""
        if self.rindle.listener.is_running:
            return False
        return self.rindle.database.dialect != "postgresql" or await self.listening() == 0


def restart(session: Session, variant_id: str) -> None:
    """Queue a variant that is being built and begin again."""
    variant = session.get(MediaVariant, variant_id)
    assert variant is not None
    lock_asset(session, variant.asset_id)
    session.refresh(variant)
    move_variant(session, variant, VariantState.QUEUED)
    move_variant(session, variant, VariantState.PROCESSING)


def restart_repeatedly(session: Session, variant_id: str, times: int) -> None:
    """Begin a build anew ``times`` times in one transaction; each time is one ``variant_started``."""
    for _ in range(times):
        restart(session, variant_id)
        session.flush()


async def age(news: Newsroom, asset_id: str) -> None:
    """Make an asset and its events older than what is kept."""

    def back(session: Session) -> None:
        past = timedelta(seconds=news.rindle.settings.event_retention_seconds + 60)
        asset = session.get(MediaAsset, asset_id)
        assert asset is not None
        when = asset.inserted_at - past
        session.execute(update(MediaAsset).where(MediaAsset.id == asset_id).values(inserted_at=when))
        session.execute(update(MediaEvent).where(MediaEvent.asset_id == asset_id).values(occurred_at=when))

    await news.write(back)


def make(database_url: str, **settings: Any) -> Rindle:
    """Return the application on a database, from outside as from here."""
    pooled: dict[str, Any] = {} if database_url.startswith("sqlite") else {"pool_size": 25}
    return Rindle(
        engine=create_async_engine(database_url, **pooled),
        profiles=[Clip, Other],
        storages={"media": MemoryStorage()},
        secrets=[SECRET],
        settings=Settings(**{**QUICK, "secrets": (), **settings}),
    )


@asynccontextmanager
async def newsroom(directory: Path, database_url: str, **settings: Any) -> AsyncIterator[Newsroom]:
    """Open the application on an empty database and close it whatever happens."""
    rindle = make(database_url, tmp_dir=directory / "tmp", **settings)
    assert isinstance(rindle.database.engine, AsyncEngine)
    await create_tables(rindle.database.engine)
    try:
        yield Newsroom(rindle)
    finally:
        await rindle.close()
        await rindle.database.engine.dispose()


# --- the web server ----------------------------------------------------------------------------------------------


def actor_of(request: Request) -> str | None:
    """Believe what the caller says."""
    return request.headers.get("X-User")


def routes(rindle: Rindle, **options: Any) -> FastAPI:
    """Return the application's pages: the event routes below ``/media``."""
    options.setdefault("actor_from_request", actor_of)
    app = FastAPI()
    app.include_router(create_router(rindle, profiles={"clip": Clip}, include={"events"}, **options), prefix="/media")
    return app


def create_app() -> FastAPI:
    """Return the application of a server process of its own; uvicorn's ``--factory`` calls it."""
    return routes(make(os.environ["LIVE_DATABASE_URL"]), allow_anonymous=True)


@asynccontextmanager
async def served(app: Any, **options: Any) -> AsyncIterator[str]:
    """Serve an ASGI application on this loop and yield its address."""
    config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=int(PATIENCE_SECONDS), **options)
    server = uvicorn.Server(config)
    with listening() as (listener, address):
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:

            async def started() -> bool:
                if task.done():
                    await task
                return server.started

            await until(started, what="the web server")
            yield address
        finally:
            server.should_exit = True
            await asyncio.wait_for(task, PATIENCE_SECONDS)


@asynccontextmanager
async def news_site(directory: Path, *, url: str | None = None, **settings: Any) -> AsyncIterator[tuple[Newsroom, str]]:
    """Open the application, serve it to everybody, and yield it with its address."""
    url = url or f"sqlite+aiosqlite:///{directory / 'news.db'}"
    async with (
        newsroom(directory, url, **settings) as news,
        served(routes(news.rindle, allow_anonymous=True)) as address,
    ):
        yield news, address


# --- the client --------------------------------------------------------------------------------------------------


@dataclass
class Block:
    """One block of a stream, as it was sent."""

    lines: list[str]
    id: str | None = None
    event: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


class Stream:
    """An open event stream."""

    def __init__(self, response: httpx.Response, lines: AsyncIterator[str]) -> None:
        self.response = response
        self._lines = lines
        #: What a browser would send as ``Last-Event-ID``.
        self.last_id: str | None = None

    async def block(self) -> Block | None:
        """Return the next block, ``None`` when the server has ended the stream."""
        block = Block([])
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for line in self._lines:
                if not line:
                    return block
                block.lines.append(line)
                name, _, value = line.partition(": ")
                if name == "id":
                    block.id = self.last_id = value
                elif name == "event":
                    block.event = value
                elif name == "data":
                    block.data = json.loads(value)
        return None

    async def event(self) -> Block | None:
        """Return the next event, passing over comments; ``None`` at the end."""
        while (block := await self.block()) is not None:
            if block.event is not None:
                return block
        return None

    async def events(self, count: int) -> list[Block]:
        """Return the next ``count`` events."""
        found = [await self.event() for _ in range(count)]
        assert all(found), "the stream ended early"
        return [block for block in found if block is not None]

    async def rest(self) -> list[Block]:
        """Return everything until the server ends the stream."""
        found = []
        while (block := await self.event()) is not None:
            found.append(block)
        return found


def told(blocks: list[Block]) -> list[tuple[str | None, str | None]]:
    """Return what each block tells: its event and the state in it."""
    return [(block.event, block.data.get("state")) for block in blocks]


def pairs(*subjects: tuple[str, str]) -> list[tuple[str, str]]:
    """Return the query of scopes and ids."""
    return [part for scope, subject_id in subjects for part in (("scope", scope), ("id", subject_id))]


@asynccontextmanager
async def following(
    address: str,
    *subjects: tuple[str, str],
    last_id: str | None = None,
    actor: str | None = None,
    client: httpx.AsyncClient | None = None,
    path: str = "/media/events",
    **query: Any,
) -> AsyncIterator[Stream]:
    """Open a stream; it is connected when the block is entered."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    if actor is not None:
        headers["X-User"] = actor
    params = [*pairs(*subjects), *((name, str(value)) for name, value in query.items())]
    own = client or httpx.AsyncClient(timeout=None)
    try:
        async with (
            own.stream("GET", f"{address}{path}", params=params, headers=headers) as response,
            aclosing(response.aiter_lines()) as lines,
        ):
            stream = Stream(response, lines)
            if response.status_code == 200:
                greeting = await stream.block()
                assert greeting is not None and greeting.lines[:2] == ["retry: 3000", ": connected"]
            else:
                await response.aread()
            yield stream
    finally:
        if client is None:
            await own.aclose()


async def answered(address: str, *subjects: tuple[str, str], **options: Any) -> tuple[int, dict[str, Any]]:
    """Return the status and body of an answer that is no stream."""
    async with following(address, *subjects, **options) as stream:
        body = stream.response.json() if stream.response.content else {}
        return stream.response.status_code, body
