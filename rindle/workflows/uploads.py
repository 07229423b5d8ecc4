"""The workflow of one upload, from the ticket through validation to the start of its variant builds."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.common import VersioningBehavior
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from rindle import messages
    from rindle.messages import (
        Failure,
        GroupStart,
        PromotionFailure,
        StatusView,
        UploadInput,
        UploadResult,
        UploadStatus,
        UploadStep,
        VariantInput,
        VerifyAnswer,
    )
    from rindle.states import DELIVERABLE, SessionState
    from rindle.workflows import ids, policies
    from rindle.workflows.steps import continues_as_new, failure_of, note_outcome, start_step, uninterrupted

T = TypeVar("T")

#: Patch: Request Cancellation aborts and releases the upload; before, it only ended the run.
CANCEL_RELEASES = "cancel-request-releases"
#: Patch: a step counts for the signals that arrived before it.
STEPS_COUNT = "steps-count-for-earlier-signals"
#: Steps that are activities of their own.
_WORK = (UploadStep.PROMOTE, UploadStep.VERIFY, UploadStep.ASSEMBLE, UploadStep.SCAN, UploadStep.RELEASE)
#: Session states in which the Update's validator rejects a verification.
_ENDED = frozenset({"aborted", "expired"})
#: Usual outcomes: the upload passed validation, now or before.
_USUAL = frozenset({"promoted", *DELIVERABLE})


@workflow.defn(name=messages.UPLOAD_WORKFLOW)
class UploadWorkflow:
    """Waits for the bytes, has them validated, starts the variant builds and closes.

    Everything is decided from the rows: each round reads the status of the upload in an activity and does the next
    step. Signals only wake the workflow; their names explain the reason in the timeline. A signal that arrives while
    the closing task runs gets a round of its own.

    Request Cancellation does what the application's ``cancel_upload`` does: an upload whose bytes were not verified is
    aborted and its object deleted. A verified upload is not aborted; its validation is completed, unless the asset is
    being purged.
    """

    @workflow.init
    def __init__(self, order: UploadInput) -> None:
        self._order = order
        self._woken = False
        #: The step that the last signal suggests before the rows are read.
        self._hint: UploadStep | None = None
        self._status: UploadStatus | None = None
        self._stage = "starting"
        self._last_error: str | None = None
        self._verifying = asyncio.Lock()
        self._cancel_noticed = False
        #: Whether a cancel request still has to be applied to the rows.
        self._must_abort = False

    # -- signals, queries, updates --------------------------------------------------------------------------------

    @workflow.signal
    def verified(self) -> None:
        """The bytes have arrived (also: resume, release from quarantine): promote."""
        self._wake(UploadStep.PROMOTE)

    @workflow.signal
    def complete(self) -> None:
        """All bytes were sent: verify them."""
        self._wake(UploadStep.VERIFY)

    @workflow.signal
    def cancel(self) -> None:
        """The session was aborted: delete its object."""
        self._wake(None)

    @workflow.signal
    def touch(self) -> None:
        """The rows changed in another way: read them again."""
        self._wake(None)

    def _wake(self, hint: UploadStep | None) -> None:
        self._hint = hint or self._hint
        self._woken = True

    @workflow.query
    def status(self) -> StatusView:
        """The status of this run, for operators; programs read the rows."""
        return StatusView(
            kind="upload",
            state=self._status.outcome if self._status else "open",
            stage=self._stage,
            last_error_code=self._last_error,
            started_at=workflow.info().start_time,
        )

    @workflow.update
    async def verify(self) -> VerifyAnswer:
        """Verify the upload for a caller that has only a Temporal client, by the rules of ``verify_completion``."""
        async with self._verifying:  # one at a time: two could otherwise interleave between their awaits
            try:
                status = await start_step(
                    messages.VERIFY_UPLOAD, self._order, UploadStatus, policies.STORAGE_HEAD, "verify on request"
                )
            except ActivityError as error:
                failure = failure_of(error)
                raise ApplicationError(failure.message, type=failure.code, non_retryable=True) from error
        if status.failure is not None:
            self._wake(None)  # a rejected upload has to be released
            raise ApplicationError(status.failure.message, type=status.failure.code, non_retryable=True)
        if status.step is UploadStep.WAIT:
            raise ApplicationError(
                "no object has arrived for this upload; send the bytes and verify again",
                type="storage_object_missing",
                non_retryable=True,
            )
        self._status = status
        self._wake(status.step if status.step is UploadStep.PROMOTE else None)
        return VerifyAnswer(
            session_id=self._order.session_id,
            session_state="completed",
            asset_id=status.asset_id or "",
            asset_state=status.outcome,
        )

    @verify.validator
    def _require_open(self) -> None:
        outcome = self._status.outcome if self._status else ""
        if outcome in _ENDED:
            code = "upload_cancelled" if outcome == "aborted" else "upload_session_expired"
            raise ApplicationError(f"the upload is {outcome}; start a new one", type=code, non_retryable=True)

    # -- the loop -------------------------------------------------------------------------------------------------

    @workflow.run
    async def run(self, order: UploadInput) -> UploadResult:
        """Do the steps that the rows require until none is left and no signal arrived meanwhile."""
        while True:
            self._woken = False
            status = await self._read_status()
            while status.step in _WORK:
                self._count_for_signals()
                status = await self._do(status.step)
            self._status = status
            if status.step is UploadStep.WAIT:
                if not (self._woken or self._cancel_noticed) and continues_as_new():
                    await workflow.wait_condition(workflow.all_handlers_finished)
                    if not self._woken:
                        workflow.continue_as_new(order)
                await self._wait(status)
                continue
            if status.groups:
                await self._start_builds(status)
            await self._complete(asyncio.ensure_future(workflow.wait_condition(workflow.all_handlers_finished)))
            if not (self._woken or self._must_abort):
                self._set_stage("finished", status.outcome)
                note_outcome(status.outcome, is_usual=status.outcome in _USUAL)
                if self._cancel_noticed and status.outcome == SessionState.ABORTED:
                    raise CancelledError("cancelled on request")
                return UploadResult(session_id=order.session_id, asset_id=status.asset_id, outcome=status.outcome)

    def _on_cancel_request(self) -> None:
        """Note a cancel request, which is applied to the rows before anything else is done.

        Raises:
            asyncio.CancelledError: the run began with a release that ended it at once.
        """
        if not workflow.patched(CANCEL_RELEASES):
            raise asyncio.CancelledError
        if not self._cancel_noticed:
            self._cancel_noticed = self._must_abort = True

    async def _complete(self, step: asyncio.Future[T]) -> T:
        """Await a step to its end although the run is cancelled; steps that move rows are not interrupted."""
        try:
            return await uninterrupted(step, self._on_cancel_request)
        except asyncio.CancelledError:
            step.cancel()
            return await step

    async def _abort(self) -> UploadStatus:
        """Apply a cancel request to the rows; returns what is left to do."""
        self._must_abort, self._hint = False, None
        return await self._complete(
            start_step(messages.ABORT_UPLOAD, self._order, UploadStatus, policies.DB_STEP, "abort unless verified")
        )

    async def _read_status(self) -> UploadStatus:
        if workflow.cancellation_reason() is not None and not self._cancel_noticed:
            self._on_cancel_request()  # a request may arrive without its exception
        if self._must_abort:
            return await self._abort()
        hint, self._hint = self._hint, None
        if hint is not None:  # the step itself reads the rows: no need to read twice
            return UploadStatus(step=hint)
        return await self._complete(
            start_step(messages.READ_UPLOAD, self._order, UploadStatus, policies.DB_STEP, "read the status")
        )

    def _count_for_signals(self) -> None:
        """Forget the signals that arrived before a step starts, because every step begins by reading the rows."""
        if self._woken and workflow.patched(STEPS_COUNT):
            self._woken, self._hint = False, None

    async def _do(self, step: UploadStep) -> UploadStatus:
        self._stage = step.value
        name, summary, policy = {
            UploadStep.PROMOTE: (messages.ADMIT, "validate the bytes", policies.ADMIT),
            UploadStep.SCAN: (messages.SCAN, "call the scanner", policies.SCAN),
            UploadStep.VERIFY: (messages.VERIFY_UPLOAD, "check the object", policies.STORAGE_HEAD),
            UploadStep.ASSEMBLE: (messages.ASSEMBLE_UPLOAD, "make the object from its bytes", policies.ASSEMBLE),
            UploadStep.RELEASE: (messages.RELEASE_UPLOAD, "delete the object", policies.DELETION),
        }[step]
        workflow.set_current_details(f"**{step.value}**: {summary}")
        handle = start_step(name, self._order, UploadStatus, policy, summary)
        try:
            return await self._attend(handle)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            failure = failure_of(error)
            self._last_error = failure.code
            return await self._fail(failure)

    async def _attend(self, handle: workflow.ActivityHandle[UploadStatus]) -> UploadStatus:
        """Await a step; a cancel request is applied meanwhile, and stops a step that has become pointless."""
        while True:
            try:
                await workflow.wait_condition(lambda: handle.done() or self._must_abort)
            except asyncio.CancelledError:
                try:
                    self._on_cancel_request()
                except asyncio.CancelledError:
                    handle.cancel()
                    return await handle
            if handle.done():
                return handle.result()
            status = await self._abort()
            if not handle.done() and status.step is UploadStep.DONE:
                handle.cancel()
                return status

    async def _fail(self, failure: Failure) -> UploadStatus:
        """Record why the promotion failed; the asset keeps its state, and a resume continues from there."""
        order = PromotionFailure(session_id=self._order.session_id, failure=failure)
        return await self._complete(
            start_step(messages.FAIL_PROMOTION, order, UploadStatus, policies.DB_STEP, "record the failure")
        )

    async def _wait(self, status: UploadStatus) -> None:
        self._stage = "waiting"
        workflow.set_current_details("**waiting** for the bytes")
        try:
            await workflow.wait_condition(
                lambda: self._woken or self._must_abort,
                timeout=timedelta(seconds=max(0.001, status.wait_seconds)),
                timeout_summary="check again" if status.poll else "upload ttl",
            )
        except TimeoutError:
            if status.poll:
                self._hint = UploadStep.VERIFY
                return
            # The row decides: an extended upload keeps its remaining time.
            await self._complete(
                start_step(messages.EXPIRE_UPLOAD, self._order, UploadStatus, policies.DB_STEP, "expire if overdue")
            )
        except asyncio.CancelledError:
            self._on_cancel_request()

    async def _start_builds(self, status: UploadStatus) -> None:
        self._stage = "starting builds"
        for group in status.groups:
            await self._start_build(status, group)

    async def _start_build(self, status: UploadStatus, group: GroupStart) -> None:
        order = VariantInput(asset_id=status.asset_id or "", group=group.group, task_queue=group.task_queue)
        has_attributes = len(workflow.info().typed_search_attributes) > 0
        attributes = ids.attributes("variants", profile=status.profile, asset_id=status.asset_id)
        while True:
            try:
                # Abandoned: a later cancellation of this run must not stop the builds, which it does not await. A run
                # that ends between the request and the start of a child leaves a child that never gets a task, so the
                # start is completed first.
                start = workflow.start_child_workflow(
                    messages.VARIANT_WORKFLOW,
                    order,
                    id=group.workflow_id,
                    parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                    search_attributes=attributes if has_attributes else None,
                    static_summary=ids.summary(f"variants {group.group} of {status.profile}"),
                    execution_timeout=policies.LONGEST_LIFE,
                )
                await self._complete(asyncio.ensure_future(start))
                return
            except WorkflowAlreadyStartedError:
                running = workflow.get_external_workflow_handle(group.workflow_id)
                try:
                    await self._complete(asyncio.ensure_future(running.signal("wake")))
                    return
                except ApplicationError:
                    continue  # it completed meanwhile: start it again

    def _set_stage(self, stage: str, outcome: str) -> None:
        self._stage = stage
        workflow.set_current_details(f"**{outcome or stage}**")


@workflow.defn(name=messages.UPLOAD_WORKFLOW, versioning_behavior=VersioningBehavior.AUTO_UPGRADE)
class MovingUploadWorkflow(UploadWorkflow):
    """The same workflow for versioned workers: an upload may wait for a day, so it moves to new versions.

    It is a separate class, because servers reject a versioning behavior from workers without a deployment.
    """

    @workflow.init
    def __init__(self, order: UploadInput) -> None:
        super().__init__(order)

    @workflow.run
    async def run(self, order: UploadInput) -> UploadResult:
        """Run the inherited loop."""
        return await super().run(order)
