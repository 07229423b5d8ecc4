"""The tables of Rindle in a new database: SQLAlchemy renders them once per process, not once per test."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from sqlalchemy import create_engine, create_mock_engine, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

from rindle import sqlite
from rindle.db.models import Base, MediaAsset


async def create_tables(engine: AsyncEngine) -> None:
    """Create the tables in a new database, to which nobody has connected yet; a second call changes nothing."""
    if engine.dialect.name == "sqlite":
        assert engine.url.database is not None
        file = Path(engine.url.database)
        if not file.exists():
            file.write_bytes(_sqlite_file())
        return
    async with engine.connect() as connection:
        if await connection.run_sync(lambda made: inspect(made).has_table(MediaAsset.__tablename__)):
            return
        # Several statements in one call, which a driver takes only without parameters.
        await connection.execution_options(no_parameters=True)
        await connection.exec_driver_sql(_postgres_script())
        await connection.commit()


@cache
def _sqlite_file() -> bytes:
    """Return a database file as an application leaves it that has made its tables."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "rindle.db")
        engine = create_engine(f"sqlite:///{file}")
        sqlite.configure(engine)
        Base.metadata.create_all(engine)
        engine.dispose()  # its last connection moves the write-ahead log into the file
        return file.read_bytes()


@cache
def _postgres_script() -> str:
    statements: list[str] = []
    engine = create_mock_engine(
        "postgresql+psycopg://", lambda statement, *_, **__: statements.append(str(statement.compile(engine)))
    )
    Base.metadata.create_all(engine, checkfirst=False)
    return ";".join(statements)
