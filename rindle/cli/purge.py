"""``rindle purge``: delete one unattached asset, or restart lost purges."""

from __future__ import annotations

from typing import Any

import click

from rindle.app import Rindle
from rindle.cli.application import application_option, format_option, run
from rindle.cli.selection import heading_of, is_given, selected, selection_options
from rindle.cli.terminal import print_report
from rindle.operations.bulk import Selection
from rindle.operations.tombstones import preview_purge, retry_purges


@click.command()
@click.argument("asset", required=False)
@application_option
@click.option("--retry", is_flag=True, help="Restart the purge of deleted assets, of all when nothing is selected.")
@selection_options
@format_option
def purge(asset: str | None, application: str | None, retry: bool, output: str, execute: bool, **chosen: Any) -> None:
    """Delete ASSET and its objects in the background, unless it is attached; a dry run by default."""
    if retry == (asset is not None):
        raise click.UsageError("pass either one ASSET or --retry")
    narrowed = any(chosen[name] is not None for name in ("code", "profile", "since"))
    if narrowed or chosen["everything"]:
        selection = selected(asset, execute=execute, **chosen)
    else:
        selection = Selection(limit=chosen["limit"]) if is_given("limit") else None

    async def work(rindle: Rindle) -> dict[str, Any]:
        if asset is None:
            return (await retry_purges(rindle.services, selection, dry_run=not execute)).to_dict()
        preview = await preview_purge(rindle.services, asset)
        if execute:
            await rindle.purge_asset(asset)
        return preview.to_dict()

    report = run(application, work)
    heading = f"Purge of {asset}" if asset is not None else "Purge of all deleted assets"
    if asset is None and selection is not None:
        heading = heading_of("Purge", selection)
    print_report(heading, report, output, dry_run=not execute)
    if not execute and report.get("attachments"):
        raise click.exceptions.Exit(1)  # --execute would be refused
