"""``rindle requeue``: build failed and cancelled variants of one asset again."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_json, print_line, print_report

#: Failures shown one by one.
_SHOWN = 5


@click.command()
@click.argument("asset")
@application_option
@click.option(
    "--variant", "names", multiple=True, metavar="NAME", help="Queue this variant in any repairable state; repeatable."
)
@format_option
def requeue(asset: str, application: str | None, names: tuple[str, ...], output: str) -> None:
    """Queue the failed and cancelled variants of ASSET, or the named ones; exit 1 when one cannot be queued."""
    report = run(application, lambda rindle: rindle.requeue_variants(asset, names or None, actor="operator"))
    if output == "json":
        print_json(report.to_dict())
    else:
        counts = {name: getattr(report, name) for name in ("selected", "enqueued", "skipped", "errors")}
        for failure in report.failures[:_SHOWN]:
            print_line(f"  {failure['variant_name']}: {failure['reason']}: {failure['message']}", "red")
        if len(report.failures) > _SHOWN:
            print_line(f"  ... {len(report.failures) - _SHOWN} more")
        print_report(f"Requeue of {asset}", counts, output)
    raise click.exceptions.Exit(int(report.errors > 0))
