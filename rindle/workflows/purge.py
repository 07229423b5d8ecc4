"""Deleting an asset that nobody uses any more."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from rindle import messages
    from rindle.messages import PurgeDecision, PurgeInput, PurgeResult, StatusView, StopOrder
    from rindle.workflows import policies
    from rindle.workflows.steps import note_outcome, start_step


@workflow.defn(name=messages.PURGE_WORKFLOW)
class PurgeWorkflow:
    """Tombstones an unattached asset, stops its work, deletes every object its rows know, then the rows.

    The row decides under its lock whether anything may be deleted at all: an asset that is attached again by then is
    left alone. Storage errors are retried without end; a row is never dropped while its object may remain.
    """

    @workflow.init
    def __init__(self, order: PurgeInput) -> None:
        self._order = order
        self._woken = False
        self._stage = "starting"
        self._outcome = "open"

    @workflow.signal
    def wake(self) -> None:
        """Another detach requested this purge: read the rows again before closing."""
        self._woken = True

    @workflow.query
    def status(self) -> StatusView:
        """Where this run stands, for operators."""
        return StatusView(kind="purge", state=self._outcome, stage=self._stage, started_at=workflow.info().start_time)

    @workflow.run
    async def run(self, order: PurgeInput) -> PurgeResult:
        """Purge, or find out why not; a request that lands meanwhile gets its round."""
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
        decision = await start_step(
            messages.BEGIN_PURGE, order, PurgeDecision, policies.DB_STEP, "tombstone unless attached"
        )
        if decision.outcome != "purge":
            return PurgeResult(asset_id=order.asset_id, outcome=decision.outcome)
        self._stage = "stopping work"
        running = StopOrder(asset_id=order.asset_id, groups=decision.groups, session_ids=decision.session_ids)
        await start_step(
            messages.STOP_ASSET_WORK, running, type(None), policies.DELETION, "end running work of the asset"
        )
        self._stage = "deleting"
        return await start_step(
            messages.DELETE_ASSET, order, PurgeResult, policies.DELETION, "delete objects, then rows"
        )
