"""Durable workflows: deterministic code only. ``ALL`` is what a worker and a replayer register."""

from __future__ import annotations

from rindle.workflows.purge import PurgeWorkflow
from rindle.workflows.uploads import UploadWorkflow
from rindle.workflows.variants import VariantWorkflow

ALL = (UploadWorkflow, VariantWorkflow, PurgeWorkflow)

__all__ = ["ALL", "PurgeWorkflow", "UploadWorkflow", "VariantWorkflow"]
