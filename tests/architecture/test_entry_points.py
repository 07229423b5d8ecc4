"""Web and terminal translate in and out: what import contracts cannot see of that rule."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rindle

PACKAGE = Path(rindle.__file__).parent
MODULES = sorted(path for part in ("cli", "http") for path in (PACKAGE / part).rglob("*.py"))


def private_names(tree: ast.AST) -> Iterator[str]:
    """Yield each private attribute that is reached through anything but ``self`` and ``cls``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
            continue
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            yield f"{ast.unparse(node)}, line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_entry_points_reach_no_private_attribute(path: Path) -> None:
    assert list(private_names(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_entry_points_open_no_transaction(path: Path) -> None:
    reached = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "database"
        and node.attr != "dispose"
    ]

    assert reached == []
