"""Finding the application: what works, and that every mistake is told apart and gives nothing away."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rindle import Rindle
from rindle.cli.application import APP_VARIABLE, load_application
from rindle.errors import Misconfigured

SHOP = """
from sqlalchemy import create_engine
from rindle import Rindle

def make():
    return Rindle(engine=create_engine("sqlite://"), profiles=[])

def broken():
    raise RuntimeError("postgresql://rindle:canary@db/shop")

class Holder:
    rindle = make()

rindle = make()
number = 7
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory with modules in it."""
    (tmp_path / "shop_of_a_test.py").write_text(SHOP)
    (tmp_path / "shop_in_ruins.py").write_text("raise KeyError('canary')\n")
    (tmp_path / "shop_without_parts.py").write_text("import no_such_part\n")
    monkeypatch.chdir(tmp_path)
    path = [*sys.path]
    yield
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("shop_")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["rindle", "make", "Holder.rindle"])
def test_an_object_or_a_function_that_makes_it_is_found_from_the_working_directory(name: str) -> None:
    assert isinstance(load_application(f"shop_of_a_test:{name}"), Rindle)


def test_the_environment_names_it_when_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(APP_VARIABLE, "shop_of_a_test:make")
    assert isinstance(load_application(), Rindle)


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        (None, "no application is named"),
        ("shop_of_a_test", "does not name an application"),
        ("shop_of_a_test:", "does not name an application"),
        ("shop_of_a_test:make()", "does not name an application"),
        ("shop_that_is_not_there:rindle", "the module 'shop_that_is_not_there' was not found"),
        ("shop_without_parts:rindle", "needs 'no_such_part'"),
        ("shop_in_ruins:rindle", "raised KeyError (shop_in_ruins.py, line 1)"),
        ("shop_of_a_test:rindel", "has no 'rindel'"),
        ("shop_of_a_test:number", "is of type int; it must be a Rindle or"),
        ("shop_of_a_test:broken", "raised RuntimeError (shop_of_a_test.py, line 9)"),
    ],
)
def test_each_mistake_is_named_with_what_to_do(reference: str | None, problem: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        load_application(reference)

    assert problem in refused.value.message
    assert "To fix: 1. pass --app" in refused.value.message
    assert "canary" not in refused.value.message
