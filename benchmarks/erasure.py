"""The erasure of one owner with 50,000 assets on Postgres and the local store, to its certificate (``--million``).

First its transactions alone, without workers; then the whole of it with Temporal and workers. ``--erased`` shortens the
latter for a trial run.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
import psycopg
from temporalio.api.enums.v1 import EventType

from benchmarks import machine
from benchmarks.application import SIDES
from benchmarks.library import asset_id
from benchmarks.report import Figure, Sample
from benchmarks.stack import Stack, running_stack
from rindle import Rindle
from rindle.db import erasures as rows
from rindle.db.models import new_id
from rindle.erasure.certificate import ErasureCertificate
from rindle.erasure.steps import ErasureSteps
from rindle.errors import ErasurePending
from rindle.messages import SettleOrder
from rindle.protocols import OwnerRef
from rindle.workflows import ids

#: The owner, and another one who uses every hundredth asset too.
OWNER, OTHER = ("member", "1"), ("team", "1")
#: Attachments of the owner.
ATTACHED = 50_000
WORKERS = 2
#: Objects of each asset: the original and its variants.
OBJECTS = 1 + len(SIDES)
#: Purges per second with which 50,000 end within an hour.
GOAL = 15.0
#: Seconds after which the statistics of Postgres contain what was committed.
_STATISTICS_SECONDS = 1.5
#: Seconds between two looks at the number of purges that have not ended.
_LOOK_SECONDS = 2.0
#: Largest history of the erasure itself, in events; Temporal ends a workflow at 51,200.
MAX_EVENTS = 1_000
#: Bytes that Temporal accepts as one payload.
MAX_PAYLOAD_BYTES = 2 * 2**20

_FILL = """
INSERT INTO media_assets (id, state, storage_key, profile, kind, content_type, byte_size, width, height, metadata,
                          lock_version, inserted_at, updated_at)
SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'ready',
       'photo/01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0') || '/original.jpg', 'photo', 'image',
       'image/jpeg', 7, 4608, 1976, '{}', 3, now(), now()
FROM generate_series(1, %(count)s) AS n;
INSERT INTO media_variants (id, asset_id, name, state, recipe_digest, output_kind, storage_key, byte_size, generation,
                            attempts, progress, dynamic, inserted_at, updated_at)
SELECT ('01900000-0000-7001-8000-' || lpad(to_hex(n * 2 + v), 12, '0'))::uuid,
       ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, (ARRAY['thumb', 'large'])[v + 1], 'ready',
       repeat('0', 64), 'image', 'photo/01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0') || '/'
       || (ARRAY['thumb', 'large'])[v + 1] || '.jpg', 7, 1, 0, 100, false, now(), now()
FROM generate_series(1, %(count)s) AS n, generate_series(0, 1) AS v;
INSERT INTO media_upload_sessions (id, asset_id, state, upload_key, upload_strategy, multipart_parts, last_known_offset,
                                   expires_at, url_expires_at, concat_role, concat_sources, lock_yield, auto_verify,
                                   inserted_at, updated_at)
SELECT ('01900000-0000-7002-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
       ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'completed',
       'photo/01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0') || '/original.jpg', 'presigned_put', '[]', 0,
       now() - interval '2 days', now() - interval '3 days', 'none', '[]', false, false, now(), now()
FROM generate_series(1, %(count)s) AS n;
INSERT INTO media_attachments (id, asset_id, owner_type, owner_id, slot, inserted_at, updated_at)
SELECT ('01900000-0000-7003-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
       ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'member', '1', 'photo:' || n, now(), now()
FROM generate_series(1, %(count)s) AS n;
INSERT INTO media_attachments (id, asset_id, owner_type, owner_id, slot, inserted_at, updated_at)
SELECT ('01900000-0000-7004-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
       ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'team', '1', 'photo:' || n, now(), now()
FROM generate_series(100, %(count)s, 100) AS n;
"""


#: What 49,500 purges leave behind: the evidence of one object each.
_PURGED = """
UPDATE media_erasure_assets SET outcome = 'purged', decided_at = now(), objects = jsonb_build_array(jsonb_build_object(
    'storage', 'local', 'key', 'photo/' || asset_id || '/original.jpg', 'deleted_at', '2026-01-01T00:00:00.000000Z',
    'absent_at', '2026-01-01T00:00:01.000000Z', 'unverified', NULL));
UPDATE media_erasures SET pending = 0;
"""


async def measure(erased: int = ATTACHED) -> list[Figure]:
    """Measure the transactions of the erasure, then erase an owner of ``erased`` assets and count what it costs."""
    async with running_stack(relay=False) as stack:
        await _fill(stack.database_url, ATTACHED)
        figures = await transactions(stack.rindle, stack.database_url)
    return figures + await to_the_end(erased)


async def to_the_end(erased: int) -> list[Figure]:
    """Erase an owner of ``erased`` assets, wait for the last purge, and compare the certificate with the store."""
    async with running_stack() as stack:
        await _fill(stack.database_url, erased)
        await asyncio.to_thread(_write_objects, stack.home / "media", erased)
        with ExitStack() as workers:
            pids = {f"worker {number + 1}": workers.enter_context(stack.worker()) for number in range(WORKERS)}
            with machine.watching(application=os.getpid(), **pids) as watch:
                figures = await _erase(stack, erased)
            for name in watch.pids:
                grown = Sample.of([watch.growth(name)])
                figures.append(Figure(f"growth of the {name}", grown, "MiB", note=f"from {watch.before[name]:.0f} MiB"))
    return figures


async def _execute(url: str, statements: str) -> None:
    async with await psycopg.AsyncConnection.connect(
        url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True
    ) as connection:
        for statement in statements.split(";\n"):
            if statement.strip():
                await connection.execute(statement.encode())


async def _fill(url: str, count: int) -> None:
    await _execute(url, _FILL.replace("%(count)s", str(count)))
    await _execute(url, "VACUUM ANALYZE")


def _write_objects(root: Path, count: int) -> None:
    for number in range(1, count + 1):
        directory = root / "photo" / asset_id(number)
        directory.mkdir(parents=True)
        for name in ("original", *SIDES):
            (directory / f"{name}.jpg").write_bytes(b"content")


async def transactions(rindle: Rindle, url: str) -> list[Figure]:
    """Return the figures of each transaction for an owner with :data:`ATTACHED` attachments."""
    steps, operation = ErasureSteps(rindle.services), new_id()
    with machine.watching(process=os.getpid()) as watch:
        preview = await _timed("preview", rindle.preview_owner_erasure(OWNER))
        await rindle.database.write(rows.request, operation, OwnerRef(*OWNER), None)
        detach = rindle.database.write(steps.detach, operation)
        detached = await _timed("remove the attachments, queue the purges, store the report", detach)
        stored = await _timed("read the stored report", rindle.erase_owner(OWNER, operation_id=operation))
        await _execute(url, "UPDATE media_erasures SET updated_at = now() - interval '1 day';\n")
        restart = SettleOrder(operation_id=operation, restart=True)
        page = await _timed("a page of purges that are started again", rindle.database.write(steps.settle, restart))
        await _execute(url, _PURGED)
        await rindle.database.write(steps.settle, SettleOrder(operation_id=operation))
        certificate = await rindle.erasure_certificate(operation)
        if (certificate.status, len(certificate.assets)) != ("complete", ATTACHED - ATTACHED // 100):
            raise RuntimeError(f"the certificate is not true: {certificate.status}, {certificate.counts}")
        read = await _timed("read the certificate", rindle.erasure_certificate(operation))
        size = len(certificate.to_html())
    memory = Sample.of([watch.growth("process")])
    note = f"all of it; the certificate is a page of {size >> 20} MiB"
    return [preview, detached, stored, page, read, Figure("growth of the process", memory, "MiB", note=note)]


async def _timed(what: str, call: Awaitable[object]) -> Figure:
    began = time.perf_counter()
    await call
    return Figure(f"{ATTACHED} attachments: {what}", Sample.of([time.perf_counter() - began]), "s")


async def _erase(stack: Stack, count: int) -> list[Figure]:
    rindle = stack.rindle
    began = time.monotonic()
    preview = await rindle.preview_owner_erasure(OWNER)
    previewed = time.monotonic() - began

    operation, began = new_id(), time.monotonic()
    while True:
        try:
            report = await rindle.erase_owner(OWNER, operation_id=operation)
        except ErasurePending:
            continue
        break
    detached = time.monotonic() - began
    assert report.assets_to_purge == preview.assets_to_purge
    assert report.attachments_to_detach.count == count

    purges = report.assets_to_purge.count
    meter, commits = _meter(stack), await _commits(stack)
    await _ended(stack, operation)
    purged = time.monotonic() - began
    costs = meter.per_asset(purges)
    cost = sum(spent for part, spent in costs.items() if part != machine.OTHERS)
    transactions = (await _commits(stack) - commits) / purges
    began = time.monotonic()
    certificate = await rindle.erasure_certificate(operation)
    page = certificate.to_html()
    read = time.monotonic() - began
    await _check(rindle, certificate, stack.home / "media", count)
    rate = purges / (purged - detached)
    return [
        Figure("preview", Sample.of([previewed]), "s", note=f"{count} attachments"),
        Figure("request to report: attachments removed, purges queued", Sample.of([detached]), "s"),
        Figure("request to the last purge", Sample.of([purged]), "s", note=f"{purges} assets, {WORKERS} workers"),
        Figure(
            "purges of assets with two variants",
            Sample.of([rate]),
            "per s",
            f"{GOAL:g} or more",
            rate >= GOAL,
            note="Temporal dev server and Postgres on the same cores",
        ),
        Figure(
            "CPU per purge",
            Sample.of([cost]),
            "ms",
            note=", ".join(f"{part} {spent:.1f}" for part, spent in costs.items()),
        ),
        Figure("transactions per purge", Sample.of([transactions]), "", note="of all processes, read-only ones too"),
        Figure("read the certificate and make its page", Sample.of([read]), "s", note=f"{len(page) >> 20} MiB of HTML"),
        *await _history(stack, operation),
        *await _history_of_a_purge(stack),
    ]


def _meter(stack: Stack) -> machine.CpuMeter:
    return machine.CpuMeter(
        {
            "the workers": partial(machine.cpu_seconds, list(stack.worker_pids)),
            "the application": partial(machine.own_cpu_seconds, [os.getpid()]),
            **{psutil.Process(pid).name(): partial(machine.cpu_seconds, [pid]) for pid in stack.server_pids},
        }
    )


async def _commits(stack: Stack) -> int:
    """Return how many transactions the database has committed; its statistics lag by a second."""
    await asyncio.sleep(_STATISTICS_SECONDS)
    async with await psycopg.AsyncConnection.connect(stack.plain_database_url, autocommit=True) as connection:
        answer = await connection.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
        row = await answer.fetchone()
        assert row is not None
        return int(row[0])


async def _ended(stack: Stack, operation: str) -> None:
    """Return when the operation is completed; looks with one plain statement, and prints how far it is."""
    async with await psycopg.AsyncConnection.connect(stack.plain_database_url, autocommit=True) as connection:
        began, first, told = time.monotonic(), None, 0.0
        while True:
            answer = await connection.execute(
                "SELECT pending, completed_at FROM media_erasures WHERE id = %s", [operation]
            )
            row = await answer.fetchone()
            assert row is not None
            first = first or row[0]
            if row[1] is not None:
                return
            if time.monotonic() - told > 60:
                rate = (first - row[0]) / max(time.monotonic() - began, 1)
                print(f"  {row[0]} purges have not ended, {rate:.1f} per second until now", flush=True)
                told = time.monotonic()
            await asyncio.sleep(_LOOK_SECONDS)


async def _check(rindle: Rindle, certificate: ErasureCertificate, root: Path, count: int) -> None:
    """Compare the certificate with the store and the rows.

    Raises:
        RuntimeError: it does not say the truth.
    """
    shared = count // 100
    counts = certificate.counts
    left = await asyncio.to_thread(lambda: {str(file.relative_to(root)) for file in root.rglob("*.jpg")})
    kept = {
        f"photo/{asset_id(number)}/{name}.jpg" for number in range(100, count + 1, 100) for name in ("original", *SIDES)
    }
    is_true = (
        certificate.status == "complete"
        and counts["purged"] == len(certificate.assets) == count - shared
        and counts["objects"] == counts["objects_absent"] == (count - shared) * OBJECTS
        and counts["retained_shared_assets"] == shared
        and left == kept
        and (await rindle.preview_owner_erasure(OTHER)).attachments_to_detach.count == shared
    )
    if not is_true:
        raise RuntimeError(f"the certificate is not true: {certificate.status}, {counts}, {len(left)} objects are left")


async def _history(stack: Stack, operation: str) -> list[Figure]:
    prefix = stack.rindle.services.settings.workflow_id_prefix
    handle = stack.client.get_workflow_handle(ids.erasure_id(operation, prefix=prefix))
    await handle.result()
    history = await handle.fetch_history()
    payloads = [event.ByteSize() for event in history.events]
    events = Sample.of([len(history.events)])
    largest = Sample.of([max(payloads) / 1024])
    is_small = largest.median * 1024 < MAX_PAYLOAD_BYTES / 100
    return [
        Figure("history of the erasure", events, "events", f"under {MAX_EVENTS}", events.median < MAX_EVENTS),
        Figure("its largest event", largest, "KiB", "a hundredth of Temporal's limit", is_small),
    ]


async def _history_of_a_purge(stack: Stack) -> list[Figure]:
    """Count what one of the purges is in Temporal."""
    prefix = stack.rindle.services.settings.workflow_id_prefix
    handle = stack.client.get_workflow_handle(ids.purge_id(asset_id(1), prefix=prefix))
    found = Counter(event.event_type for event in (await handle.fetch_history()).events)
    return [
        Figure("history of a purge", Sample.of([sum(found.values())]), "events"),
        Figure("activities of a purge", Sample.of([found[EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED]]), ""),
        Figure("workflow tasks of a purge", Sample.of([found[EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]]), ""),
    ]
