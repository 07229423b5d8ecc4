"""Uploads that nobody ended are ended, and what they left in the store is removed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from rindle import MediaUploadSession
from rindle.db.models import utc_now
from rindle.errors import StorageTransient, UnknownProfile
from rindle.operations.maintenance import abort_incomplete_uploads as module
from rindle.operations.maintenance import session_pages
from rindle.operations.maintenance.abort_incomplete_uploads import (
    AbortIncompleteUploads,
    AbortIncompleteUploadsReport,
    abort_incomplete_uploads,
)
from rindle.operations.maintenance.sweep import ProfileOptions, run_here
from rindle.protocols import DeleteResult
from rindle.testing.flaky import FlakyStorage
from tests.application import storage
from tests.invariants import everything_holds
from tests.stage import Stage


async def set_session(stage: Stage, session_id: str, **values: object) -> None:
    """Write columns of an upload session, as if it had come to that."""

    def write(session: Session) -> None:
        session.execute(update(MediaUploadSession).where(MediaUploadSession.id == session_id).values(**values))

    await stage.rindle.database.write(write)


async def overdue(stage: Stage) -> MediaUploadSession:
    """Return a signed upload with its object that is past its expiry, and that no workflow knows."""
    session = await stage.sent()
    await stage.let_tickets_expire(session.id, hours=1)
    await set_session(stage, session.id, expires_at=utc_now() - timedelta(minutes=1))
    return await stage.session(session.id)


async def test_overdue_uploads_expire_and_their_objects_are_deleted(stage: Stage) -> None:
    late, live = await overdue(stage), await stage.sent()
    never_signed = await stage.rindle.initiate_upload("avatar", filename="me.jpg")
    await set_session(stage, never_signed.id, expires_at=utc_now() - timedelta(minutes=1))

    report = await abort_incomplete_uploads(stage.rindle.services)

    assert report == AbortIncompleteUploadsReport(sessions_found=2, sessions_aborted=2, presigned_put_aborts=2)
    for session_id in (late.id, never_signed.id):
        session = await stage.session(session_id)
        assert (session.state, session.error_code) == ("expired", "upload_session_expired")
        assert session.backing_released_at is not None
    assert await stage.keys() == {live.upload_key}
    assert (await stage.session(live.id)).state == "signed"
    assert len(await stage.events(str(late.asset_id), "upload_session_expired")) == 1
    assert await abort_incomplete_uploads(stage.rindle.services) == AbortIncompleteUploadsReport()
    await stage.rindle.cancel_upload(live.id)
    assert (await abort_incomplete_uploads(stage.rindle.services)).sessions_aborted == 1
    await everything_holds(stage)


async def test_ended_uploads_whose_bytes_were_not_removed_are_released(stage: Stage) -> None:
    session = await stage.sent()
    await stage.rindle.cancel_upload(session.id)

    report = await abort_incomplete_uploads(stage.rindle.services)

    assert report == AbortIncompleteUploadsReport(sessions_found=1, sessions_aborted=1, presigned_put_aborts=1)
    assert (await stage.session(session.id)).state == "aborted"
    assert await stage.keys() == set()


async def test_a_ticket_that_may_still_be_redeemed_leaves_the_second_deletion_to_the_workflow(stage: Stage) -> None:
    session = await overdue(stage)
    await set_session(stage, session.id, url_expires_at=utc_now() + timedelta(minutes=5))
    before = len(await stage.outbox())

    assert (await abort_incomplete_uploads(stage.rindle.services)).sessions_aborted == 1

    [*_, added] = await stage.outbox()
    assert len(await stage.outbox()) == before + 1
    assert (added.workflow_id, added.signal) == (stage.upload_workflow(session.id), "touch")


async def test_a_store_that_refuses_is_noted_and_the_next_run_tries_again(stage: Stage) -> None:
    await overdue(stage), await overdue(stage)
    store = FlakyStorage(storage(stage.environment))
    store.fail("delete", StorageTransient("no answer"))
    services = stage.application(store=store).services

    outcome = await run_here(services, AbortIncompleteUploads(), ProfileOptions())

    assert outcome.report == AbortIncompleteUploadsReport(
        sessions_found=2, sessions_aborted=1, presigned_put_aborts=1, abort_errors=1
    )
    assert outcome.report.has_errors
    [failure] = outcome.failures
    assert failure.code == "storage_transient"
    failed = await stage.session(failure.item)
    assert (failed.state, failed.release_error_code, failed.backing_released_at) == (
        "expired",
        "storage_transient",
        None,
    )

    again = await abort_incomplete_uploads(services)
    assert again == AbortIncompleteUploadsReport(sessions_found=1, sessions_aborted=1, presigned_put_aborts=1)
    assert (await stage.session(failed.id)).release_error_code is None
    assert await stage.keys() == set()


async def test_an_upload_that_is_verified_meanwhile_keeps_its_object(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await overdue(stage)

    async def verify_after_selection(*arguments: object) -> object:
        await stage.rindle.verify_completion(session.id)
        return await original(*arguments)

    original = module._end
    monkeypatch.setattr(module, "_end", verify_after_selection)

    report = await abort_incomplete_uploads(stage.rindle.services)

    assert report == AbortIncompleteUploadsReport(sessions_found=1)
    assert (await stage.session(session.id)).state == "completed"
    assert await stage.keys() == {session.upload_key}


async def test_uploads_through_the_application_have_no_counter_of_their_own(lite_stage: Stage) -> None:
    session = await overdue(lite_stage)
    await set_session(lite_stage, session.id, upload_strategy="server")

    report = await abort_incomplete_uploads(lite_stage.rindle.services)

    assert report == AbortIncompleteUploadsReport(sessions_found=1, sessions_aborted=1)


async def test_pages_reach_every_session_once(lite_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        if number % 2:
            await overdue(lite_stage)
        else:
            await lite_stage.rindle.cancel_upload((await lite_stage.sent()).id)
    monkeypatch.setattr(session_pages, "PAGE", 2)
    deleted: list[str] = []

    class Watched(FlakyStorage):
        async def delete(self, key: str) -> DeleteResult:
            deleted.append(key)
            return await super().delete(key)

    services = lite_stage.application(store=Watched(storage(lite_stage.environment))).services

    report = await abort_incomplete_uploads(services)

    assert (report.sessions_found, report.sessions_aborted) == (7, 7)
    assert len(deleted) == len(set(deleted)) == 7
    with pytest.raises(UnknownProfile):
        await abort_incomplete_uploads(services, profile="avatr")
