"""``rindle purge``: delete one unattached asset, or finish the purges that got lost."""

from __future__ import annotations

from typing import Any

import click

from rindle.app import Rindle
from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import say_report
from rindle.operations.tombstones import preview_purge, retry_purges


@click.command()
@click.argument("asset", required=False)
@application_option
@click.option("--retry", is_flag=True, help="Instead of one asset: start the purge of every deleted one again.")
@click.option("--execute", is_flag=True, help="Do it; without this only what would be done is shown.")
@format_option
def purge(asset: str | None, application: str | None, retry: bool, execute: bool, output: str) -> None:
    """Delete ASSET with its objects in the background, unless an owner holds it; a dry run by default."""
    if retry == (asset is not None):
        raise click.UsageError("name one ASSET, or give --retry")

    async def work(rindle: Rindle) -> dict[str, Any]:
        if asset is None:
            return (await retry_purges(rindle.services, dry_run=not execute)).to_dict()
        preview = await preview_purge(rindle.services, asset)
        if execute:
            await rindle.purge_asset(asset)
        return preview.to_dict()

    report = run(application, work)
    say_report("Purge of all deleted assets" if retry else f"Purge of {asset}", report, output, dry_run=not execute)
    if not execute and report.get("attachments"):
        raise click.exceptions.Exit(1)  # it would be refused
