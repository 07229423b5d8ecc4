"""Copies of the workflows with the mistakes a careless change makes; the replay must notice each."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from rindle import messages
    from rindle.messages import (
        ErasureInput,
        ErasureResult,
        GroupStatus,
        MaintenanceInput,
        MaintenanceResult,
        ProviderPushInput,
        ProviderPushResult,
        PurgeInput,
        PurgeResult,
        UploadInput,
        UploadResult,
        UploadStatus,
        VariantInput,
    )
    from rindle.workflows import (
        MaintenanceWorkflow,
        OwnerErasureWorkflow,
        ProviderPushWorkflow,
        PurgeWorkflow,
        UploadWorkflow,
        VariantWorkflow,
        policies,
    )
    from rindle.workflows.steps import start_step


@workflow.defn(name=messages.UPLOAD_WORKFLOW)
class UploadWithoutTimer(UploadWorkflow):
    """Waits for the bytes for ever."""

    @workflow.init
    def __init__(self, order: UploadInput) -> None:
        super().__init__(order)

    @workflow.run
    async def run(self, order: UploadInput) -> UploadResult:
        """Run the inherited loop."""
        return await super().run(order)

    async def _wait(self, status: UploadStatus) -> None:
        await workflow.wait_condition(lambda: self._woken)


@workflow.defn(name=messages.VARIANT_WORKFLOW)
class VariantsReadFirst(VariantWorkflow):
    """Looks at the rows before it builds."""

    @workflow.init
    def __init__(self, order: VariantInput) -> None:
        super().__init__(order)

    @workflow.run
    async def run(self, order: VariantInput) -> GroupStatus:
        """Take a step more than runs that are open now have taken."""
        await self._step(messages.READ_GROUP, None, "look first")
        return await super().run(order)


@workflow.defn(name=messages.PROVIDER_PUSH_WORKFLOW)
class PushWithoutPoll(ProviderPushWorkflow):
    """Waits for a webhook for ever."""

    @workflow.init
    def __init__(self, order: ProviderPushInput) -> None:
        super().__init__(order)

    @workflow.run
    async def run(self, order: ProviderPushInput) -> ProviderPushResult:
        """Run the inherited loop."""
        return await super().run(order)

    async def _wait(self, seconds: float) -> None:
        await workflow.wait_condition(lambda: bool(self._events) or self._cancel_asked)


@workflow.defn(name=messages.PURGE_WORKFLOW)
class PurgeWithoutStop(PurgeWorkflow):
    """Deletes beside running work."""

    @workflow.init
    def __init__(self, order: PurgeInput) -> None:
        super().__init__(order)

    @workflow.run
    async def run(self, order: PurgeInput) -> PurgeResult:
        """Leave out a step."""
        return await start_step(
            messages.DELETE_ASSET, order, PurgeResult, policies.DELETION, "delete objects, then rows"
        )


@workflow.defn(name=messages.OWNER_ERASURE_WORKFLOW)
class ErasureWithoutCertificate(OwnerErasureWorkflow):
    """Does not wait for the purges."""

    @workflow.init
    def __init__(self, order: ErasureInput) -> None:
        super().__init__(order)

    @workflow.run
    async def run(self, order: ErasureInput) -> ErasureResult:
        """Run the inherited steps."""
        return await super().run(order)

    async def _see_purges_through(self, order: ErasureInput) -> None:
        return


@workflow.defn(name=messages.MAINTENANCE_WORKFLOW)
class MaintenanceInOneRun(MaintenanceWorkflow):
    """Never continues as new."""

    @workflow.init
    def __init__(self, order: MaintenanceInput) -> None:
        super().__init__(order)

    @workflow.run
    async def run(self, order: MaintenanceInput) -> MaintenanceResult:
        """Run the inherited loop without its limit."""
        return await super().run(order.model_copy(update={"max_pages": 0}))


ALL = (
    UploadWithoutTimer,
    VariantsReadFirst,
    PushWithoutPoll,
    PurgeWithoutStop,
    ErasureWithoutCertificate,
    MaintenanceInOneRun,
)
