"""The outbox with many rows, a backlog of uploads whose workers were away, and the heartbeats of a long build."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable

import psycopg
from sqlalchemy.ext.asyncio import create_async_engine
from temporalio.service import RPCError

from benchmarks import machine
from benchmarks.av import make_video
from benchmarks.photo import photo
from benchmarks.report import Figure, Sample
from benchmarks.stack import Stack, running_database, running_stack
from rindle.db import migrate
from rindle.db import outbox as rows
from rindle.db.database import Database
from rindle.media.ffmpeg import FfmpegTools

#: Rows that wait for their time, and rows that were sent.
DELAYED = DISPATCHED = 300_000
#: Claims that are timed: more than the executions after which drivers and Postgres reuse a plan.
CLAIMS = 20
CLAIM_BUDGET_MS = 50
#: Uploads of the backlog, and of the steady rate beside it; the variables shorten a trial run.
BACKLOG = int(os.environ.get("BENCH_BACKLOG", "2000"))
STEADY, WARM_UP = min(BACKLOG, 120), 12
#: Length of the video that is built, and seconds for which its heartbeats are counted.
VIDEO_SECONDS = 90
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


async def _timed(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
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
    """Count the heartbeats that Temporal receives from a transcode of some minutes, and cancel it."""
    async with running_stack() as stack:
        with stack.worker(RINDLE_AV_WORKERS="1"):
            video = stack.home / "source.mp4"
            await asyncio.to_thread(make_video, FfmpegTools.find().require(), video, VIDEO_SECONDS)
            (upload,) = await stack.prepare(1, video, "video")
            await stack.rindle.verify_completion(upload.id)
            run = f"rindle-variants:{upload.asset_id}:web_720p"
            beats: set[int] = set()
            began: float | None = None
            while began is None or time.perf_counter() < began + HEARTBEAT_SECONDS:
                last = await _last_heartbeat(stack, run)
                if last:
                    began = began or time.perf_counter()
                    beats.add(last)
                elif began is not None:
                    break  # it was built
                await asyncio.sleep(0.1)
            assert began is not None and upload.asset_id is not None
            per_minute = (len(beats) - 1) * 60 / (time.perf_counter() - began)
            await stack.rindle.cancel_processing(upload.asset_id)
    note = f"{VIDEO_SECONDS} s of 1080p to 720p, heartbeat timeout 30 s, progress included"
    return [Figure("heartbeats of a build", Sample.of([per_minute]), "per min", note=note)]


async def _last_heartbeat(stack: Stack, workflow_id: str) -> int:
    """Return when Temporal received the last heartbeat of a build, in nanoseconds; 0 for none."""
    try:
        described = await stack.client.get_workflow_handle(workflow_id).describe()
    except RPCError:  # the run has not started yet
        return 0
    found = [one.last_heartbeat_time.ToNanoseconds() for one in described.raw_description.pending_activities]
    return max(found, default=0)
