"""State columns have one writer, ``rindle/db/transitions.py``; rows without a machine are written beside their table.

A state that is assigned anywhere else moves without its event, its metric and its compare-and-set.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import rindle
from rindle.db.models import Base

PACKAGE = Path(rindle.__file__).parent
MODELS = {mapper.class_ for mapper in Base.registry.mappers if "state" in mapper.columns}
TRANSITIONS = "db/transitions.py"
#: Functions that may write a state by other means, with the reason.
NAMED: dict[tuple[str, str], str] = {
    ("db/variants.py", "missing_variants"): "new rows, planned; transitions.add_queued moves them",
    ("db/variants.py", "_note_runs"): "audit rows: they have no machine, only a beginning",
    ("db/variants.py", "_end_runs"): "audit rows: they have no machine, only an end",
    ("db/outbox.py", "mark_dispatched"): "outbox rows belong to the relay",
    ("db/outbox.py", "park"): "outbox rows belong to the relay",
    ("db/outbox.py", "make_due"): "outbox rows belong to the relay",
}
#: Calls whose keywords or dictionaries are columns: of SQL, of the models and of the functions that write rows.
WRITERS = {"values", "set_fields", "_set", "_write", "insert", "setattr", "set_committed_value", "set_attribute"} | {
    model.__name__ for model in MODELS
}


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_state(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value == "state"


def _targets(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Assign(targets=targets) | ast.Delete(targets=targets):
            yield from targets
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target) | ast.For(target=target):
            yield target
        case ast.AsyncFor(target=target) | ast.comprehension(target=target):
            yield target
        case ast.withitem(optional_vars=ast.AST() as target):
            yield target


def _assigns(node: ast.AST) -> bool:
    """Whether the node assigns an attribute ``state`` of something else than ``self``, also within a tuple."""
    return any(
        isinstance(part, ast.Attribute)
        and part.attr == "state"
        and isinstance(part.ctx, ast.Store | ast.Del)
        and not (isinstance(part.value, ast.Name) and part.value.id == "self")
        for target in _targets(node)
        for part in ast.walk(target)
    )


def _writes(node: ast.AST, dictionaries: dict[str, ast.Dict]) -> bool:
    """Whether the node is a call that writes a column ``state``: by keyword, by dictionary, or by the column's name."""
    if not isinstance(node, ast.Call) or _called(node) not in WRITERS:
        return False
    if any(keyword.arg == "state" for keyword in node.keywords):
        return True
    if _called(node) in ("setattr", "set_committed_value", "set_attribute"):
        return any(_is_state(argument) for argument in node.args)
    given = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg is None)]
    return any(
        _is_state(key) or (isinstance(key, ast.Attribute) and key.attr == "state")
        for argument in given
        for found in _dictionaries_of(argument, dictionaries)
        for key in found.keys
    )


def _dictionaries_of(argument: ast.AST, dictionaries: dict[str, ast.Dict]) -> Iterator[ast.Dict]:
    """Yield the dictionaries an argument is made of: written there, or assigned to its name in the same function."""
    for part in ast.walk(argument):
        if isinstance(part, ast.Dict):
            yield part
        elif isinstance(part, ast.Name) and part.id in dictionaries:
            yield dictionaries[part.id]


def writers_in(source: str) -> Iterator[tuple[str, int]]:
    """Yield the function and the line of everything in a module that writes a column ``state``."""

    def visit(node: ast.AST, function: str, dictionaries: dict[str, ast.Dict]) -> Iterator[tuple[str, int]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name if function == "" else function
            dictionaries = dictionaries | {
                target.id: found
                for part in ast.walk(node)
                if isinstance(part, ast.Assign)
                for target in part.targets
                if isinstance(target, ast.Name)
                for found in ast.walk(part.value)
                if isinstance(found, ast.Dict) and any(_is_state(key) for key in found.keys)
            }
        if _assigns(node) or _writes(node, dictionaries):
            yield function, getattr(node, "lineno", 0)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function, dictionaries)

    yield from visit(ast.parse(source), "", {})


def test_every_state_column_is_known() -> None:
    assert {model.__name__ for model in MODELS} == {
        "MediaAsset",
        "MediaVariant",
        "MediaUploadSession",
        "MediaProcessingRun",
        "MediaProviderAsset",
        "MediaOutbox",
    }


def test_nothing_but_the_transitions_writes_a_state() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), function): line
        for path in sorted(PACKAGE.rglob("*.py"))
        if "migrations" not in path.parts
        for function, line in writers_in(path.read_text())
    }
    elsewhere = {place: line for place, line in found.items() if place[0] != TRANSITIONS and place not in NAMED}

    assert elsewhere == {}
    assert found.keys() >= NAMED.keys(), "a named place that writes no state any more"
    assert any(place[0] == TRANSITIONS for place in found)


@pytest.mark.parametrize(
    "statement",
    [
        "upload.state = 'completed'",
        "row.state, row.generation = 'queued', 2",
        "for row.state in states: pass",
        "setattr(row, 'state', 'queued')",
        "set_committed_value(row, 'state', 'queued')",
        "session.execute(update(MediaAsset).values(state='ready'))",
        "session.execute(update(MediaAsset).values({MediaAsset.state: 'ready'}))",
        "session.execute(update(MediaAsset).values({'state': 'ready'}))",
        "insert(table).values([{'state': 'ready'}])",
        "facts = {'state': 'ready'}; update(MediaAsset).values(**facts)",
        "rows = [{'state': 'ready'} for _ in names]; insert(table).values(rows)",
        "set_fields(session, row, state='ready')",
        "MediaVariant(id='1', state='ready')",
    ],
)
def test_every_way_to_write_a_state_is_seen(statement: str) -> None:
    assert list(writers_in(f"def step():\n    {statement}\n")) != []


@pytest.mark.parametrize(
    "statement",
    ["self.state = 'open'", "found = row.state", "View(state=row.state)", "payload = {'state': row.state}"],
)
def test_reading_a_state_is_free(statement: str) -> None:
    assert list(writers_in(f"def step():\n    {statement}\n")) == []
