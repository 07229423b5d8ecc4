"""Makes one module of the Python on the pages, for type checkers: ``tests/typing/pages.py``.

Each block of a page becomes a function. Blocks that come from a source file or a docstring are left out: the checkers
read that file, and the tests run the examples of docstrings.
Names that a block uses and does not define come from ``tests/typing/site.py``, which stands for the reader's
application. A block that a checker refuses would not pass in the reader's project either.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "tests" / "typing" / "site.py"
TARGET = ROOT / "tests" / "typing" / "pages.py"

_HEAD = '''"""The Python of the pages, as type checkers see it. Written by ``python -m docs.generate``; never run."""

# pyright: reportUnusedVariable=false, reportUnusedFunction=false, reportUnusedClass=false, reportMissingTypeStubs=false
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

'''


def module_of(pages: Iterable[Path]) -> str:
    """Return the text of the module for these pages."""
    known = {name for node in ast.parse(SITE.read_text()).body for name in _bound(node)}
    functions: list[str] = []
    used: set[str] = set()
    for page in pages:
        for line, code in _blocks(page.read_text()):
            tree = ast.parse(code)
            bound = {name for node in tree.body for name in _bound(node)}
            read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
            parameters = ", ".join(f"{name}: {name.title()}" for name in sorted(bound & read & {"asset"}))
            used |= (read - bound) & known | ({"Asset"} if parameters else set())
            name = re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix("")))
            functions.append(f"async def {name}_{line}({parameters}) -> None:\n{textwrap.indent(code, '    ')}")
    imports = "".join(f"    {name},\n" for name in sorted(used))
    return f"{_HEAD}from tests.typing.site import (\n{imports})\n\n\n" + "\n\n".join(functions)


def _blocks(page: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the code of each Python block that is written on the page itself."""
    own = re.sub(r"<!-- (?:code|generated): .*?<!-- end -->", "", page, flags=re.DOTALL)
    yield from enumerate(re.findall(r"^```python\n(.*?)^```$", own, flags=re.DOTALL | re.MULTILINE), start=1)


def _bound(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement at the top level defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))
