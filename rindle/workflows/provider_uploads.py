"""Following a browser's upload to a streaming provider."""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import VersioningBehavior

with workflow.unsafe.imports_passed_through():
    from rindle import messages
    from rindle.messages import ProviderPushInput, ProviderPushResult, ProviderStatus, StatusView
    from rindle.workflows import policies
    from rindle.workflows.streaming import ProviderPushWorkflow


@workflow.defn(name=messages.PROVIDER_UPLOAD_WORKFLOW)
class ProviderUploadWorkflow(ProviderPushWorkflow):
    """Waits until the provider has made an asset of an upload, then until the asset has settled there.

    A webhook wakes it. Without one it queries the provider for the upload when its time is over; of the asset
    it polls the state. An upload that was cancelled is cancelled at the provider too, with an asset that the provider
    made of it meanwhile. It may be started again at any time: the row says what is left to do.

    Request Cancellation and the signal ``cancel`` end the waiting, and leave the upload as it is.
    """

    kind = "provider upload"

    @workflow.init
    def __init__(self, order: ProviderPushInput) -> None:
        super().__init__(order)

    @workflow.run
    async def run(self, order: ProviderPushInput) -> ProviderPushResult:
        """Follow the upload; what arrives meanwhile is handled before the end."""
        return await super().run(order)

    @workflow.query
    def status(self) -> StatusView:
        """The status of this run, for operators."""
        return super().status()

    async def _push(self) -> ProviderStatus:
        await self._apply_events()
        status = await self._read()
        self._poll_seconds = status.poll_seconds
        while True:
            if status.needs_release:
                self._stage = "cancelling at the provider"
                status = await self._provider_step(
                    messages.RELEASE_PROVIDER_UPLOAD, policies.PROVIDER_CALL, "cancel the upload at the provider"
                )
                return status.model_copy(update={"outcome": status.outcome or status.state})
            if status.outcome:
                return status
            if self._cancel_asked:
                return status.model_copy(update={"outcome": "cancelled"})
            if status.awaits_upload:
                self._stage = "waiting for the upload"
                await self._wait(status.wait_seconds)
            else:
                await self._wait_for_poll()
            if self._has_news():
                self._woken = False
                await self._apply_events()
                status = await self._read()
            elif status.awaits_upload:
                status = await self._provider_step(
                    messages.CHECK_PROVIDER_UPLOAD, policies.PROVIDER_CALL, "query the upload"
                )
            else:
                status = await self._poll()

    async def _read(self) -> ProviderStatus:
        self._stage = "reading"
        return await self._step(messages.READ_PROVIDER_UPLOAD, policies.DB_STEP, "read the row")

    def _has_news(self) -> bool:
        return super()._has_news() or self._woken


@workflow.defn(name=messages.PROVIDER_UPLOAD_WORKFLOW, versioning_behavior=VersioningBehavior.AUTO_UPGRADE)
class MovingProviderUploadWorkflow(ProviderUploadWorkflow):
    """The same workflow for versioned workers: an upload may take a week, so it moves to new versions."""

    @workflow.init
    def __init__(self, order: ProviderPushInput) -> None:
        super().__init__(order)

    @workflow.run
    async def run(self, order: ProviderPushInput) -> ProviderPushResult:
        """Run the inherited loop."""
        return await super().run(order)
