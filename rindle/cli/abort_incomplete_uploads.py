"""``rindle abort-incomplete-uploads``: end uploads past their expiry, and remove what ended ones left in the store."""

from __future__ import annotations

from typing import Any

import click

from rindle.cli.sweeping import run_sweep, sweep_options
from rindle.operations.maintenance.abort_incomplete_uploads import AbortIncompleteUploads
from rindle.operations.maintenance.sweep import ProfileOptions


@click.command(name="abort-incomplete-uploads")
@sweep_options(destructive=False)
@click.option("--profile", help="Only uploads of this profile.")
def abort_incomplete_uploads(profile: str | None, **how: Any) -> None:
    """Expire uploads past their expiry, and remove the bytes of uploads that ended without an asset.

    The workflow of each upload does that by itself; this is for what it missed. Exit 1 when bytes could not be removed.
    """
    run_sweep(AbortIncompleteUploads(), ProfileOptions(profile=profile), **how)
