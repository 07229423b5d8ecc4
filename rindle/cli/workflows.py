"""``rindle workflows``: list filters for the Temporal UI and the Temporal CLI."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_json, print_line, runs_link
from rindle.operations.list_filters import STATES, ListFilter, list_filters

if TYPE_CHECKING:
    from rindle.app import Rindle


@click.command()
@application_option
@click.option("--state", type=click.Choice(STATES), help="Only the filters of this state; all of them when left out.")
@click.option("--asset", metavar="ASSET", help="Only runs of this asset.")
@click.option("--profile", help="Only runs of the assets of this profile.")
@click.option("--ui", envvar="RINDLE_TEMPORAL_UI", metavar="URL", help="Address of the Temporal UI, for links.")
@format_option
def workflows(
    application: str | None, state: str | None, asset: str | None, profile: str | None, ui: str | None, output: str
) -> None:
    """Print list filters for the Temporal UI and CLI: all, open, stuck, failed or unusual runs. Needs no Temporal."""

    async def made(rindle: Rindle) -> tuple[list[ListFilter], str]:
        found = list_filters(rindle.services, state=state, asset=asset, profile=profile)
        return found, rindle.temporal.namespace or "default"

    filters, namespace = run(application, made)
    found = [{**one.to_dict(), **_uses(one, namespace, ui)} for one in filters]
    if output == "json":
        print_json({"filters": found})
        return
    for one in found:
        print_line(f"{one['name']}: {one['summary']}", "bold")
        print_line(f"  {one['query']}")
        print_line(f"  {one['command']}")
        if "link" in one:
            print_line(f"  {one['link']}")


def _uses(one: ListFilter, namespace: str, ui: str | None) -> dict[str, str]:
    """Return how a filter is used: a command of the Temporal CLI, and a link to the UI."""
    command = f'temporal workflow list --namespace {namespace} --query "{one.query}"'
    if not ui:
        return {"command": command}
    return {"command": command, "link": f"{runs_link(ui, namespace)}?query={quote(one.query, safe='')}"}
