"""The test runner's own promises: a skip is red in CI, reports are complete, and the process always leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.patience import VIDEO_PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
PASSES = "def test_passes(): pass\n"
SKIPS = "import pytest\ndef test_skips(): pytest.skip('not here')\n"
FAILS = "def test_fails(): assert False\n"
#: Keeps an interpreter that shuts down in the usual way for ever.
LINGERS = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"


def run(directory: Path, text: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``text`` as a test file with the project's own configuration and hooks."""
    (directory / "test_it.py").write_text("from __future__ import annotations\n" + text)
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", ROOT / "pyproject.toml"),
            *("--rootdir", ROOT, directory / "test_it.py", f"--junitxml={directory / 'report.xml'}", *arguments),
            "--no-header",  # it starts every server's program once, to ask for its version
        ],
        cwd=ROOT,
        env={**{key: value for key, value in os.environ.items() if key != "CI"}, **environment},
        capture_output=True,
        text=True,
        timeout=VIDEO_PATIENCE_SECONDS,  # a process that starts another one, which loads everything
    )


@pytest.mark.parametrize(
    ("text", "environment", "status", "summary"),
    [
        (PASSES + SKIPS, {}, 0, "1 passed, 1 skipped"),
        (PASSES + SKIPS, {"CI": "true"}, 1, "1 passed, 1 skipped"),
        ("import pytest\npytest.skip('all', allow_module_level=True)\n", {"CI": "true"}, 5, "1 skipped"),
        (PASSES + FAILS, {}, 1, "1 failed, 1 passed"),
        (LINGERS + PASSES, {"CI": "true"}, 0, "1 passed"),
    ],
    ids=["skips-on-a-laptop", "skips-in-ci", "skips-a-file-in-ci", "fails", "lingers"],
)
def test_the_status_and_the_last_line(
    tmp_path: Path, text: str, environment: dict[str, str], status: int, summary: str
) -> None:
    done = run(tmp_path, text, **environment)

    assert done.returncode == status, done.stdout + done.stderr
    assert summary in done.stdout.splitlines()[-1]
    assert ("which fails the run" in done.stdout) == ("skip" in text and "CI" in environment)
    suite = ElementTree.parse(tmp_path / "report.xml").getroot()[0]
    assert (suite.get("skipped"), suite.get("failures")) == (str(int("skip" in text)), str(int("assert" in text)))


@pytest.mark.parametrize(
    ("text", "status", "summary"),
    [
        (PASSES + SKIPS, 1, "1 passed, 1 skipped"),
        (PASSES + FAILS, 1, "1 failed, 1 passed"),
        (LINGERS + PASSES, 0, "1 passed"),
    ],
    ids=["skips", "fails", "lingers"],
)
def test_processes_that_share_the_tests_end_as_one_would(tmp_path: Path, text: str, status: int, summary: str) -> None:
    done = run(tmp_path, text, "-n", "1", CI="true")

    assert done.returncode == status, done.stdout + done.stderr
    assert summary in done.stdout.splitlines()[-1]


def test_tests_of_the_corpus_are_left_out_where_there_is_none(tmp_path: Path) -> None:
    text = (
        "import os\nimport pytest\nCORPUS = os.environ.get('RINDLE_CORPUS')\n"
        + PASSES
        + "@pytest.mark.skipif(not CORPUS, reason='RINDLE_CORPUS is not set')\ndef test_picture(): pass\n"
        + "@pytest.mark.parametrize('path', [CORPUS] if CORPUS else [])\ndef test_each(path): pass\n"
    )
    without = run(tmp_path, text, CI="true", RINDLE_CORPUS="")
    having = run(tmp_path, text, CI="true", RINDLE_CORPUS=str(tmp_path))

    assert (without.returncode, having.returncode) == (0, 0), without.stdout + having.stdout
    assert "1 passed, 2 deselected" in without.stdout.splitlines()[-1]
    assert "3 passed" in having.stdout.splitlines()[-1]


def test_the_header_names_every_server() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "tests/architecture/test_runner.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=VIDEO_PATIENCE_SECONDS,  # a process that starts another one, which loads everything
    )

    for name in ("Temporal server", "Postgres", "SQLite", "MinIO", "libvips", "Chromium"):
        assert any(line.startswith("servers:") and name in line for line in done.stdout.splitlines()), name
