"""``rindle erase-owners``: erase the media of the owners that a file lists."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_json, print_line, print_report
from rindle.erasure.owners import unknown_owner_types
from rindle.erasure.reports import BatchErasureReport
from rindle.errors import BatchOwnerFailed
from rindle.operations.erasures import retry_erasures
from rindle.protocols import OwnerRef

_KEYS = {"owner_type", "owner_id"}
#: Problems of a file, and failures of a batch, shown one by one.
_SHOWN = 5


def _owners(text: str) -> list[OwnerRef]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise click.ClickException(f"the owners file is not valid JSON: {error}") from error
    if not isinstance(document, list) or not document:
        raise click.ClickException("the owners file must hold a JSON array with at least one owner")
    problems = [f"entry {index}: {flaw}" for index, one in enumerate(document) if (flaw := _flaw(one))]
    if problems:
        more = f"\n... {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise click.ClickException(
            "the owners file is not valid; nothing was done:\n" + "\n".join(problems[:_SHOWN]) + more
        )
    return [OwnerRef(one["owner_type"], one["owner_id"]) for one in document]


def _flaw(one: Any) -> str | None:
    if not isinstance(one, dict):
        return 'must be an object {"owner_type": "...", "owner_id": "..."}'
    if set(one) != _KEYS:
        return (
            f"must have exactly the keys owner_type and owner_id, found: {', '.join(sorted(map(str, one))) or 'none'}"
        )
    empty = sorted(name for name in _KEYS if not isinstance(one[name], str) or not one[name])
    return f"{empty[0]} must be a string that is not empty" if empty else None


@click.command(name="erase-owners")
@click.option("--owners-file", metavar="PATH", help="JSON array of owners; - reads it from standard input.")
@click.option("--retry", is_flag=True, help="Continue the erasures that have not ended, instead of new ones.")
@application_option
@click.option("--execute", is_flag=True, help="Erase; without it the outcome is only shown.")
@click.option("--max-owners", type=click.IntRange(min=1), help="Most distinct owners; the setting when left out.")
@click.option("--continue-on-error", is_flag=True, help="Go on with the next owner after a failure.")
@format_option
def erase_owners(
    owners_file: str | None,
    retry: bool,
    application: str | None,
    execute: bool,
    max_owners: int | None,
    continue_on_error: bool,
    output: str,
) -> None:
    """Remove all attachments of the listed owners and delete the assets that nobody else uses; a preview by default.

    The file is a JSON array of {"owner_type": "...", "owner_id": "..."}. Exit 1 when an owner failed.
    """
    if retry == (owners_file is not None):
        raise click.UsageError("pass either --owners-file or --retry")
    if owners_file is None:
        retried = run(application, lambda rindle: retry_erasures(rindle.services, dry_run=not execute))
        print_report("Erasures that have not ended", retried.to_dict(), output, dry_run=not execute)
        return
    owners = _owners(_read(owners_file))

    async def work(rindle: Any) -> tuple[list[str], BatchErasureReport]:
        unknown = await unknown_owner_types(rindle.services, owners)
        for name in unknown:
            click.echo(f"warning: nothing is attached to an owner of type {name!r}; check the spelling", err=True)
        if not execute:
            return unknown, await rindle.preview_batch_owner_erasure(owners, max_owners=max_owners)
        return unknown, await rindle.erase_owners(
            owners, max_owners=max_owners, actor="operator", continue_on_error=continue_on_error
        )

    try:
        _, report = run(application, work)
    except BatchOwnerFailed as error:
        _print(error.detail["partial_report"], output)
        raise
    _print(report.to_dict(), output)
    for failure in report.failures[:_SHOWN]:
        owner = f"{failure.owner.owner_type}:{failure.owner.owner_id}"
        click.echo(f"{owner}: {failure.code}: {failure.message}", err=True)
    raise click.exceptions.Exit(int(bool(report.failures)))


def _read(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.buffer.read().decode("utf-8")
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise click.ClickException(f"the owners file cannot be read ({type(error).__name__})") from error


def _print(report: dict[str, Any], output: str) -> None:
    if output == "json":
        print_json(report)
        return
    is_preview = report["mode"] == "preview"
    counts = {
        "owners": len(report["owners"]),
        "attachments_to_detach": report["attachments_to_detach"]["count"],
        "assets_to_purge": report["net_assets_to_purge"],
        "retained_shared_assets": report["net_retained_assets"],
    }
    for one in report["owners"]:
        operation = one["report"].get("operation_id")
        named = f"{one['owner']['owner_type']}:{one['owner']['owner_id']}"
        print_line(f"  - {named}" + (f"  certificate: rindle erasure-certificate {operation}" if operation else ""))
    print_report("Erasure of owners", counts, output, dry_run=is_preview)
