"""A Postgres server of the system's binaries, in a directory of its own that is thrown away."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.patience import PATIENCE_SECONDS
from tests.servers import STARTUP_SECONDS, Unavailable, ending, free_port, has_ended

#: The superuser of the throw-away server; it needs no password, because only this machine can reach it.
USER = "tests"
#: Settings of a server whose data may be lost at any time: nothing is forced to disk.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "warning",
}


@dataclass(frozen=True)
class PostgresServer:
    """A running server, reached over loopback TCP or through the socket in ``socket_directory``."""

    port: int
    socket_directory: Path
    version: str

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of ``database``."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        name = f"test_{uuid.uuid4().hex}"
        self._run(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop the database at ``url``, whoever is still connected to it."""
        name = url.rpartition("/")[2]
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._run(drop)
            except psycopg.errors.ObjectInUse:
                # A session that was told to end has not done so within the five seconds that Postgres waits.
                if time.monotonic() > deadline:
                    raise

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(
            host=str(self.socket_directory), port=self.port, user=USER, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)


def program(name: str) -> Path:
    """Return a server program: from ``PATH``, or where Debian keeps the newest version's."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda file: float(file.parts[4]))
    for candidate in (shutil.which(name), *reversed(debian)):
        if candidate:
            return Path(candidate)
    raise Unavailable(
        "no Postgres server: install it (Debian: apt-get install postgresql; macOS: brew install postgresql)"
    )


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Run a fresh server until the block is left.

    Raises:
        Unavailable: Postgres is not installed, or did not start.
    """
    initdb, postgres = program("initdb"), program("postgres")
    account = _account()
    # Directly below /tmp: the path of a unix socket is limited to about 100 bytes, and the server's account must be
    # able to walk to it, which pytest's own directories (mode 0700) do not allow.
    home = Path(tempfile.mkdtemp(prefix="rindle-postgres-", dir="/tmp"))
    try:
        if account:
            os.chown(home, account["user"], account["group"])
        made = subprocess.run(
            [initdb, "-D", home / "data", "-U", USER, "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"],
            **(account | {"cwd": home, "stdin": subprocess.DEVNULL, "capture_output": True, "text": True}),
            check=False,
        )
        if made.returncode:
            raise Unavailable(f"initdb failed: {made.stderr.strip()}")
        port = free_port()
        settings = [part for key, value in SETTINGS.items() for part in ("-c", f"{key}={value}")]
        with (
            (home / "log").open("wb") as log,
            # Our own child rather than pg_ctl's daemon: its end can be waited for.
            subprocess.Popen(
                [postgres, "-D", home / "data", "-p", str(port), "-k", home, *settings],
                **(account | {"cwd": home, "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}),
            ) as process,
            ending(process, signal.SIGQUIT),  # immediate shutdown: there is nothing to keep
        ):
            yield PostgresServer(port=port, socket_directory=home, version=_version_when_ready(home, port, process))
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _version_when_ready(home: Path, port: int, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        try:
            with psycopg.connect(host=str(home), port=port, user=USER, dbname="postgres") as connection:
                return connection.info.parameter_status("server_version") or "unknown"
        except psycopg.OperationalError:
            if has_ended(process):
                log = (home / "log").read_text(errors="replace").strip()
                raise Unavailable(f"Postgres ended with status {process.returncode} while starting: {log}") from None
    raise Unavailable(f"Postgres did not answer within {STARTUP_SECONDS:.0f} s")


def _account() -> dict[str, Any]:
    """Return the account to run Postgres under, as arguments of ``subprocess``: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise Unavailable("Postgres refuses to run as root and there is neither a postgres nor a nobody account")
