"""``rindle setup``: fetch what `rindle dev` needs and this machine lacks."""

from __future__ import annotations

import click

from rindle.cli.temporal_server import ensure_temporal_cli
from rindle.cli.terminal import say


@click.command()
def setup() -> None:
    """Find the Temporal CLI, or download or build it (about 4 minutes, once)."""
    found = ensure_temporal_cli(report=lambda line: click.echo(line, err=True))
    say(f"Temporal CLI: {found}")
