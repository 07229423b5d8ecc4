"""What ended uploads left behind is deleted, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaUploadSession, telemetry
from rindle.db.models import utc_now
from rindle.errors import NotFound, StorageUnauthorized, UnknownProfile
from rindle.operations.maintenance import session_pages
from rindle.operations.maintenance.cleanup_orphans import (
    CleanupOrphans,
    CleanupOrphansOptions,
    CleanupOrphansReport,
    cleanup_orphans,
)
from rindle.operations.maintenance.sweep import run_here
from rindle.testing.flaky import FlakyStorage
from tests.application import storage
from tests.invariants import everything_holds
from tests.stage import Stage


async def ended(stage: Stage, profile: str = "avatar") -> MediaUploadSession:
    """Return an upload that was cancelled after its bytes had arrived; no worker has released them."""
    session = await stage.sent(profile)
    await stage.rindle.cancel_upload(session.id)
    await stage.let_tickets_expire(session.id, hours=1)
    return await stage.session(session.id)


async def set_session(stage: Stage, session_id: str, **values: object) -> None:
    """Write columns of an upload session, as if it had come to that."""

    def write(session: Session) -> None:
        session.execute(update(MediaUploadSession).where(MediaUploadSession.id == session_id).values(**values))

    await stage.rindle.database.write(write)


async def test_a_dry_run_counts_and_an_execution_deletes_object_session_and_asset(store_stage: Stage) -> None:
    stage = store_stage
    session = await ended(stage)
    emitted: list[tuple[str, dict[str, object], dict[str, float]]] = []
    forget = telemetry.add_handler(lambda name, facts, numbers: emitted.append((name, dict(facts), dict(numbers))))

    shown = await cleanup_orphans(stage.rindle.services)
    assert shown == CleanupOrphansReport(sessions_found=1)
    assert await stage.keys() == {session.upload_key}

    done = await cleanup_orphans(stage.rindle.services, dry_run=False)
    forget()

    assert done == CleanupOrphansReport(sessions_found=1, sessions_deleted=1, objects_deleted=1)
    assert await stage.keys() == set()
    for gone in (stage.rindle.upload_session(session.id), stage.rindle.asset(str(session.asset_id))):
        with pytest.raises(NotFound):
            await gone
    assert [event.audit for event in await stage.events(str(session.asset_id), "asset.purged")] == [True]
    runs = [(facts["dry_run"], numbers["sessions_deleted"]) for name, facts, numbers in emitted if "cleanup" in name]
    assert runs == [(True, 0), (False, 1)]
    assert await cleanup_orphans(stage.rindle.services, dry_run=False) == CleanupOrphansReport()
    await everything_holds(stage)


async def test_live_verified_and_quarantined_uploads_are_not_touched(stage: Stage) -> None:
    live = await stage.sent()
    verified = await stage.verified("plain")
    quarantined = await ended(stage)
    keys = await stage.keys()

    def quarantine(session: Session) -> None:
        session.execute(update(MediaAsset).where(MediaAsset.id == quarantined.asset_id).values(state="quarantined"))

    await stage.rindle.database.write(quarantine)

    assert await cleanup_orphans(stage.rindle.services, dry_run=False) == CleanupOrphansReport()
    assert await stage.keys() == keys
    assert (await stage.session(live.id)).state == "signed"
    assert (await stage.rindle.asset(verified.id)).state == "validating"


async def test_an_upload_whose_ticket_may_still_be_redeemed_waits(stage: Stage) -> None:
    session = await ended(stage)
    await set_session(stage, session.id, url_expires_at=utc_now() + timedelta(minutes=5))

    assert await cleanup_orphans(stage.rindle.services, dry_run=False) == CleanupOrphansReport()
    assert await stage.keys() == {session.upload_key}


async def test_an_attached_asset_loses_its_session_only(stage: Stage) -> None:
    session = await ended(stage)
    await stage.rindle.attach(str(session.asset_id), ("user", "1"), "avatar")

    done = await cleanup_orphans(stage.rindle.services, dry_run=False)

    assert done == CleanupOrphansReport(sessions_found=1, sessions_deleted=1, objects_deleted=1)
    assert (await stage.rindle.asset(str(session.asset_id))).state == "staged"
    with pytest.raises(NotFound):
        await stage.session(session.id)


async def test_a_store_that_refuses_keeps_the_rows_and_does_not_stop_the_others(stage: Stage) -> None:
    one, other = await ended(stage), await ended(stage)
    store = FlakyStorage(storage(stage.environment))
    store.fail("delete", StorageUnauthorized("not for you"))
    services = stage.application(store=store).services

    outcome = await run_here(services, CleanupOrphans(), CleanupOrphansOptions(dry_run=False))

    assert outcome.report == CleanupOrphansReport(
        sessions_found=2, sessions_deleted=1, objects_deleted=1, storage_errors=1
    )
    assert outcome.report.has_errors
    [failure] = outcome.failures
    assert failure.code == "storage_unauthorized"
    kept = await stage.session(failure.item)
    assert kept.id in (one.id, other.id)
    assert await stage.keys() == {kept.upload_key}

    assert (await cleanup_orphans(stage.rindle.services, dry_run=False)).sessions_deleted == 1
    assert await stage.keys() == set()


@pytest.mark.parametrize("dry_run", [True, False])
async def test_unknown_stores_and_open_remote_sessions_are_skipped_and_counted(
    lite_stage: Stage, dry_run: bool
) -> None:
    stage = lite_stage
    resumable, foreign = await ended(stage), await ended(stage)
    await set_session(stage, resumable.id, session_uri="https://store.example/a-bearer-credential")

    def rename(session: Session) -> None:
        session.execute(update(MediaAsset).where(MediaAsset.id == foreign.asset_id).values(profile="removed"))

    await stage.rindle.database.write(rename)

    report = await cleanup_orphans(stage.rindle.services, dry_run=dry_run)

    assert report == CleanupOrphansReport(sessions_found=2, resumable_skipped=1, storage_skipped=1)
    assert len(await stage.keys()) == 2


async def test_pages_reach_every_session_once(lite_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        await ended(lite_stage)
    monkeypatch.setattr(session_pages, "PAGE", 2)

    assert (await cleanup_orphans(lite_stage.rindle.services)).sessions_found == 5
    done = await cleanup_orphans(lite_stage.rindle.services, dry_run=False)

    assert (done.sessions_found, done.sessions_deleted) == (5, 5)


async def test_a_profile_selects_and_an_unknown_one_is_refused(lite_stage: Stage) -> None:
    await ended(lite_stage, "plain")

    assert (await cleanup_orphans(lite_stage.rindle.services, profile="avatar")).sessions_found == 0
    assert (await cleanup_orphans(lite_stage.rindle.services, profile="plain")).sessions_found == 1
    with pytest.raises(UnknownProfile):
        await cleanup_orphans(lite_stage.rindle.services, profile="avatr")
