"""No code of the library uses the event loop's default threads: an application's code may keep them all busy."""

from __future__ import annotations

import ast
from pathlib import Path

import rindle

ROOT = Path(rindle.__file__).parent
#: The check of readiness, which measures them.
ALLOWED = {"operations/health.py"}


def uses_of_default_threads(path: Path) -> list[int]:
    """Return the lines that call ``asyncio.to_thread`` or an executor that is not named."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        first = node.args[0] if node.args else None
        unnamed = name == "run_in_executor" and isinstance(first, ast.Constant) and first.value is None
        if unnamed or name in ("to_thread", "getaddrinfo", "getnameinfo", "run_in_threadpool"):
            found.append(node.lineno)
    return found


def test_the_default_threads_are_left_to_the_application() -> None:
    found = {str(path.relative_to(ROOT)): uses_of_default_threads(path) for path in sorted(ROOT.rglob("*.py"))}

    assert {name for name, lines in found.items() if lines} == ALLOWED
