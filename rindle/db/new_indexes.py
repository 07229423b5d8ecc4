"""Indexes of migrations on PostgreSQL, built before their transaction and without locking out writers.

``CREATE INDEX CONCURRENTLY`` cannot run inside a transaction. So the indexes of tables that exist are built first, on a
connection of its own, and the migration creates an index only if it is not there. Where that is not possible, in a
transaction of the application, the migration builds it and writers wait.
"""

from __future__ import annotations

import logging

from sqlalchemy import Connection, Engine, Index, bindparam, inspect, text
from sqlalchemy.exc import DBAPIError, TimeoutError

from rindle.db.models import Base

log = logging.getLogger(__name__)

#: SQLSTATE undefined_column, of an index on a column that the migration adds.
_NO_COLUMN = "42703"
_INVALID = text(
    "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
    "WHERE NOT indisvalid AND pg_table_is_visible(pg_class.oid) AND relname IN :names ORDER BY relname"
).bindparams(bindparam("names", expanding=True))


def build(engine: Engine) -> None:
    """Build the indexes that the existing tables of a PostgreSQL database lack, on a connection of its own.

    The caller holds the lock of migrations, in a transaction without a snapshot: the server waits for all others.
    """
    try:
        connection = engine.connect()
    except TimeoutError:
        log.warning("index.not_concurrent", extra={"reason": "the pool has a single connection"})
        return
    with connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        drop_invalid(connection, "CONCURRENTLY")
        for table, index in _missing(connection):
            _create(connection, table, index)


def drop_invalid(connection: Connection, option: str = "") -> None:
    """Drop indexes that an interrupted build has left behind; they have the right name, but no query uses them."""
    if connection.dialect.name != "postgresql":
        return
    names = [_name(connection, index) for table in Base.metadata.sorted_tables for index in table.indexes]
    quote = connection.dialect.identifier_preparer.quote
    for name in connection.execute(_INVALID, {"names": names}).scalars().all():
        connection.execute(text(f"DROP INDEX {option} IF EXISTS {quote(name)}"))


def _missing(connection: Connection) -> list[tuple[str, Index]]:
    """Return the indexes that tables lack whose columns exist, with the names of the tables."""
    inspector = inspect(connection)
    present = set(inspector.get_table_names())
    missing: list[tuple[str, Index]] = []
    for table in Base.metadata.sorted_tables:
        if table.name not in present:
            continue
        names = {one["name"] for one in inspector.get_indexes(table.name)}
        columns = {one["name"] for one in inspector.get_columns(table.name)}
        missing += [
            (table.name, index)
            for index in sorted(table.indexes, key=lambda one: str(one.name))
            if _name(connection, index) not in names and {column.name for column in index.columns} <= columns
        ]
    return missing


def _name(connection: Connection, index: Index) -> str:
    """Return the name of an index in the database; long ones are cut."""
    return connection.dialect.identifier_preparer.format_index(index)


def _create(connection: Connection, table: str, index: Index) -> None:
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    operations = Operations(MigrationContext.configure(connection))
    try:
        operations.create_index(
            _name(connection, index),
            table,
            [column.name for column in index.columns],
            unique=index.unique,
            if_not_exists=True,
            postgresql_concurrently=True,
            postgresql_where=index.dialect_options["postgresql"]["where"],
        )
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)  # pgcode: psycopg2
        if state != _NO_COLUMN:
            raise
