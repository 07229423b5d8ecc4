"""Notifications reach other processes after the commit, never with it, from every kind of application."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from rindle.db import notifier
from rindle.db.events import CHANNEL, record_event
from rindle.db.models import Base, new_id
from tests.patience import PATIENCE_SECONDS, until
from tests.servers.postgres import PostgresServer


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing and closing wait for a server that is busy; production gives up after two seconds."""
    for wait in (notifier.Notifier.flush, notifier.Notifier.close):
        monkeypatch.setattr(wait, "__defaults__", (PATIENCE_SECONDS,))


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    made = postgres_server.new_database()
    yield made
    postgres_server.drop_database(made)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """The engine of an application without an event loop."""
    made = create_engine(url)
    Base.metadata.create_all(made)
    yield made
    notifier.close(made)
    made.dispose()


class Ear:
    """A process that listens."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._received: list[str] = []

    async def take(self, count: int) -> list[str]:
        if (wanted := count - len(self._received)) > 0:  # more may arrive at once
            notices = self._connection.notifies(timeout=PATIENCE_SECONDS, stop_after=wanted)
            self._received += [notice.payload async for notice in notices]
        taken, self._received = self._received[:count], self._received[count:]
        return taken


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Ear]:
    plain = url.replace("postgresql+psycopg://", "postgresql://")
    async with await psycopg.AsyncConnection.connect(plain, autocommit=True) as connection:
        await connection.execute(f"LISTEN {CHANNEL}")
        yield Ear(connection)


def note(session: Session, asset_id: str) -> None:
    scope = ("asset", asset_id)
    record_event(session, "variant_progress", scope=scope, payload={"progress": 1}, asset_id=asset_id)


def commit(engine: Engine, asset_id: str) -> None:
    with Session(engine) as session:
        note(session, asset_id)
        session.commit()


async def test_no_transaction_of_the_application_contains_a_notification(url: str, engine: Engine) -> None:
    """Such transactions commit one after the other, on the whole server."""
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    asset_id = new_id()
    async with listening(url) as ear:
        commit(engine, asset_id)
        assert await ear.take(1) == [f"1,{asset_id}"]
    assert len(statements) == 1 and statements[0].startswith("INSERT INTO media_events")


async def test_an_async_session_notifies_from_outside_its_event_loop_and_pool(url: str, engine: Engine) -> None:
    own = create_async_engine(url, pool_size=1, max_overflow=0)
    asset_id = new_id()
    async with listening(url) as ear:
        async with AsyncSession(own) as session, session.begin():
            await session.run_sync(note, asset_id)
            # The only connection of the pool is held while the notification is sent.
        async with own.connect():
            assert await ear.take(1) == [f"1,{asset_id}"]
    await asyncio.to_thread(notifier.close, own.sync_engine)
    await own.dispose()


@pytest.mark.parametrize(("others", "told"), [(2, ["4,{1}", "5,{2}", "6,{0}"]), (70, ["74,"])])
async def test_commits_of_a_moment_are_sent_together_and_name_the_newest_event_of_each_asset(
    url: str, engine: Engine, others: int, told: list[str]
) -> None:
    connects, release = threading.Event(), threading.Event()
    assets = [new_id() for _ in range(1 + others)]
    with engine.connect():  # is pooled: from now on only the notifier connects
        pass

    def hold(*given: Any) -> None:
        connects.set()
        release.wait(PATIENCE_SECONDS)

    event.listen(engine, "do_connect", hold)
    async with listening(url) as ear:
        commit(engine, assets[0])
        await asyncio.to_thread(connects.wait, PATIENCE_SECONDS)
        for asset_id in [*assets[1:3], *assets[1:], assets[0]]:
            commit(engine, asset_id)
        release.set()
        assert await ear.take(1) == [f"1,{assets[0]}"]
        assert await ear.take(len(told)) == [payload.format(*assets) for payload in told]


async def test_what_is_rolled_back_is_not_notified(url: str, engine: Engine) -> None:
    lost, kept = new_id(), new_id()
    async with listening(url) as ear:
        with Session(engine) as session:
            note(session, lost)
            session.flush()
            session.rollback()
            nested = session.begin_nested()
            note(session, lost)
            nested.rollback()
            session.commit()
        commit(engine, kept)
        assert [payload.partition(",")[2] for payload in await ear.take(1)] == [kept]


async def test_a_lost_connection_costs_nothing(url: str, engine: Engine) -> None:
    async with listening(url) as ear:
        commit(engine, new_id())
        await ear.take(1)
        with engine.connect() as connection:
            ended = connection.scalar(
                text(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    "WHERE query LIKE '%unnest%' AND pid <> pg_backend_pid() AND datname = current_database()"
                )
            )
        assert ended == 1
        asset_id = new_id()
        commit(engine, asset_id)
        assert await ear.take(1) == [f"2,{asset_id}"]


async def test_closing_sends_the_last_notification_and_leaves_no_thread_and_no_connection(
    url: str, engine: Engine
) -> None:
    asset_id = new_id()
    others = threading.enumerate()  # of engines of other tests
    async with listening(url) as ear:
        commit(engine, asset_id)
        notifier.close(engine)
        threads = [thread for thread in threading.enumerate() if thread not in others]
        assert [thread for thread in threads if thread.name == "rindle-notify"] == []
        assert await ear.take(1) == [f"1,{asset_id}"]
        # Within a transaction the first look at pg_stat_activity is repeated for ever.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            count = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
            await until(lambda: connection.scalar(count) == 2, what="the notifier's connection to end")
        commit(engine, asset_id)  # opens another one
        assert await ear.take(1) == [f"2,{asset_id}"]


async def test_a_server_that_refuses_the_connection_is_reported_once_and_then_tried_again(
    url: str, engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "_PAUSE_SECONDS", 0.01)
    with engine.connect():
        pass
    tries = 0

    def refuse(*given: Any) -> None:
        nonlocal tries
        tries += 1
        if tries <= 4:
            raise ConnectionRefusedError

    event.listen(engine, "do_connect", refuse)
    async with listening(url) as ear:
        for _ in range(2):
            commit(engine, new_id())
            notifier.notifier_of(engine).flush()
        asset_id = new_id()
        commit(engine, asset_id)
        assert await ear.take(1) == [f"3,{asset_id}"]
    assert [record.message for record in caplog.records if record.name == "rindle.db.notifier"] == [
        "notifications were not sent; other processes find the changes when they poll"
    ]


_FORK = """
import os, sys
from sqlalchemy import create_engine
from rindle.db import notifier
for wait in (notifier.Notifier.flush, notifier.Notifier.close):
    wait.__defaults__ = (float(sys.argv[2]),)
engine = create_engine(sys.argv[1])
post = lambda who: notifier.notifier_of(engine).post("rindle_events", who, set)
post("parent")
notifier.notifier_of(engine).flush()
child = os.fork()
if child == 0:
    engine.dispose(close=False)
    post("child")
    notifier.close(engine)
    os._exit(0)
os.waitpid(child, 0)
post("parent again")  # the end of the process sends it
"""


async def test_a_forked_process_and_one_that_ends_notify_too(url: str) -> None:
    async with listening(url) as ear:
        program = [sys.executable, "-c", _FORK, url, str(PATIENCE_SECONDS)]
        await asyncio.to_thread(partial(subprocess.run, program, check=True, timeout=2 * PATIENCE_SECONDS))
        assert await ear.take(3) == ["parent", "child", "parent again"]
