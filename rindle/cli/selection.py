"""The options of commands that repair many assets: which ones, and whether to change anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypeVar

import click

from rindle.cli.terminal import print_json, print_line, print_report
from rindle.instants import iso_instant
from rindle.operations.bulk import DEFAULT_LIMIT, MAX_LIMIT, BulkReport, Selection

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _since(context: click.Context, option: click.Parameter, value: str | None) -> datetime | None:
    """Return the time that an option names, or an age before now."""
    if value is None:
        return None
    if found := re.fullmatch(r"(\d{1,6})([smhd])", value):
        return datetime.now(UTC) - timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is neither an age such as 90m, 2h or 1d nor a time such as 2026-05-01T17:00:00Z"
        ) from None
    if moment.tzinfo is None:
        raise click.BadParameter(f"{value!r} has no time zone; append Z for UTC")
    return moment


def selection_options(command: F) -> F:
    """Add the options of a bulk repair; the command receives ``chosen`` and ``execute`` through :func:`selected`."""
    for option in (
        click.option("--execute", is_flag=True, help="Repair the selected assets; without it they are only counted."),
        click.option(
            "--limit",
            type=click.IntRange(1, MAX_LIMIT),
            default=DEFAULT_LIMIT,
            show_default=True,
            help="Assets of one run; repeat it for the others.",
        ),
        click.option("--all", "everything", is_flag=True, help="All assets that need it."),
        click.option("--since", callback=_since, metavar="AGE|TIME", help="Only rows that changed since then."),
        click.option("--profile", help="Only assets of this profile."),
        click.option("--code", help="Only rows with this error code."),
    ):
        command = option(command)
    return command


def selected(
    asset: str | None,
    *,
    code: str | None,
    profile: str | None,
    since: datetime | None,
    everything: bool,
    limit: int,
    execute: bool,
) -> Selection | None:
    """Return the selection, or ``None`` when one asset is named.

    Raises:
        UsageError: neither or both are given.
    """
    narrowed = code is not None or profile is not None or since is not None
    if asset is not None and (narrowed or everything or execute):
        raise click.UsageError("pass either one ASSET, which is repaired at once, or a selection")
    if asset is None and narrowed == everything:
        raise click.UsageError("pass one ASSET, or --all, or a selection with --code, --profile and --since")
    return None if asset is not None else Selection(code, profile, since, limit)


def is_given(option: str) -> bool:
    """Whether an option of the current command was given, and has not its default."""
    source = click.get_current_context().get_parameter_source(option)
    return source is not click.core.ParameterSource.DEFAULT


def print_bulk(heading: str, report: BulkReport, output: str) -> NoReturn:
    """Print the report of a bulk repair and leave with 1 when an asset could not be repaired."""
    if output == "json":
        print_json(report.to_dict())
    else:
        for failure in report.failures:
            print_line(f"  {failure['asset_id']}: {failure['code']}", "red")
        if report.errors > len(report.failures):
            print_line(f"  ... {report.errors - len(report.failures)} more")
        counts = {
            name: value
            for name, value in report.to_dict().items()
            if name in ("found", "done", "enqueued", "errors", "has_more")
        }
        print_report(heading, counts, output, dry_run=report.dry_run)
    raise click.exceptions.Exit(int(report.errors > 0))


def heading_of(verb: str, selection: Selection) -> str:
    """Return the heading of a report: the verb and its conditions."""
    conditions = {"code": selection.code, "profile": selection.profile}
    named = [f"{name} {value}" for name, value in conditions.items() if value is not None]
    named += [] if selection.since is None else [f"since {iso_instant(selection.since)}"]
    return f"{verb} of assets with {', '.join(named)}" if named else f"{verb} of all assets"
