"""Sweeps as workflows: started once, followed, continued as new, cancelled, kept apart."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio.client import WorkflowExecutionStatus

from rindle.activities import liveness
from rindle.errors import InvalidArgument, MaintenanceRunning, MaintenanceStopped, UnknownProfile
from rindle.messages import MaintenanceInput, StatusView, SweepProgress
from rindle.operations.checks.report import DoctorReport
from rindle.operations.maintenance import runs
from rindle.operations.maintenance.abort_incomplete_uploads import AbortIncompleteUploads
from rindle.operations.maintenance.cleanup_orphans import (
    CleanupOrphans,
    CleanupOrphansOptions,
    CleanupOrphansReport,
)
from rindle.operations.maintenance.sweep import ProfileOptions
from rindle.operations.maintenance.verify_storage import (
    VerifyStorage,
    VerifyStorageOptions,
    VerifyStorageReport,
)
from rindle.testing.flaky import FlakyStorage
from rindle.workflows import ids
from tests.application import storage
from tests.patience import PATIENCE_SECONDS, until
from tests.stage import Stage
from tests.workflows.fleet import Fleet, closed


async def test_a_sweep_is_started_followed_and_found_by_its_attributes(stage: Stage) -> None:
    await stage.member()
    await stage.ready()
    seen: list[SweepProgress] = []

    handle = await runs.start(stage.rindle.services, VerifyStorage(), VerifyStorageOptions(profile="avatar"))
    outcome = await runs.follow(stage.rindle.services, handle, VerifyStorage(), on_page=seen.append)

    assert handle.id == f"{stage.prefix}-maintenance:verify-storage"
    assert outcome.report == VerifyStorageReport(checked=2, present=2)
    assert seen[-1].pages == 2
    described = await handle.describe()
    assert described.task_queue == f"{stage.prefix}-maintenance"
    assert await described.static_summary() == "verify-storage"
    attributes = {pair.key.name: pair.value for pair in described.typed_search_attributes}
    assert {name: value for name, value in attributes.items() if name.startswith("Rindle")} == {
        "RindleKind": "maintenance",
        "RindleProfile": "avatar",
    }
    view: StatusView = await handle.query("status", result_type=StatusView)
    assert (view.kind, view.state, view.stage) == ("maintenance", "completed", "finished")


async def test_a_long_sweep_continues_as_new_with_its_counters(stage: Stage) -> None:
    await stage.member()
    await asyncio.gather(*(stage.ready(actor=str(number)) for number in range(3)))
    services = stage.rindle.services

    handle = await runs.start(services, VerifyStorage(), VerifyStorageOptions(originals=True), max_pages=1)
    outcome = await runs.follow(services, handle, VerifyStorage())

    assert outcome.report == VerifyStorageReport(checked=9, present=9)
    first = (await stage.client()).get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
    assert (await first.describe()).status is WorkflowExecutionStatus.CONTINUED_AS_NEW
    newest = await (await stage.client()).get_workflow_handle(handle.id).describe()
    assert newest.typed_search_attributes.get(ids.KIND) == "maintenance"


async def test_a_second_run_by_hand_is_refused_with_the_id_of_the_first(lite_stage: Stage) -> None:
    services = lite_stage.rindle.services
    handle = await runs.start(services, VerifyStorage(), VerifyStorageOptions())

    with pytest.raises(MaintenanceRunning, match=rf"{handle.id}.*temporal workflow cancel") as refused:
        await runs.start(services, VerifyStorage(), VerifyStorageOptions())

    assert refused.value.detail["workflow_id"] == handle.id
    await lite_stage.member()
    await runs.follow(services, handle, VerifyStorage())
    again = await runs.start(services, VerifyStorage(), VerifyStorageOptions())
    await runs.follow(services, again, VerifyStorage())


async def test_options_are_checked_before_anything_is_started(lite_stage: Stage) -> None:
    with pytest.raises(UnknownProfile):
        await runs.start(lite_stage.rindle.services, VerifyStorage(), VerifyStorageOptions(profile="avatr"))

    found = (await lite_stage.client()).get_workflow_handle(
        ids.maintenance_id("verify-storage", prefix=lite_stage.prefix)
    )
    with pytest.raises(Exception, match="not found"):
        await found.describe()


async def test_a_cancelled_sweep_says_what_it_has_done(lite_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    # A heartbeat every second brings the cancellation soon; one that is late must not make the page time out.
    monkeypatch.setattr(liveness, "PATIENCE", 1 / PATIENCE_SECONDS)
    monkeypatch.setattr(runs, "_RPC_SECONDS", timedelta(seconds=PATIENCE_SECONDS))  # for the counts at the end
    stage = lite_stage
    store = FlakyStorage(storage(stage.environment))
    async with Fleet(stage) as fleet:
        await fleet.start(stage.application(RINDLE_HEARTBEAT_SECONDS=str(PATIENCE_SECONDS), store=store))
        await stage.ready("plain")
        held = store.hang("list_keys")
        services = stage.rindle.services
        handle = await runs.start(services, VerifyStorage(), VerifyStorageOptions(originals=True))
        following = asyncio.create_task(runs.follow(services, handle, VerifyStorage()))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await held.reached.wait()

        await handle.cancel()

        with pytest.raises(MaintenanceStopped, match=r"cancelled after 3 pages.*checked 1") as stopped:
            await following
        assert stopped.value.detail["counters"]["present"] == 1
        assert await closed(stage, handle.id) == "CANCELED"
        view: StatusView = await handle.query("status", result_type=StatusView)
        assert view.state == "cancelled"


async def test_a_sweep_whose_end_no_worker_describes_is_reported_as_it_was_seen_last(
    lite_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, progress_of, is_over = lite_stage, runs._progress, False

    async def answered(handle: runs.Handle, limit: timedelta) -> SweepProgress | None:
        return None if is_over else await progress_of(handle, limit)

    monkeypatch.setattr(runs, "_progress", answered)
    store = FlakyStorage(storage(stage.environment))
    await stage.member(stage.application(store=store))
    await stage.ready("plain")
    held, seen = store.hang("list_keys"), asyncio.Event()
    handle = await runs.start(stage.rindle.services, VerifyStorage(), VerifyStorageOptions(originals=True))
    following = asyncio.create_task(
        runs.follow(
            stage.rindle.services, handle, VerifyStorage(), on_page=lambda page: seen.set() if page.pages == 3 else None
        )
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        await seen.wait()
    is_over = True

    await handle.terminate()

    with pytest.raises(MaintenanceStopped, match=r"terminated after at least 3 pages.*checked 1") as stopped:
        await following
    assert (stopped.value.detail["pages"], stopped.value.detail["counters"]["present"]) == (3, 1)
    held.release()


async def test_a_sweep_that_this_release_does_not_know_fails_at_once(lite_stage: Stage) -> None:
    stage = lite_stage
    await stage.member()
    handle = await (await stage.client()).start_workflow(
        "rindle.MaintenanceWorkflow",
        MaintenanceInput(verb="verify-storage", options={"orginals": True}),
        id=ids.maintenance_id("verify-storage", prefix=stage.prefix),
        task_queue=stage.rindle.settings.maintenance_queue,
    )

    with pytest.raises(InvalidArgument, match="orginals: Extra inputs"):
        await runs.follow(stage.rindle.services, handle, VerifyStorage())


async def test_a_run_without_a_worker_is_reported_and_begins_with_one(
    lite_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_SILENCE_SECONDS", 0.0)
    silent = asyncio.Event()
    services = lite_stage.rindle.services
    handle = await runs.start(services, VerifyStorage(), VerifyStorageOptions())
    following = asyncio.create_task(runs.follow(services, handle, VerifyStorage(), on_silence=silent.set))

    async with asyncio.timeout(PATIENCE_SECONDS):
        await silent.wait()
    await lite_stage.member()

    assert (await following).report == VerifyStorageReport()


async def test_a_cleanup_does_not_start_beside_an_abort_run(lite_stage: Stage) -> None:
    stage = lite_stage
    services = stage.rindle.services
    abort = await runs.start(services, AbortIncompleteUploads(), ProfileOptions())

    async def refused() -> bool:
        try:
            await runs.check_beside(services, CleanupOrphans())
        except MaintenanceRunning as error:
            return bool(error.detail["workflow_id"] == abort.id)
        return False

    await until(refused, what="visibility to list the run")
    with pytest.raises(MaintenanceRunning, match="abort-incomplete-uploads is running"):
        await runs.start(services, CleanupOrphans(), CleanupOrphansOptions())

    await stage.member()
    await runs.follow(services, abort, AbortIncompleteUploads())

    async def started() -> runs.Handle | None:
        try:
            return await runs.start(services, CleanupOrphans(), CleanupOrphansOptions())
        except MaintenanceRunning:
            return None

    cleanup = await until(started, what="visibility to list the end of the run")
    assert cleanup is not None
    assert (await runs.follow(services, cleanup, CleanupOrphans())).report == CleanupOrphansReport()
    assert await (await cleanup.describe()).static_summary() == "cleanup-orphans, dry run"


async def test_doctor_misses_the_queue_of_sweeps_when_nobody_polls_it(lite_stage: Stage) -> None:
    stage = lite_stage
    await stage.member(queues=[stage.prefix, f"{stage.prefix}-av"])

    async def unpolled() -> DoctorReport | None:
        report = await stage.rindle.doctor(only=["temporal.pollers"], timeout=60)
        return report if report.checks[0].summary == f"no worker polls {_both(stage)}" else None

    await until(unpolled, what="doctor to name the queue of sweeps alone")


def _both(stage: Stage) -> str:
    return ", ".join(f"{stage.prefix}-maintenance ({kind})" for kind in ("activity", "workflow"))
