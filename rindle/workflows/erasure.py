"""Erasing the media of one owner."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from rindle import messages
    from rindle.messages import (
        ErasureCounts,
        ErasureInput,
        ErasureProgress,
        ErasureResult,
        SettleOrder,
        StatusView,
    )
    from rindle.workflows import policies
    from rindle.workflows.steps import note_outcome, start_step, uninterrupted

T = TypeVar("T")


@workflow.defn(name=messages.OWNER_ERASURE_WORKFLOW)
class OwnerErasureWorkflow:
    """Removes the attachments of an owner in one transaction, then waits until the purges of its assets have ended.

    The last purge wakes the workflow. As a safety net, purges that have not ended are started again after a pause. The
    rows have the owner, the report and the certificate; this workflow knows the operation's id and counts.

    Request Cancellation changes nothing: an erasure that has begun is completed.
    """

    @workflow.init
    def __init__(self, order: ErasureInput) -> None:
        self._order = order
        self._woken = False
        self._stage = "starting"
        self._outcome = "open"
        self._counts: ErasureCounts | None = None

    @workflow.signal
    def wake(self) -> None:
        """The purges have ended: read the rows."""
        self._woken = True

    @workflow.update
    async def report(self) -> ErasureCounts:
        """Return the counts of the report as soon as the attachments are removed; the rows have the report."""
        while self._counts is None:
            await workflow.wait_condition(lambda: self._counts is not None)
        return self._counts

    @workflow.query
    def status(self) -> StatusView:
        """The status of this run, for operators."""
        return StatusView(kind="erasure", state=self._outcome, stage=self._stage, started_at=workflow.info().start_time)

    @workflow.run
    async def run(self, order: ErasureInput) -> ErasureResult:
        """Detach, see the purges through, complete the certificate."""
        self._stage = "detaching"
        self._counts = await self._complete(
            start_step(
                messages.DETACH_OWNER,
                order,
                ErasureCounts,
                policies.ERASURE_STEP,
                "remove the owner's attachments, queue the purges",
            )
        )
        self._outcome = self._counts.outcome
        if self._outcome == "detached":
            await self._see_purges_through(order)
            self._outcome = "completed"
        await self._complete(asyncio.ensure_future(workflow.wait_condition(workflow.all_handlers_finished)))
        workflow.set_current_details(f"**{self._outcome}** · {self._counts.assets_to_purge} assets purged or kept")
        note_outcome(self._outcome, is_usual=self._outcome == "completed")
        return ErasureResult(
            operation_id=order.operation_id, outcome=self._outcome, assets_to_purge=self._counts.assets_to_purge
        )

    async def _see_purges_through(self, order: ErasureInput) -> None:
        restart = False
        while True:
            self._woken = False
            progress = await self._settle(SettleOrder(operation_id=order.operation_id, restart=restart))
            while progress.after:
                progress = await self._settle(
                    SettleOrder(operation_id=order.operation_id, restart=True, after=progress.after)
                )
            if progress.pending == 0:
                return
            self._stage = "waiting"
            workflow.set_current_details(f"**{progress.pending} purges** have not ended")
            await self._complete(asyncio.ensure_future(self._pause(progress.wait_seconds)))
            restart = not self._woken
            if workflow.info().is_continue_as_new_suggested():
                await self._complete(asyncio.ensure_future(workflow.wait_condition(workflow.all_handlers_finished)))
                workflow.continue_as_new(order)

    async def _settle(self, order: SettleOrder) -> ErasureProgress:
        self._stage = "restarting purges" if order.restart else "counting purges"
        summary = "start purges again that have not ended" if order.restart else "count the purges that have not ended"
        return await self._complete(
            start_step(messages.SETTLE_ERASURE, order, ErasureProgress, policies.ERASURE_STEP, summary)
        )

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._woken, timeout=timedelta(seconds=seconds), timeout_summary="purges have not ended"
            )

    async def _complete(self, step: asyncio.Future[T]) -> T:
        return await uninterrupted(step, lambda: None)
