"""``python -m benchmarks.peers``: install the programs of the peers that are missing, as root on Debian.

Run by ``make bench``. A peer whose program is still missing is left out of the table, and our own figures are measured
without it, so this always ends with status 0.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial

from benchmarks.peers import sharp
from tests.servers import Unavailable
from tests.servers.__main__ import from_debian, report


def ensure_redis() -> None:
    """Find a Redis server for Celery."""
    if not (shutil.which("redis-server") or shutil.which("valkey-server")):
        raise Unavailable("no Redis server: install it (Debian: apt-get install redis-server)")


def ensure_vipsthumbnail() -> None:
    """Find the command line tool of libvips."""
    if not shutil.which("vipsthumbnail"):
        raise Unavailable("no vipsthumbnail: install it (Debian: apt-get install libvips-tools)")


def ensure_sharp() -> None:
    """Find sharp in ``var/bench``, or install it from npm."""
    if not sharp.installed():
        raise Unavailable("sharp is missing: install Node.js with npm")


def main() -> None:
    """Make sure of everything."""
    peers: tuple[Callable[[], None], ...] = (
        partial(from_debian, "redis-server", ensure_redis),
        partial(from_debian, "libvips-tools", ensure_vipsthumbnail),
        ensure_sharp,
    )
    for ensure in peers:
        try:
            ensure()
        except Unavailable as error:
            report(f"{error}; the peer is left out")


if __name__ == "__main__":
    main()
