"""``rindle timeline``: the events of one asset and its upload sessions."""

from __future__ import annotations

from collections.abc import Iterator

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_json, print_line
from rindle.instants import iso_instant
from rindle.operations.timeline import DEFAULT_LIMIT, MAX_LIMIT, Timeline, TimelineEvent
from rindle.operations.timeline import timeline as timeline_of


@click.command()
@click.argument("subject", metavar="ASSET|SESSION")
@application_option
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="ID", help="Only events after this one.")
@click.option(
    "--limit", type=click.IntRange(1, MAX_LIMIT), default=DEFAULT_LIMIT, show_default=True, help="Number of events."
)
@format_option
def timeline(subject: str, application: str | None, after: int, limit: int, output: str) -> None:
    """List what happened to an asset, its variants and its upload sessions, oldest first."""
    report = run(application, lambda rindle: timeline_of(rindle.services, subject, after=after, limit=limit))
    if output == "json":
        print_json(report.to_dict())
    else:
        _print(subject, report)


def _print(subject: str, report: Timeline) -> None:
    print_line(f"Timeline of {report.asset_id or subject}", "bold")
    for event in report.events:
        facts = " ".join(f"{name}={value}" for name, value in _facts(event, report))
        print_line(f"  {iso_instant(event.occurred_at)}  {event.id}  {event.type}  {facts}".rstrip())
    if report.has_more:
        print_line(f"  ... more: rindle timeline {subject} --after {report.events[-1].id}")
    print_line("Done.")


def _facts(event: TimelineEvent, report: Timeline) -> Iterator[tuple[str, object]]:
    """Yield the facts of an event that its line shows: not the asset, which all lines have in common."""
    yield from (
        (name, value)
        for name, value in event.payload.items()
        if value is not None and (name, value) != ("asset_id", report.asset_id)
    )
    if event.actor is not None:
        yield "actor", event.actor
