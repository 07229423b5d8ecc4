"""What commands print: stable lines for people, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console


def say(line: str, style: str | None = None) -> None:
    """Print one line, coloured where standard output is a terminal; brackets in it are only brackets."""
    Console(soft_wrap=True).print(line, style=style, markup=False, highlight=False)


def say_json(document: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def say_counts(counts: Mapping[str, Any], *, indent: str = "  ") -> None:
    """Print ``  name:  value`` lines."""
    width = max((len(name) for name in counts), default=0) + 1
    for name, value in counts.items():
        say(f"{indent}{name + ':':<{width}}  {value}")


def say_report(heading: str, counts: Mapping[str, Any], output: str, *, dry_run: bool = False) -> None:
    """Print the report of a repair verb: its counters between a heading and ``Done.``, or as JSON."""
    if output == "json":
        say_json({**counts, "dry_run": True} if dry_run else dict(counts))
        return
    mark = "[DRY RUN] " if dry_run else ""
    say(f"{mark}{heading}", "bold")
    say_counts(counts)
    say(f"{mark}Done." + (" Nothing was changed; add --execute." if dry_run else ""))
