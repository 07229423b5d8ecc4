"""Purging an asset without attachments."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from rindle import messages
    from rindle.messages import PurgeDecision, PurgeInput, PurgeResult, StatusView, StopOrder
    from rindle.workflows import policies
    from rindle.workflows.steps import note_outcome, start_step, uninterrupted

T = TypeVar("T")


@workflow.defn(name=messages.PURGE_WORKFLOW)
class PurgeWorkflow:
    """Tombstones an unattached asset, stops its work, deletes every object that its rows name, then the rows.

    The first activity checks under the lock of the row whether the asset may be deleted: one that is attached again
    stays. If nothing of the asset runs, it also deletes the objects and the rows; nearly every purge is this activity.
    Errors of deletions are retried without limit, whatever the store says; a row is deleted only after its object.
    While a PUT ticket may still recreate the object, the tombstone stays, and the objects are deleted once more after
    that.

    Request Cancellation changes nothing: a purge that has begun is completed.
    """

    @workflow.init
    def __init__(self, order: PurgeInput) -> None:
        self._order = order
        self._woken = False
        self._stage = "starting"
        self._outcome = "open"

    @workflow.signal
    def wake(self) -> None:
        """Somebody requested this purge again: read the rows again before closing, and before a pause ends."""
        self._woken = True

    @workflow.query
    def status(self) -> StatusView:
        """The status of this run, for operators."""
        return StatusView(kind="purge", state=self._outcome, stage=self._stage, started_at=workflow.info().start_time)

    @workflow.run
    async def run(self, order: PurgeInput) -> PurgeResult:
        """Purge, or return why not; a request that arrives meanwhile is handled before the end."""
        while True:
            self._woken = False
            result = await self._purge(order)
            self._outcome = result.outcome
            if not self._woken or result.outcome in ("purged", "gone"):
                workflow.set_current_details(f"**{result.outcome}** · {result.objects} objects")
                note_outcome(result.outcome, is_usual=result.outcome == "purged")
                return result

    async def _purge(self, order: PurgeInput) -> PurgeResult:
        self._stage = "deciding"
        decision = await self._complete(
            start_step(
                messages.BEGIN_PURGE,
                order,
                PurgeDecision,
                policies.DELETION,
                "tombstone unless attached, delete if idle",
            )
        )
        if decision.outcome != "purge":
            return PurgeResult(
                asset_id=order.asset_id,
                outcome=decision.outcome,
                objects=decision.objects,
                variants=decision.variants,
            )
        self._stage = "stopping work"
        running = StopOrder(
            asset_id=order.asset_id,
            groups=decision.groups,
            session_ids=decision.session_ids,
            providers=decision.providers,
        )
        await self._complete(
            start_step(
                messages.STOP_ASSET_WORK, running, type(None), policies.STOP_WORK, "end running work of the asset"
            )
        )
        deletion = order.model_copy(update={"may_wait": True})
        while True:
            self._stage, self._woken = "deleting", False
            result = await self._complete(
                start_step(messages.DELETE_ASSET, deletion, PurgeResult, policies.DELETION, "delete objects, then rows")
            )
            if result.outcome != "waiting":
                return result
            self._stage = "waiting"
            workflow.set_current_details("**objects deleted** · waits until no upload ticket is valid any more")
            await self._complete(asyncio.ensure_future(self._pause(result.wait_seconds)))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._woken, timeout=timedelta(seconds=seconds), timeout_summary="upload tickets expire"
            )

    async def _complete(self, step: asyncio.Future[T]) -> T:
        return await uninterrupted(step, lambda: None)
