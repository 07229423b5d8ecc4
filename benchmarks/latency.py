"""Seconds from verification to ready, one upload at a time on an idle machine."""

from __future__ import annotations

import asyncio
import statistics
from datetime import UTC, datetime

from benchmarks import machine
from benchmarks.photo import photo
from benchmarks.report import Figure, Sample
from benchmarks.stack import Stack, running_stack

#: Uploads measured, after a few that warm everything up.
UPLOADS, WARM_UP = 40, 5
BUDGET_SECONDS = 0.5


async def measure() -> list[Figure]:
    """Measure uploads one after the other."""
    async with running_stack() as stack:
        with stack.worker():
            others = await machine.wait_for_quiet()
            found = [await _one(stack) for _ in range(WARM_UP + UPLOADS)][WARM_UP:]
    sample = Sample.of(found)
    note = "" if others <= machine.QUIET_SHARE else f"others used {others:.0%} of the machine at the start"
    return [
        Figure(
            "verify to ready, median",
            sample,
            "s",
            f"p50 under {BUDGET_SECONDS:g} s",
            sample.median < BUDGET_SECONDS,
            note=note,
        ),
        Figure("verify to ready, 95th percentile", Sample.of([statistics.quantiles(found, n=20)[-1]]), "s"),
    ]


async def _one(stack: Stack) -> float:
    (upload,) = await stack.prepare(1, photo())
    await asyncio.sleep(0.3)  # the machine comes to rest after the preparation
    began = datetime.now(UTC)
    await stack.rindle.verify_completion(upload.id)
    assert upload.asset_id is not None
    asset = await stack.rindle.settled(upload.asset_id)
    assert asset.state == "ready", asset
    # From the event rather than from the waiting: between the two lies the way of the news.
    events = await stack.rindle.timeline(asset.id)
    ready = next(
        event for event in events if event.type == "asset_state_changed" and event.payload.get("state") == "ready"
    )
    return (ready.occurred_at - began).total_seconds()
