"""Operators' calls for Rindle's own tables: upgrade them, compare them, stamp their revision, add what is missing.

The migrations themselves are in :mod:`rindle.db.migrate`; here each call gets a transaction that may change the schema.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from rindle import sqlite
from rindle.db import migrate
from rindle.db.models import TABLES
from rindle.errors import SetupIncomplete
from rindle.operations.reports import Report
from rindle.services import Services

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of the tables, and the one command that repairs it; see :data:`CONDITIONS`.

    ``is_usable`` is whether this release can work with the tables: while a deployment is under way, they may be those
    of the previous or of the next release.
    """

    name: str
    summary: str
    command: str
    is_usable: bool = False


@dataclass(frozen=True, slots=True)
class Undone(Report):
    """A migration that a downgrade undoes, and what is lost."""

    revision: str
    loss: str


@dataclass(frozen=True, slots=True)
class Downgrade(Report):
    """A downgrade of the tables: their revision before and after, and the migrations that it undoes, newest first."""

    dry_run: bool
    before: str | None
    after: str
    undone: tuple[Undone, ...]


#: Command by condition. ``ahead`` is the only one that no command of Rindle repairs.
CONDITIONS = {
    "absent": "rindle db upgrade",
    "ahead": "pip install --upgrade rindle",
    "behind": "rindle db upgrade",
    "current": "",
    "incomplete": "rindle db repair",
    "unversioned": "rindle db stamp",
}


def condition(connection: Connection, *, parts: bool = True) -> Condition:
    """Return the condition of the tables.

    Args:
        parts: compare columns, keys and indexes too, not only the names of the tables.
    """
    needed, found = migrate.head(), migrate.current(connection)
    present = set(inspect(connection).get_table_names())
    if found is None and not present & set(TABLES):
        return _condition("absent", "no migration of Rindle has run")
    if found is None:
        return _condition(
            "unversioned", "the tables exist, but no revision is noted: its row is gone, or create_all made the tables"
        )
    if found not in migrate.revisions():
        return _ahead(connection)
    if found != needed:
        return _behind(connection, found)
    missing = migrate.missing_parts(connection) if parts else sorted(set(TABLES) - present)
    if missing:
        return _condition("incomplete", f"the revision is right, but parts are missing: {_shown(missing)}")
    return _condition("current", f"at {needed}", is_usable=True)


def _behind(connection: Connection, found: str) -> Condition:
    summary = f"the tables are at {found}; this release needs {migrate.head()}"
    missing = migrate.missing_parts(connection)
    if migrate.needed_parts(missing):
        return _condition("behind", summary)
    return _condition("behind", f"{summary}, but works without: {_shown(missing)}", is_usable=True)


def _ahead(connection: Connection) -> Condition:
    summary = "a newer release has migrated the database"
    if migrate.needed_parts(migrate.missing_parts(connection)) or migrate.unknown_requirements(connection):
        return _condition("ahead", f"{summary}: run that release here too, or restore a backup")
    return _condition("ahead", f"{summary}; the tables have everything that this release needs", is_usable=True)


def _shown(parts: list[str]) -> str:
    return ", ".join(parts[:5]) + (f" and {len(parts) - 5} more" if len(parts) > 5 else "")


def _condition(name: str, summary: str, *, is_usable: bool = False) -> Condition:
    return Condition(name, summary, CONDITIONS[name], is_usable)


def require_usable(connection: Connection, *, parts: bool = False) -> None:
    """Check the tables before they are read.

    Raises:
        SetupIncomplete: they are not those of this release; the message has the command that repairs it.
    """
    found = condition(connection, parts=parts)
    if not found.is_usable:
        raise SetupIncomplete(
            f"Rindle's tables cannot be used: {found.summary}. To fix: 1. {found.command}; "
            "2. verify with: rindle doctor",
            detail={
                "component": "rindle_tables",
                "condition": found.name,
                "command": found.command,
                "found": migrate.current(connection),
                "needed": migrate.head(),
            },
        )


async def explain_failure(services: Services) -> None:
    """Look for the cause of a failed query in the tables; returns when they are complete or cannot be read.

    Raises:
        SetupIncomplete: they are not those of this release.
    """
    with contextlib.suppress(SQLAlchemyError, OSError):
        await services.database.read(lambda session: require_usable(session.connection(), parts=True))


async def upgrade(services: Services) -> tuple[str | None, str | None]:
    """Bring the tables to this release; returns the revisions before and after, ``None`` where there was none.

    Raises:
        SetupIncomplete: the tables are of an unknown release, or parts are missing that no migration adds. Then the
            revision is this release's, and ``rindle db repair`` adds the parts.
    """
    engine = services.database.engine
    before = await current(services)
    if isinstance(engine, AsyncEngine):
        await migrate.async_upgrade(engine)
    else:
        migrate.upgrade(engine)
    return before, await _in_transaction(services, _usable_revision)


async def repair(services: Services) -> list[str]:
    """Add the missing parts of tables that are at this release's revision; returns the parts.

    Raises:
        SetupIncomplete: the revision is another one, or a part cannot be added to rows that exist; nothing was changed.
    """
    return await _in_transaction(services, migrate.repair)


async def current(services: Services) -> str | None:
    """Return the revision the database is at, or ``None`` when no migration has run."""
    return await _in_transaction(services, migrate.current)


async def compare(services: Services) -> tuple[Condition, list[str]]:
    """Return the condition of the tables, and the parts of this release's tables that the database lacks.

    The parts are named as by :func:`rindle.db.migrate.missing_parts`.
    """
    return await _in_transaction(services, lambda found: (condition(found), migrate.missing_parts(found)))


async def stamp(services: Services) -> None:
    """Mark tables made by ``create_all`` as those of this release.

    Raises:
        SetupIncomplete: they differ.
    """
    await _in_transaction(services, migrate.stamp)


def needed() -> str:
    """Return the revision this release needs."""
    return migrate.head()


async def downgrade(services: Services, revision: str, *, dry_run: bool = True) -> Downgrade:
    """Go back to an earlier revision. DESTRUCTIVE, unless ``dry_run`` only reports what would be lost.

    Raises:
        InvalidArgument: the tables are not at ``revision`` or a later one; ``detail`` has the known revisions.
        SetupIncomplete: the tables are not those of a revision of this release.
    """

    def go_back(connection: Connection) -> Downgrade:
        before = migrate.current(connection)
        if before is not None and before not in migrate.revisions():
            require_usable(connection, parts=True)
            raise SetupIncomplete(
                "a newer release has migrated the database, and only that release can undo it. To fix: run rindle db "
                "downgrade of that release",
                detail={"component": "rindle_tables", "condition": "ahead"},
            )
        undone = tuple(Undone(*one) for one in migrate.undone(before, revision))
        if not dry_run:
            migrate.downgrade(connection, revision)
        return Downgrade(dry_run, before, revision, undone)

    return await _in_transaction(services, go_back)


def _usable_revision(connection: Connection) -> str | None:
    require_usable(connection, parts=True)
    return migrate.current(connection)


async def _in_transaction(services: Services, fn: Callable[[Connection], T]) -> T:
    engine = services.database.engine
    options = {sqlite.WRITE_OPTION: True}
    if isinstance(engine, AsyncEngine):
        async with engine.execution_options(**options).begin() as connection:
            return await connection.run_sync(fn)
    with engine.execution_options(**options).begin() as connection:
        return fn(connection)
