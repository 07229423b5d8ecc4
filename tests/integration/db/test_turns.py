"""Which transaction has the next connection of a pool, when more of them wait than the pool has."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from rindle.db.database import Database, outage_of


def look(session: Session) -> None:
    session.execute(text("SELECT 1")).all()


async def test_connections_are_given_in_the_order_of_the_requests(database_url: str) -> None:
    engine = create_async_engine(database_url, pool_size=1, max_overflow=0)
    database, order = Database(engine), list[int]()

    async def ask(number: int) -> None:
        await database.read(look)
        order.append(number)

    asking = []
    for number in range(300):
        asking.append(asyncio.create_task(ask(number)))
        await asyncio.sleep(0)  # also in the turn of the event loop in which a connection comes back
    await asyncio.gather(*asking)
    await database.close()
    await engine.dispose()

    assert order == sorted(order)


async def test_a_long_queue_is_no_outage(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=1)
    database, clock = Database(engine), [0.0]
    monkeypatch.setattr("rindle.db.database.time", SimpleNamespace(monotonic=lambda: clock[0]))

    async def ask() -> None:
        await database.read(look)
        clock[0] += 0.9  # so that all of them wait for longer than the timeout of the pool

    await asyncio.gather(*(ask() for _ in range(20)))
    await database.close()
    await engine.dispose()


async def test_a_pool_without_a_free_connection_is_an_outage(database_url: str) -> None:
    engine = create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    database = Database(engine)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        with pytest.raises(PoolTimeout) as first:
            await database.read(look)
        with pytest.raises(PoolTimeout) as second:
            await asyncio.gather(database.read(look), database.read(look))
    await database.read(look)
    await database.close()
    await engine.dispose()

    assert outage_of(first.value) is not None
    assert outage_of(second.value) is not None
