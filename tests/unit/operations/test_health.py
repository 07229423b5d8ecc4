"""What a probe hears of database and Temporal, and how little it costs them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rindle import threads
from rindle.operations import health
from rindle.operations.health import Health, HealthCheck
from tests.patience import PATIENCE_SECONDS, until


class Service:
    """A database or a Temporal connection that answers as it is told; counts how often it was asked."""

    label = "127.0.0.1:7233, namespace default"

    def __init__(self, answer: Callable[[], Awaitable[bool]]) -> None:
        self._answer = answer
        self.count = 0

    async def healthy(self) -> bool:
        self.count += 1
        return await self._answer()

    async def read(self, fn: Any) -> bool:
        return await self.healthy()


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


async def fails() -> bool:
    raise ConnectionError("postgresql://user:secret@host is away")


def checking(database: Service, temporal: Service, **limits: float) -> HealthCheck:
    return HealthCheck(database, temporal, **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("database", "temporal", "missing"),
    [(yes, yes, ()), (yes, no, ("temporal",)), (fails, yes, ("database",)), (no, fails, ("database", "temporal"))],
)
async def test_what_does_not_answer_is_named(database: Any, temporal: Any, missing: tuple[str, ...]) -> None:
    found = await checking(Service(database), Service(temporal)).health()

    assert found == Health(database="database" not in missing, temporal="temporal" not in missing)
    assert found.missing == missing
    assert found.is_ready is not bool(missing)


async def test_threads_that_are_all_in_use_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own are needed; the loop's default ones, which belong to the application, are a warning."""
    release = threading.Event()
    own, default = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    monkeypatch.setattr(threads, "_pool", own)
    asyncio.get_running_loop().set_default_executor(default)
    check = checking(Service(yes), Service(yes), fresh_seconds=0, limit_seconds=0.05)
    try:
        for pool, missing in ((default, ()), (own, ("threads",))):
            pool.submit(release.wait)

            async def named(missing: tuple[str, ...] = missing) -> bool:
                """Say whether exactly this is found; a thread that is only late is found again a moment later."""
                found = await check.health()
                return found.missing == missing and found.warnings == (
                    "the default threads of the event loop are all in use: no host name is resolved",
                )

            await until(named, what=f"the threads in use to be found, and {missing} to be missing")
    finally:
        release.set()

    async def recovered() -> bool:
        found = await check.health()
        return found.is_ready and not found.warnings

    await until(recovered, what="the threads to be free")
    own.shutdown()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
    default.shutdown()


async def test_probes_that_come_together_or_soon_after_share_one_look() -> None:
    database, temporal = Service(yes), Service(yes)
    check = checking(database, temporal, fresh_seconds=60)

    together = await asyncio.gather(*(check.health() for _ in range(50)))
    together += [await check.health() for _ in range(50)]

    assert set(together) == {Health(database=True, temporal=True)}
    assert (database.count, temporal.count) == (1, 1)


async def test_an_old_answer_is_not_shared() -> None:
    database, temporal = Service(yes), Service(yes)
    check = checking(database, temporal, fresh_seconds=0)

    await check.health()
    await check.health()

    assert (database.count, temporal.count) == (2, 2)


async def test_what_hangs_is_waited_for_no_longer_than_the_limit_and_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def at_once(*_: object) -> bool:
        return True

    # The threads of a busy machine may need longer than this limit.
    monkeypatch.setattr(health, "in_thread", at_once)
    monkeypatch.setattr(health, "_pass_default_threads", at_once)
    answers = asyncio.Event()
    database, temporal = Service(yes), Service(answers.wait)
    check = checking(database, temporal, fresh_seconds=0, limit_seconds=0.05)

    async with asyncio.timeout(PATIENCE_SECONDS):
        found = [await check.health() for _ in range(3)]

    assert found == [Health(database=True, temporal=False)] * 3
    assert (database.count, temporal.count) == (3, 1)

    answers.set()  # and when it answers after all, that is seen at once
    assert (await check.health()).is_ready


async def test_a_probe_that_goes_away_takes_the_answer_from_nobody() -> None:
    answers = asyncio.Event()
    check = checking(Service(yes), Service(answers.wait))
    impatient, patient = asyncio.create_task(check.health()), asyncio.create_task(check.health())
    await asyncio.sleep(0)

    impatient.cancel()
    answers.set()

    assert (await patient).is_ready
    assert impatient.cancelled()


async def test_changes_are_logged_once_and_without_what_a_driver_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "rindle.operations.health")
    answers = iter([fails, fails, yes, yes])
    check = checking(Service(lambda: next(answers)()), Service(yes), fresh_seconds=0)

    for _ in range(4):
        await check.health()

    told = [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG]
    assert told == ["database does not answer", "database answers again"]
    assert "secret" not in caplog.text
