"""The Update ``verify`` of an upload's workflow, for callers with nothing but a Temporal client: typed failures too."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import WithStartWorkflowOperation, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from rindle import MediaUploadSession
from rindle.errors import (
    InvalidTransition,
    NotFound,
    RindleError,
    StorageObjectMissing,
    StorageTransient,
    UploadCancelled,
    UploadRejected,
    UploadSessionExpired,
    error_of,
)
from rindle.messages import UPLOAD_WORKFLOW, UploadInput, VerifyAnswer
from rindle.testing.flaky import FlakyStorage
from tests.application import storage
from tests.invariants import everything_holds
from tests.patience import until
from tests.stage import Stage, photo
from tests.workflows.fleet import Fleet, closed, handle_of, in_stage, marks, runs_of, temporal


@pytest.fixture
async def fleet(stage: Stage) -> AsyncIterator[Fleet]:
    """The workers of a test."""
    async with Fleet(stage) as started:
        yield started


async def verify(
    stage: Stage, session_id: str, *, update_id: str | None = None, run: WorkflowHandle[Any, Any] | None = None
) -> VerifyAnswer:
    """Verify through Temporal alone, by default in the newest run; raises the error the API would."""
    handle = run or await handle_of(stage, stage.upload_workflow(session_id))
    try:
        answer: VerifyAnswer = await handle.execute_update("verify", id=update_id, result_type=VerifyAnswer)
    except WorkflowUpdateFailedError as failed:
        raise translated(failed) from failed
    return answer


async def verify_with_start(stage: Stage, session_id: str) -> VerifyAnswer:
    """The same for a workflow that may be closed or not yet started."""
    start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
        UPLOAD_WORKFLOW,
        UploadInput(session_id=session_id),
        id=stage.upload_workflow(session_id),
        task_queue=stage.prefix,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )
    client = await stage.client()
    try:
        answer: VerifyAnswer = await client.execute_update_with_start_workflow(
            "verify", id=str(uuid.uuid4()), start_workflow_operation=start, result_type=VerifyAnswer
        )
    except WorkflowUpdateFailedError as failed:
        raise translated(failed) from failed
    return answer


def translated(failed: WorkflowUpdateFailedError) -> RindleError:
    """Return the error a failed update stands for."""
    cause = failed.cause
    assert isinstance(cause, ApplicationError), cause
    assert cause.type is not None
    return error_of(cause.type, cause.message)


async def waiting(stage: Stage, *, sign: bool = True, **options: Any) -> MediaUploadSession:
    """Return a session whose workflow waits for the bytes."""
    session = await stage.rindle.initiate_upload("avatar", filename="me.jpg", **options)

    async def started() -> bool:
        return all(row.state == "dispatched" for row in await stage.outbox())

    await until(started, what="the workflow to be started")
    await in_stage(stage, stage.upload_workflow(session.id), "waiting")
    if sign:
        await stage.rindle.sign_url(session.id)
    return session


async def test_verify_through_temporal_does_what_the_api_does(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    session = await waiting(stage)
    await stage.put(session.id, photo(stage.home / "photo.jpg"))

    answer = await verify(stage, session.id)

    assert answer == VerifyAnswer(
        session_id=session.id,
        session_state="completed",
        asset_id=str(session.asset_id),
        asset_state=answer.asset_state,
    )
    assert answer.asset_state in ("validating", "analyzing", "promoting", "available", "processing", "ready")
    assert (await stage.settled(answer.asset_id)).state == "ready"
    assert len(await stage.events(answer.asset_id, "upload_session_completed")) == 1
    await everything_holds(stage)


async def test_an_operator_can_verify_with_the_cli(lite_stage: Stage) -> None:
    stage = lite_stage
    async with Fleet(stage) as fleet:
        await fleet.start()
        session = await waiting(stage)
        await stage.put(session.id, photo(stage.home / "photo.jpg"))

        told = await temporal(
            stage,
            *("workflow", "update", "execute", "--workflow-id", stage.upload_workflow(session.id)),
            *("--name", "verify", "--output", "json"),
        )

        assert json.loads(told)["result"]["session_state"] == "completed"
        assert (await stage.settled(str(session.asset_id))).state == "ready"


async def test_an_object_that_is_not_there_yet_is_no_last_word(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    session = await waiting(stage)
    with pytest.raises(StorageObjectMissing):
        await verify(stage, session.id)
    with pytest.raises(StorageObjectMissing):
        await verify(stage, session.id)
    assert (await stage.session(session.id)).state == "signed"

    await stage.put(session.id, photo(stage.home / "photo.jpg"))

    assert (await verify(stage, session.id)).session_state == "completed"
    await stage.settled(str(session.asset_id))


async def test_a_repeated_update_id_hears_the_first_answer_again(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    session = await waiting(stage)
    await stage.put(session.id, photo(stage.home / "photo.jpg"))
    [run] = await runs_of(stage, stage.upload_workflow(session.id))  # what the first call commits may start another one

    first = await verify(stage, session.id, update_id="key-1", run=run)
    again = await verify(stage, session.id, update_id="key-1", run=run)

    assert first == again
    await stage.settled(first.asset_id)
    assert list(marks(await run.fetch_history())).count("update verify") == 1


async def test_several_callers_at_once_get_one_promotion(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    session = await waiting(stage)
    await stage.put(session.id, photo(stage.home / "photo.jpg"))

    answers = await asyncio.gather(*(verify_with_start(stage, session.id) for _ in range(4)))

    assert {answer.asset_id for answer in answers} == {str(session.asset_id)}
    assert {answer.session_state for answer in answers} == {"completed"}
    await stage.settled(str(session.asset_id))
    assert len(await stage.events(str(session.asset_id), "upload_session_completed")) == 1
    await everything_holds(stage)


async def test_refused_bytes_are_refused_with_the_same_code_every_time(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    session = await waiting(stage, size=99)
    await stage.put(session.id, b"\xff\xd8\xff" + b"x" * 97)

    for _ in range(2):
        with pytest.raises(UploadRejected) as refused:
            await verify_with_start(stage, session.id)
        assert refused.value.code == "size_mismatch"
        assert "99 were declared" in refused.value.message

    async def released() -> bool:
        return (await stage.session(session.id)).backing_released_at is not None

    await until(released, what="the object to be removed")
    assert await stage.keys() == set()


async def test_an_upload_that_was_never_signed_cannot_be_verified(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    session = await waiting(stage, sign=False)

    with pytest.raises(InvalidTransition, match="never signed"):
        await verify(stage, session.id)

    asset = await stage.rindle.asset(str(session.asset_id))
    assert (asset.state, asset.error_code) == ("staged", None)


async def test_a_cancelled_upload_is_never_reported_complete(stage: Stage, fleet: Fleet) -> None:
    """Also when the workflow has not heard of the cancellation yet: the rows decide."""
    session = await stage.sent()
    await stage.rindle.cancel_upload(session.id)
    await fleet.start()

    for _ in range(2):  # in time, and after the session was released
        with pytest.raises(UploadCancelled):
            await verify_with_start(stage, session.id)

        async def released() -> bool:
            return (await stage.session(session.id)).backing_released_at is not None

        await until(released, what="the object to be removed")


async def test_an_expired_upload_says_so(stage: Stage) -> None:
    short = stage.application(RINDLE_UPLOAD_SESSION_TTL_SECONDS="1")
    async with Fleet(stage) as fleet:
        await fleet.start(short)
        session = await short.initiate_upload("avatar", filename="me.jpg")

        async def expired() -> bool:
            return (await stage.session(session.id)).state == "expired"

        await until(expired, what="the session to expire")
        with pytest.raises(UploadSessionExpired):
            await verify_with_start(stage, session.id)


async def test_a_finished_upload_answers_from_its_rows(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await stage.ready()
    [start] = [row for row in await stage.outbox() if row.workflow_type == UPLOAD_WORKFLOW and row.signal is None]
    session_id = start.payload["facts"]["session_id"]
    await closed(stage, start.workflow_id)
    events = len(await stage.events(asset.id))

    answer = await verify_with_start(stage, session_id)

    assert (answer.asset_id, answer.asset_state) == (asset.id, "ready")
    assert await closed(stage, start.workflow_id) == "COMPLETED"
    result = await (await handle_of(stage, start.workflow_id)).result()
    assert result["outcome"] == "ready"
    assert len(await stage.events(asset.id)) == events


async def test_an_unknown_upload_is_not_found(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    with pytest.raises(NotFound):
        await verify_with_start(stage, "0198c0de-0000-7000-8000-000000000000")


async def test_a_store_that_is_away_delays_the_answer(stage: Stage) -> None:
    away = FlakyStorage(storage(stage.environment))
    away.fail("head", StorageTransient("no answer"), times=2)
    session = await stage.sent()
    async with Fleet(stage) as fleet:
        await fleet.start(stage.application(store=away))

        assert (await verify_with_start(stage, session.id)).session_state == "completed"

        assert (await stage.settled(str(session.asset_id))).state == "ready"
        assert await closed(stage, stage.upload_workflow(session.id)) == "COMPLETED"
    assert away.calls_for("head") >= 3
