"""Remove the run directories that dead processes left on this host.

It is no sweep of ``MaintenanceWorkflow``: temporary directories are local, so a workflow on another host would sweep
the wrong disk. Every worker sweeps its own host by itself.
"""

from __future__ import annotations

from rindle import run_directories
from rindle.operations.maintenance.sweep import SweepReport
from rindle.services import Services
from rindle.threads import in_thread


class SweepTempFilesReport(SweepReport):
    """Numbers of run directories: examined, orphaned, removed, and those that could not be removed."""

    run_dirs_scanned: int = 0
    orphan_count: int = 0
    run_dirs_deleted: int = 0
    errors: int = 0


async def sweep_temp_files(services: Services, *, dry_run: bool = True) -> SweepTempFilesReport:
    """Remove the orphaned run directories of this host, or only count them.

    A run directory is orphaned when it is older than four hours and no process holds its lock. They are below
    ``<tmp_dir>/rindle.tmp``; nothing else is removed, and links are not followed.
    """
    found = await in_thread(run_directories.sweep, services.settings.scratch, dry_run=dry_run)
    return SweepTempFilesReport(
        run_dirs_scanned=found.scanned,
        orphan_count=found.orphans,
        run_dirs_deleted=found.deleted,
        errors=found.errors,
    )
