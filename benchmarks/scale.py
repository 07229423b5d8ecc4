"""``runtime_status`` and the pages of the sweeps with a million assets on Postgres (``--million``)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from benchmarks import machine
from benchmarks.report import Figure, Sample
from benchmarks.stack import Stack, running_stack
from rindle.db.models import MediaAsset
from rindle.states import AssetState

ASSETS = 1_000_000
ROUNDS = 7
BUDGET_MS = 100
#: Rows of a page, as the sweeps take them.
PAGE = 500
#: Rows that no statement may read one after the other.
MANY_ROWS = ASSETS // 20

#: A library after a few years: nearly everything ready, a few hundred of each kind of trouble.
_FILL = """
INSERT INTO media_assets (id, state, storage_key, profile, kind, content_type, byte_size, width, height, metadata,
                          lock_version, inserted_at, updated_at)
SELECT md5('asset' || n)::uuid,
       CASE WHEN n % 5000 = 0 THEN 'degraded' WHEN n % 5000 = 1 THEN 'quarantined' WHEN n % 20000 = 2 THEN 'analyzing'
            WHEN n % 20000 = 3 THEN 'deleted' ELSE 'ready' END,
       'photo/' || n || '/original.jpg', 'photo', 'image', 'image/jpeg', 3000000, 4608, 1976, '{{}}', 3,
       now() - n * interval '1 minute', now() - n * interval '1 minute'
FROM generate_series(1, {count}) AS n;
INSERT INTO media_variants (id, asset_id, name, state, recipe_digest, output_kind, storage_key, byte_size, generation,
                            attempts, progress, dynamic, inserted_at, updated_at)
SELECT md5('variant' || n || v)::uuid, md5('asset' || n)::uuid, v,
       CASE WHEN n % 5000 = 0 THEN 'failed' WHEN n % 50000 = 4 THEN 'queued' ELSE 'ready' END,
       repeat('0', 64), 'image', 'photo/' || n || '/' || v || '.jpg', 60000, 1, 0, 100, false,
       now() - n * interval '1 minute', now() - n * interval '1 minute'
FROM generate_series(1, {count}) AS n, unnest(ARRAY['thumb', 'large']) AS v;
INSERT INTO media_upload_sessions (id, asset_id, state, upload_key, upload_strategy, multipart_parts, last_known_offset,
                                   expires_at, concat_role, concat_sources, lock_yield, auto_verify, inserted_at,
                                   updated_at)
SELECT md5('session' || n)::uuid, md5('asset' || n)::uuid,
       CASE WHEN n % 10000 = 5 THEN 'signed' WHEN n % 10000 = 6 THEN 'expired' ELSE 'completed' END,
       'photo/' || n || '/original.jpg', 'presigned_put', '[]', 0, now() - n * interval '1 minute' + interval '1 day',
       'none', '[]', false, false, now() - n * interval '1 minute', now() - n * interval '1 minute'
FROM generate_series(1, {count}) AS n;
"""


async def measure() -> list[Figure]:
    """Fill the tables, time each call and look at the plans of its statements."""
    async with running_stack(relay=False) as stack:
        await _fill(stack)
        await machine.wait_for_quiet()
        figures = [await _status(stack)]
        for name, page in _pages().items():
            figures.append(await _timed(stack, f"page of {PAGE}: {name}", page))
    return figures


async def _fill(stack: Stack) -> None:
    url = stack.database_url.replace("postgresql+psycopg://", "postgresql://")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("SET synchronous_commit = off")
        for statement in _FILL.split(";"):
            if statement.strip():
                await connection.execute(statement.format(count=ASSETS).encode())
        await connection.execute("VACUUM ANALYZE")


async def _status(stack: Stack) -> Figure:
    async def call() -> None:
        await stack.rindle.runtime_status()

    return await _measured(stack, "runtime_status", call)


def _pages() -> dict[str, Callable[[Session], Any]]:
    def tombstones(session: Session) -> Any:
        wanted = select(MediaAsset.id, MediaAsset.profile).where(MediaAsset.state == AssetState.DELETED)
        return session.execute(wanted.order_by(MediaAsset.id).limit(PAGE)).all()

    def of_profile(session: Session) -> Any:
        middle = "80000000-0000-0000-0000-000000000000"
        wanted = select(MediaAsset.id).where(MediaAsset.profile == "photo", MediaAsset.id > middle)
        return session.execute(wanted.order_by(MediaAsset.id).limit(PAGE)).all()

    return {"tombstones to purge": tombstones, "assets of a profile, for regenerate": of_profile}


async def _timed(stack: Stack, what: str, page: Callable[[Session], Any]) -> Figure:
    async def call() -> None:
        await stack.rindle.database.read(page)

    return await _measured(stack, what, call)


async def _measured(stack: Stack, what: str, call: Callable[[], Any]) -> Figure:
    engine = stack.rindle.database.engine
    assert isinstance(engine, AsyncEngine)
    statements: dict[str, Any] = {}

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if statement.lstrip().upper().startswith("SELECT") and "media_" in statement:
            statements.setdefault(statement, parameters)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    await call()
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await call()
        rounds.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0)
    sample = Sample.of(rounds)
    whole = await _whole_reads(engine, statements)
    note_text = f"{len(statements)} statements; " + (
        f"reads through {', '.join(whole)}" if whole else "no table read through"
    )
    return Figure(what, sample, "ms", f"under {BUDGET_MS} ms", sample.median < BUDGET_MS and not whole, note=note_text)


async def _whole_reads(engine: AsyncEngine, statements: dict[str, Any]) -> list[str]:
    """Return the tables of which a statement reads a large part row by row, according to their executed plans.

    A scan that a LIMIT ends after a few thousand rows is not one of them.
    """
    found: set[str] = set()
    async with engine.connect() as connection:
        for statement, parameters in statements.items():
            answer = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            waiting = [answer.scalar_one()[0]["Plan"]]
            while waiting:
                node = waiting.pop()
                waiting.extend(node.get("Plans", ()))
                read = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
                if node["Node Type"] == "Seq Scan" and read > MANY_ROWS:
                    found.add(node["Relation Name"])
    return sorted(found)
