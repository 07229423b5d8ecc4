"""Uploads that their workflows have missed are ended by the sweeps, whatever kind they are."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rindle.db.models import utc_now
from rindle.db.streams import find_stream
from rindle.errors import NotFound
from rindle.operations.maintenance.abort_incomplete_uploads import (
    AbortIncompleteUploadsReport,
    abort_incomplete_uploads,
)
from rindle.operations.maintenance.cleanup_orphans import CleanupOrphansReport, cleanup_orphans
from tests.integration.http.tus.conftest import Mount
from tests.integration.http.tus.test_interruptions import set_session
from tests.tus import session_of


@pytest.mark.parametrize("concat", ["", "partial"], ids=["whole", "partial"])
async def test_an_overdue_upload_is_expired_released_and_deleted(mount: Mount, concat: str) -> None:
    services = mount.rindle.services
    live, overdue = [await mount.create(10, b"hello", upload_concat=concat) for _ in range(2)]
    await set_session(mount, overdue, expires_at=utc_now() - timedelta(minutes=1))

    report = await abort_incomplete_uploads(services)

    assert report == AbortIncompleteUploadsReport(sessions_found=1, sessions_aborted=1, tus_aborts=1)
    row = await mount.row(overdue)
    assert (row.state, row.backing_released_at is not None) == ("expired", True)
    assert mount.files() == {f"{session_of(live)}.part"}
    assert await abort_incomplete_uploads(services) == AbortIncompleteUploadsReport()
    assert (await cleanup_orphans(services)).sessions_found == 1
    cleaned = await cleanup_orphans(services, dry_run=False)
    assert (cleaned.sessions_found, cleaned.sessions_deleted) == (1, 1)
    if concat:
        assert await mount.rindle.database.read(find_stream, session_of(overdue)) is None
    else:
        with pytest.raises(NotFound):
            await mount.rindle.upload_session(session_of(overdue))
    assert (await mount.row(live)).state == "uploading"


async def test_an_ended_upload_whose_bytes_were_not_removed_is_released(mount: Mount) -> None:
    url = await mount.create(3, b"abc")
    await mount.call("DELETE", url)
    assert len(mount.files()) == 1

    assert (await abort_incomplete_uploads(mount.rindle.services)).tus_aborts == 1

    assert mount.files() == set()
    assert (await mount.row(url)).backing_released_at is not None


async def test_only_uploads_of_the_named_profile_are_swept(mount: Mount) -> None:
    services = mount.rindle.services
    for concat in ("", "partial"):
        url = await mount.create(10, b"hello", upload_concat=concat)
        await set_session(mount, url, expires_at=utc_now() - timedelta(minutes=1))

    assert await abort_incomplete_uploads(services, profile="avatar") == AbortIncompleteUploadsReport()
    assert (await abort_incomplete_uploads(services, profile="plain")).tus_aborts == 2
    assert await cleanup_orphans(services, profile="avatar", dry_run=False) == CleanupOrphansReport()
    assert (await cleanup_orphans(services, profile="plain", dry_run=False)).sessions_deleted == 2


async def test_a_partial_upload_that_is_being_joined_is_not_overdue(mount: Mount) -> None:
    part = await mount.create(3, b"abc", upload_concat="partial")
    await mount.call("POST", upload_concat=f"final;{part}")
    await set_session(mount, part, expires_at=utc_now() - timedelta(minutes=1))

    assert (await abort_incomplete_uploads(mount.rindle.services)).tus_aborts == 0

    assert (await mount.row(part)).state == "uploaded"
