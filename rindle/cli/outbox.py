"""``rindle outbox drain``: send waiting work to Temporal now."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_report
from rindle.operations.drain import drain as send_all


@click.group()
def outbox() -> None:
    """Rows that wait to be sent to Temporal."""


@outbox.command()
@application_option
@format_option
def drain(application: str | None, output: str) -> None:
    """Send every waiting row, including parked and rescheduled ones; exit 1 when rows stay parked."""
    report = run(application, lambda rindle: send_all(rindle.services))
    print_report("Outbox drain", report.to_dict(), output)
    raise click.exceptions.Exit(int(report.parked > 0))
