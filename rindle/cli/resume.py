"""``rindle resume``: continue the work on one asset from the state of its rows."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_report


@click.command()
@click.argument("asset")
@application_option
@format_option
def resume(asset: str, application: str | None, output: str) -> None:
    """Start or wake the workflow of ASSET's upload: validation, lost builds, clean-up. Safe when nothing is due."""
    run(application, lambda rindle: rindle.resume(asset))
    print_report(f"Resume of {asset}", {"asset_id": asset, "resumed": 1}, output)
