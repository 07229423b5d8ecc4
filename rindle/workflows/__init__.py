"""Durable workflows: deterministic code only. ``ALL`` is what a worker and a replayer register, ``VERSIONED`` what
workers of a deployment do."""

from __future__ import annotations

from rindle.workflows.purge import PurgeWorkflow
from rindle.workflows.uploads import MovingUploadWorkflow, UploadWorkflow
from rindle.workflows.variants import VariantWorkflow

ALL = (UploadWorkflow, VariantWorkflow, PurgeWorkflow)
VERSIONED = (MovingUploadWorkflow, VariantWorkflow, PurgeWorkflow)

__all__ = ["ALL", "VERSIONED", "PurgeWorkflow", "UploadWorkflow", "VariantWorkflow"]
