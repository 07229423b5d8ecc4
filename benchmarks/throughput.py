"""Uploads per second from verification to ready, beside the same steps on Celery, Redis and Pillow."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import psutil

from benchmarks import machine
from benchmarks.peers import celery_server
from benchmarks.photo import photo
from benchmarks.report import Figure, Sample
from benchmarks.stack import Stack, running_database, running_stack
from rindle.db import outbox

#: Assets per second the embedded system is to reach on two cores.
GOAL = 12.0
#: Uploads of one round, rounds of one set-up, and uploads beforehand that nobody measures.
UPLOADS, ROUNDS, WARM_UP = 120, 3, 12
#: Verifications that the application has under way at once.
_PARALLEL = 16


async def measure() -> list[Figure]:
    """Measure one worker, two workers and the peer."""
    await machine.wait_for_quiet()
    one = await _ours(workers=1)
    two = await _ours(workers=2)
    peer = await asyncio.to_thread(_peer)
    figures = [
        Figure(
            "Rindle, 1 worker process",
            Sample.of([rate for rate, _ in one]),
            "assets/s",
            f"{GOAL:g} or more",
            max(Sample.of([rate for rate, _ in found]).median for found in (one, two)) >= GOAL,
            note="Temporal dev server, Postgres, application and worker on the same cores",
        ),
        Figure("Rindle, 2 worker processes", Sample.of([rate for rate, _ in two]), "assets/s"),
        Figure(
            "Celery + Redis + Pillow",
            Sample.of([rate for rate, _ in peer]),
            "assets/s",
            is_peer=True,
            note=f"prefork, {machine.cores()} processes; not durable",
        ),
    ]
    for who, found in (("Rindle, 1 worker", one), ("Rindle, 2 workers", two), ("Celery", peer)):
        figures.extend(_costs(who, found))
    return figures


def _costs(who: str, found: Sequence[tuple[float, dict[str, float]]]) -> list[Figure]:
    parts = found[0][1]
    return [
        Figure(
            f"CPU of {part}: {who}",
            Sample.of([costs[part] for _, costs in found]),
            "ms/asset",
            is_peer=who == "Celery",
        )
        for part in parts
    ]


async def _ours(*, workers: int) -> list[tuple[float, dict[str, float]]]:
    async with running_stack() as stack:
        with ExitStack() as running:
            children = str(max(1, machine.cores() // workers))
            for _ in range(workers):
                running.enter_context(stack.worker(RINDLE_RENDER_WORKERS=children))
            await _round(stack, WARM_UP * workers)
            return [await _round(stack, UPLOADS) for _ in range(ROUNDS)]


async def _round(stack: Stack, count: int) -> tuple[float, dict[str, float]]:
    """Take ``count`` stored uploads to ready; returns assets per second and CPU milliseconds per asset."""
    uploads = await stack.prepare(count, photo())
    await _until_outbox_is_empty(stack)
    meter = _meter(stack)
    slots = asyncio.Semaphore(_PARALLEL)

    async def verify(session_id: str) -> None:
        async with slots:
            await stack.rindle.verify_completion(session_id)

    began = time.perf_counter()
    await asyncio.gather(*(verify(upload.id) for upload in uploads))
    await stack.wait_until([upload.asset_id for upload in uploads if upload.asset_id])
    seconds = time.perf_counter() - began
    return count / seconds, meter.per_asset(count)


def _meter(stack: Stack) -> machine.CpuMeter:
    renders = [child.pid for pid in stack.worker_pids for child in psutil.Process(pid).children()]
    return machine.CpuMeter(
        {
            "the worker process": partial(machine.own_cpu_seconds, list(stack.worker_pids)),
            "render children": partial(machine.cpu_seconds, renders),
            "the application": partial(machine.own_cpu_seconds, [os.getpid()]),
            **{psutil.Process(pid).name(): partial(machine.cpu_seconds, [pid]) for pid in stack.server_pids},
        }
    )


async def _until_outbox_is_empty(stack: Stack) -> None:
    while (await stack.rindle.database.read(outbox.backlog)).pending:
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)  # the server still writes the histories of the starts


def _peer() -> list[tuple[float, dict[str, float]]]:
    with running_database() as database, celery_server.running(database, concurrency=machine.cores()) as peer:
        peer.round(photo(), WARM_UP)
        return [peer.round(photo(), UPLOADS) for _ in range(ROUNDS)]
