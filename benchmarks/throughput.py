"""Uploads per second from verification to ready, beside the same steps on Celery and Redis, with Pillow and pyvips."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import psutil

from benchmarks import machine
from benchmarks.photo import photo
from benchmarks.report import Figure, Sample, left_out
from benchmarks.stack import Stack, running_stack
from rindle.db import outbox
from tests.servers import Unavailable

#: Assets per second the embedded system is to reach on two cores.
GOAL = 12.0
#: Uploads of one round, rounds of one set-up, and uploads beforehand that are not measured.
UPLOADS, ROUNDS, WARM_UP = 120, 3, 12
#: Assets per second, and CPU milliseconds per asset by part of the system.
Round = tuple[float, dict[str, float]]
#: The peers, by the module of ``benchmarks.peers`` that opens their images.
PEERS = {"celery_pillow": "Celery + Redis + Pillow", "celery_vips": "Celery + Redis + pyvips"}
#: Longest time for all rounds of a peer.
PEER_SECONDS = 900.0
#: Verifications that the application has under way at once.
_PARALLEL = 16


async def measure() -> list[Figure]:
    """Measure one worker, two workers and the peers. A peer that cannot run is shown as left out, with the reason."""
    one = await _ours(workers=1)
    two = await _ours(workers=2)
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
        _cost("CPU per asset, Rindle, 1 worker process", one),
        _cost("CPU per asset, Rindle, 2 worker processes", two),
    ]
    for engine, name in PEERS.items():
        try:
            peer = await _peer(engine)
        except Unavailable as error:
            print(f"  {name}: left out: {error}", file=sys.stderr, flush=True)
            figures.append(left_out(name, error))
            continue
        note = f"prefork, {machine.cores()} processes; not durable"
        figures.append(
            Figure(name, Sample.of([rate for rate, _ in peer]), "assets/s", is_peer=True, note=note),
        )
        figures.append(_cost(f"CPU per asset, {name}", peer, is_peer=True))
    return figures


def _cost(what: str, found: Sequence[Round], *, is_peer: bool = False) -> Figure:
    """Sum up the CPU of all parts: steadier than a rate when others use the machine too."""
    medians = {part: Sample.of([costs[part] for _, costs in found]).median for part in found[0][1]}
    totals = [sum(spent for part, spent in costs.items() if part != machine.OTHERS) for _, costs in found]
    note = ", ".join(f"{part} {spent:.0f}" for part, spent in medians.items())
    return Figure(what, Sample.of(totals), "ms", is_peer=is_peer, note=note)


async def _ours(*, workers: int) -> list[Round]:
    async with running_stack() as stack:
        with ExitStack() as running:
            children = str(max(1, machine.cores() // workers))
            for _ in range(workers):
                running.enter_context(stack.worker(RINDLE_RENDER_WORKERS=children))
            await _round(stack, WARM_UP * workers)
            return [await _round(stack, UPLOADS) for _ in range(ROUNDS)]


async def _round(stack: Stack, count: int) -> Round:
    """Take ``count`` stored uploads to ready; returns assets per second and CPU milliseconds per asset."""
    uploads = await stack.prepare(count, photo())
    await _until_outbox_is_empty(stack)
    # The opened uploads have to come to wait for their bytes: that is not what is measured, and the peer has no such
    # step. The machine must have no other load.
    await machine.wait_for_quiet()
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


async def _peer(engine: str) -> list[Round]:
    """Measure a peer in a process of its own, so that nothing of it can affect our figures.

    Raises:
        Unavailable: it cannot run; the message is the last line of its error output.
    """
    counts = [str(count) for count in (WARM_UP, UPLOADS, ROUNDS)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.peers.celery_server", engine, *counts),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PEER_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        process.terminate()
        await process.wait()
        raise Unavailable(f"it did not end within {PEER_SECONDS:g} s") from None
    if process.returncode:
        raise Unavailable((errors.decode(errors="replace").strip().splitlines() or ["it failed"])[-1])
    return [(rate, costs) for rate, costs in json.loads(output)]
