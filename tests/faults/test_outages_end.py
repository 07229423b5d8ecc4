"""What waits for a store or for the database goes on when it answers again, not at the end of its pause."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.common import RetryPolicy

from rindle.errors import StorageTransient
from rindle.testing.flaky import FlakyStorage
from rindle.workflows import policies
from tests.application import storage
from tests.invariants import everything_holds
from tests.patience import until
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, staged

#: A pause that no test waits for.
NEVER = {"RINDLE_RETRY_INITIAL_SECONDS": "36000"}


class Away(FlakyStorage):
    """Answers nothing while it is away, and does ``before_local_path`` once."""

    away = False
    before_local_path: Callable[[], Awaitable[None]] | None = None

    async def _play(self, operation: str, call: Callable[[], Awaitable[Any]], **options: Any) -> Any:
        if operation == "local_path" and self.before_local_path is not None:
            before, self.before_local_path = self.before_local_path, None
            await before()
        if self.away:
            self._calls[operation] += 1
            raise StorageTransient("503")
        return await super()._play(operation, call, **options)


@pytest.fixture(autouse=True)
def _pauses_that_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make only a wake-up end the pause after a failed attempt of the activities that use the store."""
    for policy in (policies.ADMIT, policies.RENDER_IMAGES):
        monkeypatch.setitem(policy, "retry_policy", RetryPolicy(initial_interval=timedelta(hours=10)))


def test_no_pause_is_longer_than_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    waiting = (policies.STORAGE_HEAD, policies.ADMIT, policies.SCAN, policies.RENDER_IMAGES, policies.BUILD_AV)

    assert {policy["retry_policy"].maximum_interval for policy in waiting} == {timedelta(seconds=30)}  # type: ignore[union-attr]


@pytest.mark.parametrize("operation", ["local_path", "store"], ids=["promotion", "build"])
async def test_a_store_that_is_back_wakes_what_waits_for_it(lite_stage: Stage, operation: str) -> None:
    stage, store = lite_stage, Away(storage(lite_stage.environment))
    session = await stage.sent()
    await stage.rindle.verify_completion(session.id)
    store.away = operation == "local_path"
    held = store.hang("store")
    await stage.member(stage.application(store=store, **NEVER))

    async def noticed() -> bool:
        return store.calls_for("ping") > 0

    if operation == "store":  # the first variant is stored, the second one is not
        await held.reached.wait()
        store.away = True
        held.release()
    else:
        held.release()
    await until(noticed, what="the worker to notice that the store is away")
    store.away = False

    assert (await stage.settled(str(session.asset_id))).state == "ready"
    await everything_holds(stage)


async def test_a_database_that_is_back_wakes_what_waits_for_it(
    tmp_path: Path,
    temporal_server: TemporalServer,
    postgres_server: PostgresServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = postgres_server.new_database()
    port = int(re.search(r":(\d+)/", url).group(1))  # type: ignore[union-attr]
    async with Proxy(port) as proxy, staged(tmp_path, url, temporal_server.target) as stage:
        store = Away(storage(stage.environment))
        store.before_local_path = proxy.cut
        through = url.replace(f":{port}/", f":{proxy.port}/")
        session = await stage.sent()
        await stage.rindle.verify_completion(session.id)
        await stage.member(stage.application(store=store, APP_DATABASE_URL=through, **NEVER))

        await until(
            lambda: any(record.__dict__.get("action") == "outage_noticed" for record in caplog.records),
            what="the worker to notice that the database is away",
        )
        await proxy.restore()

        assert (await stage.settled(str(session.asset_id))).state == "ready"
        await everything_holds(stage)
