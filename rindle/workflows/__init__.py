"""Durable workflows: deterministic code only.

Workers and replayers register ``ALL``, workers of a deployment ``VERSIONED``.
"""

from __future__ import annotations

from rindle.workflows.erasure import OwnerErasureWorkflow
from rindle.workflows.purge import PurgeWorkflow
from rindle.workflows.uploads import MovingUploadWorkflow, UploadWorkflow
from rindle.workflows.variants import VariantWorkflow

ALL = (UploadWorkflow, VariantWorkflow, PurgeWorkflow, OwnerErasureWorkflow)
VERSIONED = (MovingUploadWorkflow, VariantWorkflow, PurgeWorkflow, OwnerErasureWorkflow)

__all__ = ["ALL", "VERSIONED", "OwnerErasureWorkflow", "PurgeWorkflow", "UploadWorkflow", "VariantWorkflow"]
