"""All set-up of a checkout: the virtualenv, what is installed into it, and the servers the tests start.

Run by ``make setup`` with any Python from 3.11 on; needs nothing but the standard library. Safe to run again (a second
run finds everything in place) and several times at once (they wait for one another).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
#: Records what the virtualenv was filled from; a change of any of it fills the virtualenv again.
STAMP = VENV / ".rindle-stamp"
SOURCES = ("pyproject.toml", "constraints.txt")
GROUPS = ("dev", "docs", "bench")


def say(line: str) -> None:
    """Print one line at once, also into a pipe."""
    print(f"setup: {line}", flush=True)


def run(*command: str | Path) -> None:
    """Run one command of the checkout; its failure ends the set-up with its status."""
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status:
        sys.exit(status)


def make_virtualenv() -> None:
    """Create the virtualenv, with apt's help on a Debian whose Python comes without ``ensurepip``."""
    say("creating the virtualenv")
    create = (sys.executable, "-m", "venv", "--clear", VENV)
    if subprocess.run(create, cwd=ROOT, check=False).returncode == 0:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit("setup: this Python cannot make a virtualenv (Debian: apt-get install python3-venv)")
    say("installing python3-venv with apt-get")
    run("apt-get", "-qq", "update")
    run("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600", "install", "--yes", "python3-venv")
    run(*create)


def fill_virtualenv() -> None:
    """Install Rindle in editable form with every extra and group, at the pinned versions."""
    digest = hashlib.sha256("\0".join([str(ROOT), *((ROOT / name).read_text() for name in SOURCES)]).encode())
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == digest.hexdigest():
        return
    # A virtualenv whose Python has been removed or upgraded away does not run any more.
    if not PYTHON.exists() or subprocess.run([PYTHON, "-c", "import pip"], check=False).returncode:
        make_virtualenv()
    say("installing the pinned packages: 1 to 3 minutes")
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt")
    run(*pip, "--upgrade", "pip")
    groups = [part for group in GROUPS for part in ("--group", group)]
    run(*pip, "--build-constraint", "constraints.txt", "--editable", ".[all]", *groups)
    STAMP.write_text(digest.hexdigest())


def main() -> None:
    """Set everything up."""
    (ROOT / "var").mkdir(exist_ok=True)
    with (ROOT / "var" / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fill_virtualenv()
    run(PYTHON, "-m", "tests.servers")


if __name__ == "__main__":
    main()
