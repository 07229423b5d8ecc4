"""Seconds from ``cancel_processing`` until the render child that was busy is gone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil

from benchmarks import machine
from benchmarks.report import Figure, Sample
from benchmarks.stack import Stack, running_stack

ROUNDS = 5
BUDGET_SECONDS = 3.0
#: CPU seconds within the last look by which a child counts as busy.
_BUSY_SECONDS = 0.3
_LOOK_SECONDS = 0.5


async def measure() -> list[Figure]:
    """Cancel renders that would take minutes."""
    async with running_stack() as stack:
        with stack.worker() as worker:
            found = [await _one(stack, worker) for _ in range(ROUNDS)]
    sample = Sample.of(found)
    return [
        Figure(
            "cancel_processing to no render child",
            sample,
            "s",
            f"under {BUDGET_SECONDS:g} s",
            sample.high < BUDGET_SECONDS,
            note="an AVIF of 8000 pixels in the middle of its encoding",
        )
    ]


async def _one(stack: Stack, worker: int) -> float:
    source = await asyncio.to_thread(_make_image, stack.home / "poster.jpg")
    (upload,) = await stack.prepare(1, source, "poster")
    await stack.rindle.verify_completion(upload.id)
    assert upload.asset_id is not None
    busy = await _busy_child(worker)
    began = time.perf_counter()
    await stack.rindle.cancel_processing(upload.asset_id)
    while busy.is_running() and busy.status() != psutil.STATUS_ZOMBIE:
        await asyncio.sleep(0.01)
    return time.perf_counter() - began


def _make_image(path: Path) -> Path:
    """Write an image without meaning that has many pixels to encode."""
    from PIL import Image

    if not path.exists():
        Image.effect_noise((4000, 4000), 64).convert("RGB").save(path, quality=90)
    return path


async def _busy_child(worker: int) -> psutil.Process:
    """Return the render child that computes; the probe before it is short and is waited out."""
    deadline = time.monotonic() + 60
    previous: set[int] = set()
    while time.monotonic() < deadline:
        before = {child.pid: machine.own_cpu_seconds([child.pid]) for child in machine.family([worker])}
        await asyncio.sleep(_LOOK_SECONDS)
        busy = {
            child.pid
            for child in machine.family([worker])
            if child.pid in before
            and child.pid != worker
            and machine.own_cpu_seconds([child.pid]) - before[child.pid] > _BUSY_SECONDS
        }
        if both := busy & previous:
            return psutil.Process(both.pop())
        previous = busy
    raise RuntimeError("no render child became busy")
