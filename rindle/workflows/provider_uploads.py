"""Following a browser's upload to a streaming provider."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import VersioningBehavior

with workflow.unsafe.imports_passed_through():
    from rindle import messages
    from rindle.messages import ProviderPushInput, ProviderPushResult, ProviderStatus, StatusView
    from rindle.workflows import policies
    from rindle.workflows.streaming import POLL_SECONDS, ProviderPushWorkflow


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
        pause = status.poll_seconds
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
            waits_for_bytes = status.awaits_upload
            if waits_for_bytes:
                self._stage = "waiting for the upload"
            else:
                self._stage = f"waiting for provider, polled {self._polls} times"
            await self._wait(status.wait_seconds if waits_for_bytes else pause)
            if self._cancel_asked or self._events or self._woken:
                self._woken = False
                await self._apply_events()
                status = await self._read()
            elif waits_for_bytes:
                status = await self._provider_step(
                    messages.CHECK_PROVIDER_UPLOAD, policies.PROVIDER_CALL, "query the upload"
                )
            else:
                self._polls += 1
                pause = min(2 * pause, POLL_SECONDS) if self._polls == 1 else POLL_SECONDS
                status = await self._provider_step(
                    messages.POLL_PROVIDER_ASSET, policies.PROVIDER_CALL, "read its state"
                )

    async def _read(self) -> ProviderStatus:
        self._stage = "reading"
        return await self._step(messages.READ_PROVIDER_UPLOAD, policies.DB_STEP, "read the row")

    async def _wait(self, seconds: float) -> None:
        if seconds <= 0:  # no timer
            return
        try:
            await workflow.wait_condition(
                lambda: bool(self._events) or self._woken or self._cancel_asked,
                timeout=timedelta(seconds=seconds),
                timeout_summary="until the provider is queried",
            )
        except TimeoutError:
            return
        except asyncio.CancelledError:
            self._cancel_asked = True


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
