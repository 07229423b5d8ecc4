"""``rindle schedules ...``: the Temporal Schedules that start the sweeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import click

from rindle.app import Rindle
from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_json, print_line, print_report
from rindle.operations import schedules as operations

_STYLES = {"active": "green", "off": "dim"}


@click.group()
def schedules() -> None:
    """Runs of the sweeps by the clock: create, list, pause and resume their Temporal Schedules."""


@schedules.command()
@application_option
@format_option
def apply(application: str | None, output: str) -> None:
    """Create and update the schedules of this release; paused ones stay paused. Exit 1 when an id is not ours."""
    report = run(application, lambda rindle: operations.apply(rindle.services))
    if output == "json":
        print_json(report.to_dict())
    else:
        found = report.to_dict()
        for outcome, schedule_ids in found.items():
            for schedule_id in schedule_ids:
                print_line(f"  {outcome}: {schedule_id}", "red" if outcome == "foreign" else None)
        print_report("Schedules", {outcome: len(schedule_ids) for outcome, schedule_ids in found.items()}, output)
    raise click.exceptions.Exit(int(bool(report.foreign)))


@schedules.command(name="list")
@application_option
@format_option
def list_(application: str | None, output: str) -> None:
    """List the schedules of this release: state, next and last run."""
    found = [one.to_dict() for one in run(application, lambda rindle: operations.list_schedules(rindle.services))]
    if output == "json":
        print_json({"schedules": found})
        return
    for one in found:
        mode = ", dry run" if one["dry_run"] else ""
        note = f" ({one['note']})" if one["note"] else ""
        print_line(f"{one['id']}: {one['state']}{note}, {one['when']}{mode}", _STYLES.get(one["state"], "yellow"))
        if one["next_run_at"] is not None and one["state"] != "paused":
            print_line(f"  next run: {one['next_run_at']}")
        if last := one["last_run"]:
            status = last["status"] or "not stored any more"
            print_line(f"  last run: {last['started_at']} {status} {last['workflow_id']}")


_names = click.argument("names", nargs=-1, metavar="[NAME]...")
_all = click.option("--all", "everything", is_flag=True, help="All schedules.")
_note = click.option("--note", help="Why; shown with the schedule. At most 255 characters.")


@schedules.command()
@_names
@application_option
@_all
@_note
@format_option
def pause(names: tuple[str, ...], application: str | None, everything: bool, note: str | None, output: str) -> None:
    """Pause the schedules of the named sweeps; running ones go on. Neither apply nor a worker resumes them."""
    _switch(operations.pause, "paused", names, application, everything, note, output)


@schedules.command()
@_names
@application_option
@_all
@_note
@format_option
def resume(names: tuple[str, ...], application: str | None, everything: bool, note: str | None, output: str) -> None:
    """Resume paused schedules; runs that were missed are not repeated."""
    _switch(operations.resume, "resumed", names, application, everything, note, output)


def _switch(
    call: Callable[..., Awaitable[list[str]]],
    done: str,
    names: tuple[str, ...],
    application: str | None,
    everything: bool,
    note: str | None,
    output: str,
) -> None:
    if bool(names) == everything:
        raise click.UsageError("pass the names of schedules, or --all")

    async def work(rindle: Rindle) -> Any:
        return await call(rindle.services, names, note=note)

    found = run(application, work)
    if output == "json":
        print_json({done: found})
        return
    for schedule_id in found:
        print_line(f"{done}: {schedule_id}")
    print_line(f"{len(found)} {done}.")
