"""No circles between the modules of ``rindle``, whether an import runs always, inside a function or for types only.

import-linter (``pyproject.toml``) holds the layers; a circle within one layer is nothing to it.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rindle

PACKAGE = Path(rindle.__file__).parent


def modules_of(package: Path) -> dict[str, Path]:
    """Return the files of a package by the names of their modules."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_by(source: str, modules: Mapping[str, object]) -> Iterator[str]:
    """Yield which of ``modules`` the source imports, in whatever block the statement stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in modules else str(node.module)


def circle_in(sources: Mapping[str, str]) -> list[str]:
    """Return the modules of one circle of imports, the first again at the end; nothing when there is none."""
    graph = {name: {other for other in imported_by(text, sources) if other != name} for name, text in sources.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # each module imports the next one
    return []


def test_no_module_imports_itself_through_others() -> None:
    sources = {name: path.read_text(encoding="utf-8") for name, path in modules_of(PACKAGE).items()}

    assert len(sources) > 100
    assert circle_in(sources) == []


@pytest.mark.parametrize(
    "back",
    [
        "from p import a",
        "import p.a",
        "from p.a import name",
        "if TYPE_CHECKING:\n    from p.a import name",
        "def later():\n    from p.a import name",
    ],
)
def test_a_circle_is_found_wherever_the_import_stands(back: str) -> None:
    sources = {"p": "", "p.a": "from p.b import name", "p.b": "from p.c import name", "p.c": back}

    circle = circle_in(sources)

    assert circle[0] == circle[-1]
    assert set(itertools.pairwise(circle)) == {("p.a", "p.b"), ("p.b", "p.c"), ("p.c", "p.a")}


def test_a_package_may_gather_its_modules() -> None:
    assert circle_in({"p": "from p.a import name", "p.a": "from p.b import name", "p.b": ""}) == []


def test_the_server_that_stands_for_mux_is_built_on_nothing_that_it_tests() -> None:
    """What both had in common could be wrong in both: Mux's own client alone speaks with it."""
    for path in (PACKAGE.parent / "tests" / "servers" / "mux").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.split(".")[0] in ("rindle", "mux_python")], path
