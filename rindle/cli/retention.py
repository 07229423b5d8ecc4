"""``rindle retention``: delete events whose retention has passed."""

from __future__ import annotations

from typing import Any

import click

from rindle.cli.sweeping import run_sweep, sweep_options
from rindle.operations.maintenance.retention import Retention, RetentionOptions


@click.command()
@sweep_options(destructive=True)
def retention(execute: bool, **how: Any) -> None:
    """Delete events of state changes and progress whose retention has passed; a dry run by default.

    A schedule does it every hour. Audit events are kept for ever.
    """
    run_sweep(Retention(), RetentionOptions(dry_run=not execute), **how)
