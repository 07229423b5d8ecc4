"""Follow the walk-through of the guide as a newcomer does: ``.venv/bin/python scripts/walkthrough.py``.

Builds the wheel, installs it into a fresh virtualenv with what the page installs and nothing else, checks the types of
the application with mypy and pyright in their strict modes and without our plug-in, and runs
``tests/integration/test_walkthrough.py`` with that virtualenv. The screenshots are in ``var/walkthrough``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "var" / "walkthrough"
FRESH = HOME / "venv" / "bin" / "python"


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> None:
    """Print and run one command; its failure ends the program with its status."""
    print("walkthrough:", shlex.join(map(str, command)), flush=True)
    status = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, check=False).returncode
    if status:
        sys.exit(status)


def requirements() -> list[str]:
    """Return what the page installs."""
    page = (ROOT / "docs" / "walkthrough.md").read_text()
    found = re.search(r'^pip install ("rindle\[.*)$', page, re.MULTILINE)
    if found is None:
        sys.exit('walkthrough: the page has no line `pip install "rindle[...]"`')
    return shlex.split(found[1])


def install() -> None:
    """Build the wheel and install it into a fresh virtualenv, as the page says."""
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", HOME)
    (wheel,) = HOME.glob("*.whl")
    ours, *others = requirements()
    run(sys.executable, "-m", "venv", HOME / "venv")
    pip = (FRESH, "-m", "pip", "install", "--quiet", "--constraint", "constraints.txt")
    run(*pip, f"{wheel}[{ours.partition('[')[2]}", *others)


def check_types() -> None:
    """Check the application as its own project would."""
    application = HOME / "badges"
    ignored = shutil.ignore_patterns("__pycache__", "ruff.toml")
    shutil.copytree(ROOT / "examples" / "walkthrough", application, ignore=ignored)
    files = [str(path.relative_to(application)) for path in sorted(application.rglob("*.py"))]
    tools = Path(sys.executable).parent
    run(tools / "mypy", "--config-file=", "--strict", f"--python-executable={FRESH}", *files, cwd=application)
    settings = {"typeCheckingMode": "strict", "include": ["."]}
    (application / "pyrightconfig.json").write_text(json.dumps(settings))
    run(tools / "pyright", "--pythonpath", FRESH, cwd=application)


def main() -> None:
    """Do all of it."""
    install()
    check_types()
    run(
        *(sys.executable, "-m", "pytest", "-q", "tests/integration/test_walkthrough.py"),
        WALKTHROUGH_PYTHON=str(FRESH),
        WALKTHROUGH_SHOTS=str(HOME),
    )


if __name__ == "__main__":
    main()
