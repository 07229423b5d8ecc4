"""``rindle resume``: continue the work on one asset, or on many, from the state of their rows."""

from __future__ import annotations

from typing import Any

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.selection import heading_of, print_bulk, selected, selection_options
from rindle.cli.terminal import print_report
from rindle.operations.bulk import resume_many


@click.command()
@click.argument("asset", required=False)
@application_option
@selection_options
@format_option
def resume(asset: str | None, application: str | None, output: str, execute: bool, **chosen: Any) -> None:
    """Start or wake the workflow of ASSET's upload: validation, lost builds, clean-up. Safe when nothing is due.

    With --all, --code, --profile or --since: of all these assets, a dry run by default.
    """
    selection = selected(asset, execute=execute, **chosen)
    if selection is not None:
        report = run(application, lambda rindle: resume_many(rindle.services, selection, dry_run=not execute))
        print_bulk(heading_of("Resume", selection), report, output)
    named = str(asset)
    run(application, lambda rindle: rindle.resume(named))
    print_report(f"Resume of {named}", {"asset_id": named, "resumed": 1}, output)
