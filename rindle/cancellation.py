"""Work that must complete although its caller is cancelled: units of work on a database, and clean-up.

A task can be cancelled at every await, any number of times. A commit, a rollback or a clean-up step that is interrupted
half-way keeps locks, connections, files or processes. Such work therefore runs in its own task, which the cancellation
of the caller does not reach; the caller is cancelled when that task has ended.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Work that exceeded its time limit; the event loop itself keeps only weak references to tasks.
_late: set[asyncio.Future[Any]] = set()


async def run_to_end(
    work: Awaitable[T], *, limit_seconds: float | None = None, on_cancel: Callable[[], object] | None = None
) -> T:
    """Return the result of ``work``, which runs to its end even when the caller is cancelled.

    The cancellation of the caller is raised when the work has ended; the work's result or error is then dropped.

    Args:
        work: a coroutine, which gets its own task, or a future.
        limit_seconds: longest time in seconds for which a cancelled caller waits. Work that takes longer is cancelled
            once and goes on without the caller. ``None`` waits as long as it takes.
        on_cancel: called at the first cancellation, for example to stop a thread early. It must not raise.

    Raises:
        CancelledError: the caller was cancelled.
        Exception: what the work raised.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    cancelled: asyncio.CancelledError | None = None
    if not task.done():
        try:
            await asyncio.wait({task})  # `wait` never cancels what it waits for
        except asyncio.CancelledError as error:
            cancelled = error
            deadline = None if limit_seconds is None else loop.time() + limit_seconds
            if on_cancel is not None:
                on_cancel()
            with _cancelled_once():
                while not task.done() and (deadline is None or loop.time() < deadline):
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait({task}, timeout=None if deadline is None else deadline - loop.time())
    if cancelled is None:
        return task.result()
    if not task.done():
        log.warning("work did not end in time after a cancellation", extra={"seconds": limit_seconds})
        task.cancel()
        _late.add(task)
        task.add_done_callback(_late.discard)
    task.add_done_callback(_retrieve)
    try:
        raise cancelled  # the same object: its sender may recognize it by its message
    finally:
        del cancelled  # its traceback refers to this frame


async def cancel_and_wait(*tasks: asyncio.Future[Any]) -> None:
    """Cancel each of ``tasks`` once and wait until all have ended; their results and errors are dropped.

    A cancellation of the caller does not reach the tasks a second time, which would interrupt their clean-up.

    Raises:
        CancelledError: the caller was cancelled while it waited.
    """
    for task in tasks:
        task.cancel()
        task.add_done_callback(_retrieve)
    if tasks:
        await run_to_end(asyncio.wait(tasks))


def _cancelled_once() -> AbstractContextManager[object]:
    """Return a block in which a cancelled scope of anyio does not cancel the current task again.

    Such a scope, for example the response to a client that has disconnected, cancels its tasks on every turn of the
    event loop until they end. A task that waits would run all the time, and many of them would stop the loop.
    """
    anyio = sys.modules.get("anyio")  # not a dependency; without it there are no such scopes
    return nullcontext() if anyio is None else anyio.CancelScope(shield=True)


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Retrieve the error of work that nobody awaits, so that asyncio does not log it as never retrieved."""
    if not task.cancelled():
        task.exception()
