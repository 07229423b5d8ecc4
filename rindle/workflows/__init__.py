"""Durable workflows: deterministic code only.

Replayers register ``ALL``, and workers what belongs to their task queue; workers of a deployment take it from
``VERSIONED``.
"""

from __future__ import annotations

from rindle.workflows.erasure import OwnerErasureWorkflow
from rindle.workflows.maintenance import MaintenanceWorkflow
from rindle.workflows.provider_uploads import MovingProviderUploadWorkflow, ProviderUploadWorkflow
from rindle.workflows.purge import PurgeWorkflow
from rindle.workflows.streaming import MovingProviderPushWorkflow, ProviderPushWorkflow
from rindle.workflows.uploads import MovingUploadWorkflow, UploadWorkflow
from rindle.workflows.variants import VariantWorkflow

#: Workflows of the maintenance queue; all others run on the application's main queue.
MAINTENANCE = (MaintenanceWorkflow,)
ALL = (
    UploadWorkflow,
    VariantWorkflow,
    ProviderPushWorkflow,
    ProviderUploadWorkflow,
    PurgeWorkflow,
    OwnerErasureWorkflow,
    *MAINTENANCE,
)
VERSIONED = (
    MovingUploadWorkflow,
    VariantWorkflow,
    MovingProviderPushWorkflow,
    MovingProviderUploadWorkflow,
    PurgeWorkflow,
    OwnerErasureWorkflow,
    *MAINTENANCE,
)

__all__ = [
    "ALL",
    "MAINTENANCE",
    "VERSIONED",
    "MaintenanceWorkflow",
    "OwnerErasureWorkflow",
    "ProviderPushWorkflow",
    "ProviderUploadWorkflow",
    "PurgeWorkflow",
    "UploadWorkflow",
    "VariantWorkflow",
]
