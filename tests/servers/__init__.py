"""The real servers the tests talk to, each on a free loopback port and ended by the id of its own process.

``python -m tests.servers`` installs what is missing; the fixtures of ``tests/conftest.py`` only use what is there.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.patience import PATIENCE_SECONDS

#: Seconds a server may take until it answers: a loaded box with two cores needs more than the usual five.
STARTUP_SECONDS = PATIENCE_SECONDS
#: Seconds between two looks at a server that is starting.
POLL_SECONDS = 0.1


class Unavailable(Exception):
    """A server's program is not on this machine, or does not run; the message says what to install."""


#: Sockets that are bound to the ports of :func:`free_port` and never listen.
_reserved: list[socket.socket] = []


def free_port() -> int:
    """Return a loopback TCP port that nobody listens on, and that no other process is given while this one lives.

    A server may need many seconds before it binds its port. Until then the kernel would give the port to any process
    that requests a free one. A socket that is bound here, and does not listen, prevents that. A server which names the
    port and sets ``SO_REUSEADDR``, as all servers do, still gets it. Until then, connections are refused.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    port: int = reserved.getsockname()[1]
    if sys.platform == "linux":
        _reserved.append(reserved)
    else:
        reserved.close()  # other systems give the port to no second socket
    return port


def version_of(program: Path, *arguments: str, pattern: str = r"(\d+(?:\.\d+)+)") -> str:
    """Run ``program`` and return what the group in ``pattern`` first matches in its output, or ``unknown``."""
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=STARTUP_SECONDS, check=False
        )
        if found := re.search(pattern, told.stdout):
            return found.group(1)
    return "unknown"


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Wait one :data:`POLL_SECONDS` for ``process`` and say whether it is gone; the pause of every readiness loop."""
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


@contextmanager
def answering(
    command: Sequence[str | Path], url: str, *, name: str, log: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    """Run a server until the block is left, which begins when ``url`` is answered with success.

    Raises:
        Unavailable: it ended, or did not answer in time.
    """
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as process,
        ending(process),
    ):
        deadline = time.monotonic() + STARTUP_SECONDS
        while True:
            try:
                with urllib.request.urlopen(url, timeout=STARTUP_SECONDS):
                    break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if has_ended(process):
                    raise Unavailable(f"{name} ended with status {process.returncode} while starting") from None
                if time.monotonic() > deadline:
                    raise Unavailable(f"{name} did not answer within {STARTUP_SECONDS:.0f} s") from None
        yield


@contextmanager
def ending(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """Signal ``process`` to end when the block is left, and kill it when it has not for a long time."""
    try:
        yield
    finally:
        process.send_signal(how)
        try:
            process.wait(STARTUP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
