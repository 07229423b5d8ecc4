"""Workers of a Temporal worker deployment: which version a run stays on."""

from __future__ import annotations

from temporalio.api.enums.v1 import VersioningBehavior

from tests.patience import until
from tests.stage import Stage
from tests.workflows.fleet import Fleet, closed, handle_of, temporal


async def test_uploads_move_with_the_fleet_and_builds_stay_on_their_version(lite_stage: Stage) -> None:
    stage = lite_stage
    deployment = {"RINDLE_DEPLOYMENT_NAME": stage.prefix, "RINDLE_BUILD_ID": "release-1"}
    async with Fleet(stage) as fleet:
        await fleet.start(stage.application(**deployment))

        async def current() -> bool:
            # Refused until the server has heard of the version's pollers.
            told = await temporal(
                stage,
                *("worker", "deployment", "set-current-version", "--yes"),
                *("--deployment-name", stage.prefix, "--build-id", "release-1"),
                fails=None,
            )
            return "Success" in told

        await until(current, what="the version to become current")
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
