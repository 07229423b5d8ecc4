"""``rindle cleanup-orphans``: delete what ended uploads left behind."""

from __future__ import annotations

from typing import Any

import click

from rindle.cli.sweeping import run_sweep, sweep_options
from rindle.operations.maintenance.cleanup_orphans import CleanupOrphans, CleanupOrphansOptions


@click.command(name="cleanup-orphans")
@sweep_options(destructive=True)
@click.option("--profile", help="Only uploads of this profile.")
def cleanup_orphans(profile: str | None, execute: bool, **how: Any) -> None:
    """Delete objects, sessions and staged assets of aborted, expired and failed uploads; a dry run by default.

    Verified and attached assets stay. Exit 1 when an object could not be deleted; its rows stay.
    """
    run_sweep(CleanupOrphans(), CleanupOrphansOptions(profile=profile, dry_run=not execute), **how)
