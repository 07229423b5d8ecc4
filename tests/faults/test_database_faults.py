"""Connections to the database break in the middle of an activity, after earlier attempts went to another outage."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rindle.errors import StorageTransient
from rindle.testing.flaky import FlakyStorage
from tests.application import storage
from tests.invariants import everything_holds
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, staged

#: Earlier attempts of the activity, more than an unforeseen error gets.
OUTAGES = 3


class Breaking(FlakyStorage):
    """Breaks every open connection to the database once, when ``operation`` has succeeded."""

    operation = ""
    proxy: Proxy
    broken = 0

    async def _play(self, operation: str, call: Callable[[], Awaitable[Any]], **options: Any) -> Any:
        result = await super()._play(operation, call, **options)
        if operation == self.operation:
            self.operation = ""
            self.broken += 1
            await self.proxy.cut()
            await self.proxy.restore()
        return result


@pytest.fixture
async def breaking(
    tmp_path: Path, temporal_server: TemporalServer, postgres_server: PostgresServer
) -> AsyncIterator[tuple[Stage, Breaking]]:
    """A worker whose connections to Postgres a test can break; nothing but its activities uses them meanwhile."""
    url = postgres_server.new_database()
    port = int(re.search(r":(\d+)/", url).group(1))  # type: ignore[union-attr]
    async with Proxy(port) as proxy, staged(tmp_path, url, temporal_server.target) as stage:
        store = Breaking(storage(stage.environment))
        store.proxy = proxy
        rindle = stage.application(
            store=store,
            APP_DATABASE_URL=url.replace(f":{port}/", f":{proxy.port}/"),
            RINDLE_VARIANT_ATTEMPTS="1",
            RINDLE_RELAY_POLL_SECONDS="3600",
            RINDLE_RELAY_IDLE_POLL_SECONDS="3600",
        )
        async with stage.application():  # sends the outbox in the worker's place
            await stage.member(rindle)
            yield stage, store


@pytest.mark.parametrize("operation", ["local_path", "store"], ids=["promotion", "build"])
async def test_a_broken_connection_costs_neither_a_promotion_nor_an_attempt_of_a_build(
    breaking: tuple[Stage, Breaking], operation: str
) -> None:
    stage, store = breaking
    session = await stage.sent()
    store.fail(operation, StorageTransient("503"), OUTAGES)
    store.operation = operation

    await stage.rindle.verify_completion(session.id)
    asset = await stage.settled(str(session.asset_id))

    assert store.broken == 1
    assert (asset.state, asset.error_code) == ("ready", None)
    assert {row.attempts for row in asset.variants} == {0}
    await everything_holds(stage)
