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
from tests.patience import until


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
    engine = create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    database, times, now = Database(engine), list[float](), 0.0
    ends = [asyncio.Event() for _ in range(3)]
    begun = list[int]()

    def clock() -> float:
        times.append(now)
        return now

    async def transaction(number: int) -> None:
        assert database._turns is not None
        async with database._turns.taken():
            begun.append(number)
            await ends[number].wait()

    monkeypatch.setattr("rindle.db.database.time", SimpleNamespace(monotonic=clock))
    running = [asyncio.create_task(transaction(number)) for number in range(3)]
    await until(lambda: len(times) >= 4, what="two transactions to wait")
    now = 0.045
    ends[0].set()
    await until(lambda: begun == [0, 1], what="the second transaction")
    now = 0.09  # the third one has waited for longer than the timeout, but the second one only now began
    seen = len(times)
    await until(lambda: len(times) > seen, what="the third transaction to look at the time")
    for one in ends:
        one.set()
    await asyncio.gather(*running)
    await database.close()
    await engine.dispose()

    assert begun == [0, 1, 2]


async def test_a_pool_without_a_free_connection_is_an_outage(database_url: str) -> None:
    engine = create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    database = Database(engine)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        with pytest.raises(PoolTimeout) as first:
            await database.read(look)
        both = await asyncio.gather(database.read(look), database.read(look), return_exceptions=True)
    await database.read(look)
    await database.close()
    await engine.dispose()

    assert outage_of(first.value) is not None
    for error in both:
        assert isinstance(error, PoolTimeout) and outage_of(error) is not None
