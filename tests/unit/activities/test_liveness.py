from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import timedelta

import pytest
from temporalio.testing import ActivityEnvironment

from rindle.activities import liveness
from rindle.activities.liveness import heartbeating
from rindle.process import queued
from tests.patience import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.001)


def environment(on_heartbeat: Callable[..., None], timeout: timedelta) -> ActivityEnvironment:
    made = ActivityEnvironment()
    made.info = dataclasses.replace(made.info, heartbeat_timeout=timeout)
    made.on_heartbeat = on_heartbeat
    return made


async def beats(made: ActivityEnvironment, *, is_queued: bool, end: asyncio.Event, begin: asyncio.Event) -> None:
    async def work() -> None:
        async with heartbeating():
            if is_queued:
                with queued():
                    await begin.wait()
            await end.wait()

    await made.run(work)


async def test_work_that_waits_for_its_turn_beats_only_as_often_as_it_must() -> None:
    counts = {"running": 0, "waiting": 0, "impatient": 0}
    many, begin, began, end = asyncio.Event(), asyncio.Event(), asyncio.Event(), asyncio.Event()

    def counted(name: str) -> Callable[..., None]:
        def beat(*details: object) -> None:
            counts[name] += 1
            if counts["running"] > 20 and counts["impatient"] > 2:
                many.set()
            if name == "waiting":
                began.set()

        return beat

    hour, moment = timedelta(hours=1), timedelta(milliseconds=9)
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        for name, timeout in (("running", hour), ("waiting", hour), ("impatient", moment)):
            made = environment(counted(name), timeout)
            tasks.create_task(beats(made, is_queued=name != "running", begin=begin, end=end))
        await many.wait()
        assert counts["waiting"] == 0  # a third of an hour is not over
        begin.set()
        await began.wait()  # its turn has come: a cancel is to be heard of soon
        end.set()
