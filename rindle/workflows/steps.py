"""How workflows run activities: how they start, typed failures, and steps that a cancellation does not interrupt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError
from temporalio.workflow import ActivityConfig, ActivityHandle

with workflow.unsafe.imports_passed_through():
    from rindle.messages import Failure, Message
    from rindle.workflows import ids

T = TypeVar("T")
#: Patch: a run continues as new when the server suggests it.
CONTINUES_AS_NEW = "continue-as-new"


def start_step(
    name: str,
    order: Message,
    result_type: type[T],
    policy: ActivityConfig,
    summary: str,
    *,
    task_queue: str | None = None,
) -> ActivityHandle[T]:
    """Start the activity ``name`` under ``policy``; ``summary`` is what the Temporal UI shows beside it."""
    options = policy.copy()
    options["summary"] = ids.summary(summary)
    if task_queue:
        options["task_queue"] = task_queue
    handle: ActivityHandle[T] = workflow.start_activity(name, order, result_type=result_type, **options)
    return handle


def failure_of(error: ActivityError) -> Failure:
    """Return the code and message an activity failed with.

    A timeout is described by the last failure before it, which is more specific.
    """
    cause: BaseException | None = error.cause
    if isinstance(cause, TimeoutError):
        last = cause.cause
        if isinstance(last, ApplicationError):
            return Failure(code=last.type or "unexpected", message=last.message)
        return Failure(code="process_timeout", message="the work exceeded its time limit")
    if isinstance(cause, ApplicationError):
        return Failure(code=cause.type or "unexpected", message=cause.message)
    return Failure(code="unexpected", message=f"unexpected {type(cause).__name__}")


async def uninterrupted(handle: asyncio.Future[T], on_cancel: Callable[[], Any]) -> T:
    """Await ``handle`` to its end even when the workflow is cancelled; ``on_cancel`` records the request.

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


def continues_as_new() -> bool:
    """Whether the server suggests to continue this run as new, because its history has become long.

    Only for places where no activity is pending. The new run begins by reading the rows, so that nothing is carried
    over. A run of an older release goes on as it is.
    """
    return workflow.info().is_continue_as_new_suggested() and workflow.patched(CONTINUES_AS_NEW)


def note_outcome(outcome: str, *, is_usual: bool) -> None:
    """Set ``RindleState`` to the outcome of this run, unless the outcome is the usual one.

    A search attribute costs an event and a write, and only unusual outcomes are searched for. Only runs that started
    with Rindle's attributes have them; a namespace without them rejects new ones.
    """
    if not is_usual and len(workflow.info().typed_search_attributes) > 0:
        workflow.upsert_search_attributes([ids.STATE.value_set(outcome)])
