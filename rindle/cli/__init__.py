"""The command ``rindle``: one file per command, the same words as :mod:`rindle.operations`."""

from __future__ import annotations

import sys
from typing import NoReturn

from rindle.errors import MissingExtra
from rindle.extras import requires
from rindle.process import leave


def main() -> NoReturn:
    """Entry point of the console script, which is also installed without the extra ``cli``."""
    try:
        with requires("cli"):
            from rindle.cli.commands import main as run
    except MissingExtra as error:
        sys.stderr.write(f"{error.code}: {error.message}\n")
        leave(1)
    run()
