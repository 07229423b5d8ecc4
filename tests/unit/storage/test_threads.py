"""The executor of an adapter: bounded, and honest about cancellation."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from rindle.errors import StorageTransient
from rindle.storage.threads import Stop, Threads
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.usefixtures("patient_transfers")  # no test here is about the end of that wait

TRACE = contextvars.ContextVar("TRACE", default="none")


async def test_a_call_runs_in_a_thread_with_the_callers_context() -> None:
    threads = Threads("test", 2)
    TRACE.set("abc")

    def where(first: int, *, second: int) -> tuple[bool, str, int]:
        return threading.current_thread() is threading.main_thread(), TRACE.get(), first + second

    assert await threads.run(where, 1, second=2) == (False, "abc", 3)
    await threads.close()


async def test_no_more_calls_run_at_once_than_there_are_threads() -> None:
    threads = Threads("test", 2)
    running, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2)

    def count() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(PATIENCE_SECONDS)
        with lock:
            running -= 1

    await asyncio.gather(*(threads.run(count) for _ in range(6)))

    assert most == 2
    await threads.close()


async def test_a_cancelled_transfer_stops_and_has_cleaned_up_when_the_caller_goes_on() -> None:
    threads = Threads("test", 1)
    started, cleaned = threading.Event(), threading.Event()

    def transfer(stop: Stop) -> None:
        try:
            while True:
                started.set()
                stop.check()
        finally:
            cleaned.set()

    task = asyncio.create_task(threads.move(transfer))
    await asyncio.wrap_future(_in_a_thread(started.wait))
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned.is_set()
    await threads.close()


async def test_a_transfer_cancelled_again_while_it_cleans_up_has_cleaned_up_all_the_same() -> None:
    threads = Threads("test", 1)
    started, cleaning, release, cleaned = (threading.Event() for _ in range(4))

    def transfer(stop: Stop) -> None:
        try:
            while True:
                started.set()
                stop.check()
        finally:
            cleaning.set()
            release.wait(PATIENCE_SECONDS)
            cleaned.set()

    task = asyncio.create_task(threads.move(transfer))
    await asyncio.wrap_future(_in_a_thread(started.wait))
    task.cancel()
    await asyncio.wrap_future(_in_a_thread(cleaning.wait))
    task.cancel()
    release.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned.is_set()
    await threads.close()


async def test_a_transfer_cancelled_while_it_waits_for_a_thread_never_runs() -> None:
    threads = Threads("test", 1)
    release, ran = threading.Event(), threading.Event()
    busy = asyncio.create_task(threads.run(release.wait))
    task = asyncio.create_task(threads.move(lambda stop: ran.set()))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    await busy
    await threads.close()

    assert not ran.is_set()


async def test_what_must_settle_runs_even_when_the_caller_is_cancelled() -> None:
    threads = Threads("test", 1)
    release, settled = threading.Event(), threading.Event()

    def finish() -> None:
        release.wait(PATIENCE_SECONDS)
        settled.set()

    task = asyncio.create_task(threads.settle(finish))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert settled.is_set()
    await threads.close()


async def test_closing_stops_transfers_and_threads_come_back_when_needed() -> None:
    threads = Threads("test", 2)
    started = threading.Event()

    def transfer(stop: Stop) -> None:
        while True:
            started.set()
            stop.check()

    task = asyncio.create_task(threads.move(transfer))
    await asyncio.wrap_future(_in_a_thread(started.wait))
    await threads.close()

    with pytest.raises(StorageTransient):
        await task
    assert await threads.run(lambda: 1) == 1
    await threads.close()
    await threads.close()


async def test_errors_arrive_as_they_are() -> None:
    threads = Threads("test", 1)

    def fail(stop: Stop) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await threads.move(fail)
    await threads.close()


def test_at_least_one_thread_is_needed() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Threads("test", 0)


def _in_a_thread(wait: Callable[[float], bool]) -> Future[bool]:
    future: Future[bool] = Future()
    threading.Thread(target=lambda: future.set_result(wait(PATIENCE_SECONDS)), daemon=True).start()
    return future
