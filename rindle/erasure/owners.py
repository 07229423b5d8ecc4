"""Flows of owner erasure: preview, erase one owner, erase a batch."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowExecutionStatus,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from rindle import messages, outbox
from rindle.arguments import actor_text, canonical_id
from rindle.db import erasures as rows
from rindle.db.models import new_id
from rindle.erasure.reports import BatchErasureReport, ErasedOwner, OwnerErasureReport, OwnerFailure
from rindle.errors import (
    BatchOwnerFailed,
    BatchTooLarge,
    EmptyBatch,
    ErasurePending,
    InvalidArgument,
    RindleError,
    TemporalUnavailable,
    error_of,
)
from rindle.messages import ErasureCounts, ErasureInput
from rindle.protocols import OwnerRef
from rindle.services import Services
from rindle.workflows import ids

#: Timeout of the question whether the server has accepted an erasure that did not report in time.
_LOOK = timedelta(seconds=5)
#: Starts of one call. Each may meet the run of an earlier call of the operation, which took its request back.
_STARTS = 5


async def preview_owner_erasure(services: Services, owner: Any) -> OwnerErasureReport:
    """Preview ``erase_owner``; see ``Rindle.preview_owner_erasure``."""
    plan = await services.database.read(rows.plan, services.owner_types.ref(owner))
    return OwnerErasureReport.from_plan("preview", plan)


async def erase_owner(
    services: Services, owner: Any, *, operation_id: str | UUID | None = None, actor: str | UUID | None = None
) -> OwnerErasureReport:
    """Erase the media of an owner; see ``Rindle.erase_owner``."""
    ref = services.owner_types.ref(owner)
    named = actor_text("actor", actor)
    operation = _operation(operation_id)
    stored = await services.database.read(_stored, operation, ref)
    if stored is not None:
        return stored
    await services.temporal.require_answer()
    client = await services.temporal.client()
    is_new = False
    try:
        for _ in range(_STARTS):
            is_new = await _request(services, operation, ref, named) or is_new
            if await _reported(services, client, operation):
                break
        else:
            raise _unreachable(services, "other calls of the operation take its request back")
    except TemporalUnavailable as error:
        # The request may have arrived nevertheless. The rows decide: without its row the operation does nothing.
        if is_new and await services.database.write(rows.withdraw, operation):
            raise
        stored = await services.database.read(_stored, operation, ref)
        if stored is not None:
            return stored
        if not is_new and await services.database.read(rows.find, operation) is not None:
            raise _pending(operation) from error  # an earlier call has requested it, and its run may be open
        raise
    stored = await services.database.read(_stored, operation, ref)
    if stored is None:
        raise _pending(operation)
    return stored


def _operation(operation_id: str | UUID | None) -> str:
    if operation_id is None:
        return new_id()
    found = canonical_id(operation_id)
    if found is None:
        raise InvalidArgument("operation_id must be a UUID", detail={"option": "operation_id"})
    return found


def _stored(session: Session, operation_id: str, ref: OwnerRef) -> OwnerErasureReport | None:
    found = rows.find(session, operation_id)
    if found is None:
        return None
    if (found.owner_type, found.owner_id) != (ref.type, ref.id):
        raise InvalidArgument("operation_id belongs to the erasure of another owner", detail={"option": "operation_id"})
    return None if found.report is None else OwnerErasureReport.from_dict(found.report)


async def _request(services: Services, operation_id: str, ref: OwnerRef, actor: str | None) -> bool:
    """Add the row of the operation; ``False`` when another call of the same operation has added it."""
    try:
        return await services.database.write(rows.request, operation_id, ref, actor)
    except IntegrityError:  # at the same moment
        return False


async def _reported(services: Services, client: Client, operation_id: str) -> bool:
    """Start the workflow of the operation, or find it running, and wait until the attachments are removed.

    Returns:
        whether they are. Not when the run has found no request of the operation, and has ended without doing anything.

    Raises:
        ErasurePending: no worker has reported within the limit.
        TemporalUnavailable: the server did not answer.
    """
    seconds = services.settings.erasure_report_seconds
    try:
        async with asyncio.timeout(seconds):
            counts = await _update_with_start(services, client, operation_id, timedelta(seconds=seconds))
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as error:
        if not await _is_accepted(services, client, operation_id):
            raise _unreachable(services, "it does not answer") from error
        if not await services.database.read(rows.is_detached, operation_id):
            raise _pending(operation_id) from error
        return True
    except WorkflowUpdateFailedError as error:
        cause = error.cause
        if isinstance(cause, ApplicationError):
            raise error_of(cause.type or "unexpected", cause.message) from error
        raise
    except RPCError as error:
        raise _unreachable(services, error.status.name) from error
    return counts.outcome == "detached"


async def _is_accepted(services: Services, client: Client, operation_id: str) -> bool:
    """Whether a workflow of the operation runs: without an answer, the request may not have arrived.

    A run that is closed is one of an earlier call; if it has removed the attachments, the rows say so.
    """
    workflow = client.get_workflow_handle(ids.erasure_id(operation_id, prefix=services.settings.workflow_id_prefix))
    try:
        return (await workflow.describe(rpc_timeout=_LOOK)).status is WorkflowExecutionStatus.RUNNING
    except RPCError:
        return False


async def _update_with_start(services: Services, client: Client, operation_id: str, limit: timedelta) -> ErasureCounts:
    return await services.temporal.with_search_attributes(
        lambda are_used: _execute(services, client, operation_id, limit, use_attributes=are_used),
        wanted=services.settings.search_attributes,
    )


async def _execute(
    services: Services, client: Client, operation_id: str, limit: timedelta, *, use_attributes: bool
) -> ErasureCounts:
    settings = services.settings
    start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
        messages.OWNER_ERASURE_WORKFLOW,
        ErasureInput(operation_id=operation_id),
        id=ids.erasure_id(operation_id, prefix=settings.workflow_id_prefix),
        task_queue=settings.queue(),
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=ids.summary("erasure of an owner"),
        priority=Priority(priority_key=outbox.PRIORITY_DEFAULT),
        search_attributes=ids.attributes("erasure") if use_attributes else None,
    )
    # The operation keeps the error of a start that failed for whoever asks for its handle. Somebody has to ask: the
    # collector logs an error that nobody has seen.
    started = asyncio.ensure_future(start.workflow_handle())
    started.add_done_callback(_seen)
    try:
        # A fresh id per call: the server would repeat the outcome of a known one for ever, also a failure.
        counts: ErasureCounts = await client.execute_update_with_start_workflow(
            "report",
            start_workflow_operation=start,
            id=str(uuid.uuid4()),
            result_type=ErasureCounts,
            rpc_timeout=limit,
        )
    finally:
        started.cancel()
    return counts


def _seen(started: asyncio.Future[Any]) -> None:
    """Take the error of a start, which the call that made it has raised as well."""
    if not started.cancelled():
        started.exception()


def _unreachable(services: Services, why: str) -> TemporalUnavailable:
    problem = "did not accept the erasure, and nothing was erased"
    return services.temporal.unavailable(why, problem=problem, last_step="repeat the call")


def _pending(operation_id: str) -> ErasurePending:
    return ErasurePending(
        "the erasure was started, but no worker has reported yet; it continues as soon as one runs. To fix: 1. start "
        "the workers; 2. repeat the call with the same operation_id, which returns the report",
        detail={"operation_id": operation_id},
        retry_after=5,
    )


# --- batches -----------------------------------------------------------------------------------------------------


async def preview_batch_owner_erasure(
    services: Services, owners: Iterable[Any], *, max_owners: int | None = None
) -> BatchErasureReport:
    """Preview ``erase_owners``; see ``Rindle.preview_batch_owner_erasure``."""
    wanted = _distinct(services, owners, max_owners)

    def preview(session: Session) -> list[tuple[OwnerRef, OwnerErasureReport]]:
        removed: Counter[str] = Counter()  # by earlier owners of the batch
        found = []
        for ref in wanted:
            plan = rows.plan(session, ref, removed=removed)
            removed.update(row.asset_id for row in plan.attachments)
            found.append((ref, OwnerErasureReport.from_plan("preview", plan)))
        return found

    return BatchErasureReport.holding("preview", await services.database.read(preview))


async def erase_owners(
    services: Services,
    owners: Iterable[Any],
    *,
    max_owners: int | None = None,
    actor: str | UUID | None = None,
    continue_on_error: bool = False,
) -> BatchErasureReport:
    """Erase several owners, one after the other; see ``Rindle.erase_owners``."""
    wanted = _distinct(services, owners, max_owners)
    named = actor_text("actor", actor)
    completed: list[tuple[OwnerRef, OwnerErasureReport]] = []
    failures: list[OwnerFailure] = []
    for ref in wanted:
        try:
            completed.append((ref, await erase_owner(services, ref, actor=named)))
        except RindleError as error:
            owner = ErasedOwner(ref.type, ref.id)
            if continue_on_error:
                failures.append(OwnerFailure(owner, error.code, error.message))
                continue
            partial = BatchErasureReport.holding("execute", completed)
            raise BatchOwnerFailed(
                f"owner {len(completed) + 1} of {len(wanted)} was not erased ({error.code}): {error.message}. Earlier "
                "owners are erased, later ones were not tried; fix the cause and repeat the call with the same owners",
                detail={
                    "owner": owner.to_dict(),
                    "reason": error.code,
                    "operation_id": error.detail.get("operation_id"),
                    "partial_report": partial.to_dict(),
                },
                retryable=error.retryable,
            ) from error
    return BatchErasureReport.holding("execute", completed, failures)


def _distinct(services: Services, owners: Iterable[Any], max_owners: int | None) -> list[OwnerRef]:
    """Return the references of the owners, each once, in the order of their first appearance.

    Raises:
        InvalidOwner: one of them is not an owner; ``detail`` has its index.
        EmptyBatch: there is none.
        BatchTooLarge: there are too many.
    """
    limit = services.settings.max_batch_erasure_owners if max_owners is None else max_owners
    found: dict[OwnerRef, None] = {}
    for index, owner in enumerate(owners):
        try:
            found[services.owner_types.ref(owner)] = None
        except RindleError as error:
            error.detail["index"] = index
            raise
    if not found:
        raise EmptyBatch("a batch erasure needs at least one owner")
    if len(found) > limit:
        raise BatchTooLarge(
            f"the batch has {len(found)} owners, but at most {limit} are allowed; split it, or pass max_owners",
            detail={"requested": len(found), "max": limit},
        )
    return list(found)


async def unknown_owner_types(services: Services, owners: Iterable[OwnerRef]) -> list[str]:
    """Return the types of ``owners`` to which nothing is attached, sorted: probably misspelt."""
    wanted = sorted({owner.type for owner in owners})
    known = await services.database.read(rows.has_attachments, wanted)
    return [name for name in wanted if name not in known]
