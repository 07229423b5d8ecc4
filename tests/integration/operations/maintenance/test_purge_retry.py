"""Purges that were lost are started again, and no others."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaOutbox, messages, outbox
from rindle.db.models import new_id, utc_now
from rindle.errors import TemporalUnavailable
from rindle.operations.maintenance import purge_retry as module
from rindle.operations.maintenance import runs
from rindle.operations.maintenance.purge_retry import (
    PurgeRetry,
    PurgeRetryOptions,
    PurgeRetryReport,
    purge_retry,
)
from rindle.workflows import ids
from tests.invariants import everything_holds
from tests.servers import free_port
from tests.stage import Stage


async def tombstone(stage: Stage, *, seconds: int = 600, profile: str = "avatar", state: str = "deleted") -> str:
    """Make an asset that has been deleted for a while; returns its id."""
    asset_id, when = new_id(), utc_now() - timedelta(seconds=seconds)

    def write(session: Session) -> None:
        facts = {"id": asset_id, "profile": profile, "storage_key": f"{profile}/{asset_id}", "state": state}
        session.add(MediaAsset(**facts, inserted_at=when, updated_at=when))

    await stage.rindle.database.write(write)
    return asset_id


async def purging(stage: Stage, asset_id: str) -> str:
    """Start the run of a purge on a queue without workers; returns its id."""
    run = await (await stage.client()).start_workflow(
        messages.PURGE_WORKFLOW,
        messages.PurgeInput(asset_id=asset_id),
        id=ids.purge_id(asset_id, prefix=stage.prefix),
        task_queue=f"{stage.prefix}-nobody",
    )
    return run.id


async def requested(stage: Stage) -> list[str]:
    """Return the workflows for which requests wait."""
    statement = select(MediaOutbox.workflow_id).where(MediaOutbox.state == "pending").order_by(MediaOutbox.id)
    return await stage.read(lambda session: list(session.scalars(statement)))


async def test_only_a_purge_without_run_and_request_is_lost(stage: Stage) -> None:
    services, client = stage.rindle.services, await stage.client()
    lost, ended, runs_on, waits = [await tombstone(stage) for _ in range(4)]
    await tombstone(stage, seconds=60)  # its purge has not had the time to begin
    await tombstone(stage, profile="removed")  # its store is not known
    await tombstone(stage, state="ready")
    open_run = await purging(stage, runs_on)
    await client.get_workflow_handle(await purging(stage, ended)).terminate()
    await services.database.write(outbox.start_purge, stage.rindle.settings, waits, "avatar")

    assert await purge_retry(services) == PurgeRetryReport(found=4, running=1)
    assert await requested(stage) == [ids.purge_id(waits, prefix=stage.prefix)]

    assert await purge_retry(services, dry_run=False) == PurgeRetryReport(found=4, running=1, started=2)

    wanted = [ids.purge_id(one, prefix=stage.prefix) for one in (waits, *sorted((lost, ended)))]
    assert await requested(stage) == wanted
    again = await purge_retry(services, dry_run=False)
    assert again == PurgeRetryReport(found=4, running=1)
    assert await requested(stage) == wanted
    await client.get_workflow_handle(open_run).terminate()


async def test_every_page_is_looked_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    lost = sorted([await tombstone(stage) for _ in range(5)])

    assert await purge_retry(stage.rindle.services, dry_run=False) == PurgeRetryReport(found=5, started=5)
    assert await requested(stage) == [ids.purge_id(one, prefix=stage.prefix) for one in lost]


async def test_a_worker_finds_the_lost_purge_and_finishes_it(stage: Stage) -> None:
    await stage.member()
    asset = await stage.ready()

    def lose(session: Session) -> None:
        long_ago = utc_now() - timedelta(hours=1)
        session.execute(
            update(MediaAsset).where(MediaAsset.id == asset.id).values(state="deleted", updated_at=long_ago)
        )

    await stage.rindle.database.write(lose)
    services = stage.rindle.services

    handle = await runs.start(services, PurgeRetry(), PurgeRetryOptions(dry_run=False))
    outcome = await runs.follow(services, handle, PurgeRetry())

    assert outcome.report == PurgeRetryReport(found=1, started=1)
    await stage.gone(asset.id)
    assert await stage.keys() == set()
    await everything_holds(stage)


async def test_without_temporal_nothing_is_taken_for_lost(lite_stage: Stage) -> None:
    await tombstone(lite_stage)
    away = lite_stage.application(TEMPORAL_ADDRESS=f"127.0.0.1:{free_port()}", RINDLE_TEMPORAL_CONNECT_SECONDS="0.5")

    with pytest.raises(TemporalUnavailable):
        await purge_retry(away.services, dry_run=False)

    assert await requested(lite_stage) == []
