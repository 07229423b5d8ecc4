"""LISTEN on Postgres: the connection of a process that receives notifications of committed transactions.

The drivers differ: psycopg yields notifications, from an async or a sync connection, and asyncpg calls a function. With
other drivers, and on SQLite, the callers only poll.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rindle.cancellation import run_to_end
from rindle.threads import in_thread

log = logging.getLogger(__name__)

#: Drivers whose connections can listen; psycopg 3 with an async and with a sync engine.
DRIVERS = ("asyncpg", "psycopg")


def can_listen(engine: Engine | AsyncEngine) -> bool:
    """Whether processes with this engine receive notifications; otherwise they poll."""
    return engine.dialect.name == "postgresql" and engine.dialect.driver in DRIVERS


@asynccontextmanager
async def listening(engine: Engine | AsyncEngine, channel: str) -> AsyncIterator[AsyncIterator[str]]:
    """Yield the payloads of the notifications of ``channel``, on a connection outside the application's pool.

    It is closed afterwards. Iteration raises when the connection is lost. Callers also poll, so that this costs only
    latency.

    Source: PostgreSQL "LISTEN"; psycopg "Asynchronous notifications" (``notifies``); asyncpg
    ``Connection.add_listener``.
    """
    if isinstance(engine, Engine):
        async with _listening_in_threads(engine, channel) as payloads:
            yield payloads
        return
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection
        raw.detach()  # this connection only listens: take it out of the application's pool
        try:
            listen = _asyncpg if engine.dialect.driver == "asyncpg" else _psycopg
            async with aclosing(await listen(driver, channel)) as payloads:
                yield payloads
        finally:
            await run_to_end(_closed(connection, driver))


async def keep_listening(
    engine: Engine | AsyncEngine,
    channel: str,
    receive: Callable[[str], None],
    *,
    pause_seconds: float,
    on_change: Callable[[bool], None] = lambda is_listening: None,
) -> None:
    """Call ``receive`` with each payload until cancelled; a lost connection is replaced after a pause.

    Args:
        engine: an engine that :func:`can_listen`.
        channel: the channel.
        receive: must not block.
        pause_seconds: pause before the next connection.
        on_change: called with whether the process listens.
    """
    has_warned = False
    while True:
        try:
            async with listening(engine, channel) as payloads:
                if has_warned:
                    log.info("LISTEN works again", extra={"channel": channel})
                has_warned = False
                try:
                    on_change(True)
                    async for payload in payloads:
                        receive(payload)
                finally:
                    on_change(False)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not has_warned:  # once for each outage, not for each attempt
                log.warning(
                    "LISTEN ended; polling continues", extra={"channel": channel, "error": type(error).__name__}
                )
            has_warned = True
            await asyncio.sleep(pause_seconds)


async def _closed(connection: AsyncConnection, driver: Any) -> None:
    await driver.close()
    await connection.invalidate()  # closed already: nothing is left to reset


# --- one function per driver ---------------------------------------------------------------------------------------


async def _psycopg(driver: Any, channel: str) -> AsyncGenerator[str]:
    await driver.set_autocommit(True)
    await driver.execute(f"LISTEN {channel}")

    async def payloads() -> AsyncGenerator[str]:
        async with aclosing(driver.notifies()) as notices:
            async for notice in notices:
                yield notice.payload

    return payloads()


async def _asyncpg(driver: Any, channel: str) -> AsyncGenerator[str]:
    arrived: asyncio.Queue[str | None] = asyncio.Queue()
    driver.add_termination_listener(lambda connection: arrived.put_nowait(None))
    await driver.add_listener(channel, lambda connection, pid, channel, payload: arrived.put_nowait(payload))

    async def payloads() -> AsyncGenerator[str]:
        while (payload := await arrived.get()) is not None:
            yield payload
        raise ConnectionError("the connection that listens was closed")

    return payloads()


@asynccontextmanager
async def _listening_in_threads(engine: Engine, channel: str) -> AsyncIterator[AsyncIterator[str]]:
    """Listen with psycopg's sync connection: it is opened in a thread and read when its socket has data."""

    def opened() -> Any:
        raw = engine.raw_connection()
        driver: Any = raw.driver_connection
        raw.detach()
        try:
            driver.autocommit = True
            driver.execute(f"LISTEN {channel}")
        except BaseException:
            driver.close()
            raise
        return driver

    loop = asyncio.get_running_loop()
    opening = asyncio.ensure_future(in_thread(opened))
    try:
        driver = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_opened)  # the thread cannot be interrupted
        raise
    readable = asyncio.Event()
    descriptor = driver.fileno()
    loop.add_reader(descriptor, readable.set)

    async def payloads() -> AsyncGenerator[str]:
        while True:
            await readable.wait()
            readable.clear()
            for notice in driver.notifies(timeout=0):  # what has arrived; it does not wait
                yield notice.payload

    try:
        async with aclosing(payloads()) as found:
            yield found
    finally:
        loop.remove_reader(descriptor)
        await run_to_end(in_thread(driver.close))


def _close_opened(opening: asyncio.Future[Any]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
