"""``rindle sweep-temp-files``: remove what dead processes left on this host."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_report
from rindle.operations.maintenance import sweep_temp_files as sweep


@click.command(name="sweep-temp-files")
@application_option
@click.option("--execute", is_flag=True, help="Remove them; without it they are only counted.")
@format_option
def sweep_temp_files(application: str | None, execute: bool, output: str) -> None:
    """Remove the run directories that dead processes left on this host; a dry run by default.

    They are older than four hours, and no process holds their lock. Workers do the same by themselves.
    """
    report = run(application, lambda rindle: sweep.sweep_temp_files(rindle.services, dry_run=not execute))
    print_report("Sweep temporary files", report.to_dict(), output, dry_run=not execute)
    raise click.exceptions.Exit(int(report.has_errors))
