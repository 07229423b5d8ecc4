"""What ``import rindle`` offers, and what it does not drag in."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import rindle
from tests.patience import PATIENCE_SECONDS

#: Packages of optional extras, and those too heavy for everybody.
NOT_LOADED = (
    "fastapi",
    "starlette",
    "boto3",
    "botocore",
    "pyvips",
    "pi_heif",
    "pebble",
    "magic",
    "PIL",
    "jinja2",
    "click",
)


def loaded_by(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after ``statement``."""
    program = (
        f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    return set(json.loads(done.stdout))


def test_public_names_are_sorted_and_there() -> None:
    listed = rindle.__all__

    assert listed == sorted(listed, key=lambda name: (name == "__version__", not name.isupper(), name))
    assert len(listed) == len(set(listed))
    for name in listed:
        assert getattr(rindle, name) is not None


def test_what_type_checkers_see_is_what_is_loaded_at_the_first_use() -> None:
    tree = ast.parse(Path(str(rindle.__file__)).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}

    assert seen == rindle._HOMES
    assert {*seen, "__version__"} == set(rindle.__all__)
    for name, module in seen.items():
        assert getattr(rindle, name) is getattr(importlib.import_module(str(module)), name)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchName"):
        rindle.NoSuchName  # noqa: B018 - the access is the test


def test_a_module_of_the_package_is_there_without_an_import_of_its_own() -> None:
    program = "import rindle; raise SystemExit(rindle.errors.Unauthorized.code)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )

    assert done.stderr.strip() == "unauthorized"


def test_children_that_render_load_neither_a_database_nor_temporal() -> None:
    assert loaded_by("import rindle.media.image") & {"sqlalchemy", "temporalio"} == set()


@pytest.mark.parametrize(
    "module",
    [
        "rindle.contrib.jinja",
        "rindle.http",
        "rindle.presets",
        "rindle.profile",
        "rindle.protocols",
        "rindle.security",
    ],
)
def test_what_a_module_lists_is_there(module: str) -> None:
    found = importlib.import_module(module)

    assert [name for name in found.__all__ if not hasattr(found, name)] == []


def test_importing_rindle_loads_no_extra() -> None:
    assert loaded_by("from rindle import *") & set(NOT_LOADED) == set()


@pytest.mark.parametrize(
    ("modules", "allowed"),
    [
        ("rindle.errors, rindle.profile, rindle.storage.local, rindle.delivery, rindle.contrib", set()),
        ("rindle.storage.s3", {"boto3", "botocore"}),
        ("rindle.http", {"fastapi", "starlette"}),
        ("rindle.contrib.jinja", {"jinja2"}),
    ],
)
def test_a_module_loads_its_own_extra_only(modules: str, allowed: set[str]) -> None:
    found = loaded_by(f"import {modules}") & set(NOT_LOADED)

    # FastAPI's own extras (click through uvicorn and the like) are its business.
    assert found - allowed <= ({"click", "jinja2"} if "fastapi" in allowed else set())


def test_workflow_code_is_importable_without_database_or_adapters() -> None:
    """Somebody who only signals runs needs the names and inputs, nothing else."""
    found = loaded_by("import rindle.messages, rindle.workflows.ids")

    assert "rindle" in found
    assert found & {"boto3", "pyvips", "fastapi"} == set()
