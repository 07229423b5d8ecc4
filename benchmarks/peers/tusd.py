"""tusd, the reference server of the tus protocol, with its own file store."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import POLL_SECONDS, STARTUP_SECONDS, Unavailable, ending, free_port, has_ended, version_of

#: Environment variable that names the program.
PROGRAM_VARIABLE = "RINDLE_TUSD"


@dataclass(frozen=True)
class TusdServer:
    """A running server."""

    url: str
    pid: int
    version: str


def program() -> Path:
    """Return the tusd program; nothing installs it.

    Raises:
        Unavailable: there is none.
    """
    found = shutil.which(os.environ.get(PROGRAM_VARIABLE, "tusd"))
    if found is None:
        raise Unavailable(
            f"no tusd: go install github.com/tus/tusd/v2/cmd/tusd@latest, on PATH or named by {PROGRAM_VARIABLE}"
        )
    return Path(found)


@contextmanager
def running_tusd(home: Path) -> Iterator[TusdServer]:
    """Run a server with its files in ``home`` until the block is left.

    Raises:
        Unavailable: tusd is not installed, or did not start.
    """
    home.mkdir(parents=True, exist_ok=True)
    found, port = program(), free_port()
    command = [found, "-host", "127.0.0.1", "-port", str(port), "-upload-dir", home / "files", "-hooks-enabled-events="]
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
        ending(process),
    ):
        _wait_until_ready(f"http://127.0.0.1:{port}/", process)
        yield TusdServer(f"http://127.0.0.1:{port}/files/", process.pid, _version(found))


def _version(found: Path) -> str:
    """Return tusd's version; a build by ``go install`` does not know it, but Go reads it from the program."""
    go = shutil.which("go")
    if go is None:
        return version_of(found, "-version", pattern=r"Version: (\S+)")
    return version_of(Path(go), "version", "-m", str(found), pattern=r"\smod\s+\S+\s+(\S+)")


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(int(STARTUP_SECONDS / POLL_SECONDS)):
        try:
            with urllib.request.urlopen(url, timeout=STARTUP_SECONDS):
                return
        except urllib.error.HTTPError:
            return  # it serves nothing at this address, but it serves
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if has_ended(process):
                raise Unavailable(f"tusd ended with status {process.returncode} while starting") from None
    raise Unavailable(f"tusd did not answer within {STARTUP_SECONDS:.0f} s")
