"""``rindle purge``: delete one unattached asset, or restart lost purges."""

from __future__ import annotations

from typing import Any

import click

from rindle.app import Rindle
from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_report
from rindle.operations.tombstones import preview_purge, retry_purges


@click.command()
@click.argument("asset", required=False)
@application_option
@click.option("--retry", is_flag=True, help="Restart the purge of every deleted asset, instead of naming one.")
@click.option("--execute", is_flag=True, help="Make the changes; without it they are only shown.")
@format_option
def purge(asset: str | None, application: str | None, retry: bool, execute: bool, output: str) -> None:
    """Delete ASSET and its objects in the background, unless it is attached; a dry run by default."""
    if retry == (asset is not None):
        raise click.UsageError("pass either one ASSET or --retry")

    async def work(rindle: Rindle) -> dict[str, Any]:
        if asset is None:
            return (await retry_purges(rindle.services, dry_run=not execute)).to_dict()
        preview = await preview_purge(rindle.services, asset)
        if execute:
            await rindle.purge_asset(asset)
        return preview.to_dict()

    report = run(application, work)
    print_report("Purge of all deleted assets" if retry else f"Purge of {asset}", report, output, dry_run=not execute)
    if not execute and report.get("attachments"):
        raise click.exceptions.Exit(1)  # --execute would be refused
