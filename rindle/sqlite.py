"""Configuration of an application's SQLite engine, so that workers can share its file."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

#: Execution option that makes a transaction take SQLite's write lock when it begins.
WRITE_OPTION = "rindle_write"

#: How long a connection waits for others: for the write lock, and for one that enables the write-ahead log.
_BUSY_SECONDS = 10.0
_PRAGMAS = (
    f"PRAGMA busy_timeout={1000 * _BUSY_SECONDS:.0f}",
    "PRAGMA foreign_keys=ON",
    "PRAGMA synchronous=NORMAL",
)
#: Pause in seconds before a connection tries again to enable the write-ahead log while another one enables it: SQLite's
#: own busy timeout does not cover that.
_SWITCH_PAUSE_SECONDS = 0.02


def configure(engine: Engine | AsyncEngine) -> None:
    """Prepare a SQLite engine for several processes. Other databases, and a second call, are ignored.

    Per connection: foreign keys on, write-ahead log, 10 s busy timeout, ``synchronous=NORMAL``. Transactions are begun
    explicitly: ``BEGIN IMMEDIATE`` for Rindle's writers, ``BEGIN`` for the application's. A transaction that has read
    and writes after another process wrote fails at once, whatever the timeout (SQLITE_BUSY_SNAPSHOT); Rindle's calls
    report that as ``state_conflict``: roll back and run the transaction again.

    Source: SQLite "Write-Ahead Logging" and "Result codes" (SQLITE_BUSY_SNAPSHOT).
    """
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if sync_engine.dialect.name != "sqlite" or event.contains(sync_engine, "connect", _on_connect):
        return
    event.listen(sync_engine, "connect", _on_connect)
    event.listen(sync_engine, "begin", _on_begin)


def begin_write(session: Session) -> None:
    """Take SQLite's write lock for the session's transaction, before it reads; begin one where there is none yet.

    A transaction whose first statement reads cannot write any more once another process has written. It takes the lock
    here, and waits for it as long as the busy timeout lasts. One that has read before may still be refused: the
    application begins that with :data:`WRITE_OPTION`.

    The driver of an engine that is not configured begins at the first write. A savepoint before that would be the whole
    transaction: its release commits, and a rollback of the caller undoes nothing.
    """
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        driver_connection: Any = connection.connection.driver_connection
        # A deferred transaction takes the lock with its first statement that may write, also where no row matches.
        begun = driver_connection.in_transaction
        connection.exec_driver_sql("DELETE FROM media_attachments WHERE 0" if begun else "BEGIN IMMEDIATE")


def _on_connect(dbapi_connection: Any, _record: Any) -> None:
    # The driver would otherwise open transactions by its own rules, late and always deferred.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    try:
        for pragma in _PRAGMAS:
            cursor.execute(pragma)
        _switch_to_wal(cursor)
    finally:
        cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    """Enable the write-ahead log; the file keeps it, so that only its first connections do the work."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        is_last = time.monotonic() >= deadline
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.fetchall()
            return
        except Exception as error:  # each driver has its own class
            if is_last or "locked" not in str(error):
                raise
            time.sleep(_SWITCH_PAUSE_SECONDS)


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITE_OPTION, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
