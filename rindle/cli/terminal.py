"""Output of commands: stable lines for people, one JSON document for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click
from rich.console import Console


def print_line(line: str, style: str | None = None) -> None:
    """Print one line, coloured when standard output is a terminal; brackets are not markup."""
    Console(soft_wrap=True).print(line, style=style, markup=False, highlight=False)


def print_json(document: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_counts(counts: Mapping[str, Any], *, indent: str = "  ") -> None:
    """Print ``  name:  value`` lines."""
    width = max((len(name) for name in counts), default=0) + 1
    for name, value in counts.items():
        print_line(f"{indent}{name + ':':<{width}}  {value}")


def runs_link(ui: str, namespace: str) -> str:
    """Return the address of a namespace's list of runs in the Temporal UI."""
    return f"{ui.rstrip('/')}/namespaces/{quote(namespace, safe='')}/workflows"


def print_report(heading: str, counts: Mapping[str, Any], output: str, *, dry_run: bool = False) -> None:
    """Print the report of a repair verb: its counters between a heading and ``Done.``, or as JSON."""
    if output == "json":
        print_json({**counts, "dry_run": True} if dry_run else dict(counts))
        return
    mark = "[DRY RUN] " if dry_run else ""
    print_line(f"{mark}{heading}", "bold")
    print_counts(counts)
    print_line(f"{mark}Done." + (" Nothing was changed; add --execute." if dry_run else ""))
