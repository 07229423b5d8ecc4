"""``rindle cancel``: stop the open builds of one asset."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_report


@click.command()
@click.argument("asset")
@application_option
@format_option
def cancel(asset: str, application: str | None, output: str) -> None:
    """Cancel the open builds of ASSET: rows at once, processes within 3 s; exit 1 when no build is open."""
    report = run(application, lambda rindle: rindle.cancel_processing(asset, actor="operator"))
    print_report(f"Cancel of {asset}", report.to_dict(), output)
