"""Breakages with real causes: found by status, repaired by the printed command, and nothing is found afterwards."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from rindle import MediaErasure, MediaVariant
from rindle.db.models import new_id
from rindle.errors import StorageUnauthorized
from rindle.operations.erasures import explain_erasure
from rindle.operations.explain import Explanation, explain
from rindle.operations.findings import QueueSample, RetrySample
from rindle.operations.runtime_status import RuntimeStatus
from rindle.testing.flaky import FlakyStorage
from rindle.workflows import ids
from tests.application import storage
from tests.faults.test_erasure_faults import Refusing
from tests.integration.operations.played import (
    breaks,
    commands_of,
    everything_is_fine,
    prepare,
    reported,
    started,
    typed,
)
from tests.media.clips import Clips
from tests.patience import PATIENCE_SECONDS, until
from tests.stage import Stage, photo
from tests.workflows.fleet import temporal

#: The command that starts a worker, unless the settings name another one.
WORKER = "python -m rindle.cli.worker"


@pytest.fixture
async def stage(lite_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A migrated application whose variables are those of this process, as a shell of its operator has them."""
    await prepare(lite_stage, monkeypatch)
    return lite_stage


@pytest.fixture
async def s3_stage(lite_s3_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The same on a bucket."""
    await prepare(lite_s3_stage, monkeypatch)
    return lite_s3_stage


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The address of a store that refuses every connection: its port is taken, and nobody listens at it."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unheard.getsockname()[1]}"


def retried(report: RuntimeStatus) -> RetrySample:
    """Return the only step that is retried."""
    [sample] = [one for finding in report.findings if finding.name == "retrying" for one in finding.samples]
    assert isinstance(sample, RetrySample)
    return sample


async def explained(stage: Stage, asset_id: str, command: str) -> Explanation:
    """Wait until ``explain`` prints the command."""

    async def look() -> Explanation | None:
        story = await explain(stage.rindle.services, asset_id)
        return story if story.diagnosis.command == command else None

    found = await until(look, what=f"explain to print {command}")
    assert found is not None
    return found


async def test_workers_that_poll_other_queues_are_none(stage: Stage) -> None:
    misled = await stage.worker(RINDLE_TASK_QUEUE_PREFIX=f"{stage.prefix}-mistyped")
    asset = await stage.verified("plain")

    report = await reported(stage, "no_worker")

    samples = [one for finding in report.findings for one in finding.samples]
    assert {one.task_queue for one in samples if isinstance(one, QueueSample)} == {stage.prefix}
    assert commands_of(report, "no_worker") == [WORKER]
    story = await explained(stage, asset.id, WORKER)
    assert f"task queue {stage.prefix}," in story.diagnosis.summary
    assert (await typed("rindle runtime-status --fail-on any"))[0] == 3
    await misled.stop()
    async with started(WORKER, stage.home / "worker.log"):
        await stage.settled(asset.id)
        await everything_is_fine(stage)


async def test_a_worker_without_ffmpeg_is_named(stage: Stage, clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = str(stage.home / "bin" / "ffmpeg")
    programs = {"RINDLE_FFMPEG_PATH": missing, "RINDLE_FFPROBE_PATH": str(stage.home / "bin" / "ffprobe")}
    crippled = await stage.worker(**programs)
    asset = await stage.verified("talk", clips.film(), filename="talk.mp4")

    report = await reported(stage, "retrying")

    async def paused() -> RetrySample | None:
        """Return the step between two attempts; while one runs, the time of the next is unknown."""
        sample = retried(await reported(stage, "retrying"))
        return sample if sample.next_attempt_at else None

    sample = await until(paused, what="an attempt to have failed, and the next to have a time")
    assert sample.error_code == "ffmpeg_not_found" and sample.worker
    assert f":{crippled.process.pid}:" in sample.worker
    story = await explained(stage, asset.id, "rindle doctor")
    assert sample.worker in story.diagnosis.summary
    assert commands_of(report, "retrying") == ["rindle doctor"]
    with monkeypatch.context() as on_its_machine:
        for name, value in programs.items():
            on_its_machine.setenv(name, value)
        code, printed = await typed("rindle doctor --only ffmpeg.version")
    assert (code, "ffmpeg" in printed) == (1, True)
    await crippled.stop()
    await stage.worker()
    assert (await stage.settled(asset.id)).state == "ready"
    await everything_is_fine(stage)


async def test_a_worker_that_cannot_reach_the_store_is_named(
    s3_stage: Stage, nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = s3_stage
    cut_off = await stage.worker(APP_ENDPOINT=nowhere)
    asset = await stage.verified("plain")

    report = await reported(stage, "retrying")

    sample = retried(report)
    assert sample.error_code == "storage_transient" and sample.worker
    assert f":{cut_off.process.pid}:" in sample.worker
    assert sample.worker in (await explained(stage, asset.id, "rindle doctor")).diagnosis.summary
    with monkeypatch.context() as on_its_machine:
        on_its_machine.setenv("APP_ENDPOINT", nowhere)
        code, printed = await typed("rindle doctor --only storage.media.reachable")
    assert code == 1 and "storage.media.reachable" in printed and "storage_transient" in printed, printed
    await cut_off.stop()
    await stage.worker()
    await stage.settled(asset.id)
    await everything_is_fine(stage)


async def test_files_that_were_removed_by_hand_are_found_by_a_sweep_and_built_again(stage: Stage) -> None:
    await stage.member()
    asset = await stage.ready("avatar", photo(stage.home / "photo.jpg", width=64, height=48))
    thumb = await stage.variant(asset.id, "thumb", "ready")
    (stage.home / "media" / str(thumb.storage_key)).unlink()
    await everything_is_fine(stage)  # the rows cannot know

    assert (await typed("rindle verify-storage --local"))[0] == 0
    report = await reported(stage, "storage_drift")

    [command] = commands_of(report, "storage_drift")
    assert (await explain(stage.rindle.services, asset.id)).diagnosis.command == command
    code, printed = await typed(command)
    assert code == 0, printed
    again = await stage.variant(asset.id, "thumb", "ready")
    assert (stage.home / "media" / str(again.storage_key)).is_file()
    await everything_is_fine(stage)


async def test_a_build_whose_run_was_terminated_by_hand_is_resumed(stage: Stage) -> None:
    # The answer to a heartbeat would tell the build that its run is gone, and it would queue its rows again.
    await stage.member(stage.application(RINDLE_HEARTBEAT_SECONDS=str(10 * PATIENCE_SECONDS)))
    stage.tell("processor", "hold")
    asset = await stage.verified("held", photo(stage.home / "photo.jpg", width=64, height=48))
    await stage.variant(asset.id, "thumb", "processing")
    run = stage.variants_workflow(asset.id)
    await temporal(stage, "workflow", "terminate", "--workflow-id", run, "--reason", "by hand")
    rows = await stage.read(
        lambda session: session.execute(
            select(MediaVariant.id, MediaVariant.state).where(MediaVariant.asset_id == asset.id)
        ).all()
    )
    for row_id, _ in rows:
        await breaks(stage, MediaVariant, row_id)
    classes = {"processing": "orphan_suspect", "queued": "queue_starved"}

    report = await reported(stage, *{classes[state] for _, state in rows})

    command = f"rindle resume {asset.id}"
    for name in {one.name for one in report.findings}:
        assert commands_of(report, name) == [command]
    assert (await explain(stage.rindle.services, asset.id)).diagnosis.command == command
    stage.tell("processor", "")
    code, printed = await typed(command)
    assert code == 0, printed
    assert (await stage.settled(asset.id)).state == "ready"
    await everything_is_fine(stage)


async def test_an_erasure_whose_run_was_terminated_by_hand_is_retried(stage: Stage) -> None:
    store = FlakyStorage(storage(stage.environment))
    held = store.hang("delete")
    await stage.member(stage.application(store=store))
    asset = await stage.ready("plain")
    await stage.rindle.attach(asset.id, ("member", "ada"), "avatar")
    operation_id = (await stage.rindle.erase_owner(("member", "ada"))).operation_id
    await held.reached.wait()
    run = ids.erasure_id(operation_id, prefix=stage.prefix)
    await temporal(stage, "workflow", "terminate", "--workflow-id", run, "--reason", "by hand")
    await breaks(stage, MediaErasure, operation_id)

    report = await reported(stage, "erasure_stuck")

    [command] = commands_of(report, "erasure_stuck")
    assert (await explain_erasure(stage.rindle.services, operation_id)).diagnosis.command == command
    held.release()
    code, printed = await typed(command)
    assert code == 0, printed
    await stage.gone(asset.id)

    async def complete() -> bool:
        return (await stage.rindle.erasure_certificate(operation_id)).status == "complete"

    await until(complete, what="the certificate to be complete")
    await everything_is_fine(stage)


async def test_an_erasure_whose_step_keeps_failing_is_found_at_once(stage: Stage) -> None:
    refusing = Refusing(stage, "ada")
    await stage.member(interceptors=[refusing])
    asset = await stage.ready("plain")
    await stage.rindle.attach(asset.id, ("member", "ada"), "avatar")
    operation_id = new_id()
    pending = await stage.asked_to_erase(("member", "ada"), operation_id)
    assert pending.detail["operation_id"] == operation_id

    report = await reported(stage, "retrying")

    sample = retried(report)
    run = ids.erasure_id(operation_id, prefix=stage.prefix)
    assert (sample.workflow_id, sample.asset_id, sample.error_code) == (run, None, "storage_transient")
    diagnosis = (await explain_erasure(stage.rindle.services, operation_id)).diagnosis
    assert ([diagnosis.command], "storage_transient" in diagnosis.summary) == (commands_of(report, "retrying"), True)
    refusing.owner_id = None  # the cause is repaired, and it continues by itself
    await stage.gone(asset.id)
    await everything_is_fine(stage)


async def test_a_store_that_refuses_a_deletion_is_reported_until_the_rights_are_back(stage: Stage) -> None:
    store = FlakyStorage(storage(stage.environment))
    store.fail("delete", StorageUnauthorized("the store says no"))
    held = store.hang("delete")  # the next attempt
    await stage.member(stage.application(store=store))
    asset = await stage.ready("plain")
    assert (await typed(f"rindle purge {asset.id} --execute"))[0] == 0
    await held.reached.wait()

    report = await reported(stage, "deletion_failing")

    [command] = commands_of(report, "deletion_failing")
    diagnosis = (await explain(stage.rindle.services, asset.id)).diagnosis
    assert (diagnosis.command, "storage_unauthorized" in diagnosis.summary) == (command, True)
    held.release()
    code, printed = await typed(command)
    assert code == 0, printed
    await stage.gone(asset.id)
    await everything_is_fine(stage)
