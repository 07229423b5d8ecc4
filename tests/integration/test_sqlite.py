"""What ``rindle.sqlite.configure`` promises about an application's SQLite engine."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import create_engine, text

from rindle import sqlite

#: Connections that open one new file at the same moment, and files.
CONNECTIONS, FILES = 8, 25


def test_first_connections_of_a_new_file_do_not_refuse_one_another(tmp_path: Path) -> None:
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
