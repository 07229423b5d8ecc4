"""``rindle outbox drain``: hand waiting work to Temporal now."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import say_report
from rindle.operations.drain import drain as send_all


@click.group()
def outbox() -> None:
    """The rows that wait to be handed to Temporal."""


@outbox.command()
@application_option
@format_option
def drain(application: str | None, output: str) -> None:
    """Send every waiting row, those that were parked or put off included; exit 1 when rows stay parked."""
    report = run(application, lambda rindle: send_all(rindle.services))
    say_report("Outbox drain", report.to_dict(), output)
    raise click.exceptions.Exit(int(report.parked > 0))
