"""``rindle setup``: install the Temporal CLI that `rindle dev` needs."""

from __future__ import annotations

import click

from rindle.cli.temporal_server import ensure_temporal_cli
from rindle.cli.terminal import print_line


@click.command()
def setup() -> None:
    """Find the Temporal CLI, or download or build it (about 4 minutes, once)."""
    found = ensure_temporal_cli(report=lambda line: click.echo(line, err=True))
    print_line(f"Temporal CLI: {found}")
