"""The command ``rindle``: one file per command, the same words as :mod:`rindle.operations`."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Entry point of the console script."""
    # Imported here because this package is also imported by programs without the extra ``cli`` (the worker's module).
    from rindle.cli.commands import main as run

    run()
