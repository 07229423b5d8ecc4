"""How every command ends: exit codes, errors without a traceback, and words that stay as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from sqlalchemy.exc import OperationalError

from rindle.cli import commands
from rindle.cli.terminal import print_line, print_report
from rindle.errors import InspectionFailed, NotProcessing, TemporalUnavailable
from tests.patience import PATIENCE_SECONDS

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> object:
    """Let ``rindle fail`` raise what a test wants."""

    def raises(error: BaseException) -> None:
        @click.command(name="fail")
        def fail() -> None:
            raise error

        monkeypatch.setitem(commands.rindle.commands, "fail", fail)

    return raises


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (NotProcessing("nothing is being processed"), 1, "not_processing: nothing is being processed\n"),
        (TemporalUnavailable("away"), 4, "temporal_unavailable: away\n"),
        (InspectionFailed("no database"), 4, "inspection_failed: no database\n"),
        (click.UsageError("name one"), 2, None),
        (click.exceptions.Exit(3), 3, ""),
        (KeyboardInterrupt(), 130, None),
        (OperationalError("SELECT canary", {}, Exception("canary")), 4, None),
        (KeyError("canary"), 1, None),
    ],
)
def test_an_error_becomes_a_line_and_an_exit_code(
    failing: object, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, told: str | None
) -> None:
    assert callable(failing)
    failing(error)

    assert commands.execute(["fail"]) == code

    shown = capsys.readouterr()
    assert shown.out == ""
    assert told is None or shown.err == told
    assert "canary" not in shown.err
    assert "Traceback" not in shown.err


def test_an_unknown_command_and_option_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.execute(["doktor"]) == 2
    assert commands.execute(["doctor", "--offlin"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_every_command_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in commands.rindle.commands.items():
        assert commands.execute([name, "--help"]) == 0
        assert command.help, name


def test_reports_are_stable_lines_and_brackets_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_report("Verb of [bold]x[/bold]", {"found": 2, "deleted": 0}, "text", dry_run=True)
    print_line("[OK] done " + "x" * 200)
    print_report("Verb", {"found": 2}, "json", dry_run=True)

    assert capsys.readouterr().out == (
        "[DRY RUN] Verb of [bold]x[/bold]\n  found:    2\n  deleted:  0\n"
        "[DRY RUN] Done. Nothing was changed; add --execute.\n"
        f"[OK] done {'x' * 200}\n"
        '{\n  "found": 2,\n  "dry_run": true\n}\n'
    )


def test_the_program_ends_with_the_commands_code_and_without_the_interpreters_own_end() -> None:
    program = "import atexit, sys\natexit.register(print, 'atexit')\nfrom rindle.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor"],
        env={key: value for key, value in os.environ.items() if key != "RINDLE_APP"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("misconfigured: no application is named. To fix: ")
