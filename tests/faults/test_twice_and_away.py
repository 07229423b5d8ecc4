"""Activities that run twice, a database that goes away for a moment."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from rindle.errors import RindleError
from tests.invariants import everything_holds
from tests.patience import until
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, photo, staged


class Twice(Interceptor):
    """Runs every activity twice: one after the other, or both at once. At least once is what Temporal promises."""

    def __init__(self, *, at_once: bool) -> None:
        self.at_once = at_once
        self.ran: set[str] = set()

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap an activity."""
        outer = self

        class Doubled(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                outer.ran.add(input.fn.__name__)
                if not outer.at_once:
                    await self.next.execute_activity(input)
                    return await self.next.execute_activity(input)
                answers = await asyncio.gather(
                    self.next.execute_activity(input), self.next.execute_activity(input), return_exceptions=True
                )
                good = [answer for answer in answers if not isinstance(answer, BaseException)]
                if good:
                    return good[-1]
                raise answers[0]  # type: ignore[misc]

        return Doubled(next)


@pytest.mark.parametrize("at_once", [False, True], ids=["in_turn", "at_once"])
async def test_every_activity_may_run_twice(stage: Stage, at_once: bool) -> None:
    twice = Twice(at_once=at_once)
    await stage.member(interceptors=[twice])

    ready = await stage.ready("scanned")
    assert ready.state == "ready"
    assert {row.name: row.state for row in ready.variants} == {"large": "ready", "thumb": "ready"}
    cancelled = await stage.sent()
    await stage.rindle.cancel_upload(cancelled.id)
    stage.tell("processor", "hold")
    held = await stage.verified("held")
    await stage.variant(held.id, "thumb", "processing")
    await stage.rindle.cancel_processing(held.id)
    stage.tell("processor", "")
    client = await stage.client()
    await client.get_workflow_handle(stage.variants_workflow(held.id)).result()
    await client.start_workflow(
        "rindle.VariantWorkflow",
        {"asset_id": held.id},
        id=stage.variants_workflow(held.id),
        task_queue=stage.prefix,
        start_signal="requeue",
    )
    assert (await stage.state(held.id, "ready")).state == "ready"
    await stage.rindle.purge_asset(ready.id)
    await stage.gone(ready.id)

    async def released() -> bool:
        return (await stage.session(cancelled.id)).backing_released_at is not None

    await until(released, what="the cancelled upload to be released")
    await everything_holds(stage)
    assert twice.ran >= {
        "read_upload",
        "admit",
        "scan",
        "render_images",
        "read_group",
        "requeue_group",
        "release_upload",
        "begin_purge",
        "stop_asset_work",
        "delete_asset",
    }


async def test_a_database_that_is_briefly_away_loses_nothing(
    tmp_path: Path, temporal_server: TemporalServer, postgres_server: PostgresServer
) -> None:
    url = postgres_server.new_database()
    port = int(re.search(r":(\d+)/", url).group(1))  # type: ignore[union-attr]
    async with Proxy(port) as proxy:
        through = url.replace(f":{port}/", f":{proxy.port}/")
        async with staged(tmp_path, through, temporal_server.target) as stage:
            await stage.worker()
            session = await stage.sent()
            asset = await stage.verified()

            await proxy.cut()
            with pytest.raises((DBAPIError, RindleError)):
                await stage.rindle.verify_completion(session.id)
            await proxy.restore()

            async def verified() -> bool:
                try:  # the pool may still hand out a connection that died
                    return (await stage.rindle.verify_completion(session.id)).session.state == "completed"
                except (DBAPIError, RindleError):
                    return False

            await until(verified, what="verify to work again")
            assert (await stage.settled(asset.id)).state == "ready"
            assert (await stage.settled(str(session.asset_id))).state == "ready"
            await everything_holds(stage)


async def test_a_sqlite_file_another_process_is_writing_to_makes_writers_wait(lite_stage: Stage) -> None:
    stage = lite_stage
    picture = photo(stage.home / "p.jpg")
    locked, free = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        import aiosqlite

        async with aiosqlite.connect(stage.home / "stage.db") as other:
            await other.execute("BEGIN IMMEDIATE")
            locked.set()
            await free.wait()
            await other.rollback()

    holding = asyncio.create_task(hold())
    await locked.wait()
    writing = asyncio.create_task(stage.rindle.initiate_upload("avatar", filename=picture.name))
    free.set()
    await holding
    assert (await writing).state == "initialized"
