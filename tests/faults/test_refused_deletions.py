"""Deletions are never given up, whatever the store says, and Request Cancellation does the whole job.

Cancellation is requested with the Temporal CLI alone, as an operator would.
"""

from __future__ import annotations

from rindle import MediaAsset, Rindle
from rindle.errors import StoragePermanent, StorageUnauthorized
from rindle.operations.explain import explain
from rindle.operations.findings import Finding
from rindle.protocols import DeleteResult
from rindle.testing.flaky import FlakyStorage
from rindle.workflows import ids
from tests.application import SECRET, storage
from tests.invariants import everything_holds
from tests.patience import until
from tests.stage import Stage
from tests.workflows.fleet import Fleet, closed, dispatched, in_stage, temporal


class Locked(FlakyStorage):
    """A store that refuses every deletion with ``refusal`` until it is unlocked."""

    def __init__(self, stage: Stage, refusal: Exception) -> None:
        super().__init__(storage(stage.environment))
        self.refusal: Exception | None = refusal
        self.refused = 0

    async def delete(self, key: str) -> DeleteResult:
        if self.refusal is not None:
            self.refused += 1
            raise self.refusal
        return await super().delete(key)


async def findings_of(stage: Stage) -> dict[str, Finding]:
    """Return what ``rindle runtime-status`` reports, by class."""
    return {finding.name: finding for finding in (await stage.rindle.runtime_status()).findings}


def without_profile(stage: Stage, name: str) -> Rindle:
    """Return the stage's application as a deployment leaves it that has removed a profile."""
    made = stage.application()
    return Rindle(
        engine=made.database.engine,
        storages=made.storages,
        profiles=[profile for profile in made.profiles if profile.name != name],
        secrets=[SECRET],
        settings=made.settings,
        temporal=made.temporal,
    )


async def cause_of(stage: Stage, asset_id: str) -> str | None:
    """Return the code that the tombstone of an asset has."""
    return await stage.read(lambda session: session.get_one(MediaAsset, asset_id).error_code)


async def test_a_purge_that_the_store_refuses_waits_with_its_cause_on_the_row(lite_stage: Stage) -> None:
    stage = lite_stage
    await stage.stamp()
    store = Locked(stage, StorageUnauthorized("403"))
    async with Fleet(stage) as fleet:
        await fleet.start(stage.application(store=store))
        asset = await stage.ready("plain")
        await stage.rindle.purge_asset(asset.id)

        async def recorded() -> bool:
            return await cause_of(stage, asset.id) == "storage_unauthorized"

        await until(recorded, what="the cause on the row")
        await until(lambda: store.refused > 2, what="the deletion to be tried again")
        explanation = await explain(stage.rindle.services, asset.id)
        found = await findings_of(stage)
        assert explanation.asset.error_code == "storage_unauthorized"
        assert explanation.diagnosis.last_error is not None
        assert explanation.diagnosis.last_error.code == "storage_unauthorized"
        assert [sample.asset_id for sample in found["deletion_failing"].samples] == [asset.id]

        store.refusal = StoragePermanent("the store says that a retry cannot help")
        await until(lambda: store.refused > 4, what="the deletion to be tried after a permanent error, too")
        store.refusal = None
        await stage.gone(asset.id)
        assert await closed(stage, ids.purge_id(asset.id, prefix=stage.prefix)) == "COMPLETED"
        assert await stage.keys() == set()


async def test_a_purge_waits_for_a_profile_that_a_deployment_has_removed(lite_stage: Stage) -> None:
    stage = lite_stage
    async with Fleet(stage) as fleet:
        await fleet.start()
        asset = await stage.ready("plain")
        await fleet.stop()
        await stage.rindle.purge_asset(asset.id)
        await fleet.start(without_profile(stage, "plain"))

        async def recorded() -> bool:
            return await cause_of(stage, asset.id) == "unknown_profile"

        await until(recorded, what="the cause on the row")
        await fleet.stop()
        await fleet.start()
        await stage.gone(asset.id)
        assert await stage.keys() == set()


async def test_an_upload_that_the_store_does_not_release_waits_with_its_cause(lite_stage: Stage) -> None:
    stage = lite_stage
    await stage.stamp()
    store = Locked(stage, StoragePermanent("the store says no"))
    async with Fleet(stage) as fleet:
        await fleet.start(stage.application(store=store))
        session = await stage.sent()
        await stage.rindle.cancel_upload(session.id)

        async def recorded() -> bool:
            return (await stage.session(session.id)).release_error_code == "storage_permanent"

        await until(recorded, what="the cause on the row")
        found = await findings_of(stage)
        [sample] = found["release_failing"].samples
        assert (sample.session_id, sample.release_error_code) == (session.id, "storage_permanent")
        store.refusal = None

        assert await closed(stage, stage.upload_workflow(session.id)) == "COMPLETED"
        row = await stage.session(session.id)
        assert (row.release_error_code, row.backing_released_at is not None) == (None, True)
        assert await stage.keys() == set()


# --- Request Cancellation by the Temporal CLI ------------------------------------------------------------------------


async def request_cancellation(stage: Stage, workflow_id: str) -> None:
    """``temporal workflow cancel``."""
    await temporal(stage, "workflow", "cancel", "--workflow-id", workflow_id)


async def test_cancelling_the_run_of_an_upload_aborts_and_releases_it(stage: Stage) -> None:
    async with Fleet(stage) as fleet:
        await fleet.start()
        session = await stage.sent()
        await dispatched(stage)

        await request_cancellation(stage, stage.upload_workflow(session.id))

        assert await closed(stage, stage.upload_workflow(session.id)) == "CANCELED"
        row = await stage.session(session.id)
        assert (row.state, row.backing_released_at is not None) == ("aborted", True)
        assert await stage.keys() == set()
        events = [event.type for event in await stage.events(str(session.asset_id))]
        assert "upload_session_cancelled" in events
    await everything_holds(stage)


async def test_cancelling_the_run_of_a_verified_upload_completes_its_validation(lite_stage: Stage) -> None:
    stage = lite_stage
    store = FlakyStorage(storage(stage.environment))
    held = store.hang("local_path")
    async with Fleet(stage) as fleet:
        await fleet.start(stage.application(store=store))
        asset = await stage.verified()
        await held.reached.wait()
        upload = await stage.read(lambda session: session.get_one(MediaAsset, asset.id).storage_key)
        [session_id] = [row.payload["input"]["session_id"] for row in (await stage.outbox())[:1]]

        await request_cancellation(stage, stage.upload_workflow(session_id))
        held.release()

        assert (await stage.settled(asset.id)).state == "ready"
        assert await closed(stage, stage.upload_workflow(session_id)) == "COMPLETED"
        assert upload in await stage.keys()
    await everything_holds(stage)


async def test_cancelling_the_run_of_a_purge_does_not_leave_half_of_it(lite_stage: Stage) -> None:
    stage = lite_stage
    store = Locked(stage, StorageUnauthorized("403"))
    async with Fleet(stage) as fleet:
        await fleet.start(stage.application(store=store))
        asset = await stage.ready("plain")
        await stage.rindle.purge_asset(asset.id)
        run = ids.purge_id(asset.id, prefix=stage.prefix)
        await in_stage(stage, run, "deleting")
        await until(lambda: store.refused > 0, what="the purge to have begun")

        await request_cancellation(stage, run)
        store.refusal = None

        assert await closed(stage, run) == "COMPLETED"
        await stage.gone(asset.id)
        assert await stage.keys() == set()
