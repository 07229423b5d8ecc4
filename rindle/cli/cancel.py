"""``rindle cancel``: stop the open builds of one asset."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import say_report


@click.command()
@click.argument("asset")
@application_option
@format_option
def cancel(asset: str, application: str | None, output: str) -> None:
    """Cancel what is being built for ASSET: rows at once, processes within 3 s; exit 1 when nothing is."""
    report = run(application, lambda rindle: rindle.cancel_processing(asset, actor="operator"))
    say_report(f"Cancel of {asset}", report.to_dict(), output)
