"""How activities end, read by workflows: typed failures, and steps that a cancel request must not tear apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from rindle.messages import Failure

T = TypeVar("T")


def failure_of(error: ActivityError) -> Failure:
    """Return the code and message an activity failed with.

    An activity whose time ran out is described by the last failure before it, which says more than "timed out".
    """
    cause: BaseException | None = error.cause
    if isinstance(cause, TimeoutError):
        last = cause.cause
        if isinstance(last, ApplicationError):
            return Failure(code=last.type or "unexpected", message=last.message)
        return Failure(code="process_timeout", message="the work did not end within its time")
    if isinstance(cause, ApplicationError):
        return Failure(code=cause.type or "unexpected", message=cause.message)
    return Failure(code="unexpected", message=f"unexpected {type(cause).__name__}")


async def uninterrupted(handle: asyncio.Future[T], on_cancel: Callable[[], Any]) -> T:
    """Await ``handle`` to its end even when the workflow is asked to cancel; ``on_cancel`` notes the request.

    A cancel request arrives once, as CancelledError at whatever is awaited. A step that moves rows must not be lost to
    it, and the request must not be lost to the step.
    """
    while True:
        try:
            return await asyncio.shield(handle)
        except asyncio.CancelledError:
            if handle.cancelled():
                raise
            on_cancel()


__all__ = ["Failure", "failure_of", "is_cancelled_exception", "uninterrupted"]
