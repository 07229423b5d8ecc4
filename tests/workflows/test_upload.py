"""One upload's life on a real Temporal server: every end it can take."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError, WorkflowHandle

from rindle import MediaAsset, MediaUploadSession
from rindle.db.uploads import insert_upload
from rindle.errors import (
    InvalidArgument,
    InvalidTransition,
    NotFound,
    StorageObjectMissing,
    StorageTransient,
    UploadAlreadyCompleted,
    UploadCancelled,
    UploadRejected,
    UploadSessionExpired,
)
from rindle.testing.flaky import FlakyStorage
from rindle.uploads import sessions
from rindle.workflows.policies import LONGEST_LIFE
from tests.application import storage
from tests.invariants import everything_holds
from tests.patience import PATIENCE_SECONDS, until
from tests.stage import Stage, photo
from tests.workflows.fleet import Interruption, dispatched, in_stage, runs_of


async def test_a_photo_becomes_ready_with_all_its_variants(stage: Stage) -> None:
    await stage.member()

    asset = await stage.ready(actor="alice")

    assert (asset.state, asset.kind, asset.width, asset.height) == ("ready", "image", 800, 600)
    assert asset.content_type == "image/jpeg"
    assert asset.uploaded_by == "alice"
    assert asset.media_metadata["placeholder"].startswith("data:image/webp;base64,")
    found = {row.name: (row.state, row.width, row.height, row.content_type) for row in asset.variants}
    assert found == {
        "large": ("ready", 640, 480, "image/webp"),
        "thumb": ("ready", 96, 96, "image/jpeg"),
    }
    assert await stage.keys() == {asset.storage_key, *(str(row.storage_key) for row in asset.variants)}


async def test_the_event_trail_tells_the_whole_story_in_order(stage: Stage) -> None:
    await stage.member()

    asset = await stage.ready()

    states = [e.payload["state"] for e in await stage.events(asset.id, "asset_state_changed")]
    assert states == ["validating", "analyzing", "promoting", "available", "processing", "ready"]
    kinds = [e.type for e in await stage.events(asset.id) if e.type.startswith("upload_session")]
    assert kinds == [
        "upload_session_initialized",
        "upload_session_signed",
        "upload_session_state_changed",
        "upload_session_completed",
    ]


async def test_an_upload_costs_two_workflows_three_activities_and_at_most_45_events(lite_stage: Stage) -> None:
    stage = lite_stage
    await stage.member()
    session = await stage.sent()
    await in_stage(stage, stage.upload_workflow(session.id), "waiting")
    await stage.rindle.verify_completion(session.id)
    await stage.settled(str(session.asset_id))

    events, activities = await _cost(stage, session)
    assert (events <= 45, activities) == (True, 3), events


async def test_an_upload_verified_while_its_rows_are_read_costs_no_more(lite_stage: Stage) -> None:
    stage, interruption = lite_stage, Interruption()
    session = await stage.sent()

    async def verify() -> None:
        await stage.rindle.verify_completion(session.id)
        await dispatched(stage)

    interruption.at("reading", stage.upload_workflow(session.id), verify)
    await stage.member(interceptors=[interruption])
    await stage.settled(str(session.asset_id))

    assert interruption.done == [("reading", stage.upload_workflow(session.id))]
    events, activities = await _cost(stage, session)
    assert (events <= 45, activities) == (True, 3), events


async def test_a_cancel_request_that_arrives_while_the_rows_are_read_aborts_the_upload(lite_stage: Stage) -> None:
    stage, interruption = lite_stage, Interruption()
    session = await stage.sent()
    run = (await stage.client()).get_workflow_handle(stage.upload_workflow(session.id))

    async def cancel() -> None:
        await run.cancel()

        async def taken() -> bool:
            kinds = [event.event_type async for event in run.fetch_history_events()]
            requested = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
            seen = kinds[kinds.index(requested) :] if requested in kinds else []
            return EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED in seen

        await until(taken, what="the run to notice the request")

    interruption.at("reading", stage.upload_workflow(session.id), cancel)
    await stage.member(interceptors=[interruption])
    await dispatched(stage)

    with pytest.raises(WorkflowFailureError):
        await asyncio.wait_for(run.result(), PATIENCE_SECONDS)
    assert (await stage.session(session.id)).state == "aborted"
    assert await stage.keys() == set()


async def _cost(stage: Stage, session: MediaUploadSession) -> tuple[int, int]:
    """Return how many events and activities an upload took, when the run that started its build and that have ended."""

    async def started() -> list[WorkflowHandle[Any, Any]]:
        client = await stage.client()
        for run in await runs_of(stage, stage.upload_workflow(session.id)):
            for event in (await run.fetch_history()).events:
                if event.event_type == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
                    build = event.child_workflow_execution_started_event_attributes.workflow_execution
                    return [run, client.get_workflow_handle(build.workflow_id, run_id=build.run_id)]
        return []

    events, activities = 0, 0
    for handle in await until(started, what="the run that started the build"):
        await handle.result()
        history = await handle.fetch_history()
        events += len(history.events)
        activities += sum(e.HasField("activity_task_scheduled_event_attributes") for e in history.events)
    return events, activities


async def test_verify_twice_and_at_once_promotes_once(stage: Stage) -> None:
    session = await stage.sent()
    await stage.member()

    first, second = await asyncio.gather(
        stage.rindle.verify_completion(session.id), stage.rindle.verify_completion(session.id)
    )
    third = await stage.rindle.verify_completion(session.id)

    assert first.asset.id == second.asset.id == third.asset.id
    assert {first.session.state, second.session.state, third.session.state} == {"completed"}
    await stage.settled(first.asset.id)
    assert len(await stage.events(first.asset.id, "upload_session_completed")) == 1
    verified = [row for row in await stage.outbox() if row.signal == "verified"]
    assert len(verified) == 1


async def test_verifying_too_early_says_what_to_do_and_costs_nothing(stage: Stage) -> None:
    session = await stage.rindle.initiate_upload("avatar", filename="me.jpg")
    with pytest.raises(InvalidTransition, match="never signed"):
        await stage.rindle.verify_completion(session.id)
    await stage.rindle.sign_url(session.id)
    with pytest.raises(StorageObjectMissing):
        await stage.rindle.verify_completion(session.id)
    assert (await stage.session(session.id)).state == "signed"
    await stage.put(session.id, photo(stage.home / "p.jpg"))
    assert (await stage.rindle.verify_completion(session.id)).session.state == "completed"


async def test_a_wrong_size_is_refused_quarantined_and_its_object_removed(stage: Stage) -> None:
    await stage.member()
    session = await stage.sent(body=b"\xff\xd8\xff" + b"x" * 97, size=99)

    with pytest.raises(UploadRejected) as refused:
        await stage.rindle.verify_completion(session.id)
    assert (refused.value.code, refused.value.detail) == ("size_mismatch", {"expected": 99, "found": 100})
    with pytest.raises(UploadRejected, match="99 were declared"):  # again: the recorded reason
        await stage.rindle.verify_completion(session.id)

    row = await stage.session(session.id)
    asset = await stage.rindle.asset(str(row.asset_id))
    assert (row.state, row.error_code) == ("failed", "size_mismatch")
    assert (asset.state, asset.error_code) == ("quarantined", "size_mismatch")

    async def released() -> bool:
        return (await stage.session(session.id)).backing_released_at is not None

    await until(released, what="the object to be removed")
    assert await stage.keys() == set()


@pytest.mark.parametrize(("size", "code"), [(0, "empty_upload"), (8_000_001, "max_bytes_exceeded")])
async def test_empty_and_oversized_objects_are_refused_at_verify(lite_stage: Stage, size: int, code: str) -> None:
    session = await lite_stage.rindle.initiate_upload("avatar", filename="me.jpg")
    await lite_stage.rindle.sign_url(session.id)
    await lite_stage.put(session.id, b"x" * size)
    with pytest.raises(UploadRejected) as refused:
        await lite_stage.rindle.verify_completion(session.id)
    assert refused.value.code == code


async def test_cancel_removes_what_was_sent_and_verify_then_refuses(stage: Stage) -> None:
    await stage.member()
    session = await stage.sent()

    assert (await stage.rindle.cancel_upload(session.id)).state == "aborted"
    assert (await stage.rindle.cancel_upload(session.id)).state == "aborted"  # idempotent
    with pytest.raises(UploadCancelled):
        await stage.rindle.verify_completion(session.id)

    async def released() -> bool:
        return (await stage.session(session.id)).backing_released_at is not None

    await until(released, what="the object to be removed")
    assert await stage.keys() == set()


async def test_a_completed_upload_cannot_be_cancelled(lite_stage: Stage) -> None:
    session = await lite_stage.sent()
    await lite_stage.rindle.verify_completion(session.id)
    with pytest.raises(UploadAlreadyCompleted):
        await lite_stage.rindle.cancel_upload(session.id)


async def test_an_abandoned_upload_expires_by_its_timer(tmp_path: Path, stage: Stage) -> None:
    await stage.member()
    short = stage.application(RINDLE_UPLOAD_SESSION_TTL_SECONDS="2")
    session = await short.initiate_upload("avatar", filename="me.jpg")
    async with short:

        async def expired() -> bool:
            return (await stage.session(session.id)).state == "expired"

        await until(expired, what="the session to expire")
    with pytest.raises(UploadSessionExpired):
        await stage.rindle.verify_completion(session.id)
    assert (await stage.session(session.id)).error_code == "upload_session_expired"


async def test_bytes_that_arrived_before_the_end_are_accepted_after_it(lite_stage: Stage) -> None:
    """No worker runs, so the row is still live when its time is over: throwing away arrived bytes helps nobody."""
    session = await lite_stage.sent()
    await lite_stage.let_session_expire(session.id)

    assert (await lite_stage.rindle.verify_completion(session.id)).session.state == "completed"


async def test_verify_after_expiry_without_bytes_expires_the_session(lite_stage: Stage) -> None:
    session = await lite_stage.rindle.initiate_upload("avatar", filename="me.jpg")
    await lite_stage.rindle.sign_url(session.id)
    with pytest.raises(StorageObjectMissing):
        await lite_stage.rindle.verify_completion(session.id)
    await lite_stage.let_session_expire(session.id)

    with pytest.raises(UploadSessionExpired):
        await lite_stage.rindle.verify_completion(session.id)
    assert (await lite_stage.session(session.id)).state == "expired"


async def test_an_upload_that_verifies_itself_needs_no_call(lite_stage: Stage) -> None:
    impatient = lite_stage.application(RINDLE_AUTO_VERIFY_INITIAL_SECONDS="0.3", RINDLE_AUTO_VERIFY_MAX_SECONDS="1")
    await lite_stage.member(impatient)
    session = await impatient.initiate_upload("avatar", filename="me.jpg", auto_verify=True)
    await impatient.sign_url(session.id)
    await lite_stage.put(session.id, photo(lite_stage.home / "p.jpg"))  # and then the browser dies

    assert (await lite_stage.settled(str(session.asset_id))).state == "ready"


async def test_one_idempotency_key_is_one_upload_per_actor(stage: Stage) -> None:
    first = await stage.rindle.initiate_upload("avatar", filename="a.jpg", actor="alice", idempotency_key="k")
    again = await stage.rindle.initiate_upload("avatar", filename="a.jpg", actor="alice", idempotency_key="k")
    other = await stage.rindle.initiate_upload("avatar", filename="a.jpg", actor="bob", idempotency_key="k")
    at_once = await asyncio.gather(
        *(
            stage.rindle.initiate_upload("avatar", filename="a.jpg", actor="alice", idempotency_key="k2")
            for _ in range(4)
        )
    )
    assert first.id == again.id != other.id
    assert len({session.id for session in at_once}) == 1


async def test_an_idempotency_key_belongs_to_one_profile(stage: Stage) -> None:
    await stage.rindle.initiate_upload("avatar", filename="a.jpg", actor="alice", idempotency_key="k")

    with pytest.raises(InvalidArgument) as refused:
        await stage.rindle.initiate_upload("plain", filename="a.txt", actor="alice", idempotency_key="k")
    at_once = await asyncio.gather(
        *(
            stage.rindle.initiate_upload(profile, filename="a.jpg", actor="alice", idempotency_key="k2")
            for profile in ("avatar", "plain", "avatar", "plain")
        ),
        return_exceptions=True,
    )

    assert refused.value.detail == {"option": "idempotency_key"}
    assert sorted(type(result).__name__ for result in at_once) == [
        *("InvalidArgument", "InvalidArgument"),
        *("MediaUploadSession", "MediaUploadSession"),
    ]
    assert len(await _sessions_of_keys(stage)) == 2


async def test_an_idempotency_key_without_an_actor_is_refused_also_by_many_at_once(stage: Stage) -> None:
    results = await asyncio.gather(
        *(stage.rindle.initiate_upload("avatar", filename="a.jpg", idempotency_key="k") for _ in range(4)),
        return_exceptions=True,
    )

    assert [type(result) for result in results] == [InvalidArgument] * 4
    assert await _sessions_of_keys(stage) == []


async def test_uploads_that_an_older_release_opened_with_one_key_and_no_actor_are_in_nobodys_way(stage: Stage) -> None:
    def leave_two(session: Session) -> None:
        for _ in range(2):
            asset, upload = sessions.new_upload(
                stage.rindle.profiles.get("avatar"),
                filename="a.jpg",
                actor=None,
                strategy="presigned_put",
                ttl_seconds=60,
            )
            upload.idempotency_key = "k"
            insert_upload(session, asset, upload)

    await stage.rindle.database.write(leave_two)

    with pytest.raises(InvalidArgument):
        await stage.rindle.initiate_upload("avatar", filename="a.jpg", idempotency_key="k")
    opened = await stage.rindle.initiate_upload("avatar", filename="a.jpg", actor="alice", idempotency_key="k")

    assert opened.state == "initialized"
    assert len(await _sessions_of_keys(stage)) == 3


async def _sessions_of_keys(stage: Stage) -> list[str]:
    def read(session: Session) -> list[str]:
        with_key = select(MediaUploadSession.id).where(MediaUploadSession.idempotency_key.is_not(None))
        return list(session.scalars(with_key))

    return await stage.rindle.database.read(read)


@pytest.mark.parametrize("session_id", ["0198c0de-0000-7000-8000-000000000000", "not an id", "", "x" * 5000])
async def test_an_unknown_session_is_not_found_whatever_it_looks_like(stage: Stage, session_id: str) -> None:
    for call in (
        stage.rindle.verify_completion,
        stage.rindle.sign_url,
        stage.rindle.cancel_upload,
        stage.rindle.upload_session,
    ):
        with pytest.raises(NotFound):
            await call(session_id)


async def test_a_profile_policy_is_checked_before_any_row_exists(stage: Stage) -> None:
    with pytest.raises(UploadRejected) as refused:
        await stage.rindle.initiate_upload("avatar", filename="me.jpg", size=9_000_000)
    assert (refused.value.code, refused.value.http_status) == ("max_bytes_exceeded", 413)
    assert refused.value.message == (
        "This file is too large: files of at most 8 MB are accepted and this one has 9 MB. Send a smaller one."
    )
    assert "8000000" in (refused.value.operator or "")
    assert await stage.outbox() == []


# --- server-side uploads with a key ------------------------------------------------------------------------------


async def test_one_idempotency_key_is_one_server_side_upload_per_actor(stage: Stage) -> None:
    source = photo(stage.home / "p.jpg")

    async def upload(key: str, actor: str = "alice") -> MediaAsset:
        return await stage.rindle.upload("avatar", source, filename="a.jpg", actor=actor, idempotency_key=key)

    first, again, other = await upload("k"), await upload("k"), await upload("k", "bob")
    at_once = await asyncio.gather(*(upload("k2") for _ in range(4)))

    assert first.id == again.id != other.id
    assert len({asset.id for asset in at_once}) == 1
    assert await stage.keys() == {first.storage_key, other.storage_key, at_once[0].storage_key}
    await stage.member()
    for asset in (first, other, at_once[0]):
        assert (await stage.settled(asset.id)).state == "ready"
    assert len(await stage.events(at_once[0].id, "upload_session_completed")) == 1
    await everything_holds(stage)


async def test_the_source_of_a_repeated_upload_is_not_read(stage: Stage) -> None:
    options = {"filename": "a.jpg", "actor": "alice", "idempotency_key": "k"}
    first = await stage.rindle.upload("avatar", photo(stage.home / "p.jpg"), **options)

    assert (await stage.rindle.upload("avatar", stage.home / "no such file", **options)).id == first.id


@pytest.mark.parametrize("after", [False, True], ids=["nothing was stored", "the answer of the store was lost"])
async def test_a_repeated_call_continues_an_upload_that_broke_off(stage: Stage, after: bool) -> None:
    store = FlakyStorage(storage(stage.environment))
    rindle, source = stage.application(store=store), photo(stage.home / "p.jpg")
    options = {"filename": "a.jpg", "actor": "alice", "idempotency_key": "k"}
    store.fail("store", StorageTransient("503"), after=after)
    with pytest.raises(StorageTransient):
        await rindle.upload("avatar", source, **options)
    if after:
        with pytest.raises(InvalidArgument) as refused:  # other bytes under the same key
            await rindle.upload("avatar", photo(stage.home / "q.jpg", width=640), **options)
        assert refused.value.detail == {"option": "idempotency_key"}

    asset = await rindle.upload("avatar", source, **options)

    await stage.member()
    assert (await stage.settled(asset.id)).state == "ready"
    assert len(await _sessions_of_keys(stage)) == 1
    await everything_holds(stage)


async def test_a_key_of_a_server_side_upload_needs_an_actor_and_stays_in_its_lane(stage: Stage) -> None:
    source = photo(stage.home / "p.jpg")
    with pytest.raises(InvalidArgument):
        await stage.rindle.upload("avatar", source, filename="a.jpg", idempotency_key="k")
    await stage.rindle.initiate_upload("avatar", filename="a.jpg", actor="alice", idempotency_key="k")
    with pytest.raises(InvalidArgument) as refused:
        await stage.rindle.upload("avatar", source, filename="a.jpg", actor="alice", idempotency_key="k")
    assert refused.value.detail == {"option": "idempotency_key"}


async def test_a_key_of_an_upload_that_has_ended_says_so(stage: Stage) -> None:
    store = FlakyStorage(storage(stage.environment))
    rindle, source = stage.application(store=store), photo(stage.home / "p.jpg")
    options = {"filename": "a.jpg", "actor": "alice", "idempotency_key": "k"}
    store.fail("store", StorageTransient("503"))
    with pytest.raises(StorageTransient):
        await rindle.upload("avatar", source, **options)
    [session_id] = await _sessions_of_keys(stage)
    await rindle.cancel_upload(session_id)

    with pytest.raises(UploadCancelled):
        await rindle.upload("avatar", source, **options)


async def test_runs_end_at_last_even_if_nothing_else_ends_them(stage: Stage) -> None:
    """A run that never gets a task, or waits for what does not come, is not open for ever."""
    await stage.member()
    asset = await stage.ready()
    [sent] = {row.workflow_id for row in await stage.outbox()}

    for workflow_id in (sent, stage.variants_workflow(asset.id)):
        described = await (await stage.client()).get_workflow_handle(workflow_id).describe()
        config = described.raw_description.execution_config
        assert config.workflow_execution_timeout.ToTimedelta() == LONGEST_LIFE > timedelta(days=8), "longest session"
