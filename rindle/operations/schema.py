"""Operators' calls for Rindle's own tables: upgrade them, compare them, stamp their revision.

The migrations themselves are in :mod:`rindle.db.migrate`; here each call gets a transaction that may change the schema.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from rindle import sqlite
from rindle.db import migrate
from rindle.services import Services

T = TypeVar("T")


async def upgrade(services: Services) -> tuple[str | None, str | None]:
    """Bring the tables to this release; returns the revisions before and after, ``None`` where there was none."""
    return await _in_transaction(services, _upgrade)


async def current(services: Services) -> str | None:
    """Return the revision the database is at, or ``None`` when no migration has run."""
    return await _in_transaction(services, migrate.current)


async def missing_parts(services: Services) -> list[str]:
    """Return the parts of this release's tables that the database lacks, as :func:`rindle.db.migrate.missing_parts`."""
    return await _in_transaction(services, migrate.missing_parts)


async def stamp(services: Services) -> None:
    """Mark tables made by ``create_all`` as those of this release.

    Raises:
        SetupIncomplete: they differ.
    """
    await _in_transaction(services, migrate.stamp)


def needed() -> str:
    """Return the revision this release needs."""
    return migrate.head()


def _upgrade(connection: Connection) -> tuple[str | None, str | None]:
    before = migrate.current(connection)
    migrate.upgrade(connection)
    return before, migrate.current(connection)


async def _in_transaction(services: Services, fn: Callable[[Connection], T]) -> T:
    engine = services.database.engine
    options = {sqlite.WRITE_OPTION: True}
    if isinstance(engine, AsyncEngine):
        async with engine.execution_options(**options).begin() as connection:
            return await connection.run_sync(fn)
    with engine.execution_options(**options).begin() as connection:
        return fn(connection)
