"""``rindle requeue``: build failed and cancelled variants of one asset, or of many, again."""

from __future__ import annotations

from typing import Any

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.selection import heading_of, print_bulk, selected, selection_options
from rindle.cli.terminal import print_json, print_line, print_report
from rindle.operations.bulk import requeue_many

#: Failures shown one by one.
_SHOWN = 5


@click.command()
@click.argument("asset", required=False)
@application_option
@click.option(
    "--variant", "names", multiple=True, metavar="NAME", help="Queue this variant in any repairable state; repeatable."
)
@selection_options
@format_option
def requeue(
    asset: str | None, application: str | None, names: tuple[str, ...], output: str, execute: bool, **chosen: Any
) -> None:
    """Queue the failed and cancelled variants of ASSET, or the named ones; exit 1 when one cannot be queued.

    With --all, --code, --profile or --since: of all these assets, a dry run by default.
    """
    selection = selected(asset, execute=execute, **chosen)
    if selection is not None:
        if names:
            raise click.UsageError("--variant needs one ASSET")
        bulk = run(
            application,
            lambda rindle: requeue_many(rindle.services, selection, dry_run=not execute, actor="operator"),
        )
        print_bulk(heading_of("Requeue", selection), bulk, output)
    named = str(asset)
    report = run(application, lambda rindle: rindle.requeue_variants(named, names or None, actor="operator"))
    if output == "json":
        print_json(report.to_dict())
    else:
        counts = {name: getattr(report, name) for name in ("selected", "enqueued", "skipped", "errors")}
        for failure in report.failures[:_SHOWN]:
            print_line(f"  {failure['variant_name']}: {failure['reason']}: {failure['message']}", "red")
        if len(report.failures) > _SHOWN:
            print_line(f"  ... {len(report.failures) - _SHOWN} more")
        print_report(f"Requeue of {named}", counts, output)
    raise click.exceptions.Exit(int(report.errors > 0))
