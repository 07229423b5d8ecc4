"""A step that runs while its caller goes on: one at a time, and none is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

from rindle.cancellation import cancel_and_wait

T = TypeVar("T")


class BackgroundStep(Generic[T]):
    """At most one coroutine in a task of its own. Whoever uses it ends with :meth:`settle`."""

    def __init__(self) -> None:
        self._task: asyncio.Task[T] | None = None

    def check(self) -> None:
        """Raise the error of a step that has failed."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def begin(self, step: Coroutine[Any, Any, T]) -> None:
        """Begin a step when the one before has ended.

        Raises:
            Exception: the error of the step before; the new one is not begun.
        """
        try:
            await self.finish()
        except BaseException:
            step.close()
            raise
        self._task = asyncio.create_task(step)

    async def finish(self) -> T | None:
        """Wait for the step and return its result; ``None`` when there was no step.

        A cancelled caller does not cancel the step.

        Raises:
            Exception: the error of the step.
        """
        return None if self._task is None else await asyncio.shield(self._task)

    async def settle(self, *, limit_seconds: float | None = None) -> None:
        """Wait until the step has ended; its error was raised before, or is not wanted any more.

        Args:
            limit_seconds: time in seconds after which the step is cancelled; ``None`` waits as long as it takes.
        """
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=limit_seconds)
        if not self._task.done():
            await cancel_and_wait(self._task)
        if not self._task.cancelled():
            with suppress(Exception):
                self._task.result()
