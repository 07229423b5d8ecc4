"""Commits per second of 32 connections whose transactions notify subscribers, beside the same without notifications."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from unittest.mock import patch

import psycopg
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from benchmarks.report import Figure, Sample
from benchmarks.stack import running_database
from rindle.db import events, migrate
from rindle.db.database import Database
from rindle.db.models import new_id

CONNECTIONS = 32
ROUNDS, ROUND_SECONDS = 5, 4.0


async def measure() -> list[Figure]:
    """Alternate rounds with and without notifications on one Postgres that waits for its disk."""
    with running_database() as server:
        url = server.new_database()
        engine = create_async_engine(url, pool_size=CONNECTIONS)
        try:
            await migrate.async_upgrade(engine)
            database = Database(engine)
            async with _listening(url):
                await _round(database, 1.0)
                notifying, silent = [], []
                for _ in range(ROUNDS):
                    notifying.append(await _round(database, ROUND_SECONDS))
                    with patch.object(events, "notify", lambda *given, **options: False):
                        silent.append(await _round(database, ROUND_SECONDS))
            await database.close()
        finally:
            await engine.dispose()
    note = f"{CONNECTIONS} connections, one event per transaction, {ROUNDS} alternating rounds of {ROUND_SECONDS:g} s"
    shares = [one / other for one, other in zip(notifying, silent, strict=True)]
    return [
        Figure("commits that notify", Sample.of(notifying), "per s", note=note),
        Figure("the same without notifications", Sample.of(silent), "per s"),
        Figure("with over without, paired", Sample.of(shares), "", "at least 0.8", Sample.of(shares).median >= 0.8),
    ]


async def _round(database: Database, seconds: float) -> float:
    ends = time.perf_counter() + seconds
    commits = 0

    def record(session: Session, asset_id: str) -> None:
        scope = ("asset", asset_id)
        events.record_event(session, "variant_progress", scope=scope, payload={"progress": 1}, asset_id=asset_id)

    async def commit_repeatedly() -> None:
        nonlocal commits
        asset_id = new_id()
        while time.perf_counter() < ends:
            await database.write(record, asset_id)
            commits += 1

    began = time.perf_counter()
    await asyncio.gather(*(commit_repeatedly() for _ in range(CONNECTIONS)))
    return commits / (time.perf_counter() - began)


@contextlib.asynccontextmanager
async def _listening(url: str) -> AsyncIterator[None]:
    """Receive the notifications, as a web process with streams does."""
    plain = url.replace("postgresql+psycopg://", "postgresql://")
    async with await psycopg.AsyncConnection.connect(plain, autocommit=True) as connection:
        await connection.execute(f"LISTEN {events.CHANNEL}")

        async def receive() -> None:
            async for _ in connection.notifies():
                pass

        task = asyncio.create_task(receive())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
