"""Cancelled transactions: whenever, and however often, a caller is cancelled, no lock and no connection is kept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from rindle.db.database import Database
from rindle.errors import StateConflict

#: Cancelled transactions of one seed, and the turns of the event loop after which the first cancellation comes.
ROUNDS, TURNS = 100, 120


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A table with two numbers that every transaction raises together."""
    engine = create_async_engine(database_url)
    database = Database(engine)

    def create(session: Session) -> None:
        session.execute(text("CREATE TABLE numbers (id INTEGER PRIMARY KEY, number INTEGER NOT NULL)"))
        session.execute(text("INSERT INTO numbers VALUES (1, 0), (2, 0)"))

    await database.write(create)
    yield database
    await database.close()
    await engine.dispose()


@pytest.fixture
def stranger(database_url: str) -> Iterator[Engine]:
    """An engine of another program, which waits for no lock. It keeps its connection: a new one each round costs more
    than the round."""
    no_wait = {"timeout": 0} if database_url.startswith("sqlite") else {}
    engine = create_engine(database_url.replace("+aiosqlite", ""), pool_size=1, connect_args=no_wait)
    yield engine
    engine.dispose()


def raise_both(session: Session) -> None:
    for number in (1, 2):
        session.execute(text("UPDATE numbers SET number = number + 1 WHERE id = :id"), {"id": number})


def read_both(session: Session) -> list[int]:
    return list(session.scalars(text("SELECT number FROM numbers ORDER BY id")))


def take_lock(stranger: Engine) -> None:
    """Take the write lock and raise both numbers without waiting for anybody."""
    with stranger.connect() as connection:
        if stranger.dialect.name == "postgresql":
            connection.execute(text("SELECT * FROM numbers FOR UPDATE NOWAIT"))
        connection.execute(text("UPDATE numbers SET number = number + 1"))
        connection.commit()


async def cancelled(work: Any, moments: list[int]) -> None:
    """Run ``work`` in a task and cancel it after each of ``moments``, counted in turns of the event loop."""
    task = asyncio.ensure_future(work)
    for turns in moments:
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
    with suppress(asyncio.CancelledError, StateConflict):
        await task


@pytest.mark.external
@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("step", [raise_both, read_both])
async def test_a_cancelled_transaction_keeps_no_lock(
    database: Database, stranger: Engine, times: int, step: Any
) -> None:
    chance = random.Random(times)
    run = database.write if step is raise_both else database.read
    for _ in range(ROUNDS):
        moments = [chance.randrange(TURNS), *(chance.randrange(TURNS // 3) for _ in range(times - 1))]
        await cancelled(run(step), moments)
        take_lock(stranger)
    first, second = await database.read(read_both)
    assert first == second >= ROUNDS


@pytest.mark.external
async def test_a_cancelled_caller_is_cancelled_after_its_transaction(database: Database) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(session: Session) -> None:
        raise_both(session)
        loop.call_soon_threadsafe(begun.set)
        for _ in range(50):
            read_both(session)
        loop.call_soon_threadsafe(ended.set)

    task = asyncio.create_task(database.write(slow))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert await database.read(read_both) == [1, 1]


@pytest.mark.external
@pytest.mark.usefixtures("quiet_log")
async def test_closing_waits_for_transactions_and_logs_nothing(database_url: str) -> None:
    engine = create_async_engine(database_url)
    database = Database(engine)
    await database.read(lambda session: session.execute(text("SELECT 1")).scalar())

    # Each takes one turn of the event loop or more: no transaction ends before it is cancelled.
    statements = 60

    def several(session: Session) -> None:
        for _ in range(statements):
            session.execute(text("SELECT 1")).scalar()

    for turns in range(0, statements, 3):
        tasks = [asyncio.create_task(database.read(several)) for _ in range(4)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await database.close()
        await engine.dispose()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers), answers


async def test_a_transaction_on_a_sync_engine_ends_before_its_caller_is_cancelled(tmp_path: Any) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'rindle.db'}")
    database = Database(engine)
    stranger = create_engine(f"sqlite:///{tmp_path / 'rindle.db'}", poolclass=NullPool, connect_args={"timeout": 0})
    await database.write(
        lambda session: session.execute(text("CREATE TABLE numbers (id INTEGER PRIMARY KEY, number INTEGER)"))
    )
    await database.write(lambda session: session.execute(text("INSERT INTO numbers VALUES (1, 0), (2, 0)")))
    chance = random.Random(1)
    for _ in range(ROUNDS):
        await cancelled(database.write(raise_both), [chance.randrange(TURNS), chance.randrange(TURNS // 3)])
        take_lock(stranger)
    first, second = await database.read(read_both)
    assert first == second >= ROUNDS
    await database.close()
    engine.dispose()
