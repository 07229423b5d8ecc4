"""The sandbox in which workflows run, without serialization contexts that Rindle does not need."""

from __future__ import annotations

from typing import Any

from temporalio.converter import DataConverter, StorageDriverStoreContext
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner


def needs_contexts(converter: DataConverter) -> bool:
    """Whether a client has anything that may need the activity or child workflow to which a payload belongs."""
    return converter.payload_codec is not None or converter.external_storage is not None


class ContextFreeSandbox(SandboxedWorkflowRunner):
    """The SDK's sandbox, for clients whose converter needs no contexts (:func:`needs_contexts`).

    For every payload the SDK enters the sandbox four times, only to find out what the payload belongs to: a sixth of a
    busy worker's time. The workflows themselves run exactly as they would otherwise.
    """

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """Return a sandboxed run without contexts."""
        instance = super().create_instance(det)
        # Replaced on the instance, because its class is the SDK's own; an SDK that no longer calls it is not affected.
        instance.get_serialization_context = _no_context  # type: ignore[method-assign]
        instance.get_external_store_context = _no_target  # type: ignore[method-assign]
        return instance


def _no_context(command_info: Any) -> None:
    return None


def _no_target(command_info: Any) -> StorageDriverStoreContext:
    return StorageDriverStoreContext(target=None)
