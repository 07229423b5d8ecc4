"""Finding the application: what works, and what is shown of each mistake: its traceback, its problem, its fix."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rindle import Rindle
from rindle.cli import commands
from rindle.cli.application import APP_VARIABLE, load_application
from rindle.cli.dev import _source_of, _web_beside
from rindle.cli.web import NOT_LOADED, serve
from rindle.errors import ApplicationNotLoaded, Misconfigured
from tests.patience import PATIENCE_SECONDS

REPOSITORY = Path(__file__).resolve().parents[3]
SHOP = """
from sqlalchemy import create_engine
from rindle import Rindle

def make():
    return Rindle(engine=create_engine("sqlite://"), profiles=[])

async def later():
    return make()

def broken():
    raise RuntimeError("postgresql://rindle:canary@db/shop")

class Holder:
    rindle = make()

rindle = make()
number = 7
"""
#: Modules that cannot be imported.
FAILING = {
    "without_variable": "import os\nHOME = 1\nurl = os.environ['SHOP_DATABASE_URL']\n",
    "with_short_secret": (
        "from rindle.storage.local import LocalStorage\n\n"
        "def store():\n"
        "    return LocalStorage('media', base_url='/media', secrets=['canary'])\n\n"
        "media = store()\n"
    ),
    "with_wrong_setting": "from rindle import Settings\nsettings = Settings(render_workers='canary')\n",
    "with_bad_url": "from sqlalchemy import create_engine\ncreate_engine('postgresql://rindle:canary@db:port/shop')\n",
    "without_parts": "import no_such_part\n",
    "of_another": "import shop_without_variable\n",
    "unreadable": "def rindle(:\n",
    "with_cause": ("try:\n    int('x')\nexcept ValueError as error:\n    raise RuntimeError('no number') from error\n"),
}


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory with modules in it."""
    (tmp_path / "shop_of_a_test.py").write_text(SHOP)
    for name, source in FAILING.items():
        (tmp_path / f"shop_{name}.py").write_text(source)
    (tmp_path / "shop_directory").mkdir()  # importable: a namespace package
    (tmp_path / "shop_package").mkdir()
    (tmp_path / "shop_package" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "shop_package" / "media.py").write_text("app = rindle = None\n")
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
    ("reference", "message"),
    [
        (None, "no application is named. To fix: pass --app package.module:name, or set RINDLE_APP"),
        ("shop_of_a_test", "'shop_of_a_test' does not name an object of a module. To fix: write package.module:name"),
        ("shop_of_a_test:", "does not name an object of a module"),
        ("shop_of_a_test:make()", "does not name an object of a module"),
        (
            "shop_directory:rindle",
            "the module 'shop_directory' was not found. To fix: run the command in the directory",
        ),
        ("shop_gone:rindle", "the module 'shop_gone' was not found. To fix: run the command in the directory that"),
        ("shop_of_a_test:rindel", "the module 'shop_of_a_test' has no 'rindel'. To fix: use shop_of_a_test:rindle"),
        ("shop_of_a_test:xyz", "has no 'xyz'. To fix: name an object of that module, as in --app media:rindle"),
        (
            "shop_of_a_test:number",
            "is of type int; it must be a Rindle or a function that returns one. To fix: use sho",
        ),
        ("shop_of_a_test:later", "is an async function; it must be a Rindle or"),
        ("shop_of_a_test:broken", "'shop_of_a_test:broken' raised RuntimeError when it was called"),
        ("shop_without_parts:rindle", "the module 'no_such_part' was not found. To fix: install the package that"),
        ("shop_without_variable:rindle", "the environment variable SHOP_DATABASE_URL is not set. To fix: set it"),
        ("shop_with_short_secret:rindle", "signing secret 1 is shorter than 32 bytes; make one with: "),
        ("shop_with_wrong_setting:rindle", "RINDLE_RENDER_WORKERS: "),
        ("shop_with_bad_url:rindle", "the module 'shop_with_bad_url' raised ValueError while it was imported"),
        ("shop_unreadable:rindle", "the module 'shop_unreadable' raised SyntaxError while it was imported"),
    ],
)
def test_each_mistake_is_named_with_what_to_do(reference: str | None, message: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        load_application(reference)

    assert message in refused.value.message
    assert "canary" not in refused.value.message


@pytest.mark.parametrize(
    ("module", "frames", "last"),
    [
        ("without_variable", [("without_variable", 3, "<module>")], "KeyError: 'SHOP_DATABASE_URL'"),
        ("of_another", [("of_another", 1, "<module>"), ("without_variable", 3, "<module>")], "KeyError: 'SHOP_DATA"),
        ("with_bad_url", [("with_bad_url", 2, "<module>")], "ValueError: invalid literal"),
        ("without_parts", [("without_parts", 1, "<module>")], "ModuleNotFoundError: No module named 'no_such_part'"),
        (
            "with_cause",
            [("with_cause", 2, "<module>"), ("with_cause", 4, "<module>")],
            "RuntimeError: no number",
        ),
        ("of_a_test", [("of_a_test", 12, "broken")], "RuntimeError: postgresql://[REDACTED]@db/shop"),
    ],
)
def test_the_traceback_ends_in_the_users_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], module: str, frames: list[tuple[str, int, str]], last: str
) -> None:
    assert commands.execute(["doctor", "--app", f"shop_{module}:broken"]) == 1

    *trace, end = capsys.readouterr().err.splitlines()
    files = [line.strip() for line in trace if line.startswith("  File ")]
    assert files == [f'File "{tmp_path}/shop_{name}.py", line {line}, in {scope}' for name, line, scope in frames]
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1].startswith(last)
    assert "canary" not in trace[-1] + end
    assert end.startswith("application_not_loaded: ")


@pytest.mark.parametrize(
    ("module", "frames", "last"),
    [
        ("with_short_secret", ["line 6, in <module>", "line 4, in store"], "signing secret 1 is shorter than 32 bytes"),
        ("with_wrong_setting", ["line 2, in <module>"], "a setting is not valid: RINDLE_RENDER_WORKERS: "),
    ],
)
def test_an_error_of_ours_is_shown_once_with_its_text(
    capsys: pytest.CaptureFixture[str], module: str, frames: list[str], last: str
) -> None:
    assert commands.execute(["doctor", "--app", f"shop_{module}:rindle"]) == 1

    shown = capsys.readouterr().err.splitlines()
    assert [line.partition('", ')[2] for line in shown if line.startswith("  File ")] == frames
    assert shown[-1].startswith(f"rindle.errors.Misconfigured: {last}")


def test_a_syntax_error_is_shown_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.execute(["doctor", "--app", "shop_unreadable:rindle"]) == 1

    shown = capsys.readouterr().err.splitlines()
    assert shown[:2] == [f'  File "{tmp_path}/shop_unreadable.py", line 1', "    def rindle(:"]
    assert shown[-2].startswith("SyntaxError: ")


def test_the_web_process_shows_the_same_and_is_not_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve("shop_without_variable:app", 1) == NOT_LOADED
    assert serve("shop_of_a_test:aap", 1) == NOT_LOADED

    shown = capsys.readouterr().err
    assert f'  File "{tmp_path}/shop_without_variable.py", line 3, in <module>\n' in shown
    assert "application_not_loaded: the environment variable SHOP_DATABASE_URL is not set." in shown
    assert shown.splitlines()[-1].endswith("has no 'aap'. To fix: name an object of that module, as in --web media:app")


def test_the_worker_shows_the_same(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rindle.cli.worker", "--app", "shop_without_variable:rindle"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f'Traceback (most recent call last):\n  File "{tmp_path}/shop_without_variable.py", line 3, in <module>\n'
    )
    assert '"code": "application_not_loaded"' in done.stderr.splitlines()[-1]


def test_a_module_is_searched_for_its_app_without_being_imported() -> None:
    assert _web_beside("shop_package.media:rindle") == "shop_package.media:app"
    assert _web_beside("shop_unreadable:rindle") is None  # the import reports it
    assert _source_of("shop_package.gone") is None
    assert "shop_package" not in sys.modules
    with pytest.raises(ApplicationNotLoaded, match="the module 'shop_gone' was not found"):
        _web_beside("shop_gone:rindle")
