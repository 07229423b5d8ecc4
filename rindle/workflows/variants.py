"""Building the variants of an asset, one group per workflow."""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, CancelledError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from rindle import messages
    from rindle.messages import GroupOrder, GroupStatus, StatusView, VariantInput
    from rindle.workflows import policies
    from rindle.workflows.steps import continues_as_new, failure_of, note_outcome, start_step, uninterrupted

#: Patch: a cancel request that arrives while the rows are read during a build is applied at once.
REQUESTS_WHILE_READING = "requests-while-reading"


@workflow.defn(name=messages.VARIANT_WORKFLOW)
class VariantWorkflow:
    """Builds every queued variant of one group of one asset, until none is queued.

    The rows decide what to build. The facade changes rows first and sends ``wake``. The signals ``requeue`` and
    ``cancel``, and Request Cancellation in the UI, also change the rows, so that an operator needs only the Temporal
    CLI. Late, repeated and reordered signals are harmless.
    """

    @workflow.init
    def __init__(self, order: VariantInput) -> None:
        self._order = order
        self._woken = False
        self._again = False
        #: Activity and names of each request, in the order of arrival: the last one wins.
        self._requests: list[tuple[str, tuple[str, ...] | None]] = []
        self._cancel_noticed = False
        self._stopped = False
        self._removal: workflow.ActivityHandle[GroupStatus] | None = None
        self._stage = "starting"
        self._builds = 0
        self._last_error: str | None = None
        self._status = GroupStatus(asset_id=order.asset_id, group=order.group)

    @workflow.signal
    def wake(self) -> None:
        """The rows have changed: read them again."""
        self._woken = True

    @workflow.signal
    def requeue(self, names: list[str] | None = None) -> None:
        """Build the failed and cancelled variants of the group again, or the named ones."""
        self._request(messages.REQUEUE_GROUP, names)

    @workflow.signal
    def cancel(self, names: list[str] | None = None) -> None:
        """Stop the open variants of the group, or the named ones."""
        self._request(messages.CANCEL_GROUP, names)

    def _request(self, step: str, names: list[str] | None) -> None:
        self._requests.append((step, None if names is None else tuple(names)))
        self._woken = True

    @workflow.query
    def status(self) -> StatusView:
        """The status of this run, for operators; programs read the rows."""
        return StatusView(
            kind="variants",
            state=self._status.summary,
            stage=self._stage,
            attempts=self._builds,
            last_error_code=self._last_error,
            started_at=workflow.info().start_time,
        )

    @workflow.run
    async def run(self, order: VariantInput) -> GroupStatus:
        """Build until no row is queued; a signal that arrives while the last build ends gets its own round."""
        while True:
            self._woken = self._again = False
            await self._apply_requests()
            self._status = await self._build()
            if not self._has_more() and await self._removed():
                return self._close()
            if not self._cancel_noticed and continues_as_new():
                await self._continue_as_new(order)

    async def _continue_as_new(self, order: VariantInput) -> None:
        """Apply the requests, which only this run knows, and continue; after Request Cancellation this run goes on."""
        await self._apply_requests()
        if not self._cancel_noticed:
            workflow.continue_as_new(order)

    def _has_more(self) -> bool:
        return self._woken or self._again or bool(self._requests)

    def _is_removed(self) -> bool:
        return self._removal is not None and self._removal.done()

    async def _removed(self) -> bool:
        """Have obsolete objects deleted, however long it takes; ``False`` when a request came before that was done.

        The removal then goes on beside the next build.
        """
        while self._removal is not None or self._status.obsolete:
            self._stage = "removing"
            if self._removal is None:
                order = GroupOrder(asset_id=self._order.asset_id, group=self._order.group)
                self._removal = start_step(
                    messages.REMOVE_OBSOLETE, order, GroupStatus, policies.DELETION, "delete old objects"
                )
            try:
                await workflow.wait_condition(lambda: self._is_removed() or self._has_more())
            except asyncio.CancelledError:
                self._on_cancel_request()
            if self._removal.done():
                self._status = self._removal.result()
                self._removal = None
            if self._has_more():
                return False
        return True

    def _close(self) -> GroupStatus:
        self._stage = "finished"
        workflow.set_current_details(f"**{self._status.summary}** · {self._status.ready} ready")
        note_outcome(self._status.summary, is_usual=self._status.summary == "ready")
        if self._cancel_noticed and self._status.summary == "cancelled":
            raise CancelledError("cancelled on request")
        return self._status

    def _on_cancel_request(self) -> None:
        """Request Cancellation has the same effect as the signal ``cancel``."""
        if not self._cancel_noticed:
            self._cancel_noticed = True
            self._requests.append((messages.CANCEL_GROUP, None))

    async def _apply_requests(self) -> None:
        if workflow.cancellation_reason() is not None:  # a request may arrive without its exception
            self._on_cancel_request()
        while self._requests:
            step, names = self._requests.pop(0)
            cancels = step == messages.CANCEL_GROUP
            await self._step(step, names, "cancel open variants" if cancels else "queue variants again")

    async def _build(self) -> GroupStatus:
        """Run one build of the queued rows, and stop it when its rows are no longer its own."""
        self._stage = "building"
        self._stopped = False
        self._builds += 1
        workflow.set_current_details(f"**building** {self._order.group}, round {self._builds}")
        building = self._start_build()
        while not building.done():
            try:
                await workflow.wait_condition(lambda: building.done() or self._woken)
            except asyncio.CancelledError:
                self._on_cancel_request()
            if building.done():
                break
            await self._update_during(building)
        return await self._ending(building)

    def _start_build(self) -> workflow.ActivityHandle[GroupStatus]:
        order, summary = self._order, f"build {self._order.group}"
        if order.group == messages.IMAGES_GROUP:
            name, policy, queue = messages.RENDER_IMAGES, policies.RENDER_IMAGES, order.task_queue
        else:
            queue = order.task_queue or f"{workflow.info().task_queue}-{messages.AV_QUEUE}"
            name, policy = messages.BUILD_AV, policies.BUILD_AV
        return start_step(name, order, GroupStatus, policy, summary, task_queue=queue)

    async def _update_during(self, building: workflow.ActivityHandle[GroupStatus]) -> None:
        """Apply a signal that arrived during a build, and stop the build when its rows are no longer its own."""
        self._woken = False
        await self._apply_requests()
        status = await self._step(messages.READ_GROUP, None, "read the rows again")
        if not building.done() and status.processing == 0:
            self._stopped = True
            building.cancel()  # the policy waits until the child processes have ended
        if status.queued:
            self._again = True  # rows queued during a build need a round of their own
        if self._requests and not self._woken and workflow.patched(REQUESTS_WHILE_READING):
            self._woken = True  # a cancel request arrived while the rows were read

    async def _ending(self, building: workflow.ActivityHandle[GroupStatus]) -> GroupStatus:
        try:
            return await uninterrupted(building, self._on_cancel_request)
        except ActivityError as error:
            # A build that was stopped is not retried, however it ends: its last failure does not describe the rows,
            # which may have another owner by then.
            if self._stopped or is_cancelled_exception(error):
                return await self._step(messages.READ_GROUP, None, "read the rows again")
            failure = failure_of(error)
            self._last_error = failure.code
            order = GroupOrder(asset_id=self._order.asset_id, group=self._order.group, failure=failure)
            return await self._run_step(messages.FAIL_GROUP, order, "record the failure")

    async def _step(self, name: str, names: tuple[str, ...] | None, summary: str) -> GroupStatus:
        order = GroupOrder(asset_id=self._order.asset_id, group=self._order.group, names=names)
        return await self._run_step(name, order, summary)

    async def _run_step(self, name: str, order: GroupOrder, summary: str) -> GroupStatus:
        handle = start_step(name, order, GroupStatus, policies.DB_STEP, summary)
        self._status = await uninterrupted(handle, self._on_cancel_request)
        return self._status
