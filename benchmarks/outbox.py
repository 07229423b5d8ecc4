"""The outbox with many rows, a backlog of uploads whose workers were away, and the heartbeats of a long build."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import psycopg
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks import machine
from benchmarks.cancel import make_image
from benchmarks.photo import photo
from benchmarks.report import Figure, Sample
from benchmarks.stack import Stack, running_database, running_stack
from rindle.db import migrate
from rindle.db import outbox as rows
from rindle.db.database import Database

#: Rows that wait for their time, and rows that were sent.
DELAYED = DISPATCHED = 300_000
#: Claims that are timed: more than the executions after which drivers and Postgres reuse a plan.
CLAIMS = 20
CLAIM_BUDGET_MS = 50
#: Uploads of the backlog, and of the steady rate beside it; the variables shorten a trial run.
BACKLOG = int(os.environ.get("BENCH_BACKLOG", "2000"))
STEADY, WARM_UP = min(BACKLOG, 120), 12
#: Seconds for which heartbeats are counted.
HEARTBEAT_SECONDS = float(os.environ.get("BENCH_HEARTBEAT_SECONDS", "60"))
_PARALLEL = 16
_FILL = """
INSERT INTO media_outbox (kind, workflow_type, workflow_id, task_queue, signal, payload, priority, state, attempts,
                          available_at, dispatched_at, inserted_at, updated_at)
SELECT 'signal', 'rindle.PurgeWorkflow', '{name}:' || n, 'rindle', 'wake', '{{}}', 3, '{state}', 0,
       now() {due}, {dispatched}, now() - n * interval '1 second', now() - n * interval '1 second'
FROM generate_series(1, {count}) AS n
"""


async def measure() -> list[Figure]:
    """Measure the claims, then the backlog and the heartbeats with real workers."""
    figures = await _claims()
    figures += await _backlog()
    figures += await _heartbeats()
    return figures


# --- claims --------------------------------------------------------------------------------------------------------


async def _claims() -> list[Figure]:
    with running_database() as server:
        url = server.new_database()
        engine = create_async_engine(url)
        try:
            await migrate.async_upgrade(engine)
            await _fill(url)
            database = Database(engine)
            found: dict[str, list[float]] = {"claim": [], "mark": [], "has_due": [], "backlog": []}
            for _ in range(CLAIMS):
                found["has_due"].append(await _timed(database.read(rows.has_due)))
                began = time.perf_counter()
                claimed = await database.write(rows.claim)
                found["claim"].append((time.perf_counter() - began) * 1000)
                assert len(claimed) == rows.BATCH
                found["mark"].append(await _timed(database.write(rows.mark_dispatched, [row.id for row in claimed])))
                found["backlog"].append(await _timed(database.read(rows.backlog)))
            await database.close()
        finally:
            await engine.dispose()
    claim = Sample.of(found["claim"])
    note = f"{DELAYED} delayed and {DISPATCHED} sent rows beside it"
    return [
        Figure(
            f"claim of {rows.BATCH} rows",
            claim,
            "ms",
            f"under {CLAIM_BUDGET_MS} ms",
            claim.median < CLAIM_BUDGET_MS,
            note=note,
        ),
        Figure("mark them as sent", Sample.of(found["mark"]), "ms"),
        Figure("look for a due row", Sample.of(found["has_due"]), "ms"),
        Figure("count the backlog", Sample.of(found["backlog"]), "ms"),
    ]


async def _timed(work: object) -> float:
    began = time.perf_counter()
    await work  # type: ignore[misc]
    return (time.perf_counter() - began) * 1000


async def _fill(url: str) -> None:
    plain = url.replace("postgresql+psycopg://", "postgresql://")
    fills = (
        ("delayed", "pending", "+ interval '1 day'", "NULL", DELAYED),
        ("sent", "dispatched", "- interval '1 hour'", "now() - n * interval '1 second'", DISPATCHED),
        ("due", "pending", "- n * interval '1 millisecond'", "NULL", rows.BATCH * CLAIMS),
    )
    async with await psycopg.AsyncConnection.connect(plain, autocommit=True) as connection:
        await connection.execute("SET synchronous_commit = off")
        for name, state, due, dispatched, count in fills:
            statement = _FILL.format(name=name, state=state, due=due, dispatched=dispatched, count=count)
            await connection.execute(statement.encode())
        await connection.execute("VACUUM ANALYZE media_outbox")


# --- the backlog ---------------------------------------------------------------------------------------------------


async def _backlog() -> list[Figure]:
    """Verify uploads while no worker runs; then start one, and compare its rate with that of few uploads."""
    async with running_stack() as stack:
        with stack.worker():
            await _through(stack, WARM_UP)
            steady = STEADY / await _through(stack, STEADY)
        uploads = await stack.prepare(BACKLOG, photo())
        await _verify(stack, [upload.id for upload in uploads])
        while (await stack.rindle.database.read(rows.backlog)).pending:
            await asyncio.sleep(0.1)
        await machine.wait_for_quiet()
        with stack.worker():
            began = time.perf_counter()
            await stack.wait_until([upload.asset_id for upload in uploads if upload.asset_id], timeout_seconds=3600)
            drained = BACKLOG / (time.perf_counter() - began)
    ratio = drained / steady
    return [
        Figure("uploads at the steady rate", Sample.of([steady]), "assets/s", note=f"{STEADY} at once"),
        Figure(f"backlog of {BACKLOG} after workers were away", Sample.of([drained]), "assets/s"),
        Figure("drain over steady rate", Sample.of([ratio]), "", "at least 0.9", ratio >= 0.9),
    ]


async def _through(stack: Stack, count: int) -> float:
    """Take ``count`` uploads to ready; returns the seconds from the first verification."""
    uploads = await stack.prepare(count, photo())
    await machine.wait_for_quiet()
    began = time.perf_counter()
    await _verify(stack, [upload.id for upload in uploads])
    await stack.wait_until([upload.asset_id for upload in uploads if upload.asset_id])
    return time.perf_counter() - began


async def _verify(stack: Stack, session_ids: list[str]) -> None:
    slots = asyncio.Semaphore(_PARALLEL)

    async def verify(session_id: str) -> None:
        async with slots:
            await stack.rindle.verify_completion(session_id)

    await asyncio.gather(*(verify(session_id) for session_id in session_ids))


# --- heartbeats ----------------------------------------------------------------------------------------------------


async def _heartbeats() -> list[Figure]:
    """Count the heartbeats that Temporal receives from a render that takes minutes."""
    async with running_stack() as stack:
        with stack.worker():
            source = await asyncio.to_thread(make_image, Path(stack.home) / "poster.jpg")
            (upload,) = await stack.prepare(1, source, "poster")
            await stack.rindle.verify_completion(upload.id)
            run = stack.client.get_workflow_handle(f"rindle-variants:{upload.asset_id}:images")
            beats: set[int] = set()
            ends: float | None = None
            while ends is None or time.perf_counter() < ends:
                for pending in await _pending(stack, run.id):
                    ends = ends or time.perf_counter() + HEARTBEAT_SECONDS
                    if pending:
                        beats.add(pending)
                await asyncio.sleep(0.1)
            assert upload.asset_id is not None
            await stack.rindle.cancel_processing(upload.asset_id)
    per_minute = len(beats) * 60 / HEARTBEAT_SECONDS
    note = "an AVIF of 8000 pixels, heartbeat timeout 30 s"
    return [Figure("heartbeats of a build", Sample.of([per_minute]), "per min", note=note)]


async def _pending(stack: Stack, workflow_id: str) -> list[int]:
    """Return for each running build when Temporal received its last heartbeat, in nanoseconds; 0 for none yet."""
    try:
        described = await stack.client.get_workflow_handle(workflow_id).describe()
    except Exception:  # the run has not started yet
        return []
    activities = described.raw_description.pending_activities
    return [one.last_heartbeat_time.ToNanoseconds() for one in activities if one.HasField("last_started_time")]
