"""Work that reaches its end although its caller is cancelled."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import anyio
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from rindle import Rindle, Settings
from rindle.activities import progress
from rindle.activities.progress import Progress, run_reporting_progress
from rindle.cancellation import cancel_and_wait, run_to_end
from rindle.storage.memory import MemoryStorage


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_result_and_the_error_of_the_work_are_the_callers() -> None:
    async def answer() -> int:
        return 42

    async def fail() -> int:
        raise KeyError("x")

    assert await run_to_end(answer()) == 42
    with pytest.raises(KeyError):
        await run_to_end(fail())


@pytest.mark.parametrize("times", [1, 2, 3, 10])
async def test_a_caller_that_is_cancelled_waits_for_the_end(times: int) -> None:
    release, steps = asyncio.Event(), []

    async def clean_up() -> None:
        steps.append("began")
        try:
            await release.wait()
        except asyncio.CancelledError:
            steps.append("interrupted")
            raise
        steps.append("ended")

    caller = asyncio.create_task(run_to_end(clean_up()))
    for _ in range(times):
        await turns(3)
        caller.cancel()
    await turns(3)
    assert not caller.done()
    release.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert steps == ["began", "ended"]


async def test_a_time_limit_of_the_caller_still_is_a_timeout() -> None:
    release = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, release.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await run_to_end(release.wait())
    assert release.is_set()


async def test_work_beyond_its_limit_is_cancelled_once_and_leaves_its_caller_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    steps, asked = [], asyncio.Event()

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("cancelled")
            raise KeyError("nobody reads this")

    caller = asyncio.create_task(run_to_end(stuck(), limit_seconds=0, on_cancel=asked.set))
    await turns(3)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await turns(3)

    assert asked.is_set()
    assert steps == ["cancelled"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_waiting_for_cancelled_tasks_cancels_each_of_them_once() -> None:
    release, steps = asyncio.Event(), []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()
            steps.append("cleaned up")

    tasks = [asyncio.create_task(work()) for _ in range(2)]
    await turns(1)
    caller = asyncio.create_task(cancel_and_wait(*tasks))
    for _ in range(3):
        await turns(3)
        caller.cancel()
    release.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert steps == ["cleaned up", "cleaned up"]


async def test_a_build_cancelled_again_while_it_ends_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    began, release, steps = asyncio.Event(), asyncio.Event(), []

    async def follow(*_: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()
            steps.append("progress written")

    async def build() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()
            steps.append("processes gone")

    monkeypatch.setattr(progress, "_write_progress", follow)
    caller = asyncio.create_task(run_reporting_progress(None, None, Progress(), build()))  # type: ignore[arg-type]
    await began.wait()
    for _ in range(3):
        caller.cancel()
        await turns(3)
    release.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert sorted(steps) == ["processes gone", "progress written"]


async def test_closing_an_application_takes_every_step_whatever_fails_and_however_often_it_is_cancelled(
    tmp_path: Path,
) -> None:
    closed, began, release = [], asyncio.Event(), asyncio.Event()

    class Slow(MemoryStorage):
        async def close(self) -> None:
            began.set()
            await release.wait()
            closed.append("slow")

    class Broken(MemoryStorage):
        async def close(self) -> None:
            closed.append("broken")
            raise KeyError("x")

    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'rindle.db'}")
    rindle = Rindle(engine=engine, profiles=[], storages={"slow": Slow(), "broken": Broken()}, settings=Settings())
    close_database = rindle.database.close

    async def close() -> None:
        await close_database()
        closed.append("database")

    rindle.database.close = close  # type: ignore[method-assign]
    task = asyncio.create_task(rindle.close())
    await began.wait()
    for _ in range(3):
        task.cancel()
        await turns(3)
    release.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(closed) == ["broken", "database", "slow"]
    await engine.dispose()


async def test_a_scope_that_cancels_on_every_turn_does_not_keep_the_loop_busy() -> None:
    """As the responses of Starlette do when their client has disconnected."""
    release, cancelled = asyncio.Event(), asyncio.Event()

    async def respond() -> int:
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await run_to_end(release.wait(), on_cancel=cancelled.set)
            finally:
                task = asyncio.current_task()
                assert task is not None
                cancellations.append(task.cancelling())
        return 1

    cancellations: list[int] = []
    response = asyncio.create_task(respond())
    await cancelled.wait()
    await turns(50)
    assert not response.done()
    release.set()

    assert await response == 1
    assert cancellations[0] < 10
