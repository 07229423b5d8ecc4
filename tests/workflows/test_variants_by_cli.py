"""Repairing variants with nothing but the Temporal CLI: the same rows, events and audit as through the API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from rindle import MediaProcessingRun
from tests.invariants import everything_holds
from tests.patience import until
from tests.stage import Stage
from tests.workflows.fleet import Fleet, closed, handle_of, marks, temporal


async def signal(stage: Stage, asset_id: str, name: str, *inputs: str, fails: bool = False) -> str:
    """``temporal workflow signal``: reaches a run that is open."""
    arguments = [part for given in inputs for part in ("--input", given)]
    workflow_id = stage.variants_workflow(asset_id)
    return await temporal(
        stage, "workflow", "signal", "--workflow-id", workflow_id, "--name", name, *arguments, fails=fails
    )


async def signal_with_start(stage: Stage, asset_id: str, name: str, *inputs: str) -> str:
    """``temporal workflow signal-with-start``: reaches a closed run too."""
    return await temporal(
        stage,
        *("workflow", "signal-with-start", "--workflow-id", stage.variants_workflow(asset_id)),
        *("--type", "rindle.VariantWorkflow", "--task-queue", stage.prefix),
        *("--input", json.dumps({"asset_id": asset_id}), "--signal-name", name),
        *(part for given in inputs for part in ("--signal-input", given)),
    )


async def building(stage: Stage) -> str:
    """Return the id of an asset both of whose variants are being built by a processor that is held."""
    stage.tell("processor", "hold")
    asset = await stage.verified("held")
    await stage.variant(asset.id, "thumb", "processing")
    return asset.id


async def tale(stage: Stage, asset_id: str) -> dict[str, list[Any]]:
    """Return rows, events and attempts of an asset without what differs by nature: ids, times and who asked."""
    asset = await stage.rindle.asset(asset_id)
    names = {asset.id: "the asset", **{row.id: row.name for row in asset.variants}}
    columns = (
        "state",
        "generation",
        "attempts",
        "progress",
        "error_code",
        "error_reason",
        "recipe_digest",
        "byte_size",
    )
    attempts = await stage.read(
        lambda session: session.scalars(
            select(MediaProcessingRun)
            .where(MediaProcessingRun.asset_id == asset_id)
            .order_by(MediaProcessingRun.variant_name, MediaProcessingRun.started_at)
        ).all()
    )
    return {
        "asset": [asset.state, asset.error_code],
        "rows": [{"name": row.name, **{name: getattr(row, name) for name in columns}} for row in asset.variants],
        "events": [
            (
                event.type,
                event.audit,
                event.profile,
                names.get(event.scope_id),
                {key: names.get(str(value), value) for key, value in event.payload.items() if key != "session_id"},
            )
            for event in await stage.events(asset_id)
        ],
        "attempts": [
            (run.variant_name, run.state, run.attempt, run.error_code, run.error_reason, run.finished_at is not None)
            for run in attempts
        ],
    }


async def story(stage: Stage, cancelled_by: str, requeued_by: str) -> list[dict[str, list[Any]]]:
    """Cancel a running build and queue it again; returns what the database says after each step."""
    asset_id = await building(stage)
    match cancelled_by:
        case "api":
            await stage.rindle.cancel_processing(asset_id, actor="olga")
        case "signal":
            await signal(stage, asset_id, "cancel")
        case "request":
            await temporal(stage, "workflow", "cancel", "--workflow-id", stage.variants_workflow(asset_id))
    await stage.state(asset_id, "degraded")
    ended = await closed(stage, stage.variants_workflow(asset_id))
    assert ended == ("CANCELED" if cancelled_by == "request" else "COMPLETED")
    after_cancel = await tale(stage, asset_id)
    stage.tell("processor", "")
    if requeued_by == "api":
        await stage.rindle.requeue_variants(asset_id, actor="olga")
    else:
        await signal_with_start(stage, asset_id, "requeue")
    await stage.state(asset_id, "ready")
    await closed(stage, stage.variants_workflow(asset_id))
    return [after_cancel, await tale(stage, asset_id)]


async def test_cli_and_api_leave_the_same_rows_events_and_audit(stage: Stage) -> None:
    async with Fleet(stage) as fleet:
        await fleet.start()

        by_api = await story(stage, "api", "api")
        by_signal = await story(stage, "signal", "signal-with-start")
        by_request = await story(stage, "request", "signal-with-start")

    assert by_signal == by_api
    assert by_request == by_api
    audits = [(kind, payload["names"]) for kind, audit, _, _, payload in by_api[1]["events"] if audit]
    assert audits == [("variants.cancelled", ["large", "thumb"]), ("variants.requeued", ["large", "thumb"])]
    await everything_holds(stage)


async def test_an_operator_sees_where_a_build_stands(lite_stage: Stage) -> None:
    stage = lite_stage
    async with Fleet(stage) as fleet:
        await fleet.start()
        asset_id = await building(stage)

        told = await temporal(
            stage, "workflow", "query", "--workflow-id", stage.variants_workflow(asset_id), "--type", "status"
        )

        assert '"building"' in told
        stage.tell("processor", "")
        await stage.settled(asset_id)


async def test_a_signal_may_name_the_variants_it_means(stage: Stage) -> None:
    async with Fleet(stage) as fleet:
        await fleet.start()
        asset_id = await building(stage)

        await signal(stage, asset_id, "cancel", '["thumb"]')
        await stage.variant(asset_id, "thumb", "cancelled")
        assert (await stage.variant(asset_id, "large")).state == "processing"
        stage.tell("processor", "")
        await stage.variant(asset_id, "large", "ready")
        assert await closed(stage, stage.variants_workflow(asset_id)) == "COMPLETED"
        assert (await stage.variant(asset_id, "thumb")).state == "cancelled"

        await signal_with_start(stage, asset_id, "requeue", '["thumb", "nobody"]')
        await stage.state(asset_id, "ready")

    assert [event.payload["names"] for event in await stage.events(asset_id, "variants.requeued")] == [["thumb"]]
    assert (await stage.variant(asset_id, "large")).generation == 1
    await everything_holds(stage)


async def test_requeue_reaches_a_run_that_is_still_building_something_else(stage: Stage) -> None:
    async with Fleet(stage) as fleet:
        await fleet.start()
        asset_id = await building(stage)
        await signal(stage, asset_id, "cancel", '["thumb"]')
        await stage.variant(asset_id, "thumb", "cancelled")

        await signal(stage, asset_id, "requeue")
        await stage.variant(asset_id, "thumb", "queued")
        stage.tell("processor", "")
        await stage.state(asset_id, "ready")
        await closed(stage, stage.variants_workflow(asset_id))

    assert (await stage.variant(asset_id, "large")).generation == 1  # its build was not disturbed
    await everything_holds(stage)


async def test_the_last_of_two_signals_wins(lite_stage: Stage) -> None:
    stage = lite_stage
    async with Fleet(stage) as fleet:
        await fleet.start()
        asset_id = await building(stage)
        await stage.rindle.cancel_processing(asset_id)
        await closed(stage, stage.variants_workflow(asset_id))
        stage.tell("processor", "")
        await fleet.stop()
        # No worker runs: both signals wait for the same first task.
        await signal_with_start(stage, asset_id, "requeue")
        await signal(stage, asset_id, "cancel")

        await fleet.start()
        await closed(stage, stage.variants_workflow(asset_id))

    assert {row.state for row in (await stage.rindle.asset(asset_id)).variants} == {"cancelled"}


async def test_wake_says_nothing_new_however_late_and_often_it_comes(stage: Stage) -> None:
    async with Fleet(stage) as fleet:
        await fleet.start()
        asset_id = await building(stage)
        handle = await handle_of(stage, stage.variants_workflow(asset_id))
        for _ in range(3):
            await signal(stage, asset_id, "wake")

        async def looked() -> bool:
            return "read_group" in marks(await handle.fetch_history())

        await until(looked, what="the workflow to look at its rows")
        stage.tell("processor", "")
        await stage.state(asset_id, "ready")
        await closed(stage, stage.variants_workflow(asset_id))
        before = await tale(stage, asset_id)
        assert (stage.home / "builds").read_text().count("build") == 2  # one per variant

        for _ in range(2):
            await signal_with_start(stage, asset_id, "wake")
        await closed(stage, stage.variants_workflow(asset_id))

    assert await tale(stage, asset_id) == before
    await everything_holds(stage)


async def test_a_closed_run_does_not_hear_a_plain_signal(lite_stage: Stage) -> None:
    stage = lite_stage
    async with Fleet(stage) as fleet:
        await fleet.start()
        asset = await stage.ready()
        await closed(stage, stage.variants_workflow(asset.id))
        before = await tale(stage, asset.id)

        assert "completed" in await signal(stage, asset.id, "cancel", fails=True)
        await signal_with_start(stage, asset.id, "cancel")  # finds nothing open
        await signal_with_start(stage, asset.id, "requeue")  # finds nothing failed or cancelled
        await closed(stage, stage.variants_workflow(asset.id))

    assert await tale(stage, asset.id) == before


@pytest.mark.parametrize("inputs", [('"thumb"',), ("7",), ("{}",), ('["thumb"]', '["large"]'), ("[[]]",)])
async def test_a_signal_with_nonsense_as_input_does_not_get_a_build_stuck(
    lite_stage: Stage, inputs: tuple[str, ...]
) -> None:
    stage = lite_stage
    async with Fleet(stage) as fleet:
        await fleet.start()
        asset_id = await building(stage)

        await signal(stage, asset_id, "cancel", *inputs)
        await signal(stage, asset_id, "no_such_signal")
        await signal(stage, asset_id, "requeue", "null")
        stage.tell("processor", "")

        await stage.settled(asset_id)
        assert await closed(stage, stage.variants_workflow(asset_id)) == "COMPLETED"
