"""Servers that `make setup` builds with Go: where their programs are, and which version they have."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rindle.cli.temporal_server import find_program
from tests.servers import Unavailable, version_of


def program(name: str, variable: str) -> Path:
    """Return the program of a server: the one that an environment variable names, or the one that set-up has built.

    Raises:
        Unavailable: there is none.
    """
    if asked := os.environ.get(variable):
        if named := shutil.which(asked):
            return Path(named)
        raise Unavailable(f"{variable} does not name a program that can be run")
    if found := find_program(name):
        return found
    raise Unavailable(f"no {name}: run `make setup`, or put `{name}` on PATH")


def version(built: Path) -> str:
    """Return the version of the module that a program was built from, which Go reads from the program."""
    go = shutil.which("go")
    if go is None:
        return "unknown"
    return version_of(Path(go), "version", "-m", str(built), pattern=r"\smod\s+\S+\s+(\S+)")
