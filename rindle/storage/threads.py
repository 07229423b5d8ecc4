"""The bounded executor in which an adapter runs its blocking calls.

Every adapter owns one, so a slow store cannot starve another one, and none uses the event loop's default pool.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from rindle.cancellation import run_to_end
from rindle.errors import StorageTransient

P = ParamSpec("P")
T = TypeVar("T")

#: Default number of threads of one adapter.
DEFAULT_THREADS = 32
#: Longest a cancelled caller, or ``close``, waits for a transfer to notice and clean up.
GRACE_SECONDS = 5.0


class Stopped(BaseException):
    """Ends a transfer that nobody awaits any longer.

    Not an ``Exception``: SDKs wrap and retry those, and a stopped transfer must end at once.
    """


class Stop:
    """How the event loop ends a transfer in a thread; transfers call :meth:`check` between two pieces."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def set(self) -> None:
        """Request that the transfer ends at its next piece."""
        self._requested.set()

    def check(self) -> None:
        """Raise :class:`Stopped` when the transfer is no longer wanted."""
        if self._requested.is_set():
            raise Stopped


class Threads:
    """Runs blocking functions in at most ``size`` threads, made when first needed.

    Usable from several event loops. After :meth:`close` it can be used again: new threads are made then.
    """

    def __init__(self, name: str, size: int = DEFAULT_THREADS) -> None:
        if size < 1:
            raise ValueError("threads must be at least 1")
        self.size = size
        self._name = name
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._running: dict[Future[Any], Stop] = {}

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``fn(*args, **kwargs)``; a cancelled caller leaves a short call to end by itself."""
        return await asyncio.wrap_future(self._submit(Stop(), fn, *args, **kwargs))

    async def move(self, fn: Callable[Concatenate[Stop, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``fn(stop, *args, **kwargs)`` where ``fn`` moves bytes and calls ``stop.check()`` on the way.

        When the caller is cancelled the transfer is requested to stop, and up to ``GRACE_SECONDS`` are given for it to
        remove what it had begun, so that after the cancellation normally no partial file is left. A transfer stuck in
        a system call longer than that cleans up when the call returns.

        Raises:
            StorageTransient: the adapter was closed under the transfer.
        """
        stop = Stop()
        future = self._submit(stop, fn, stop, *args, **kwargs)

        def end_early() -> None:
            stop.set()
            future.cancel()  # only one that waits for a thread can be cancelled

        try:
            return await run_to_end(asyncio.wrap_future(future), limit_seconds=GRACE_SECONDS, on_cancel=end_early)
        except Stopped as stopped:
            raise StorageTransient("the storage was closed during a transfer", adapter=self._name) from stopped

    async def settle(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``fn(*args, **kwargs)``, which runs to its end even when the caller is cancelled: for cleaning up.

        A cancelled caller is cancelled when the function has ended; after ``GRACE_SECONDS`` at the latest.
        """
        return await run_to_end(
            asyncio.wrap_future(self._submit(Stop(), fn, *args, **kwargs)), limit_seconds=GRACE_SECONDS
        )

    async def close(self) -> None:
        """Stop transfers, wait up to ``GRACE_SECONDS`` for what is running and let the threads go."""
        with self._lock:
            executor, self._executor = self._executor, None
            running = dict(self._running)
        for stop in running.values():
            stop.set()
        try:
            if running:
                waiting = [asyncio.wrap_future(future) for future in running]
                for one in waiting:
                    one.add_done_callback(_forget)
                await run_to_end(asyncio.wait(waiting, timeout=GRACE_SECONDS))
        finally:
            if executor is not None:
                executor.shutdown(wait=False)  # what is still queued runs, a transfer only up to its first check

    def _submit(self, stop: Stop, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        context = contextvars.copy_context()  # trace and log context follow the call into the thread
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.size, thread_name_prefix=f"rindle-{self._name}")
            future: Future[T] = self._executor.submit(context.run, lambda: fn(*args, **kwargs))
            self._running[future] = stop
        # outside the lock: a future that is already done calls back at once
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: Future[Any]) -> None:
        with self._lock:
            self._running.pop(future, None)


def _forget(future: asyncio.Future[Any]) -> None:
    """Retrieve a result that nobody awaits, so that asyncio does not log it as lost."""
    if not future.cancelled():
        future.exception()
