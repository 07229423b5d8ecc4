"""``rindle explain``: why is this one stuck, and what repairs it?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import say, say_counts, say_json
from rindle.operations.explain import explain as look


@click.command()
@click.argument("subject", metavar="ASSET|SESSION")
@application_option
@click.option("--ui", envvar="RINDLE_TEMPORAL_UI", metavar="URL", help="Address of the Temporal UI, for links.")
@format_option
def explain(subject: str, application: str | None, ui: str | None, output: str) -> None:
    """Show rows, runs, pending activities and the last error of an asset, and the command that repairs it."""
    report = run(application, lambda rindle: look(rindle.services, subject))
    found = report.to_dict()
    for one in found["workflows"]:
        if ui:
            one["link"] = f"{ui.rstrip('/')}/namespaces/{one['namespace']}/workflows/{one['id']}/{one['run_id']}"
    if output == "json":
        say_json(found)
    else:
        _say(found)


def _say(found: Mapping[str, Any]) -> None:
    def facts(row: Mapping[str, Any], *left_out: str) -> str:
        return " ".join(f"{name}={value}" for name, value in row.items() if value is not None and name not in left_out)

    asset = found["asset"]
    say(f"Asset {asset['id']}: {asset['state']}", "bold")
    say_counts({name: value for name, value in asset.items() if value is not None and name not in ("id", "state")})
    say_counts({"attachments": found["attachments"]})
    for name, heading in (("upload_sessions", "upload sessions"), ("variants", "variants"), ("outbox", "not sent yet")):
        if found[name]:
            say(heading)
        for row in found[name]:
            say(f"  {row.get('name') or row['id']}: {facts(row, 'name', 'id')}")
    say("workflows")
    if not found["temporal"]["reachable"]:
        say("  unknown: Temporal did not answer", "yellow")
    for one in found["workflows"]:
        say(f"  {one['id']}: {facts(one, 'id', 'pending_activities')}")
        for activity in one["pending_activities"]:
            say(f"    pending {activity['type']}: {facts(activity, 'type')}")
    diagnosis = found["diagnosis"]
    say("diagnosis")
    say(f"  {diagnosis['summary']}", "bold")
    if error := diagnosis["last_error"]:
        say(f"  last error: {error['code']} ({error['where']}) {error['reason'] or ''}".rstrip())
    if diagnosis["command"]:
        say(f"  Fix: {diagnosis['command']}", "green")
