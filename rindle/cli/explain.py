"""``rindle explain``: the state of one asset, its last error, and the command that repairs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_counts, print_json, print_line
from rindle.operations.explain import Explanation
from rindle.operations.explain import explain as explain_asset

if TYPE_CHECKING:
    from rindle.app import Rindle


@click.command()
@click.argument("subject", metavar="ASSET|SESSION")
@application_option
@click.option("--ui", envvar="RINDLE_TEMPORAL_UI", metavar="URL", help="Address of the Temporal UI, for links.")
@format_option
def explain(subject: str, application: str | None, ui: str | None, output: str) -> None:
    """Show rows, runs, pending activities and the last error of an asset, and the command that repairs it."""

    async def explained(rindle: Rindle) -> tuple[Explanation, str]:
        return await explain_asset(rindle.services, subject), rindle.temporal.label

    report, temporal = run(application, explained)
    found = report.to_dict()
    for one in found["workflows"]:
        if ui:
            one["link"] = f"{ui.rstrip('/')}/namespaces/{one['namespace']}/workflows/{one['id']}/{one['run_id']}"
    if output == "json":
        print_json(found)
    else:
        _print(found, temporal)


def _print(found: Mapping[str, Any], temporal: str) -> None:
    def facts(row: Mapping[str, Any], *left_out: str) -> str:
        return " ".join(f"{name}={value}" for name, value in row.items() if value is not None and name not in left_out)

    asset = found["asset"]
    print_line(f"Asset {asset['id']}: {asset['state']}", "bold")
    print_counts({name: value for name, value in asset.items() if value is not None and name not in ("id", "state")})
    print_counts({"attachments": found["attachments"]})
    for name, heading in (("upload_sessions", "upload sessions"), ("variants", "variants"), ("outbox", "not sent yet")):
        if found[name]:
            print_line(heading)
        for row in found[name]:
            print_line(f"  {row.get('name') or row['id']}: {facts(row, 'name', 'id')}")
    print_line("workflows")
    if not found["temporal"]["reachable"]:
        print_line(f"  unknown: Temporal ({temporal}) did not answer", "yellow")
    for one in found["workflows"]:
        print_line(f"  {one['id']}: {facts(one, 'id', 'pending_activities', 'pending_task')}")
        if task := one["pending_task"]:
            print_line(f"    pending workflow task: {facts(task)}")
        for activity in one["pending_activities"]:
            print_line(f"    pending {activity['type']}: {facts(activity, 'type')}")
    diagnosis = found["diagnosis"]
    print_line("diagnosis")
    print_line(f"  {diagnosis['summary']}", "bold")
    if error := diagnosis["last_error"]:
        print_line(f"  last error: {error['code']} ({error['where']}) {error['reason'] or ''}".rstrip())
    if diagnosis["command"]:
        print_line(f"  Fix: {diagnosis['command']}", "green")
