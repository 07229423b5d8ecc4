"""``rindle explain``: the state of one asset, its last error, and the command that repairs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_counts, print_json, print_line, runs_link
from rindle.errors import NotFound
from rindle.operations.erasures import ErasureExplanation, explain_erasure
from rindle.operations.explain import Explanation
from rindle.operations.explain import explain as explain_asset

if TYPE_CHECKING:
    from rindle.app import Rindle


@click.command()
@click.argument("subject", metavar="ASSET|SESSION|OPERATION")
@application_option
@click.option("--ui", envvar="RINDLE_TEMPORAL_UI", metavar="URL", help="Address of the Temporal UI, for links.")
@format_option
def explain(subject: str, application: str | None, ui: str | None, output: str) -> None:
    """Show rows, runs, pending activities and the last error of an asset, and the command that repairs it.

    OPERATION is the id of an owner erasure.
    """

    async def explained(rindle: Rindle) -> tuple[Explanation | ErasureExplanation, str]:
        try:
            return await explain_asset(rindle.services, subject), rindle.temporal.label
        except NotFound:
            return await explain_erasure(rindle.services, subject), rindle.temporal.label

    report, temporal = run(application, explained)
    found = report.to_dict()
    for one in found["workflows"]:
        if ui:
            one["link"] = f"{runs_link(ui, one['namespace'])}/{quote(one['id'], safe=':')}/{one['run_id']}"
    if output == "json":
        print_json(found)
    elif isinstance(report, ErasureExplanation):
        _print_erasure(found, temporal)
    else:
        _print(found, temporal)


def _facts(row: Mapping[str, Any], *left_out: str) -> str:
    return " ".join(f"{name}={value}" for name, value in row.items() if value is not None and name not in left_out)


def _print(found: Mapping[str, Any], temporal: str) -> None:
    asset = found["asset"]
    print_line(f"Asset {asset['id']}: {asset['state']}", "bold")
    print_counts({name: value for name, value in asset.items() if value is not None and name not in ("id", "state")})
    print_counts({"attachments": found["attachments"]})
    for operation_id in found.get("erasures", ()):
        print_line(f"  an erasure waits for its purge: rindle explain {operation_id}")
    sections = {
        "upload_sessions": "upload sessions",
        "variants": "variants",
        "provider_assets": "streaming providers",
        "outbox": "not sent yet",
    }
    for section, heading in sections.items():
        listed = found.get(section, ())
        if listed:
            print_line(heading)
        for row in listed:
            key = next(name for name in ("name", "provider_name", "id") if name in row)
            print_line(f"  {row[key]}: {_facts(row, key, 'id')}")
    _print_runs(found["workflows"], found["temporal"]["reachable"], temporal)
    error = found["diagnosis"]["last_error"]
    _print_diagnosis(found["diagnosis"], error)


def _print_erasure(found: Mapping[str, Any], temporal: str) -> None:
    erasure = found["erasure"]
    print_line(f"Erasure {erasure['id']}: {'ended' if erasure['completed_at'] else 'pending'}", "bold")
    print_counts({name: value for name, value in erasure.items() if value is not None and name != "id"})
    if found["waiting_for"]:
        print_line("waits for the purge of")
    for one in found["waiting_for"]:
        print_line(f"  {one['asset_id']}: {_facts(one, 'asset_id')}")
    _print_runs(found["workflows"], found["reachable"], temporal)
    _print_diagnosis(found["diagnosis"], None)


def _print_runs(workflows: Sequence[Mapping[str, Any]], is_reachable: bool, temporal: str) -> None:
    print_line("workflows")
    if not is_reachable:
        print_line(f"  unknown: Temporal ({temporal}) did not answer", "yellow")
    for one in workflows:
        print_line(f"  {one['id']}: {_facts(one, 'id', 'pending_activities', 'pending_task')}")
        if task := one["pending_task"]:
            print_line(f"    pending workflow task: {_facts(task)}")
        for activity in one["pending_activities"]:
            print_line(f"    pending {activity['type']}: {_facts(activity, 'type')}")


def _print_diagnosis(diagnosis: Mapping[str, Any], error: Mapping[str, Any] | None) -> None:
    print_line("diagnosis")
    print_line(f"  {diagnosis['summary']}", "bold")
    if error:
        print_line(f"  last error: {error['code']} ({error['where']}) {error['reason'] or ''}".rstrip())
    if diagnosis["command"]:
        print_line(f"  Fix: {diagnosis['command']}", "green")
