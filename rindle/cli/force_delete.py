"""``rindle force-delete``: delete an asset although owners use it."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_json, print_line, print_report


@click.command(name="force-delete")
@click.argument("asset")
@application_option
@click.option("--reason", required=True, help="Why; stored in the audit event.")
@click.option("--actor", default="operator", show_default=True, help="Who requested it; stored in the audit event.")
@click.option("--reference", help="Number of a case or a decision; stored in the audit event.")
@click.option("--execute", is_flag=True, help="Delete; without it the outcome is only shown.")
@format_option
def force_delete(
    asset: str, application: str | None, reason: str, actor: str, reference: str | None, execute: bool, output: str
) -> None:
    """Remove every attachment of ASSET and delete it; a dry run by default, and refused without a policy."""
    report = run(
        application,
        lambda rindle: rindle.force_delete_asset(asset, reason, actor=actor, reference=reference, dry_run=not execute),
    )
    document = report.to_dict()
    if output == "json":
        print_json(document)
        return
    for one in report.attachments:
        print_line(f"  - {one.owner_type}:{one.owner_id} {one.slot}")
    del document["attachments"]
    print_report(f"Forced deletion of {asset}", document, output, dry_run=not execute)
