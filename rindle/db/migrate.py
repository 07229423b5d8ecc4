"""Migrations of Rindle's tables, in a database that may also hold the application's tables.

The migrations are packaged (``rindle/db/migrations``) and need no ``alembic.ini``. They keep their own version table
and create, change and drop only tables of :data:`rindle.db.models.TABLES`: the Alembic history of an
application stays untouched. Its ``autogenerate`` would drop these tables, which its metadata does not have; it leaves
them alone with :func:`include_object`.
"""

from __future__ import annotations

import hashlib
import inspect as introspection
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Inspector, UniqueConstraint, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rindle import sqlite
from rindle.db import new_indexes
from rindle.db.models import TABLES, Base
from rindle.errors import InvalidArgument, SetupIncomplete

if TYPE_CHECKING:  # Alembic is slow to import and only migrations need it
    from alembic.config import Config

#: Table of the applied revision; never the application's ``alembic_version``.
VERSION_TABLE = "rindle_alembic_version"
#: How long a migration waits for a locked table before it fails (PostgreSQL ``lock_timeout``).
LOCK_TIMEOUT = "5s"
#: Tables that a later revision than the first one has created.
_CREATED_BY = {"media_erasures": "0006", "media_erasure_assets": "0006", "media_provider_assets": "0010"}
#: Tables of a new migration that the code of this release works without, until that migration has run.
OPTIONAL_TABLES = frozenset({"media_erasures", "media_erasure_assets", "media_provider_assets"})
#: Names that one message lists.
_SHOWN = 5
#: SQLSTATE lock_not_available: a table was locked for longer than :data:`LOCK_TIMEOUT`.
_LOCKED = "55P03"
#: SQLSTATEs of PostgreSQL for tables, columns, keys and objects that are missing or exist already.
_OTHER_TABLES = frozenset({"42P01", "42703", "42704", "42P07", "42701", "42710"})
#: SQLSTATE insufficient_privilege.
_FORBIDDEN = "42501"
#: The same in the messages of SQLite, which has one code for all of them.
_OTHER_TABLES_OF_SQLITE = re.compile("no such (table|column|index)|already exists|duplicate column name")
#: Execution options of a transaction that belongs to a migration.
_OWN_TRANSACTION = {sqlite.WRITE_OPTION: True}
#: Pause between two attempts to take the lock of migrations.
_LOCK_PAUSE_SECONDS = 0.1
#: Key of the PostgreSQL advisory lock of migrations, so that concurrent deployments do not collide.
_ADVISORY_LOCK = int.from_bytes(hashlib.sha256(VERSION_TABLE.encode()).digest()[:8], signed=True)


def upgrade(bind: Engine | Connection, revision: str = "head") -> None:
    """Create or upgrade Rindle's tables; does nothing when they are already at ``revision``.

    It may run repeatedly, and in several processes at once. With an engine it runs and commits one transaction, before
    which it builds new indexes of PostgreSQL without locking out writers. With a connection it joins the caller's
    transaction, so that an application can call it from its own migration; then writers wait while indexes are built.

    Raises:
        InvalidArgument: ``bind`` is asynchronous, or neither an engine nor a connection; see :func:`async_upgrade`. The
            other functions of this module raise it too. Also for a revision that this release does not have.
        SetupIncomplete: the tables are not those of a revision of this release: the table of the revision or another
            one is missing, a table with one of these names is foreign, or the database belongs to a newer release. Also
            if another transaction locks a table for longer than :data:`LOCK_TIMEOUT`; then a repetition can help.
            Nothing was changed.
    """
    _require_revision(revision)
    if isinstance(bind, Engine):
        sqlite.configure(bind)
        with bind.execution_options(**_OWN_TRANSACTION).connect() as own:
            _upgrade_alone(own, revision)
        return
    with _writing("upgrade", bind) as connection:
        _require_known_tables(connection)
        new_indexes.drop_invalid(connection)
        _run(connection, "upgrade", revision)


async def async_upgrade(bind: AsyncEngine | AsyncConnection, revision: str = "head") -> None:
    """Do what :func:`upgrade` does, on an async engine or connection.

    Raises:
        InvalidArgument: ``bind`` is synchronous.
    """
    if not isinstance(bind, AsyncEngine | AsyncConnection):
        raise _wrong_bind("async_upgrade", bind, "an async engine or connection")
    if isinstance(bind, AsyncConnection):
        await bind.run_sync(upgrade, revision)
        return
    _require_revision(revision)
    sqlite.configure(bind)
    async with bind.execution_options(**_OWN_TRANSACTION).connect() as connection:
        await connection.run_sync(_upgrade_alone, revision)


def downgrade(bind: Engine | Connection, revision: str = "base") -> None:
    """Go back to ``revision``. DESTRUCTIVE: ``base`` drops all of Rindle's tables with their rows, and nothing else.

    Raises:
        InvalidArgument: the tables are not at ``revision`` or a later one.
        SetupIncomplete: as for :func:`upgrade`. Nothing was changed.
    """
    _require_revision(revision)
    with _writing("downgrade", bind) as connection:
        _require_known_tables(connection)
        undone(current(connection), revision)
        _run(connection, "downgrade", revision)


def undone(found: str | None, revision: str) -> list[tuple[str, str]]:
    """Return what a downgrade of tables at ``found`` to ``revision`` undoes, newest first.

    Returns:
        Each revision, and what its rows lose.

    Raises:
        InvalidArgument: ``revision`` is later than ``found``, or not one of this release.
    """
    _require_revision(revision)
    known = ["base", *revisions()]
    here, there = known.index(found or "base"), known.index(head() if revision == "head" else revision)
    if there > here:
        raise InvalidArgument(
            f"the tables are at {found or 'base'}, which is earlier than {revision}. To fix: rindle db upgrade",
            detail={"option": "revision", "found": found},
        )
    return [(one, _loss_of(one)) for one in reversed(known[there + 1 : here + 1])]


def stamp(bind: Engine | Connection) -> None:
    """Mark tables that ``Base.metadata.create_all`` created as those of this release.

    Raises:
        SetupIncomplete: they differ; the message lists what is missing.
    """
    with _writing("stamp", bind) as connection:
        if missing := missing_parts(connection):
            raise SetupIncomplete(
                f"the tables are not those of this release; missing: {', '.join(missing[:10])}",
                detail={"missing": missing[:50]},
            )
        _run(connection, "stamp", "head")


def repair(bind: Engine | Connection) -> list[str]:
    """Add the tables, columns, keys and indexes that tables at this release's revision lack; returns their names.

    Raises:
        SetupIncomplete: the database is at another revision, or a part cannot be added: a column for which the rows
            need a value, or a key of an existing table on SQLite. Nothing was changed.
    """
    with _writing("repair", bind) as connection:
        _require_known_tables(connection)
        if current(connection) != head():
            raise SetupIncomplete(
                "the tables are not at this release's revision. To fix: rindle db upgrade",
                detail={"component": "rindle_tables"},
            )
        missing = missing_parts(connection)
        _add(connection, missing)
        if left := missing_parts(connection):
            raise SetupIncomplete(
                f"cannot be added to the tables that exist: {', '.join(left[:10])}. To fix: restore a backup",
                detail={"component": "rindle_tables", "missing": left[:50]},
            )
        return missing


def current(connection: Connection) -> str | None:
    """Return the revision of the database, or ``None`` when no migration of Rindle has run."""
    _require_connection("current", connection)
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - constant
    return found


@lru_cache(maxsize=1)
def head() -> str:
    """Return the revision that this release needs."""
    return revisions()[-1]


@lru_cache(maxsize=1)
def revisions() -> tuple[str, ...]:
    """Return every revision that this release knows, oldest first."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_config())
    return tuple(reversed([one.revision for one in script.walk_revisions()]))


def tables_of(revision: str) -> tuple[str, ...]:
    """Return the names of Rindle's tables at a revision of this release, sorted."""
    known = revisions()
    at = known.index(revision)
    return tuple(sorted(name for name in TABLES if known.index(_CREATED_BY.get(name, known[0])) <= at))


def is_ours(table_name: str | None) -> bool:
    """Whether a table is Rindle's, by its name alone: an ``include_object`` of your own calls it."""
    return table_name == VERSION_TABLE or table_name in TABLES


def include_object(object: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Whether autogenerate compares an object in the Alembic environment of an application: all but Rindle's.

    Without it, ``alembic revision --autogenerate`` drops Rindle's tables, because the application's metadata does not
    have them. Pass it in ``env.py``; it has the parameters that Alembic passes::

        context.configure(..., include_object=include_object)
    """
    table = name if type_ == "table" else object.table.name
    return not is_ours(table)


def missing_parts(connection: Connection) -> list[str]:
    """Return the parts of this release's tables that the database lacks.

    Returns:
        Sorted names: ``table``, ``table.column``, ``table.column NOT NULL``, ``table unique(column, ...)``,
        ``table index(column, ...)``.
    """
    _require_connection("missing_parts", connection)
    inspector = inspect(connection)
    present = set(inspector.get_table_names())
    missing: list[str] = []
    for table in Base.metadata.sorted_tables:
        if table.name not in present:
            missing.append(table.name)
            continue
        columns = {column["name"]: column for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in columns:
                missing.append(f"{table.name}.{column.name}")
            elif not column.nullable and columns[column.name]["nullable"]:
                missing.append(f"{table.name}.{column.name} NOT NULL")
        missing += _missing_keys(inspector, table)
    return sorted(missing)


def needed_parts(missing: Iterable[str]) -> list[str]:
    """Return those of the :func:`missing_parts` without which the code of this release does not work.

    It works without indexes, more slowly, and without :data:`OPTIONAL_TABLES`.
    """
    return [part for part in missing if part not in OPTIONAL_TABLES and " index(" not in part]


def unknown_requirements(connection: Connection) -> list[str]:
    """Return the columns of a newer release into which this release cannot write rows, as ``table.column``, sorted.

    They have no default and must not be ``NULL``. A release that follows the rules of migrations adds none.
    """
    _require_connection("unknown_requirements", connection)
    inspector = inspect(connection)
    present = set(inspector.get_table_names())
    return sorted(
        f"{table.name}.{column['name']}"
        for table in Base.metadata.sorted_tables
        if table.name in present
        for column in inspector.get_columns(table.name)
        if column["name"] not in table.columns and not column["nullable"] and column.get("default") is None
    )


def _missing_keys(inspector: Inspector, table: Any) -> Iterator[str]:
    unique = {tuple(one["column_names"]) for one in inspector.get_unique_constraints(table.name)}
    indexed = {tuple(one["column_names"]) for one in inspector.get_indexes(table.name)}
    for constraint in table.constraints:
        columns = tuple(column.name for column in constraint.columns)
        if isinstance(constraint, UniqueConstraint) and columns not in unique:
            yield _part(table, "unique", columns)
    for index in table.indexes:
        columns = tuple(column.name for column in index.columns)
        if columns not in indexed:
            yield _part(table, "index", columns)


def _part(table: Any, kind: str, columns: Iterable[str]) -> str:
    return f"{table.name} {kind}({', '.join(columns)})"


# --- inside --------------------------------------------------------------------------------------------------------


def _require_connection(call: str, bind: object) -> None:
    if not isinstance(bind, Connection):
        raise _wrong_bind(call, bind, "a synchronous connection")


def _wrong_bind(call: str, bind: object, wanted: str) -> InvalidArgument:
    fix = f"pass {wanted} of SQLAlchemy; inside an Alembic migration, op.get_bind()"
    if isinstance(bind, AsyncEngine | AsyncConnection):
        fix = f"async with engine.begin() as connection: await connection.run_sync({call})"
        if call == "upgrade":
            fix = "await async_upgrade(bind), of the same module"
    elif call == "async_upgrade" and isinstance(bind, Engine | Connection):
        fix = "upgrade(bind), of the same module"
    return InvalidArgument(
        f"{call} needs {wanted}, not an object of the class {type(bind).__name__}. To fix: {fix}",
        detail={"option": "bind", "class": type(bind).__name__},
    )


@contextmanager
def _writing(call: str, bind: Engine | Connection) -> Iterator[Connection]:
    if not isinstance(bind, Engine | Connection):
        raise _wrong_bind(call, bind, "a synchronous engine or connection")
    if isinstance(bind, Connection):
        with _explaining(call):
            _lock_migrations(bind)
            yield bind
        return
    sqlite.configure(bind)
    with _explaining(call), bind.execution_options(**_OWN_TRANSACTION).begin() as connection:
        _lock_migrations(connection)
        yield connection


def _upgrade_alone(connection: Connection, revision: str) -> None:
    """Upgrade and commit, in a transaction that belongs to the migration."""
    with _explaining("upgrade"):
        is_postgres = connection.dialect.name == "postgresql"
        if is_postgres:
            _wait_for_migrations(connection)
        _require_known_tables(connection)
        if is_postgres and revision in ("head", head()) and current(connection) not in (None, head()):
            # A build waits for every transaction with a snapshot. The one of the query before ends with this statement.
            _limit_waits(connection)
            new_indexes.build(connection.engine)
        _run(connection, "upgrade", revision)
        connection.commit()


def _wait_for_migrations(connection: Connection) -> None:
    """Take the lock of migrations for a transaction.

    Each attempt is a transaction of its own: a build of an index, in the process that has the lock, waits for the end
    of every transaction that is running a statement. So a statement that waits for the lock would never end.
    """
    connection.execution_options(isolation_level="READ COMMITTED")
    while not connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK}).scalar():
        connection.rollback()
        connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": _LOCK_PAUSE_SECONDS})
        connection.rollback()
    _limit_waits(connection)


def _limit_waits(connection: Connection) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))


@contextmanager
def _explaining(call: str) -> Iterator[None]:
    """Translate what the database refuses and an operator can resolve; its own text has statements and values.

    Raises:
        SetupIncomplete: a lock, missing rights, or tables that are not those of the revision.
    """
    try:
        yield
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)  # pgcode: psycopg2
        text = "" if state else str(error.orig).lower()
        if state == _LOCKED or "database is locked" in text:
            raise SetupIncomplete(
                f"a transaction of another program locks the tables (limit: {LOCK_TIMEOUT}). Nothing was changed. To "
                "fix: 1. end long transactions, for example backups and reports; 2. run it again",
                detail={"component": "rindle_tables", "reason": "locked"},
                retryable=True,
            ) from error
        if state == _FORBIDDEN:
            raise SetupIncomplete(
                "the user of the database may not change its schema. Nothing was changed. To fix: run it as the owner "
                "of the tables",
                detail={"component": "rindle_tables", "reason": "forbidden"},
            ) from error
        if state in _OTHER_TABLES or _OTHER_TABLES_OF_SQLITE.search(text):
            raise SetupIncomplete(
                f"the tables are not those of their revision, so the {call} does not fit. Nothing was changed. To fix: "
                "restore a backup; rindle db check lists what is missing",
                detail={"component": "rindle_tables", "reason": "other_tables"},
            ) from error
        raise


def _lock_migrations(connection: Connection) -> None:
    """Serialize migrations; on SQLite the immediate transaction does that."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        _limit_waits(connection)


def _require_revision(revision: str) -> None:
    known = ("base", *revisions(), "head")
    if revision not in known:
        raise InvalidArgument(
            f"this release has no revision {revision[:32]!r}; it has {', '.join(known)}",
            detail={"option": "revision", "known": list(known)},
        )


def _loss_of(revision: str) -> str:
    """Return the documentation of a migration's ``downgrade`` in one line."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_config()).get_revision(revision)
    return " ".join((introspection.getdoc(script.module.downgrade) or "").split())


def _require_known_tables(connection: Connection) -> None:
    """Raise for tables that are not those of a revision of this release, since a migration could damage them."""
    inspector = inspect(connection)
    present = set(inspector.get_table_names())
    markers = _markers(connection, inspector) if VERSION_TABLE in present else []
    ours = sorted(set(TABLES) & present)
    if len(markers) > 1:
        raise _unknown(
            f"{VERSION_TABLE} names {len(markers)} revisions ({_shown(markers)}) instead of one. To fix: restore a "
            "backup, or delete the rows of the wrong ones",
            markers=len(markers),
        )
    if not markers:
        if ours:
            raise _unknown(
                f"{len(ours)} of Rindle's {len(TABLES)} tables exist, but {VERSION_TABLE} does not name their "
                "revision. To fix: 1. if create_all of this release created them: rindle db stamp; 2. if they belong "
                "to another program: give Rindle its own schema with search_path",
                tables=ours,
            )
        return
    [marker] = markers
    if marker not in revisions():
        raise _unknown(
            f"the database is at revision {marker[:32]!r}, which this release does not know: it belongs to a newer "
            "release. To fix: run that release, or restore a backup"
        )
    missing = sorted(set(tables_of(marker)) - present)
    if missing and marker != head():  # at the head there is nothing to migrate, and repair adds them
        raise _unknown(
            f"the tables are at {marker}, but {len(missing)} of them are missing: {_shown(missing)}. To fix: restore a "
            "backup",
            tables=ours,
            missing=missing,
        )


def _markers(connection: Connection, inspector: Inspector) -> list[str]:
    """Return what the version table names, sorted: one revision, unless somebody has changed it."""
    if "version_num" not in {column["name"] for column in inspector.get_columns(VERSION_TABLE)}:
        raise _unknown(
            f"the table {VERSION_TABLE} is not Alembic's. To fix: rename it, or give Rindle its own schema with "
            "search_path"
        )
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE} LIMIT 100"))  # noqa: S608 - constant
    return sorted(str(one) for one in found.scalars())


def _unknown(message: str, **facts: Any) -> SetupIncomplete:
    return SetupIncomplete(message, detail={"component": "rindle_tables", **facts})


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:64] for name in names[:_SHOWN]) + more


def _add(connection: Connection, missing: list[str]) -> None:
    """Add what can be added; the names are those of :func:`missing_parts`."""
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    operations = Operations(MigrationContext.configure(connection))
    present = set(inspect(connection).get_table_names())
    Base.metadata.create_all(connection)
    for table in Base.metadata.sorted_tables:
        if table.name not in present:
            continue
        for column in table.columns:
            if f"{table.name}.{column.name}" in missing and (column.nullable or column.server_default is not None):
                operations.add_column(table.name, column._copy())
        for index in table.indexes:
            if _part(table, "index", [column.name for column in index.columns]) in missing:
                index.create(connection)
        keys = [one for one in table.constraints if isinstance(one, UniqueConstraint)]
        for key in keys if connection.dialect.name == "postgresql" else ():
            columns = [column.name for column in key.columns]
            if _part(table, "unique", columns) in missing:
                operations.create_unique_constraint(str(key.name), table.name, columns)


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    # Options are interpolated: a percent sign in the path would start a variable.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _run(connection: Connection, verb: str, revision: str) -> None:
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    run: Callable[[Config, str], None] = getattr(command, verb)
    run(config, revision)
