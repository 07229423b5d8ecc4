"""``rindle release-quarantine``: validate and scan a quarantined asset again."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_report
from rindle.operations import quarantine


@click.command(name="release-quarantine")
@click.argument("asset")
@application_option
@click.option("--reason", required=True, help="Why; stored in the audit event.")
@click.option("--actor", default="operator", show_default=True, help="Who requested it; stored in the audit event.")
@format_option
def release_quarantine(asset: str, application: str | None, reason: str, actor: str, output: str) -> None:
    """Validate and scan the quarantined ASSET again, after a false alarm; it is not trusted before that."""
    report = run(application, lambda rindle: quarantine.release_quarantine(rindle.services, asset, reason, actor=actor))
    print_report(f"Release of {asset}", report.to_dict(), output)
