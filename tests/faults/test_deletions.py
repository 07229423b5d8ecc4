"""Deletions that come late, are refused, or meet an upload that is still allowed."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from rindle import messages
from rindle.db import variants
from rindle.db.models import MediaUploadSession
from rindle.db.transitions import lock_asset
from rindle.messages import VariantInput
from tests.invariants import everything_holds
from tests.patience import until
from tests.servers.minio import MinioServer
from tests.servers.proxy import Proxy
from tests.servers.temporal import TemporalServer
from tests.stage import NOTICES_LOST_WORKERS, Stage, is_stopped, on_bucket, staged
from tests.workflows.fleet import Fleet, closed


@pytest.fixture
async def slow_deletes(minio: MinioServer) -> AsyncIterator[Proxy]:
    """A proxy before MinIO that holds back every DELETE for longer than a build takes."""
    async with Proxy(int(minio.endpoint_url.rpartition(":")[2])) as proxy:
        proxy.delay(b"DELETE ", 3.0)
        yield proxy


@pytest.fixture
async def s3_stage(
    tmp_path: Path, temporal_server: TemporalServer, minio: MinioServer, slow_deletes: Proxy
) -> AsyncIterator[Stage]:
    """A stage on MinIO with slow deletions; lost workers are noticed soon."""
    environment = {
        **on_bucket(minio),
        "APP_ENDPOINT": f"http://127.0.0.1:{slow_deletes.port}",
        **NOTICES_LOST_WORKERS,
    }
    async with staged(
        tmp_path, f"sqlite+aiosqlite:///{tmp_path}/stage.db", temporal_server.target, environment
    ) as ready:
        yield ready


# --- a deletion that was decided for an earlier build -------------------------------------------------------------


async def thumb_of(stage: Stage, asset_id: str, width: int) -> None:
    """Wait until the thumb is built with a width, as the recipes of ``tests.application`` differ in it."""

    async def look() -> bool:
        row = await stage.variant(asset_id, "thumb")
        return (row.state, row.width) == ("ready", width)

    await until(look, what=f"a thumb of {width} pixels")


async def regenerated(stage: Stage) -> None:
    """Queue the variants whose recipe has changed."""
    report = await stage.application().regenerate_variants()
    assert (report.enqueued, report.errors) == (1, 0)


async def test_a_worker_that_wakes_between_decision_and_deletion_deletes_nothing_newer(s3_stage: Stage) -> None:
    """The process that is stopped renders and does nothing else: stopped inside a transaction, it would keep SQLite's
    write lock from everybody."""
    stage = s3_stage
    images = stage.environment["RINDLE_IMAGE_TASK_QUEUE"] = f"{stage.prefix}-images"
    async with stage.working():
        asset = await stage.ready()
    old = await stage.variant(asset.id, "thumb")
    stage.environment["APP_DRIFTED"] = "1"
    sleeper = await stage.worker(
        *("--queues", images),
        RINDLE_CRASH_AT="render.recorded",
        RINDLE_CRASH_SIGNAL="SIGSTOP",
        RINDLE_RELAY_POLL_SECONDS="3600",
        RINDLE_RELAY_IDLE_POLL_SECONDS="3600",
    )
    await regenerated(stage)
    others = await stage.worker("--queues", stage.prefix)
    await until(lambda: is_stopped(sleeper.process.pid), what="the worker to stop before it deletes")
    await thumb_of(stage, asset.id, 64)

    await others.stop()
    del stage.environment["APP_DRIFTED"]  # the recipe of the object that the sleeper is about to delete
    await regenerated(stage)
    await stage.member(stage.application())
    await thumb_of(stage, asset.id, old.width or 0)
    os.kill(sleeper.process.pid, signal.SIGCONT)
    await sleeper.stop()

    newest = await stage.variant(asset.id, "thumb", "ready")
    assert newest.recipe_digest == old.recipe_digest
    assert newest.storage_key in await stage.keys()
    await everything_holds(stage)


async def test_cancel_and_requeue_lose_no_object_however_slow_deletions_are(
    s3_stage: Stage, slow_deletes: Proxy
) -> None:
    stage = s3_stage
    async with Fleet(stage) as fleet:
        await fleet.start()
        for _ in range(6):
            stage.tell("processor", "hold")
            asset = await stage.verified("held")
            await stage.variant(asset.id, "thumb", "processing")
            await stage.rindle.database.write(cancelled_rows, asset.id)  # the build does not know yet
            stage.tell("processor", "")
            await until(lambda: slow_deletes.delayed > 0, what="the deletion of the object that nobody wants")

            await stage.rindle.requeue_variants(asset.id)
            done = await stage.settled(asset.id)
            await until(lambda: slow_deletes.delayed == 0, what="deletions to arrive")

            assert {row.state for row in done.variants} == {"ready"}
            assert {row.storage_key for row in done.variants} <= await stage.keys()
        await everything_holds(stage)


def cancelled_rows(session: Session, asset_id: str) -> None:
    """Cancel the open variants of an asset, as a facade does in a transaction whose wake-up has not arrived yet."""
    asset = lock_asset(session, asset_id)
    assert asset is not None
    variants.cancel_rows(session, asset, variants.variants_of(session, asset_id))


async def test_a_run_that_never_got_a_task_ends_with_the_purge_of_its_asset(lite_stage: Stage) -> None:
    """A child that was started while its parent ended stays open without a task; it cannot obey a cancel request."""
    stage = lite_stage
    rindle = stage.application(RINDLE_PURGE_SETTLE_SECONDS="1")
    await stage.member(rindle)
    asset = await stage.ready()
    lost = stage.variants_workflow(asset.id)
    await closed(stage, lost)
    client = await stage.client()
    await client.start_workflow(
        messages.VARIANT_WORKFLOW, VariantInput(asset_id=asset.id), id=lost, task_queue=f"{stage.prefix}-idle"
    )
    session = await stage.read(lambda found: found.scalars(select(MediaUploadSession)).one())
    await stage.let_tickets_expire(session.id)

    await rindle.purge_asset(asset.id)

    assert await closed(stage, lost) == "TERMINATED"
    await stage.gone(asset.id)
    await everything_holds(stage)
