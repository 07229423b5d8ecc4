"""Multipart uploads against MinIO: from the first part to the finished asset, and every way in which they end."""

from __future__ import annotations

import asyncio
import hashlib
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from rindle import MediaAsset, MediaEvent, MediaOutbox, MediaUploadSession
from rindle.db import multipart as rows
from rindle.db.models import utc_now
from rindle.errors import (
    CapabilityUnsupported,
    InvalidArgument,
    InvalidMultipartParts,
    InvalidPartNumber,
    InvalidTransition,
    MultipartUploadNotInitialized,
    RindleError,
    StateConflict,
    StorageNotFound,
    StorageObjectMissing,
    StorageTransient,
    StorageUnauthorized,
    UploadCancelled,
    UploadRejected,
    UploadSessionExpired,
)
from rindle.operations.maintenance.abort_incomplete_uploads import abort_incomplete_uploads
from rindle.operations.maintenance.cleanup_orphans import cleanup_orphans
from rindle.protocols import StoredObject
from rindle.security import scrub
from tests.integration.uploads.conftest import (
    MIB,
    PART_BYTES,
    change,
    cut,
    double_of,
    everything_unfinished,
    flaky_bucket,
    large_photo,
    let_expire,
    open_uploads,
    released,
    send_all,
    send_part,
    store_of,
    wake,
)
from tests.invariants import everything_holds
from tests.patience import PATIENCE_SECONDS
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, photo, staged

pytestmark = pytest.mark.external


async def test_a_photo_in_two_parts_becomes_a_finished_asset(s3_stage: Stage, tmp_path: Path) -> None:
    stage, body = s3_stage, large_photo(tmp_path / "photo.jpg")
    await stage.member()

    opened = await stage.rindle.initiate_multipart_upload(
        "avatar", filename="me.jpg", size=len(body), part_size=PART_BYTES, actor="alice"
    )
    session_id = opened.session.id
    assert (opened.session.state, opened.session.upload_strategy) == ("initialized", "multipart")
    assert (opened.multipart.part_size, opened.multipart.part_count) == (PART_BYTES, 2)
    assert opened.multipart.upload_id not in repr(opened)
    sent = await send_all(stage, session_id, cut(body))
    assert (await stage.session(session_id)).state == "signed"
    assert await stage.rindle.list_parts(session_id) == sent
    observed = await stage.session(session_id)
    assert (observed.state, observed.last_known_offset) == ("uploading", len(body))

    done = await stage.rindle.complete_multipart_upload(
        session_id, [{"PartNumber": part.part_number, "ETag": f'"{part.etag}"'} for part in reversed(sent)]
    )

    assert (done.session.state, done.asset.state, done.asset.byte_size) == ("completed", "validating", len(body))
    ready = await stage.settled(done.asset.id)
    assert ready.state == "ready"
    stored = await store_of(stage).download(ready.storage_key, tmp_path / "copy")
    assert hashlib.sha256(stored.read_bytes()).digest() == hashlib.sha256(body).digest()
    assert await open_uploads(stage, session_id) == []
    again = await stage.rindle.complete_multipart_upload(session_id)
    assert (again.session.state, again.asset.id) == ("completed", ready.id)
    assert [event.type for event in await stage.events(ready.id) if event.type.startswith("upload_session")] == [
        "upload_session_initialized",
        "upload_session_signed",
        "upload_session_uploading",
        "upload_session_state_changed",
        "upload_session_state_changed",
        "upload_session_completed",
    ]
    await everything_holds(stage)


# --- where it does not begin -------------------------------------------------------------------------------------


async def count_rows(stage: Stage) -> int:
    """Return how many rows of uploads the database has, of any table."""
    tables = (MediaAsset, MediaUploadSession, MediaEvent, MediaOutbox)
    return await stage.read(lambda session: sum(session.scalar(select(func.count()).select_from(t)) for t in tables))


async def begin(stage: Stage, size: int | None = None, profile: str = "plain", **options: Any) -> str:
    """Open an upload of the smallest parts and return its session's id."""
    opened = await stage.rindle.initiate_multipart_upload(
        profile, filename="a.bin", size=size, part_size=PART_BYTES, **options
    )
    return opened.session.id


async def test_a_store_without_parts_refuses_before_any_row(lite_stage: Stage) -> None:
    with pytest.raises(CapabilityUnsupported) as refused:
        await begin(lite_stage)

    assert (refused.value.code, refused.value.capability) == ("upload_unsupported", "multipart_upload")
    assert await count_rows(lite_stage) == 0


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"size": 8_000_001, "filename": "a.jpg"}, "max_bytes_exceeded"),
        ({"part_size": 5 * MIB - 1}, "invalid_argument"),
        ({"part_size": 5 * 1024 * MIB + 1}, "invalid_argument"),
        ({"part_size": True}, "invalid_argument"),
        ({"size": -1}, "invalid_argument"),
        ({"idempotency_key": "k"}, "invalid_argument"),
    ],
)
async def test_a_bad_beginning_leaves_no_row(lite_s3_stage: Stage, options: dict[str, Any], code: str) -> None:
    with pytest.raises(RindleError) as refused:
        await lite_s3_stage.rindle.initiate_multipart_upload("avatar", **options)

    assert refused.value.code == code
    assert await count_rows(lite_s3_stage) == 0


async def test_a_refusal_of_the_store_leaves_no_row(flaky_s3_stage: Stage) -> None:
    stage, store = flaky_s3_stage, double_of(flaky_s3_stage)
    store.fail("initiate_multipart_upload", StorageUnauthorized("refused"))

    with pytest.raises(StorageUnauthorized):
        await begin(stage, actor="alice", idempotency_key="one")

    assert await count_rows(stage) == 0
    session_id = await begin(stage, actor="alice", idempotency_key="one")  # the key is free again
    assert len(await open_uploads(stage, session_id)) == 1


async def test_an_upload_whose_beginning_was_not_confirmed_is_aborted(flaky_s3_stage: Stage) -> None:
    stage, store = flaky_s3_stage, double_of(flaky_s3_stage)
    store.fail("initiate_multipart_upload", StorageTransient("the answer was lost"), after=True)

    with pytest.raises(StorageTransient):
        await begin(stage)

    assert await count_rows(stage) == 0
    assert await everything_unfinished(stage) == []


async def test_what_cannot_be_aborted_at_once_is_released_by_the_workflow(flaky_s3_stage: Stage) -> None:
    stage, store = flaky_s3_stage, double_of(flaky_s3_stage)
    store.fail("initiate_multipart_upload", StorageTransient("the answer was lost"), after=True)
    store.fail("list_multipart_uploads", StorageTransient("still away"), times=2)

    with pytest.raises(StorageTransient):
        await begin(stage)

    [session_id] = await stage.read(lambda session: list(session.scalars(select(MediaUploadSession.id))))
    assert (await stage.session(session_id)).state == "aborted"
    await stage.member()
    await released(stage, session_id)
    assert await everything_unfinished(stage) == []


async def test_an_upload_that_its_row_could_not_record_is_aborted(
    flaky_s3_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> None:
        raise StateConflict("the database was away")

    monkeypatch.setattr(rows, "note_begun", lost)

    with pytest.raises(StateConflict):
        await begin(flaky_s3_stage)

    assert await everything_unfinished(flaky_s3_stage) == []


async def test_one_idempotency_key_begins_one_upload(s3_stage: Stage) -> None:
    stage = s3_stage

    first, *others = await asyncio.gather(
        *(begin(stage, 3 * PART_BYTES, actor="alice", idempotency_key="one") for _ in range(5))
    )

    assert {*others} == {first}
    assert await open_uploads(stage, first) == [(await stage.session(first)).multipart_upload_id]
    with pytest.raises(InvalidArgument):
        await stage.rindle.initiate_upload("plain", filename="a.bin", actor="alice", idempotency_key="one")


async def test_a_repeated_call_continues_a_beginning_that_was_interrupted(flaky_s3_stage: Stage) -> None:
    stage, store = flaky_s3_stage, double_of(flaky_s3_stage)
    store.fail("initiate_multipart_upload", StorageTransient("no answer"))
    with pytest.raises(StorageTransient):
        await begin(stage, actor="alice", idempotency_key="one")
    [session_id] = await stage.read(lambda session: list(session.scalars(select(MediaUploadSession.id))))
    with pytest.raises(MultipartUploadNotInitialized):
        await stage.rindle.sign_multipart_part(session_id, 1)
    with pytest.raises(MultipartUploadNotInitialized):
        await stage.rindle.complete_multipart_upload(session_id)

    assert await begin(stage, actor="alice", idempotency_key="one") == session_id
    await send_part(stage, session_id, 1, b"now it goes on")


# --- parts -------------------------------------------------------------------------------------------------------


async def test_parts_are_checked_against_the_declared_size(lite_s3_stage: Stage) -> None:
    stage = lite_s3_stage
    session_id = await begin(stage, 2 * PART_BYTES + 7)

    for number in (0, -1, 4, 10_001, True, "1"):
        with pytest.raises(InvalidPartNumber):
            await stage.rindle.sign_multipart_part(session_id, number)  # type: ignore[arg-type]
    grant = (await stage.rindle.sign_multipart_part(session_id, 3)).presigned
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as browser:
        assert (await browser.put(grant.url, content=b"x" * 8)).status_code == 403
        assert (await browser.put(grant.url, content=b"x" * 7)).status_code == 200
    assert "uploadId=[REDACTED]" in scrub(grant.url)


async def test_each_signed_part_extends_the_session(lite_s3_stage: Stage) -> None:
    stage = lite_s3_stage
    session_id = await begin(stage)
    await let_expire(stage, session_id, in_seconds=30)

    signed = await stage.rindle.sign_multipart_part(session_id, 1)

    day = timedelta(seconds=stage.rindle.settings.upload_session_ttl_seconds)
    assert day - timedelta(minutes=5) < signed.session.expires_at - utc_now() <= day
    assert signed.presigned.expires_at <= signed.session.expires_at
    await let_expire(stage, session_id)
    with pytest.raises(UploadSessionExpired):
        await stage.rindle.sign_multipart_part(session_id, 1)


async def test_no_session_lives_for_longer_than_a_week(lite_s3_stage: Stage) -> None:
    stage = lite_s3_stage
    session_id = await begin(stage)
    opened = utc_now() - timedelta(days=6, hours=23, minutes=30)
    await change(stage, session_id, inserted_at=opened, expires_at=utc_now() + timedelta(seconds=60))

    signed = await stage.rindle.sign_multipart_part(session_id, 1)

    assert signed.session.expires_at == opened + timedelta(days=7)
    assert signed.presigned.expires_at <= signed.session.expires_at


async def test_an_upload_of_another_lane_has_no_parts(lite_s3_stage: Stage) -> None:
    stage = lite_s3_stage
    direct = await stage.rindle.initiate_upload("plain", filename="a.bin")
    parts = await begin(stage)

    for call in (
        stage.rindle.sign_multipart_part(direct.id, 1),
        stage.rindle.list_parts(direct.id),
        stage.rindle.complete_multipart_upload(direct.id),
        stage.rindle.sign_url(parts),
    ):
        with pytest.raises(CapabilityUnsupported):
            await call


# --- completing --------------------------------------------------------------------------------------------------

BAD_LISTS: dict[str, Any] = {
    "empty": [],
    "no list": {"part_number": 1, "etag": "e"},
    "a string": "parts",
    "twice": [{"part_number": 1, "etag": "e"}, {"PartNumber": 1, "ETag": "e"}],
    "no number": [{"etag": "e"}],
    "number as text": [{"part_number": "1", "etag": "e"}],
    "true": [{"part_number": True, "etag": "e"}],
    "0": [{"part_number": 0, "etag": "e"}],
    "10001": [{"part_number": 10_001, "etag": "e"}],
    "no etag": [{"part_number": 1}],
    "empty etag": [{"part_number": 1, "etag": '""'}],
    "no entry": [None],
    "too many": [{"part_number": number, "etag": "e"} for number in range(1, 10_002)],
    "unknown etag": [{"part_number": 1, "etag": "0" * 32}],
    "unknown part": [{"part_number": 3, "etag": "0" * 32}],
}


async def test_a_list_that_does_not_match_changes_nothing(lite_s3_stage: Stage) -> None:
    stage = lite_s3_stage
    body = os.urandom(PART_BYTES + 3)
    session_id = await begin(stage, len(body))
    with pytest.raises(InvalidMultipartParts):
        await stage.rindle.complete_multipart_upload(session_id)  # nothing has arrived
    pieces = cut(body)
    first = await send_part(stage, session_id, 1, pieces[0])
    with pytest.raises(InvalidMultipartParts) as early:
        await stage.rindle.complete_multipart_upload(session_id)
    assert early.value.detail == {"expected": len(body), "found": PART_BYTES}
    second = await send_part(stage, session_id, 2, pieces[1])
    for bad in BAD_LISTS.values():
        with pytest.raises(InvalidMultipartParts):
            await stage.rindle.complete_multipart_upload(session_id, bad)
    with pytest.raises(InvalidMultipartParts) as other:
        await stage.rindle.complete_multipart_upload(session_id, [first, {"part_number": 2, "etag": first.etag}])
    assert other.value.detail == {"part_number": 2}
    assert (await stage.session(session_id)).state == "uploading"

    done = await stage.rindle.complete_multipart_upload(
        session_id, [{"part_number": 2, "etag": f'W/"{second.etag}"'}, first]
    )

    assert done.session.state == "completed"


async def test_parts_that_are_too_small_are_refused_and_can_be_replaced(lite_s3_stage: Stage) -> None:
    stage = lite_s3_stage
    session_id = await begin(stage)
    await send_all(stage, session_id, [b"small", b"small too"])
    with pytest.raises(InvalidMultipartParts):
        await stage.rindle.complete_multipart_upload(session_id)
    body = os.urandom(PART_BYTES)
    await send_part(stage, session_id, 1, body)

    done = await stage.rindle.complete_multipart_upload(session_id)

    assert done.asset.byte_size == PART_BYTES + len(b"small too")


async def test_more_than_the_profile_allows_is_refused_and_removed(lite_s3_stage: Stage) -> None:
    stage = lite_s3_stage
    session_id = await begin(stage, profile="avatar")
    await send_all(stage, session_id, [bytes(PART_BYTES), bytes(PART_BYTES)])

    with pytest.raises(UploadRejected) as refused:
        await stage.rindle.complete_multipart_upload(session_id)

    assert refused.value.code == "max_bytes_exceeded"
    session = await stage.session(session_id)
    assert (session.state, session.error_code) == ("failed", "max_bytes_exceeded")
    with pytest.raises(UploadRejected):
        await stage.rindle.complete_multipart_upload(session_id)
    await stage.member()
    await released(stage, session_id)
    assert await open_uploads(stage, session_id) == []


async def test_completing_at_the_same_time_completes_once(s3_stage: Stage) -> None:
    stage = s3_stage
    body = os.urandom(PART_BYTES + 1)
    session_id = await begin(stage, len(body))
    await send_all(stage, session_id, cut(body))

    done = await asyncio.gather(*(stage.rindle.complete_multipart_upload(session_id) for _ in range(4)))

    assert {upload.session.state for upload in done} == {"completed"}
    asset_id = done[0].asset.id
    events = await stage.events(asset_id, "upload_session_completed")
    assert len(events) == 1
    outbox = [row.signal for row in await stage.outbox()]
    assert outbox.count("verified") == 1


async def test_a_call_that_has_read_the_upload_before_another_one_completes_it_succeeds(flaky_s3_stage: Stage) -> None:
    stage, store = flaky_s3_stage, double_of(flaky_s3_stage)
    session_id = await begin(stage)
    await send_part(stage, session_id, 1, b"only one")
    held = store.hang("list_parts")
    earlier = asyncio.create_task(stage.rindle.complete_multipart_upload(session_id))
    await held.reached.wait()
    await stage.rindle.complete_multipart_upload(session_id)

    held.release()

    assert (await earlier).session.state == "completed"


async def test_a_completion_whose_answer_was_lost_is_found_again(flaky_s3_stage: Stage) -> None:
    stage, store = flaky_s3_stage, double_of(flaky_s3_stage)
    session_id = await begin(stage)
    await send_part(stage, session_id, 1, b"only one")
    store.fail("complete_multipart_upload", StorageTransient("the answer was lost"), after=True)
    with pytest.raises(StorageTransient):
        await stage.rindle.complete_multipart_upload(session_id)
    assert (await stage.session(session_id)).state == "uploading"

    done = await stage.rindle.complete_multipart_upload(session_id)  # NoSuchUpload, and the object is there

    assert (done.session.state, done.asset.byte_size) == ("completed", len(b"only one"))


async def test_a_completion_that_was_interrupted_is_finished_by_the_workflow(
    tmp_path: Path, temporal_server: TemporalServer, bucket_environment: dict[str, str]
) -> None:
    environment = {**bucket_environment, "RINDLE_AUTO_VERIFY_GRACE_SECONDS": "1"}
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    store = flaky_bucket(bucket_environment)
    async with staged(tmp_path, url, temporal_server.target, environment, store=store) as stage:
        body = photo(tmp_path / "photo.jpg").read_bytes()
        session_id = await begin(stage)
        await send_part(stage, session_id, 1, body)
        store.fail("complete_multipart_upload", StorageTransient("away"))
        with pytest.raises(StorageTransient):
            await stage.rindle.complete_multipart_upload(session_id)

        await stage.member()

        asset = await stage.settled(str((await stage.session(session_id)).asset_id))
        assert (asset.state, asset.byte_size) == ("ready", len(body))
        assert (await stage.session(session_id)).state == "completed"


async def test_an_upload_whose_parts_have_all_arrived_completes_by_itself(
    tmp_path: Path, temporal_server: TemporalServer, bucket_environment: dict[str, str]
) -> None:
    environment = {**bucket_environment, "RINDLE_AUTO_VERIFY_INITIAL_SECONDS": "0.2"}
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, temporal_server.target, environment) as stage:
        await stage.member()
        body = large_photo(tmp_path / "photo.jpg")
        session_id = await begin(stage, len(body), auto_verify=True)

        await send_all(stage, session_id, cut(body))

        asset = await stage.settled(str((await stage.session(session_id)).asset_id))
        assert (asset.state, asset.byte_size) == ("ready", len(body))


async def test_parts_that_the_store_has_lost_end_the_upload(lite_s3_stage: Stage) -> None:
    stage = lite_s3_stage
    session_id = await begin(stage)
    await send_part(stage, session_id, 1, b"lost")
    session = await stage.session(session_id)
    await store_of(stage).abort_multipart_upload(session.upload_key, str(session.multipart_upload_id))

    with pytest.raises(StorageNotFound):
        await stage.rindle.list_parts(session_id)
    with pytest.raises(StorageObjectMissing):
        await stage.rindle.complete_multipart_upload(session_id)

    ended = await stage.session(session_id)
    assert (ended.state, ended.error_code) == ("failed", "storage_object_missing")


# --- the end -----------------------------------------------------------------------------------------------------


async def test_a_cancelled_upload_leaves_no_parts(s3_stage: Stage) -> None:
    stage = s3_stage
    await stage.member()
    session_id = await begin(stage, 2 * PART_BYTES)
    await send_part(stage, session_id, 1, bytes(PART_BYTES))

    await stage.rindle.cancel_upload(session_id)

    await released(stage, session_id)
    assert await open_uploads(stage, session_id) == []
    with pytest.raises(UploadCancelled):
        await stage.rindle.complete_multipart_upload(session_id)
    with pytest.raises(UploadCancelled):
        await stage.rindle.list_parts(session_id)
    with pytest.raises(InvalidTransition):
        await stage.rindle.sign_multipart_part(session_id, 2)


async def test_an_expired_upload_is_released_and_an_extended_one_is_not(s3_stage: Stage) -> None:
    stage = s3_stage
    await stage.member()
    short, extended = await begin(stage), await begin(stage)
    await let_expire(stage, extended, in_seconds=PATIENCE_SECONDS)
    await stage.rindle.sign_multipart_part(extended, 1)
    assert (await stage.session(extended)).expires_at > utc_now() + timedelta(hours=12)
    await let_expire(stage, short, in_seconds=2)
    await wake(stage, short, extended)  # both timers are armed from the rows

    await released(stage, short)

    assert (await stage.session(short)).state == "expired"
    assert await open_uploads(stage, short, extended) == [(await stage.session(extended)).multipart_upload_id]
    with pytest.raises(UploadSessionExpired):
        await stage.rindle.complete_multipart_upload(short)


async def test_a_release_that_the_store_refuses_is_repeated_until_it_is_done(flaky_s3_stage: Stage) -> None:
    stage, store = flaky_s3_stage, double_of(flaky_s3_stage)
    session_id = await begin(stage)
    await send_part(stage, session_id, 1, b"part")
    store.fail("abort_multipart_upload", StorageUnauthorized("no permission"), times=2)

    await stage.rindle.cancel_upload(session_id)
    await stage.member()
    await released(stage, session_id)

    assert store.calls_for("abort_multipart_upload") == 3
    assert await open_uploads(stage, session_id) == []
    assert (await stage.session(session_id)).release_error_code is None


async def test_the_sweep_releases_what_no_workflow_did(lite_s3_stage: Stage) -> None:
    stage = lite_s3_stage
    expired, cancelled = await begin(stage), await begin(stage)
    for session_id in (expired, cancelled):
        await send_part(stage, session_id, 1, b"part")
    await let_expire(stage, expired)
    await stage.rindle.cancel_upload(cancelled)

    report = await abort_incomplete_uploads(stage.rindle.services)

    assert (report.sessions_aborted, report.multipart_aborts, report.abort_errors) == (2, 2, 0)
    assert await open_uploads(stage, expired, cancelled) == []
    for session_id in (expired, cancelled):
        await stage.let_tickets_expire(session_id, hours=1)
    cleaned = await cleanup_orphans(stage.rindle.services, dry_run=False)
    assert (cleaned.sessions_deleted, cleaned.storage_errors) == (2, 0)
    assert await stage.read(lambda session: session.scalar(select(func.count()).select_from(MediaUploadSession))) == 0


@pytest.mark.parametrize("first", ["complete", "cancel"])
async def test_a_completion_and_a_cancel_leave_one_outcome_and_no_residue(flaky_s3_stage: Stage, first: str) -> None:
    stage, store = flaky_s3_stage, double_of(flaky_s3_stage)
    session_id = await begin(stage)
    await send_part(stage, session_id, 1, b"part")
    held = store.hang("complete_multipart_upload")
    completing = asyncio.ensure_future(stage.rindle.complete_multipart_upload(session_id))
    await held.reached.wait()
    await stage.rindle.cancel_upload(session_id)
    if first == "cancel":
        await stage.member()
        await released(stage, session_id)
    held.release()

    with pytest.raises((UploadCancelled, StorageObjectMissing)):
        await completing

    if first == "complete":
        await stage.member()
        await released(stage, session_id)
    assert (await stage.session(session_id)).state == "aborted"
    assert await everything_unfinished(stage) == []
    assert await stage.keys() == set()


async def test_an_object_that_is_made_after_the_release_is_deleted(
    flaky_s3_stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A store needs minutes to join many parts, and an abort that arrives meanwhile does not stop it."""
    stage, bucket = flaky_s3_stage, store_of(flaky_s3_stage)
    begun, aborted = asyncio.Event(), asyncio.Event()
    (tmp_path / "joined").write_bytes(b"part")

    async def slowly(key: str, upload_id: str, parts: Any) -> StoredObject:
        begun.set()
        await aborted.wait()
        return await bucket.store(key, tmp_path / "joined")

    monkeypatch.setattr(bucket, "complete_multipart_upload", slowly)
    session_id = await begin(stage)
    await send_part(stage, session_id, 1, b"part")
    completing = asyncio.ensure_future(stage.rindle.complete_multipart_upload(session_id))
    await begun.wait()
    await stage.rindle.cancel_upload(session_id)
    await stage.member()
    await released(stage, session_id)
    aborted.set()

    with pytest.raises(UploadCancelled):
        await completing

    assert await stage.keys() == set()


async def test_the_purge_of_an_asset_removes_the_parts_of_its_upload(lite_s3_stage: Stage) -> None:
    stage = lite_s3_stage
    await stage.member()
    session_id = await begin(stage, profile="avatar")
    await send_all(stage, session_id, [bytes(PART_BYTES), bytes(PART_BYTES)])
    with pytest.raises(UploadRejected):
        await stage.rindle.complete_multipart_upload(session_id)
    key, asset_id = (await stage.session(session_id)).upload_key, str((await stage.session(session_id)).asset_id)
    await released(stage, session_id)
    late = await store_of(stage).initiate_multipart_upload(key, PART_BYTES)  # as a part that arrives afterwards
    await stage.let_tickets_expire(session_id)

    await stage.rindle.purge_asset(asset_id)
    await stage.gone(asset_id)

    assert late.upload_id not in await store_of(stage).list_multipart_uploads(key)


async def test_nothing_secret_is_shown(lite_s3_stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage = lite_s3_stage
    await stage.member()
    session_id = await begin(stage)
    upload_id = str((await stage.session(session_id)).multipart_upload_id)
    signed = await stage.rindle.sign_multipart_part(session_id, 1)
    await stage.rindle.cancel_upload(session_id)
    await released(stage, session_id)

    client = await stage.client()
    history = await client.get_workflow_handle(stage.upload_workflow(session_id)).fetch_history()
    told = [
        history.to_json(),
        repr(signed.presigned),
        repr(await stage.session(session_id)),
        caplog.text,
        *(str(event.payload) for event in await stage.events(str((await stage.session(session_id)).asset_id))),
        *(str(row.payload) for row in await stage.outbox()),
    ]

    assert not [text for text in told if upload_id in text or "X-Amz-Signature" in text]
