"""Set up a checkout for one target of the Makefile: ``python scripts/setup.py demo``.

Each target gets what it needs and nothing more: a demo must not wait for a browser, a database server and a store that
only the tests use. Runs with any Python from 3.11 on; needs nothing but the standard library. Safe to run again (a
second run finds everything in place) and several times at once (they wait for one another).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
#: Records what the virtualenv was filled from, and with which packages. A change of the sources fills it again.
STAMP = VENV / ".rindle-stamp"
SOURCES = ("pyproject.toml", "constraints.txt")
#: Seconds between two lines of progress while packages are installed.
PROGRESS_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Packages:
    """Rindle in editable form with extras, and dependency groups, all of ``pyproject.toml``.

    Attributes:
        name: as the stamp records it.
        extras: of Rindle itself.
        groups: dependency groups.
        takes: how long a first installation takes, for the reader.
    """

    name: str
    extras: tuple[str, ...]
    groups: tuple[str, ...]
    takes: str


@dataclass(frozen=True)
class Needs:
    """What a target of the Makefile needs; ``programs`` are names of ``tests/servers/__main__.py``.

    A target whose programs are ``required`` does not start without one of them. The tests and the benchmarks that need
    a missing program are skipped instead.
    """

    packages: Packages
    programs: tuple[str, ...] = ()
    required: bool = False


DEMO: Final = Packages("demo", ("av", "cli", "example", "http", "images", "mux", "sqlite"), ("demo",), "about 1 minute")
ALL: Final = Packages("all", ("all",), ("dev", "docs", "bench"), "1 to 3 minutes")

TARGETS: Final[Mapping[str, Needs]] = {
    "demo": Needs(DEMO, ("libmagic", "ffmpeg", "temporal"), required=True),
    "dev": Needs(DEMO, ("libmagic", "ffmpeg", "temporal"), required=True),
    "check": Needs(ALL),
    "bench": Needs(ALL, ("libmagic", "ffmpeg", "postgres", "temporal", "minio")),
    "test": Needs(
        ALL,
        (
            *("libmagic", "ffmpeg", "postgres", "chromium", "temporal", "minio", "fake-gcs-server"),
            *("scripts", "uppy", "curl"),
        ),
    ),
}


def say(line: str) -> None:
    """Print one line at once, also into a pipe."""
    print(f"setup: {line}", flush=True)


def run(*command: str | Path, what: str | None = None) -> None:
    """Run one command of the checkout; its failure ends the set-up with its status.

    Args:
        command: the program and its arguments.
        what: name of the work in the lines of progress; none are printed without it.
    """
    began = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT) as process:
        while True:
            try:
                status = process.wait(PROGRESS_SECONDS if what else None)
                break
            except subprocess.TimeoutExpired:
                say(f"{what}: {time.monotonic() - began:.0f} s")
    if status:
        sys.exit(status)


def make_virtualenv() -> None:
    """Create the virtualenv, with apt's help on a Debian whose Python comes without ``ensurepip``."""
    say("creating the virtualenv .venv, so that nothing is installed into your own Python: a few seconds")
    create = (sys.executable, "-m", "venv", "--clear", VENV)
    if subprocess.run(create, cwd=ROOT, check=False).returncode == 0:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit("setup: this Python cannot make a virtualenv (Debian: apt-get install python3-venv)")
    say("installing python3-venv with apt-get, because this Python cannot make a virtualenv: under a minute")
    run("apt-get", "-qq", "update")
    run("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600", "install", "--yes", "python3-venv")
    run(*create)


def is_filled(packages: Packages, digest: str) -> bool:
    """Whether the virtualenv has these packages already, perhaps with more."""
    if not (PYTHON.exists() and STAMP.exists()):
        return False
    return STAMP.read_text().split() in ([digest, packages.name], [digest, ALL.name])


def fill_virtualenv(packages: Packages, target: str) -> None:
    """Install Rindle in editable form with the packages of the target, at the pinned versions."""
    digest = hashlib.sha256("\0".join([str(ROOT), *((ROOT / name).read_text() for name in SOURCES)]).encode())
    if is_filled(packages, digest.hexdigest()):
        return
    # A virtualenv whose Python has been removed or upgraded away does not run any more.
    if not PYTHON.exists() or subprocess.run([PYTHON, "-c", "import pip"], check=False).returncode:
        make_virtualenv()
    say(f"installing Rindle and the Python packages that make {target} imports: {packages.takes}, once")
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt")
    run(*pip, "--upgrade", "pip")
    groups = [part for group in packages.groups for part in ("--group", group)]
    editable = f".[{','.join(packages.extras)}]"
    run(
        *(*pip, "--build-constraint", "constraints.txt", "--editable", editable, *groups),
        what="installing the Python packages",
    )
    STAMP.write_text(f"{digest.hexdigest()}\n{packages.name}\n")


def main() -> None:
    """Set one target up."""
    target = sys.argv[1] if len(sys.argv) > 1 else "test"
    needs = TARGETS.get(target)
    if needs is None:
        sys.exit(f"setup: {target!r} is not a target; use one of: {', '.join(TARGETS)}")
    (ROOT / "var").mkdir(exist_ok=True)
    with (ROOT / "var" / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fill_virtualenv(needs.packages, target)
    if needs.programs:
        for_target = ("--for", target, *(("--required",) if needs.required else ()))
        run(PYTHON, "-m", "tests.servers", *for_target, *needs.programs)


if __name__ == "__main__":
    main()
