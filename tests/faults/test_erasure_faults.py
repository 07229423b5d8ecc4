"""Erasures while stores refuse, Temporal is away, no worker runs, or one owner of a batch fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from rindle import MediaErasure, MediaErasureAsset
from rindle.db import erasures
from rindle.db.models import MediaOutbox, new_id
from rindle.erasure import owners
from rindle.errors import (
    BatchOwnerFailed,
    ErasurePending,
    StorageTransient,
    StorageUnauthorized,
    TemporalUnavailable,
)
from rindle.testing.flaky import FlakyStorage
from rindle.workflows import ids
from tests.application import storage
from tests.invariants import everything_holds
from tests.patience import until
from tests.servers.temporal import StoppableTemporal
from tests.stage import Stage, staged

ADA, BOB, EVE = ("member", "ada"), ("member", "bob"), ("member", "eve")


async def attached(stage: Stage, owner: tuple[str, str] = ADA) -> str:
    """Return the id of a ready asset in a slot of an owner."""
    asset = await stage.ready("plain")
    await stage.rindle.attach(asset.id, owner, "avatar")
    return asset.id


async def status(stage: Stage, operation_id: str, *wanted: str) -> None:
    """Wait until the certificate has one of the statuses."""

    async def look() -> bool:
        return (await stage.rindle.erasure_certificate(operation_id)).status in wanted

    await until(look, what=f"the certificate to be {wanted}")


@pytest.fixture
async def away_stage(tmp_path: Path, database_url: str, stoppable_temporal: StoppableTemporal) -> AsyncIterator[Stage]:
    """A stage with a Temporal server of its own that the test may stop."""
    async with staged(tmp_path, database_url, stoppable_temporal.target) as ready:
        yield ready


async def test_nothing_is_erased_while_temporal_is_away(
    away_stage: Stage, stoppable_temporal: StoppableTemporal
) -> None:
    stage = away_stage
    await stage.member()
    await attached(stage)
    connected = stage.application()
    await connected.temporal.client()  # a connection that is about to break
    await stoppable_temporal.stop()

    for rindle in (stage.application(), connected):
        with pytest.raises(TemporalUnavailable):
            await rindle.erase_owner(ADA)

    assert await stage.rindle.attachment_for(ADA, "avatar") is not None
    assert await stage.read(lambda session: session.scalar(select(func.count()).select_from(MediaErasure))) == 0
    await stoppable_temporal.start()
    report = await stage.application().erase_owner(ADA)
    assert report.assets_to_purge.count == 1
    await status(stage, report.operation_id, "complete")


async def test_a_start_that_the_server_refuses_leaves_no_request(stage: Stage) -> None:
    """The server answers, but does not have the namespace of this process."""
    elsewhere = stage.application(TEMPORAL_NAMESPACE="nowhere")

    with pytest.raises(TemporalUnavailable, match=r"namespace nowhere.*nothing was erased: NOT_FOUND") as refused:
        await elsewhere.erase_owner(ADA)

    assert stage.environment["TEMPORAL_ADDRESS"] in refused.value.message
    assert await stage.read(lambda session: session.scalar(select(func.count()).select_from(MediaErasure))) == 0


async def test_an_erasure_without_workers_is_pending_and_a_repetition_gets_its_report(stage: Stage) -> None:
    async with stage.working():
        asset = await attached(stage)
    operation = new_id()

    pending = await stage.asked_to_erase(ADA, operation)

    assert pending.detail == {"operation_id": operation}
    assert await stage.rindle.attachment_for(ADA, "avatar") is not None

    await stage.member()

    report = await stage.rindle.erase_owner(ADA, operation_id=operation)
    assert [one.asset_id for one in report.assets_to_purge.entries] == [asset]
    await status(stage, operation, "complete")


@pytest.mark.usefixtures("quiet_log")
async def test_a_call_that_no_worker_answers_leaves_no_error_to_the_collector(lite_stage: Stage) -> None:
    """The operation that starts the workflow has a future of its own, which fails as the call does."""
    await lite_stage.asked_to_erase(ADA, new_id())
    with pytest.raises(TemporalUnavailable):
        await lite_stage.application(TEMPORAL_NAMESPACE="nowhere").erase_owner(ADA)


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("has_earlier_run", [False, True])
async def test_an_erasure_is_called_pending_only_when_the_server_has_it(
    lite_stage: Stage, seconds: float, has_earlier_run: bool
) -> None:
    """So short a limit may end the call before the server has the request."""
    operation = new_id()
    if has_earlier_run:
        earlier = await lite_stage.asked_to_erase(ADA, operation)
        assert earlier.detail == {"operation_id": operation}
        run = ids.erasure_id(operation, prefix=lite_stage.prefix)
        await (await lite_stage.client()).get_workflow_handle(run).terminate()
        assert await lite_stage.rindle.database.write(erasures.withdraw, operation)
    with pytest.raises((ErasurePending, TemporalUnavailable)) as refused:
        await lite_stage.application(RINDLE_ERASURE_REPORT_SECONDS=str(seconds)).erase_owner(
            ADA, operation_id=operation
        )

    requested = await lite_stage.read(lambda session: session.get(MediaErasure, operation)) is not None
    assert requested == isinstance(refused.value, ErasurePending)
    if requested:
        workflow = (await lite_stage.client()).get_workflow_handle(ids.erasure_id(operation, prefix=lite_stage.prefix))
        assert (await workflow.describe()).status is WorkflowExecutionStatus.RUNNING


async def test_an_erasure_that_an_earlier_call_has_requested_is_pending_however_busy_the_server(
    lite_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = new_id()
    await lite_stage.asked_to_erase(ADA, operation)

    async def unanswered(*_: object) -> bool:
        return False

    monkeypatch.setattr(owners, "_is_accepted", unanswered)
    with pytest.raises(ErasurePending):
        await lite_stage.application(RINDLE_ERASURE_REPORT_SECONDS="0.01").erase_owner(ADA, operation_id=operation)


class Held(Interceptor):
    """Holds the first removal of attachments: before it, or when the rows are read and the answer is not given yet."""

    def __init__(self, *, has_read: bool) -> None:
        self.has_read = has_read
        self.reached, self.may_go_on = asyncio.Event(), asyncio.Event()

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap an activity."""
        outer = self

        class Activity(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> object:
                if input.fn.__name__ != "detach_owner" or outer.reached.is_set():
                    return await self.next.execute_activity(input)
                answer = await self.next.execute_activity(input) if outer.has_read else None
                outer.reached.set()
                await outer.may_go_on.wait()
                return answer or await self.next.execute_activity(input)

        return Activity(next)


async def test_a_call_that_meets_a_run_without_a_request_starts_the_erasure_again(stage: Stage) -> None:
    """An earlier call of the operation has taken its request back, and then its start arrived."""
    held = Held(has_read=True)
    await stage.member(interceptors=[held])
    asset, operation = await attached(stage), new_id()
    run = await (await stage.client()).start_workflow(
        "rindle.OwnerErasureWorkflow",
        {"operation_id": operation},
        id=ids.erasure_id(operation, prefix=stage.prefix),
        task_queue=stage.prefix,
    )
    await held.reached.wait()
    erasing = asyncio.create_task(stage.rindle.erase_owner(ADA, operation_id=operation))

    async def joined() -> bool:
        found = [event.event_type async for event in run.fetch_history_events()]
        return EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED in found

    await until(joined, what="the call to join the run")
    held.may_go_on.set()

    assert [one.asset_id for one in (await erasing).assets_to_purge.entries] == [asset]
    await status(stage, operation, "complete")
    assert (await run.result())["outcome"] == "withdrawn"


async def test_a_call_whose_request_another_call_takes_back_starts_the_erasure_again(stage: Stage) -> None:
    held = Held(has_read=False)
    await stage.member(interceptors=[held])
    asset, operation = await attached(stage), new_id()
    erasing = asyncio.create_task(stage.rindle.erase_owner(ADA, operation_id=operation))
    await held.reached.wait()

    assert await stage.rindle.database.write(erasures.withdraw, operation)
    held.may_go_on.set()

    assert [one.asset_id for one in (await erasing).assets_to_purge.entries] == [asset]
    await status(stage, operation, "complete")


async def test_a_store_that_refuses_for_long_delays_the_certificate_and_loses_nothing(lite_stage: Stage) -> None:
    stage = lite_stage
    store = FlakyStorage(storage(stage.environment))
    store.fail("delete", StorageUnauthorized("the store says no"), times=4)
    store.fail("head", StorageTransient("the store is away"), times=3)
    await stage.member(stage.application(store=store, RINDLE_ERASURE_CHECK_SECONDS="0.5"))
    asset = await attached(stage)

    report = await stage.rindle.erase_owner(ADA)

    await status(stage, report.operation_id, "complete")
    await stage.gone(asset)
    assert await stage.keys() == set()
    await everything_holds(stage)


async def test_a_store_that_does_not_let_look_leaves_the_absence_unconfirmed(lite_stage: Stage) -> None:
    stage = lite_stage
    store = FlakyStorage(storage(stage.environment))
    await stage.member(stage.application(store=store))
    asset = await attached(stage)
    store.fail("head", StorageUnauthorized("the store says no"), times=99)

    report = await stage.rindle.erase_owner(ADA)

    await status(stage, report.operation_id, "incomplete")
    certificate = await stage.rindle.erasure_certificate(report.operation_id)
    [thing] = certificate.assets[0].objects
    assert (thing.absent_at, thing.unverified) == (None, "storage_unauthorized")
    assert (certificate.counts["objects"], certificate.counts["objects_absent"]) == (1, 0)
    await stage.gone(asset)


async def test_a_purge_that_was_lost_is_started_again(lite_stage: Stage) -> None:
    """The outbox row of the purge is gone; nobody but the erasure knows of it."""
    stage = lite_stage
    delayed = stage.application(RINDLE_PURGE_DELAY_SECONDS="3600", RINDLE_ERASURE_CHECK_SECONDS="1")
    await stage.member(delayed)
    asset = await attached(stage)
    report = await stage.rindle.erase_owner(ADA)

    def lose(session: Session) -> None:
        session.execute(delete(MediaOutbox).where(MediaOutbox.workflow_id == purge_id))

    def requested(session: Session) -> bool:
        return session.scalar(select(MediaOutbox.id).where(MediaOutbox.workflow_id == purge_id)) is not None

    purge_id = ids.purge_id(asset, prefix=stage.prefix)
    assert await stage.read(requested)
    await stage.rindle.database.write(lose)
    await until(lambda: stage.read(requested), what="the purge to be requested again")
    await stage.make_due()

    await status(stage, report.operation_id, "complete")
    await stage.gone(asset)


class Refusing(Interceptor):
    """Fails the removal of the attachments of one owner, as an outage would."""

    def __init__(self, stage: Stage, owner_id: str) -> None:
        self.stage = stage
        self.owner_id: str | None = owner_id

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap an activity."""
        outer = self

        class Activity(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> object:
                if input.fn.__name__ == "detach_owner":
                    operation = input.args[0].operation_id
                    row = await outer.stage.read(lambda session: session.get(MediaErasure, operation))
                    if row is not None and row.owner_id == outer.owner_id:
                        raise StorageTransient("not now")
                return await self.next.execute_activity(input)

        return Activity(next)


async def test_a_batch_stops_at_the_owner_that_fails_and_a_rerun_finishes_it(stage: Stage) -> None:
    refusing = Refusing(stage, "bob")
    await stage.member(interceptors=[refusing])
    for owner in (ADA, BOB, EVE):
        await attached(stage, owner)
    impatient = stage.application(RINDLE_ERASURE_REPORT_SECONDS="2")

    async def stopped_at_bob() -> BatchOwnerFailed | None:
        """Repeat the batch until it is bob's erasure, not the machine, that takes longer than the limit."""
        try:
            await impatient.erase_owners([ADA, BOB, EVE])
        except BatchOwnerFailed as failed:
            if (failed.detail["owner"]["owner_id"], failed.detail["reason"]) == ("bob", "erasure_pending"):
                return failed
            return None
        raise AssertionError("bob was erased")

    failed = await until(stopped_at_bob, what="the batch to come to bob")
    assert failed is not None
    assert failed.detail["owner"] == {"owner_type": "member", "owner_id": "bob"}
    assert [one["owner"]["owner_id"] for one in failed.detail["partial_report"]["owners"]] == ["ada"]
    assert await stage.rindle.attachment_for(EVE, "avatar") is not None

    async def went_on_to_eve() -> bool:
        going_on = await impatient.erase_owners([BOB, EVE], continue_on_error=True)
        assert "bob" not in {one.owner.owner_id for one in going_on.owners}
        return ([one.owner.owner_id for one in going_on.owners], [one.code for one in going_on.failures]) == (
            ["eve"],
            ["erasure_pending"],
        )

    await until(went_on_to_eve, what="the batch to go on to eve")

    refusing.owner_id = None
    report = await stage.rindle.erase_owners([ADA, BOB, EVE])

    # Several operations wait for bob's media: one of them, or this one, has removed it.
    assert len(report.owners) == 3
    assert await stage.rindle.attachment_for(BOB, "avatar") is None

    def open_operations(session: object) -> int | None:
        pending = select(func.count()).select_from(MediaErasureAsset).where(MediaErasureAsset.outcome == "pending")
        return session.scalar(pending)  # type: ignore[attr-defined,no-any-return]

    async def all_ended() -> bool:
        return await stage.read(open_operations) == 0

    await until(all_ended, what="every purge to end")
    await everything_holds(stage)
