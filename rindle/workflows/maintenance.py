"""Maintenance sweeps over many rows, page by page."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from rindle import messages
    from rindle.messages import (
        MaintenanceInput,
        MaintenanceResult,
        StatusView,
        SweepOrder,
        SweepPage,
        SweepProgress,
    )
    from rindle.workflows import policies
    from rindle.workflows.steps import failure_of, note_outcome, start_step


@workflow.defn(name=messages.MAINTENANCE_WORKFLOW)
class MaintenanceWorkflow:
    """Runs one sweep: a page of rows per activity, with a cursor, until no page is left.

    Nothing is held between two pages. An item that fails is counted and named, and the sweep goes on; a page that
    cannot be read fails the run. The counters are those of completed pages. A long sweep continues as new with its
    counters and its cursor.

    Request Cancellation ends it after the item it works on; what it has done stays done, and a new run does the rest.
    """

    @workflow.init
    def __init__(self, order: MaintenanceInput) -> None:
        self._state = "open"
        self._started_at = order.progress.started_at or workflow.info().start_time
        self._progress = order.progress.model_copy(update={"started_at": self._started_at})

    @workflow.query
    def status(self) -> StatusView:
        """The status of this run, for operators."""
        failures = self._progress.failures
        return StatusView(
            kind="maintenance",
            state=self._state,
            stage=f"page {self._progress.pages + 1}" if self._state == "open" else "finished",
            last_error_code=failures[-1].code if failures else None,
            started_at=self._started_at,
        )

    @workflow.query
    def progress(self) -> SweepProgress:
        """The counters of all pages until now."""
        return self._progress

    @workflow.run
    async def run(self, order: MaintenanceInput) -> MaintenanceResult:
        """Sweep the pages that are left."""
        pages = 0
        while True:
            page = await self._sweep(order)
            self._progress = self._progress.after(page)
            pages += 1
            self._show()
            if page.cursor is None:
                self._end("completed")
                return MaintenanceResult(verb=order.verb, progress=self._progress)
            if workflow.cancellation_reason() is not None:  # a request may arrive without its exception
                self._end("cancelled")
                raise CancelledError("cancelled on request")
            if workflow.info().is_continue_as_new_suggested() or pages == order.max_pages:
                workflow.continue_as_new(order.model_copy(update={"progress": self._progress}))

    async def _sweep(self, order: MaintenanceInput) -> SweepPage:
        step = SweepOrder(
            verb=order.verb, options=order.options, cursor=self._progress.cursor, started_at=self._started_at
        )
        summary = f"page {self._progress.pages + 1} of {order.verb}"
        try:
            return await start_step(messages.SWEEP_PAGE, step, SweepPage, policies.SWEEP_PAGE, summary)
        except ActivityError as error:
            if is_cancelled_exception(error):
                self._end("cancelled")
                raise
            failure = failure_of(error)
            self._end("failed")
            raise ApplicationError(failure.message, type=failure.code, non_retryable=True) from error

    def _show(self) -> None:
        counted = ", ".join(f"{name} {count}" for name, count in self._progress.counters.items() if count)
        workflow.set_current_details(f"**page {self._progress.pages}** · {counted or 'nothing found'}")

    def _end(self, state: str) -> None:
        self._state = state
        outcome = "with_errors" if state == "completed" and self._progress.failures else state
        note_outcome(outcome, is_usual=outcome == "completed")
