"""Alembic's environment: the application's own migrations."""

from __future__ import annotations

import asyncio

from alembic import context
from rindle.db.migrate import include_object
from sqlalchemy import Connection

from media import engine
from models import Base


def migrate(connection: Connection) -> None:
    """Run the migrations in one transaction."""
    # Without include_object, --autogenerate drops Rindle's tables: this application's metadata does not have them.
    context.configure(connection=connection, target_metadata=Base.metadata, include_object=include_object)
    with context.begin_transaction():
        context.run_migrations()


async def run() -> None:
    """Connect as the application does."""
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


asyncio.run(run())
