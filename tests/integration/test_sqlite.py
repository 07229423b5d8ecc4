"""What ``rindle.sqlite.configure`` promises about an application's SQLite engine."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from rindle import sqlite
from tests.patience import PATIENCE_SECONDS

#: Connections that open one new file at the same moment, and files.
CONNECTIONS, FILES = 8, 25


def test_first_connections_of_a_new_file_do_not_refuse_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", PATIENCE_SECONDS)

    def connect(path: Path, gate: threading.Barrier) -> str:
        engine = create_engine(f"sqlite:///{path}")
        sqlite.configure(engine)
        gate.wait()
        with engine.connect() as connection:
            mode = str(connection.execute(text("PRAGMA journal_mode")).scalar())
        engine.dispose()
        return mode

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        for number in range(FILES):
            gate = threading.Barrier(CONNECTIONS)
            found = [threads.submit(connect, tmp_path / f"{number}.db", gate) for _ in range(CONNECTIONS)]
            assert [future.result() for future in found] == ["wal"] * CONNECTIONS


class Clock:
    """Stands for the module ``time``: a pause takes none of it."""

    def __init__(self, pauses: Callable[[float], object]) -> None:
        self.now = 0.0
        self._pauses = pauses

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._pauses(self.now)


def test_a_connection_waits_ten_seconds_for_one_that_enables_the_log_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(name: str, *, frees_after: float) -> tuple[str, float]:
        """Connect while another connection holds the file so long; return the mode, and the time that has passed."""
        with closing(sqlite3.connect(tmp_path / name, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            clock = Clock(lambda now: other.in_transaction and now >= frees_after and other.rollback())
            monkeypatch.setattr(sqlite, "time", clock)
            engine = create_engine(f"sqlite:///{tmp_path / name}")
            sqlite.configure(engine)
            try:
                with engine.connect() as connection:
                    return str(connection.execute(text("PRAGMA journal_mode")).scalar()), clock.now
            except OperationalError as error:
                return str(error.orig), clock.now
            finally:
                engine.dispose()

    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout=0",))  # SQLite's own wait would take real time
    mode, seconds = connect("slow.db", frees_after=9.9)
    assert (mode, seconds) == ("wal", pytest.approx(9.9, abs=0.1))
    mode, seconds = connect("held.db", frees_after=60)
    assert (mode, seconds) == ("database is locked", pytest.approx(10, abs=0.1))
