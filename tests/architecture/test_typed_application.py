"""The file that type checkers read (``tests/typing/application.py``) uses all that ``Rindle`` offers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from rindle import Rindle
from tests.typing import application

PUBLIC = sorted(name for name in dir(Rindle) if not name.startswith("_"))
TREE = ast.parse(Path(str(application.__file__)).read_text())


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_used(name: str) -> None:
    used = {
        node.attr
        for node in ast.walk(TREE)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rindle"
    }

    assert name in used, f"use rindle.{name} in tests/typing/application.py"
