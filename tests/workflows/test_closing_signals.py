"""Signals that land while the task that closes a run is under way: it has decided to end and must look again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from rindle import MediaAsset
from rindle.errors import StoragePermanent
from rindle.relay import Relay
from rindle.testing.flaky import FlakyStorage
from rindle.workflows import ids
from tests.application import storage
from tests.invariants import everything_holds
from tests.patience import until
from tests.stage import Stage
from tests.workflows.fleet import Fleet, Interruption, closed, dispatched, handle_of, marks, runs_of

OWNER = ("User", "1")
Deed = Callable[[Stage, WorkflowHandle[Any, Any]], Awaitable[Any]]


@pytest.fixture
async def fleet(stage: Stage) -> AsyncIterator[Fleet]:
    """The workers of a test."""
    async with Fleet(stage) as started:
        yield started
        stage.tell("processor", "")  # a held build would use up the worker's grace


async def say(stage: Stage) -> None:
    """Make sure that Temporal has heard everything the application committed: here or by the worker's relay."""
    await Relay(stage.rindle.database, stage.rindle.temporal, stage.rindle.settings).dispatch_once()
    await dispatched(stage)


async def landed_in_closing_task(stage: Stage, workflow_id: str, signal: str) -> list[str]:
    """Assert that the run went on after a refused end; returns its marks."""

    async def refused() -> list[str] | None:
        for run in await runs_of(stage, workflow_id):
            found = list(marks(await run.fetch_history()))
            if "task failed: unhandled_command" in found:
                return found[found.index("task failed: unhandled_command") :]
        return None

    found = await until(refused, what=f"a run of {workflow_id} whose end was refused")
    assert found is not None
    assert f"signal {signal}" in found, found
    return found


# --- variants -------------------------------------------------------------------------------------------------------


async def after_a_cancelled_build(stage: Stage, fleet: Fleet, deed: Deed) -> MediaAsset:
    """Cancel a running build and do ``deed`` while the task that closes its workflow runs."""
    interruption = Interruption()
    await fleet.start(interruption=interruption)
    stage.tell("processor", "hold")
    asset = await stage.verified("held")
    await stage.variant(asset.id, "thumb", "processing")
    workflow_id = stage.variants_workflow(asset.id)
    handle = await handle_of(stage, workflow_id)

    async def act() -> None:
        stage.tell("processor", "")
        await deed(stage, handle)

    interruption.at("closing", workflow_id, act)
    await stage.rindle.cancel_processing(asset.id)
    await closed(stage, workflow_id)
    assert interruption.done == [("closing", workflow_id)]
    return await stage.rindle.asset(asset.id)


async def test_requeue_by_signal_while_the_build_is_closing(stage: Stage, fleet: Fleet) -> None:
    asset = await after_a_cancelled_build(stage, fleet, lambda stage, handle: handle.signal("requeue"))

    assert asset.state == "ready"
    again = await landed_in_closing_task(stage, stage.variants_workflow(asset.id), "requeue")
    assert again[-3:] == ["requeue_group", "render_images", "completed"]
    await everything_holds(stage)


async def test_requeue_by_the_api_while_the_build_is_closing(stage: Stage, fleet: Fleet) -> None:
    async def requeue(stage: Stage, handle: WorkflowHandle[Any, Any]) -> None:
        [row] = [row for row in await stage.outbox() if row.signal is None]  # the upload's own start
        asset_id = row.payload["facts"]["asset_id"]
        assert (await stage.rindle.requeue_variants(asset_id)).enqueued == 2
        await say(stage)

    asset = await after_a_cancelled_build(stage, fleet, requeue)

    assert asset.state == "ready"
    again = await landed_in_closing_task(stage, stage.variants_workflow(asset.id), "wake")
    assert again[-2:] == ["render_images", "completed"]
    await everything_holds(stage)


async def test_cancel_and_wake_while_the_build_is_closing_find_nothing_to_do(stage: Stage, fleet: Fleet) -> None:
    async def twice(stage: Stage, handle: WorkflowHandle[Any, Any]) -> None:
        await handle.signal("cancel")
        await handle.signal("wake")

    asset = await after_a_cancelled_build(stage, fleet, twice)

    assert {row.state for row in asset.variants} == {"cancelled"}
    await landed_in_closing_task(stage, stage.variants_workflow(asset.id), "wake")
    assert len(await stage.events(asset.id, "variants.cancelled")) == 1


async def test_a_request_to_cancel_while_the_build_is_closing_changes_nothing_that_is_done(
    stage: Stage, fleet: Fleet
) -> None:
    interruption = Interruption()
    await fleet.start(interruption=interruption)
    stage.tell("processor", "hold")
    asset = await stage.verified("held")
    await stage.variant(asset.id, "thumb", "processing")
    workflow_id = stage.variants_workflow(asset.id)
    handle = await handle_of(stage, workflow_id)
    interruption.at("closing", workflow_id, handle.cancel)

    stage.tell("processor", "")

    assert (await stage.settled(asset.id)).state == "ready"
    assert await closed(stage, workflow_id) == "COMPLETED"
    assert await stage.events(asset.id, "variants.cancelled") == []


# --- uploads --------------------------------------------------------------------------------------------------------


async def test_an_upload_resumed_while_its_workflow_closes_is_looked_at_again(stage: Stage, fleet: Fleet) -> None:
    interruption = Interruption()
    session = await stage.sent()
    workflow_id = stage.upload_workflow(session.id)
    await stage.rindle.verify_completion(session.id)

    async def resume() -> None:
        await stage.rindle.resume(str(session.asset_id))
        await say(stage)

    interruption.at("closing", workflow_id, resume)
    await fleet.start(interruption=interruption)

    assert (await stage.settled(str(session.asset_id))).state == "ready"
    await closed(stage, workflow_id)
    assert "admit" in await landed_in_closing_task(stage, workflow_id, "verified")
    await everything_holds(stage)


@pytest.mark.parametrize("signal", ["cancel", "touch", "complete"])
async def test_other_signals_to_a_closing_upload_are_heard_and_harmless(lite_stage: Stage, signal: str) -> None:
    stage, interruption = lite_stage, Interruption()
    session = await stage.sent("plain")
    workflow_id = stage.upload_workflow(session.id)
    handle = await handle_of(stage, workflow_id)
    interruption.at("closing", workflow_id, lambda: handle.signal(signal))
    await stage.rindle.verify_completion(session.id)
    async with Fleet(stage) as fleet:
        await fleet.start(interruption=interruption)
        assert (await stage.settled(str(session.asset_id))).state == "ready"
        assert await closed(stage, workflow_id) == "COMPLETED"

    await landed_in_closing_task(stage, workflow_id, signal)
    await everything_holds(stage)


async def test_a_promotion_that_gave_up_is_resumed_while_its_workflow_closes(stage: Stage) -> None:
    broken, interruption = FlakyStorage(storage(stage.environment)), Interruption()
    broken.fail("local_path", StoragePermanent("the store says no"))
    session = await stage.sent()
    workflow_id = stage.upload_workflow(session.id)
    await stage.rindle.verify_completion(session.id)

    async def resume() -> None:
        await stage.rindle.resume(str(session.asset_id))
        await say(stage)

    interruption.at("closing", workflow_id, resume)
    async with Fleet(stage) as fleet:
        await fleet.start(stage.application(store=broken), interruption=interruption)

        assert (await stage.settled(str(session.asset_id))).state == "ready"
        await closed(stage, workflow_id)

    again = await landed_in_closing_task(stage, workflow_id, "verified")
    assert again[-3:] == ["admit", "child started", "completed"]


# --- purges ---------------------------------------------------------------------------------------------------------


async def test_a_detach_while_the_purge_closes_is_not_forgotten(stage: Stage, fleet: Fleet) -> None:
    interruption = Interruption()
    await fleet.start(interruption=interruption)
    session = await stage.sent("plain")
    asset = (await stage.rindle.verify_completion(session.id)).asset
    await stage.settled(asset.id)
    await stage.let_tickets_expire(session.id)
    await stage.rindle.attach(asset.id, OWNER, "avatar")
    await stage.rindle.attach(asset.id, OWNER, "banner")
    workflow_id = ids.purge_id(asset.id, prefix=stage.prefix)

    async def detach_the_other() -> None:
        await stage.rindle.detach(OWNER, "banner")
        await say(stage)

    interruption.at("closing", workflow_id, detach_the_other)
    await stage.rindle.detach(OWNER, "avatar")  # the first purge finds the other attachment

    await stage.gone(asset.id)
    await closed(stage, workflow_id)
    again = await landed_in_closing_task(stage, workflow_id, "wake")
    assert again[-2:] == ["begin_purge", "completed"]
    assert await stage.keys() == set()
