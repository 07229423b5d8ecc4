"""What ``scripts/setup.py`` installs for a target is enough for it, and no more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts import setup
from tests.distributions import GUARD, installed_with, modules_without
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

#: The demo, the site that it starts with its worker, and the part of the set-up that runs inside the virtualenv.
IMPORTS = """
import tests.servers.__main__, tests.servers.ffmpeg, tests.servers.mux.__main__, rindle.streaming.mux
import examples.cohort.demo, examples.cohort.app, rindle.cli.worker
from rindle.cli import commands
import rindle.bootstrap, rindle.media.image, rindle.media.render_child, uvicorn, aiosqlite
"""


def _requirements(packages: setup.Packages) -> Iterator[str]:
    yield f"rindle[{','.join(packages.extras)}]"

    def group(name: str) -> Iterator[str]:
        entry: Any
        for entry in PROJECT["dependency-groups"][name]:
            if isinstance(entry, dict):
                yield from group(entry["include-group"])
            else:
                yield entry

    for name in packages.groups:
        yield from group(name)


def test_the_demo_imports_nothing_that_its_set_up_does_not_install() -> None:
    missing = modules_without(_requirements(setup.DEMO))

    done = subprocess.run(
        [sys.executable, "-c", GUARD + IMPORTS, *missing],
        cwd=ROOT,
        env={**os.environ, "RINDLE_SECRETS": "x" * 32},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert done.returncode == 0, done.stderr
    assert missing >= {"boto3", "psycopg", "playwright", "mypy", "celery"}


def test_the_tests_have_all_packages_and_all_programs() -> None:
    from tests.servers.__main__ import PROGRAMS

    everything = installed_with(_requirements(setup.ALL))

    assert installed_with(_requirements(setup.DEMO)) < everything
    assert set(setup.TARGETS["test"].programs) == set(PROGRAMS)
    assert {program for needs in setup.TARGETS.values() for program in needs.programs} == set(PROGRAMS)
    assert setup.TARGETS["demo"].programs == setup.TARGETS["dev"].programs == ("libmagic", "ffmpeg", "temporal")


@pytest.mark.parametrize("target", ["demo", "dev", "check", "bench", "test"])
def test_a_target_sets_up_what_it_needs_before_it_runs(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True)
    names = re.findall(r"scripts/setup\.py (\w+)", done.stdout)

    assert names[0] == target
    assert set(names) <= ({target, "check"} if target == "test" else {target})


def test_a_virtualenv_with_all_packages_has_those_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(setup, "STAMP", tmp_path / "stamp")
    assert not setup.is_filled(setup.DEMO, "digest")

    setup.STAMP.write_text("digest\nall\n")
    assert setup.is_filled(setup.DEMO, "digest")
    assert setup.is_filled(setup.ALL, "digest")
    assert not setup.is_filled(setup.DEMO, "another digest")

    setup.STAMP.write_text("digest\ndemo\n")
    assert setup.is_filled(setup.DEMO, "digest")
    assert not setup.is_filled(setup.ALL, "digest")


def test_a_demo_without_ffmpeg_ends_with_the_program_to_install(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), "CI": ""}  # no ffmpeg, and no apt-get to install it with
    command = [sys.executable, "-m", "tests.servers", "--for", "demo", "--required", "libmagic", "ffmpeg"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)

    assert done.returncode == 1, done.stderr
    first, last = done.stdout.splitlines()
    assert "install ffmpeg 5.1 or newer" in first
    assert last == "setup: 1 missing; make demo does not run without them"
