"""A test that cannot look on one database is not collected there: it would pass without a look (``on_postgres``)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def leaving_early(source: str) -> Iterator[str]:
    """Yield the tests that return where a condition names the dialect."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and function.name.startswith("test_"):
            for node in ast.walk(function):
                if (
                    isinstance(node, ast.If)
                    and "dialect" in ast.unparse(node.test)
                    and any(isinstance(part, ast.Return) for part in ast.walk(node))
                ):
                    yield function.name


def test_no_test_leaves_early_on_one_database() -> None:
    assert [name for path in sorted(TESTS.rglob("test_*.py")) for name in leaving_early(path.read_text())] == []


def test_a_test_that_leaves_early_is_found() -> None:
    source = "def test_it(stage):\n    if stage.rindle.database.dialect == 'sqlite':\n        return\n    assert True\n"
    assert list(leaving_early(source)) == ["test_it"]
