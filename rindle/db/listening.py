"""LISTEN on Postgres: the connection of a process that receives notifications of committed transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rindle.cancellation import run_to_end


@asynccontextmanager
async def listening(engine: AsyncEngine, channel: str) -> AsyncIterator[AsyncIterator[Any]]:
    """Yield the driver's notifications of ``channel``, on a connection outside the application's pool; closes it after.

    Callers also poll, so that a lost connection costs only latency.

    Source: PostgreSQL "LISTEN"; psycopg "Asynchronous notifications" (``AsyncConnection.notifies``).
    """
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection
        raw.detach()  # this connection only listens: take it out of the application's pool
        try:
            await driver.set_autocommit(True)
            await driver.execute(f"LISTEN {channel}")
            async with aclosing(driver.notifies()) as notices:
                yield notices
        finally:
            await run_to_end(_closed(connection, driver))


async def _closed(connection: AsyncConnection, driver: Any) -> None:
    await driver.close()
    await connection.invalidate()  # closed already: nothing is left to reset
