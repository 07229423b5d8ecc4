"""Every driver of Postgres: LISTEN through its own API, one warning for each outage, and the same errors."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rindle import Rindle, Settings
from rindle.db import migrate
from rindle.db import outbox as rows
from rindle.db.database import Database, outage_of
from rindle.db.listening import can_listen, listening
from rindle.errors import InspectionFailed
from rindle.operations import schema
from rindle.operations.checks.report import Check
from rindle.storage.memory import MemoryStorage
from tests.live import SECRET, Clip, Newsroom
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import free_port
from tests.servers.postgres import PostgresServer

Make = Callable[[str], Engine | AsyncEngine]
#: How an application makes its engine.
ENGINES: dict[str, Make] = {
    "asyncpg": lambda url: create_async_engine(url.replace("+psycopg", "+asyncpg")),
    "psycopg": create_async_engine,
    "psycopg, sync": create_engine,
}
#: Nothing is found by polling.
NEVER: dict[str, Any] = dict.fromkeys(
    ("relay_poll_seconds", "relay_idle_poll_seconds", "event_poll_seconds", "event_idle_poll_seconds"), 3600
)


@pytest.fixture(scope="module")
async def url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A database with Rindle's tables, migrated through asyncpg."""
    url = postgres_server.new_database()
    engine = create_async_engine(url.replace("+psycopg", "+asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(migrate.upgrade)
    await engine.dispose()
    yield url
    postgres_server.drop_database(url)


@asynccontextmanager
async def application(engine: Engine | AsyncEngine, **settings: Any) -> AsyncIterator[Rindle]:
    rindle = Rindle(
        engine=engine,
        profiles=[Clip],
        storages={"media": MemoryStorage()},
        secrets=[SECRET],
        settings=Settings(**settings),
    )
    try:
        yield rindle
    finally:
        await rindle.close()
        await rindle.database.dispose()


@pytest.fixture(params=ENGINES)
async def rindle(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Rindle]:
    """An application that does not poll, once for each driver."""
    async with application(ENGINES[request.param](url), **NEVER) as opened:
        yield opened


async def listeners(rindle: Rindle, channel: str) -> int:
    """Count the connections that listen to a channel; asyncpg quotes its name."""
    statement = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = ANY(:queries)"
    )
    queries = [f"LISTEN {channel}", f'LISTEN "{channel}"']
    return int(await rindle.database.read(lambda session: session.scalar(statement, {"queries": queries})) or 0)


async def test_a_subscription_receives_events_without_polling(rindle: Rindle) -> None:
    news = Newsroom(rindle)
    asset = await news.running()
    async with rindle.subscribe("asset", asset.id) as events:
        await until(lambda: listeners(rindle, "rindle_events"), what="LISTEN")
        await news.restarted(asset, 2)
        received = [await anext(events) for _ in range(2)]

    assert [event.type for event in received] == ["variant_started", "variant_started"]
    await until(lambda: _none(rindle, "rindle_events"), what="the connection to be closed")


async def _none(rindle: Rindle, channel: str) -> bool:
    return await listeners(rindle, channel) == 0


async def test_a_connection_that_is_killed_is_replaced_with_one_warning(
    rindle: Rindle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rindle.db.listening")
    rindle.listener.settings = rindle.settings.model_copy(update={"event_idle_poll_seconds": 0.05})
    news = Newsroom(rindle)
    asset = await news.running()
    async with rindle.subscribe("asset", asset.id) as events:
        await until(lambda: listeners(rindle, "rindle_events"), what="LISTEN")
        kill = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'LISTEN %rindle_events%'")
        await rindle.database.write(lambda session: session.execute(kill).close())

        await until(lambda: "LISTEN works again" in caplog.text, what="LISTEN to come back")
        await news.restarted(asset)
        assert (await anext(events)).type == "variant_started"

    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warned == ["LISTEN ended; polling continues"]


async def test_a_relay_is_notified(rindle: Rindle) -> None:
    async with listening(rindle.database.engine, rows.CHANNEL) as payloads:
        await rindle.initiate_upload("clip")

        assert await anext(payloads) == ""


async def test_doctor_sends_a_notification_and_receives_it(rindle: Rindle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rindle.operations.checks.database._ARRIVAL_SECONDS", PATIENCE_SECONDS)
    [check] = (await rindle.doctor(only=["db.notifications"], timeout=PATIENCE_SECONDS)).checks

    assert (check.status, check.summary) == ("ok", f"they arrive through {rindle.database.engine.dialect.driver}")


async def test_a_driver_without_listen_is_warned_of_once_and_by_doctor(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(url)
    engine.dialect.driver = "pg8000"
    assert not can_listen(engine)

    async with application(engine, relay_poll_seconds=0.01, relay_idle_poll_seconds=0.01) as rindle, rindle:
        [check] = (await rindle.doctor(only=["db.notifications"])).checks

    assert check == Check(
        "db.notifications",
        "warn",
        "database",
        "the driver pg8000 cannot LISTEN: processes notice each other's commits by polling, after up to 2 s",
        "use postgresql+psycopg or postgresql+asyncpg in the URL of the engine",
        {"driver": "pg8000"},
    )
    assert [record.getMessage() for record in caplog.records if "LISTEN" in record.getMessage()] == [
        "this driver cannot LISTEN: other processes' commits are noticed by polling only; "
        "use postgresql+psycopg or postgresql+asyncpg"
    ]


@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
async def test_a_server_that_is_away_is_the_same_outage_with_every_driver(make: Make, url: str) -> None:
    engine = make(f"postgresql+psycopg://rindle:canary@127.0.0.1:{free_port()}/none")
    database = Database(engine)
    with pytest.raises(OperationalError) as lost:
        await database.read(lambda session: session.scalar(select(func.now())))
    await database.close()
    await database.dispose()

    assert isinstance(outage_of(lost.value), InspectionFailed)


@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
async def test_a_connection_that_dies_in_a_transaction_is_the_same_outage_with_every_driver(
    make: Make, url: str
) -> None:
    database = Database(make(url))
    with pytest.raises(OperationalError) as lost:
        await database.read(lambda session: session.execute(select(func.pg_terminate_backend(func.pg_backend_pid()))))
    await database.close()
    await database.dispose()

    assert isinstance(outage_of(lost.value), InspectionFailed)


@pytest.mark.parametrize("driver", ENGINES)
async def test_tables_are_upgraded_with_every_driver(postgres_server: PostgresServer, driver: str) -> None:
    """New indexes are built beside an open transaction of the same driver, which must not have a snapshot."""
    url = postgres_server.new_database()
    async with application(ENGINES[driver](url)) as rindle:
        engine = rindle.database.engine
        if isinstance(engine, AsyncEngine):
            await migrate.async_upgrade(engine, "0004")
        else:
            migrate.upgrade(engine, "0004")

        assert await schema.upgrade(rindle.services) == ("0004", migrate.head())
        assert (await schema.compare(rindle.services))[1] == []
    postgres_server.drop_database(url)
