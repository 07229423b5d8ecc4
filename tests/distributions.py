"""What would be importable if only some of the packages of this virtualenv were installed: no test installs any."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

from packaging.requirements import Requirement

#: First part of a program: importing one of the modules that its arguments name fails, as if it were not installed.
GUARD = """
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

MISSING = frozenset(sys.argv[1:])
sys.meta_path.insert(0, Guard())
"""
#: Directories of this repository that look like packages.
_OURS = frozenset({"docs", "examples", "rindle", "scripts", "tests"})


def installed_with(requirements: Iterable[str]) -> frozenset[str]:
    """Return the names of the packages that ``pip install`` of ``requirements`` installs: these, and what they need."""
    found: set[tuple[str, str]] = set()

    def visit(text: str, extra: str) -> None:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            return
        for chosen in ("", *wanted.extras):
            if (key := (_normal(wanted.name), chosen)) in found:
                continue
            found.add(key)
            try:
                further = distribution(wanted.name).requires
            except PackageNotFoundError:  # needed on another platform, or not installed here yet
                continue
            for requirement in further or ():
                visit(requirement, chosen)

    for requirement in requirements:
        visit(requirement, "")
    return frozenset(name for name, _ in found)


def modules_without(requirements: Iterable[str]) -> frozenset[str]:
    """Return the modules of this virtualenv that would be missing if only ``requirements`` were installed."""
    installed = installed_with(requirements)
    owned = packages_distributions().items()
    return frozenset(
        module for module, owners in owned if module not in _OURS and not {*map(_normal, owners)} & installed
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
