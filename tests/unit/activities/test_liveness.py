from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from rindle.activities import liveness
from rindle.activities.liveness import heartbeating
from rindle.activities.progress import Progress
from tests.patience import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "LOOK_SECONDS", 0.001)


def environment(on_heartbeat: Callable[..., None], timeout: timedelta) -> ActivityEnvironment:
    made = ActivityEnvironment()
    made.info = dataclasses.replace(made.info, heartbeat_timeout=timeout)
    made.on_heartbeat = on_heartbeat
    return made


async def test_a_heartbeat_comes_at_a_third_of_the_timeout() -> None:
    counts = {"patient": 0, "impatient": 0}
    enough = asyncio.Event()

    def counted(name: str) -> Callable[..., None]:
        def beat(*details: object) -> None:
            counts[name] += 1
            if counts["impatient"] > 20:
                enough.set()

        return beat

    async def work() -> None:
        async with heartbeating():
            await enough.wait()

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        for name, timeout in (("patient", timedelta(hours=1)), ("impatient", timedelta(milliseconds=9))):
            tasks.create_task(environment(counted(name), timeout).run(work))
    assert counts["patient"] == 0


async def test_progress_is_reported_at_once_and_only_in_steps_of_five_points() -> None:
    progress, reported = Progress(), asyncio.Queue[Any]()

    async def work() -> None:
        async with heartbeating(lambda: {"pct": progress.step}):
            for percent in (3, 7, 9, 24, 99):
                progress.rise(percent)
                if percent not in (3, 9):
                    assert await reported.get() == {"pct": percent - percent % 5}
                await asyncio.sleep(0.02)  # gives a wrong heartbeat the time to be sent

    async with asyncio.timeout(PATIENCE_SECONDS):
        await environment(reported.put_nowait, timedelta(hours=1)).run(work)
    assert reported.empty()
