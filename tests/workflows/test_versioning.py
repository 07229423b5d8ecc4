"""Workers of a Temporal worker deployment: which version a run stays on."""

from __future__ import annotations

from temporalio.api.enums.v1 import VersioningBehavior

from rindle import Rindle
from rindle.operations.checks.report import Check
from tests.patience import until
from tests.stage import Stage
from tests.workflows.fleet import Fleet, closed, handle_of, in_stage, temporal


async def test_uploads_move_with_the_fleet_and_builds_stay_on_their_version(lite_stage: Stage) -> None:
    stage = lite_stage
    deployment = {"RINDLE_DEPLOYMENT_NAME": stage.prefix, "RINDLE_BUILD_ID": "release-1"}
    async with Fleet(stage) as fleet:
        await fleet.start(stage.application(**deployment))
        await _promote(stage, "release-1")
        asset = await stage.ready()
        [upload] = {row.workflow_id for row in await stage.outbox()}
        behaviors = {}
        for workflow_id in (upload, stage.variants_workflow(asset.id)):
            await closed(stage, workflow_id)
            described = await (await handle_of(stage, workflow_id)).describe()
            behaviors[workflow_id] = described.raw_description.workflow_execution_info.versioning_info.behavior

    assert asset.state == "ready"
    assert behaviors == {
        upload: VersioningBehavior.VERSIONING_BEHAVIOR_AUTO_UPGRADE,
        stage.variants_workflow(asset.id): VersioningBehavior.VERSIONING_BEHAVIOR_PINNED,
    }


async def test_half_of_the_settings_of_a_version_is_a_warning(lite_stage: Stage) -> None:
    found = await _versions(lite_stage, lite_stage.application(RINDLE_DEPLOYMENT_NAME="shop"))

    assert (found.status, "without RINDLE_BUILD_ID" in found.summary) == ("warn", True)


async def _promote(stage: Stage, build_id: str) -> None:
    """Make a version current; the server refuses that until it has heard of the version's pollers."""

    async def current() -> bool:
        printed = await temporal(
            stage,
            *("worker", "deployment", "set-current-version", "--yes"),
            *("--deployment-name", stage.prefix, "--build-id", build_id),
            fails=None,
        )
        return "Success" in printed

    await until(current, what=f"version {build_id} to become current")


async def _build_of(stage: Stage, workflow_id: str) -> str:
    """Return the build that completed the last task of a workflow."""
    described = await (await handle_of(stage, workflow_id)).describe()
    info = described.raw_description.workflow_execution_info.versioning_info
    return str(info.deployment_version.build_id)


async def _versions(stage: Stage, rindle: Rindle) -> Check:
    [found] = (await rindle.doctor(only=["temporal.worker_versions"])).checks
    return found


async def test_a_second_build_takes_new_work_and_waiting_uploads_and_the_first_one_ends_its_builds(
    lite_stage: Stage,
) -> None:
    stage = lite_stage

    def build(number: int) -> Rindle:
        return stage.application(RINDLE_DEPLOYMENT_NAME=stage.prefix, RINDLE_BUILD_ID=f"build-{number}")

    async with Fleet(stage) as fleet:
        first = await fleet.start(build(1))

        async def is_seen() -> bool:
            return "no current version" in (await _versions(stage, first)).summary

        await until(is_seen, what="the doctor to see workers without a current version")
        await _promote(stage, "build-1")
        stage.tell("processor", "hold")
        held = await stage.verified("held")
        await stage.variant(held.id, "thumb", "processing")
        waiting = await stage.sent()
        await in_stage(stage, stage.upload_workflow(waiting.id), "waiting")

        second = await fleet.start(build(2))

        async def is_waiting() -> bool:
            found = await _versions(stage, second)
            return "build-2 polls, but gets no new work" in found.summary and "--build-id build-2" in str(found.fix)

        await until(is_waiting, what="the doctor to see that the second build gets no work")
        await _promote(stage, "build-2")

        moved = (await stage.rindle.verify_completion(waiting.id)).asset
        await stage.settled(moved.id)
        fresh = await stage.ready()
        for workflow_id in (
            stage.upload_workflow(waiting.id),
            stage.variants_workflow(moved.id),
            stage.variants_workflow(fresh.id),
        ):
            await closed(stage, workflow_id)
            assert await _build_of(stage, workflow_id) == "build-2"
        stage.tell("processor", "")
        await stage.settled(held.id)
        await closed(stage, stage.variants_workflow(held.id))
        assert await _build_of(stage, stage.variants_workflow(held.id)) == "build-1"

        async def is_fine() -> bool:
            found = await _versions(stage, second)
            return found.status == "ok" and f"current: {stage.prefix}:build-2" in found.summary

        await until(is_fine, what="the doctor to find the second build current")
