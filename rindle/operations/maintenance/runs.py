"""Start sweeps as ``MaintenanceWorkflow`` and follow them to their end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError, WorkflowAlreadyStartedError
from temporalio.service import RPCError

from rindle import messages, outbox
from rindle.cancellation import cancel_and_wait
from rindle.errors import MaintenanceRunning, MaintenanceStopped, TemporalUnavailable, error_of
from rindle.messages import MaintenanceInput, MaintenanceResult, SweepProgress
from rindle.operations.maintenance.sweep import Outcome, Sweep, SweepOptions, SweepReport
from rindle.operations.runs import describe_queue
from rindle.services import Services
from rindle.workflows import ids

O = TypeVar("O", bound=SweepOptions)  # noqa: E741 - options
R = TypeVar("R", bound=SweepReport)

Handle = WorkflowHandle[Any, MaintenanceResult]

#: Seconds after which a sweep that waits for another one tries again.
_BESIDE_SECONDS = 300
_RPC_SECONDS = timedelta(seconds=10)
#: Pause in seconds between two looks at the progress of a run.
_LOOK_SECONDS = 1.0
#: Seconds without any progress after which the pollers of the queue are looked up.
_SILENCE_SECONDS = 10.0


def start_options(services: Services, sweep: Sweep[O, R], options: O, *, with_attributes: bool) -> dict[str, Any]:
    """Return how the workflow of a sweep is started, by hand and by a schedule: queue, summary, priority, attributes.

    Args:
        with_attributes: with search attributes; see ``TemporalConnection.with_search_attributes``.
    """
    mode = ", dry run" if getattr(options, "dry_run", False) else ""
    found: dict[str, Any] = {
        "task_queue": services.settings.maintenance_queue,
        "static_summary": ids.summary(f"{sweep.name}{mode}"),
        "priority": Priority(priority_key=outbox.PRIORITY_SWEEP),
    }
    if with_attributes:
        found["search_attributes"] = ids.attributes(
            "maintenance", profile=getattr(options, "profile", None), asset_id=getattr(options, "asset_id", None)
        )
    return found


def order_of(sweep: Sweep[O, R], options: O) -> MaintenanceInput:
    """Return the input of the workflow that runs ``sweep`` with ``options``."""
    return MaintenanceInput(verb=sweep.name, options=options.model_dump(mode="json"))


async def start(services: Services, sweep: Sweep[O, R], options: O, *, max_pages: int = 0, row_id: str = "") -> Handle:
    """Start a sweep by hand, and return a handle on its workflow.

    Args:
        max_pages: pages of one run before it continues as new; 0 leaves that to the server.
        row_id: id of the one row that the sweep is about; runs about different rows do not exclude each other.

    Raises:
        MaintenanceRunning: the same sweep was started by hand before and still runs, or one it must not run beside.
        TemporalUnavailable: Temporal did not accept the run; nothing was started.
        RindleError: the sweep refuses the options.
    """
    sweep.check(services, options)
    client = await services.temporal.client()
    await check_beside(services, sweep)
    verb = f"{sweep.name}:{row_id}" if row_id else sweep.name
    workflow_id = ids.maintenance_id(verb, prefix=services.settings.workflow_id_prefix)
    order = order_of(sweep, options).model_copy(update={"max_pages": max_pages})

    async def start_with(are_used: bool) -> Handle:
        return await client.start_workflow(
            messages.MAINTENANCE_WORKFLOW,
            order,
            id=workflow_id,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            result_type=MaintenanceResult,
            rpc_timeout=_RPC_SECONDS,
            **start_options(services, sweep, options, with_attributes=are_used),
        )

    try:
        return await services.temporal.with_search_attributes(start_with, wanted=services.settings.search_attributes)
    except WorkflowAlreadyStartedError as error:
        raise MaintenanceRunning(
            f"{sweep.name} is running already: {workflow_id}. To fix: wait for its end, or cancel it with: temporal "
            f"workflow cancel --workflow-id {workflow_id}",
            detail={"workflow_id": workflow_id, "run_id": error.run_id},
        ) from error
    except RPCError as error:
        raise _unreachable(services, error) from error


async def check_beside(services: Services, sweep: Sweep[O, R]) -> None:
    """Return when no sweep runs that ``sweep`` must not start beside, by hand or by a schedule.

    Raises:
        MaintenanceRunning: one runs.
        TemporalUnavailable: Temporal did not answer.
    """
    if not sweep.not_beside:
        return
    client = await services.temporal.client()
    for name in sweep.not_beside:
        # A schedule appends the time to the id. Visibility lags a little, which two sweeps at once survive.
        workflow_id = ids.maintenance_id(name, prefix=services.settings.workflow_id_prefix)
        query = (
            f"ExecutionStatus = 'Running' AND WorkflowType = '{messages.MAINTENANCE_WORKFLOW}' "
            f"AND WorkflowId STARTS_WITH '{workflow_id}'"
        )
        try:
            async for run in client.list_workflows(query, limit=1):
                raise MaintenanceRunning(
                    f"{sweep.name} does not start while {name} is running: {run.id}. To fix: wait for its end",
                    detail={"workflow_id": run.id, "run_id": run.run_id},
                    retry_after=_BESIDE_SECONDS,
                )
        except RPCError as error:
            raise _unreachable(services, error) from error


async def follow(
    services: Services,
    handle: Handle,
    sweep: Sweep[O, R],
    *,
    on_page: Callable[[SweepProgress], object] = lambda progress: None,
    on_silence: Callable[[], object] = lambda: None,
) -> Outcome[R]:
    """Wait for the end of a run and return its outcome; the run goes on when this call is cancelled.

    Args:
        on_page: called with the progress whenever it has changed.
        on_silence: called once when no worker polls the queue of sweeps, so that the run does not begin.

    Raises:
        MaintenanceStopped: the run was cancelled or terminated.
        TemporalUnavailable: Temporal does not answer any more; the run goes on when it does.
        RindleError: a page could not be read.
    """
    result = asyncio.ensure_future(handle.result())
    seen = SweepProgress()
    since, is_silent = time.monotonic(), False
    try:
        while not (await asyncio.wait({result}, timeout=_LOOK_SECONDS))[0]:
            progress = await _progress(handle, timedelta(seconds=_LOOK_SECONDS))
            if progress is not None and progress.pages > seen.pages:
                seen, since = progress, time.monotonic()
                on_page(progress)
            elif progress is None and not is_silent and time.monotonic() - since > _SILENCE_SECONDS:
                is_silent = not await _is_polled(services)
                since = time.monotonic()
                if is_silent:
                    on_silence()
        ended = await result
    except WorkflowFailureError as error:
        raise await _failure(handle, sweep, error, seen) from error
    except RPCError as error:
        raise _unreachable(services, error) from error
    finally:
        await cancel_and_wait(result)
    on_page(ended.progress)
    progress = ended.progress
    return Outcome(sweep.report(**progress.counters), progress.failures, progress.failed)


async def _progress(handle: Handle, limit: timedelta) -> SweepProgress | None:
    """Return how far a run has come; ``None`` when no worker answers in time."""
    with contextlib.suppress(RPCError):
        progress: SweepProgress = await handle.query("progress", result_type=SweepProgress, rpc_timeout=limit)
        return progress
    return None


async def _is_polled(services: Services) -> bool:
    client, queue = await services.temporal.client(), services.settings.maintenance_queue
    try:
        facts = [await describe_queue(client, (queue, kind)) for kind in ("workflow", "activity")]
    except RPCError:
        return True  # not known
    return all(one.is_polled for one in facts)


async def _failure(handle: Handle, sweep: Sweep[O, R], error: WorkflowFailureError, seen: SweepProgress) -> Exception:
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return error_of(cause.type or "unexpected", cause.message)
    if not isinstance(cause, CancelledError | TerminatedError):
        return error
    found = await _progress(handle, _RPC_SECONDS)
    progress = found or seen
    pages = f"{progress.pages} pages" if found else f"at least {progress.pages} pages"  # it may have read more since
    counters = sweep.report(**progress.counters).to_dict()
    done = ", ".join(f"{name} {count}" for name, count in counters.items())
    how = "cancelled" if isinstance(cause, CancelledError) else "terminated"
    return MaintenanceStopped(
        f"{sweep.name} was {how} after {pages} ({done}); what it has done stays done, and a new run does the rest",
        detail={"workflow_id": handle.id, "counters": counters, "pages": progress.pages},
    )


def _unreachable(services: Services, error: RPCError) -> TemporalUnavailable:
    repeat = "repeat the command, or add --local to run the sweep without Temporal"
    return services.temporal.unavailable(error.status.name, problem="did not answer", last_step=repeat)
