"""``rindle resume``: let the work on one asset go on from where its rows stand."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import say_report


@click.command()
@click.argument("asset")
@application_option
@format_option
def resume(asset: str, application: str | None, output: str) -> None:
    """Start or wake the run of ASSET's upload: judgement, lost builds, clean-up. Harmless when nothing is due."""
    run(application, lambda rindle: rindle.resume(asset))
    say_report(f"Resume of {asset}", {"asset_id": asset, "resumed": 1}, output)
