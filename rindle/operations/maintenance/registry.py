"""The sweeps of this release."""

from __future__ import annotations

from typing import Any

from rindle.operations.maintenance.abort_incomplete_uploads import AbortIncompleteUploads
from rindle.operations.maintenance.cleanup_orphans import CleanupOrphans
from rindle.operations.maintenance.provider_sync import ProviderSync
from rindle.operations.maintenance.purge_retry import PurgeRetry
from rindle.operations.maintenance.regenerate_variants import RegenerateVariants
from rindle.operations.maintenance.retention import Retention
from rindle.operations.maintenance.sweep import Sweep
from rindle.operations.maintenance.verify_storage import VerifyStorage

#: Every sweep that needs nothing but the services, by name.
SWEEPS: tuple[Sweep[Any, Any], ...] = (
    AbortIncompleteUploads(),
    CleanupOrphans(),
    ProviderSync(),
    PurgeRetry(),
    RegenerateVariants(),
    Retention(),
    VerifyStorage(),
)
