"""Alembic's entry point; :mod:`rindle.db.migrate` passes it an open connection and owns the transaction."""

from __future__ import annotations

from typing import Any

from alembic import context

from rindle.db.migrate import VERSION_TABLE
from rindle.db.models import TABLES, Base


def include_object(entry: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Whether autogenerate compares an object: only Rindle's tables and their parts."""
    return (name if kind == "table" else entry.table.name) in TABLES


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    include_object=include_object,
    compare_type=True,
    # Also on SQLite: its schema changes are part of the transaction that migrate.py has begun.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
