"""The table of remedies, played: each row is broken, found, and repaired by what is printed."""

from __future__ import annotations

import json
import shlex
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaOutbox, MediaUploadSession, MediaVariant, messages
from rindle.db.models import MediaErasure, new_id, utc_now
from rindle.operations import findings, runs
from rindle.operations.erasures import explain_erasure
from rindle.operations.explain import explain
from rindle.operations.remedies import REMEDIES
from rindle.relay import Relay
from tests.integration.operations.played import (
    OLD,
    breaks,
    commands_of,
    everything_is_fine,
    prepare,
    reported,
    started,
    typed,
    variants_break,
)
from tests.integration.operations.test_provider_findings import OF_PROVIDERS
from tests.servers import free_port
from tests.stage import Stage, photo
from tests.workflows.fleet import temporal


@pytest.fixture
async def stage(lite_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A migrated application whose variables are those of this process, as a shell of its operator has them."""
    await prepare(lite_stage, monkeypatch)
    return lite_stage


async def lost_upload(stage: Stage) -> MediaUploadSession:
    """Open an upload whose request to Temporal is lost; no relay may run yet, which would send it."""
    upload = await stage.rindle.initiate_upload("plain")
    await stage.rindle.database.write(
        lambda session: session.execute(
            delete(MediaOutbox).where(MediaOutbox.workflow_id == stage.upload_workflow(upload.id))
        )
    )
    return upload


async def left_behind(stage: Stage, upload: MediaUploadSession, state: str, **values: Any) -> str:
    """Leave a lost upload behind in ``state``; returns its asset."""
    await breaks(stage, MediaUploadSession, upload.id, state=state, expires_at=utc_now() - OLD, **values)
    return str(upload.asset_id)


async def unsent_upload(stage: Stage) -> MediaUploadSession:
    """Open an upload whose request to Temporal stays in the outbox; no relay may run yet, which would send it."""
    upload = await stage.rindle.initiate_upload("plain")
    await change_request(stage, upload, available_at=utc_now() + timedelta(hours=1))
    return upload


async def unsent_for_long(stage: Stage, upload: MediaUploadSession, **values: Any) -> str:
    """Let the request of an unsent upload be old, and tried often; returns its asset."""
    await change_request(stage, upload, inserted_at=utc_now() - OLD, updated_at=utc_now() - OLD, attempts=7, **values)
    return str(upload.asset_id)


async def change_request(stage: Stage, upload: MediaUploadSession, **values: Any) -> None:
    """Change the outbox row of an upload behind the library's back."""
    await stage.rindle.database.write(
        lambda session: session.execute(
            update(MediaOutbox).where(MediaOutbox.workflow_id == stage.upload_workflow(upload.id)).values(**values)
        )
    )


async def lost_erasure(stage: Stage) -> str:
    """Write an erasure that was requested, and whose request to Temporal is lost; returns its operation."""
    operation_id, since = new_id(), utc_now() - OLD
    row = MediaErasure(id=operation_id, owner_type="member", owner_id="ada", inserted_at=since, updated_at=since)
    await stage.rindle.database.write(lambda session: session.add(row))
    return operation_id


async def test_every_row_of_the_table_is_found_and_repaired_by_the_printed_command(stage: Stage) -> None:
    image = photo(stage.home / "photo.jpg", width=64, height=48)
    relay = Relay(stage.rindle.database, stage.rindle.temporal, stage.rindle.settings)
    failed, drifted, lost = [await stage.verified("avatar", image) for _ in range(3)]
    silent, stuck, dead, refused, foreign, wrong = [await stage.verified("plain", image) for _ in range(6)]
    while await relay.dispatch_once():
        pass
    # Before a worker runs, whose relay would send their requests.
    overdue, residue, unreleased = [await lost_upload(stage) for _ in range(3)]
    stalled, parked = [await unsent_upload(stage) for _ in range(2)]

    # No worker polls: the printed command starts one, which stays for the rest.
    report = await reported(stage, "no_worker")
    diagnosis = (await explain(stage.rindle.services, silent.id)).diagnosis
    assert stage.prefix in diagnosis.summary
    assert [diagnosis.command] == commands_of(report, "no_worker") == ["python -m rindle.cli.worker"]
    assert (await typed("rindle runtime-status --fail-on alert"))[0] == 3
    async with started(str(diagnosis.command), stage.home / "worker.log"):
        for asset in (failed, drifted, lost, silent, stuck, dead, refused, foreign, wrong):
            await stage.settled(asset.id)
        await everything_is_fine(stage)

        # Rows that were broken by hand.
        await variants_break(stage, failed, large="failed", thumb="cancelled")
        await variants_break(stage, drifted, large="missing", thumb="stale")
        await variants_break(stage, lost, large="queued", thumb="processing")
        await breaks(stage, MediaAsset, silent.id, state="validating")
        await breaks(stage, MediaAsset, stuck.id, state="analyzing", error_code="scanner_unavailable")
        await breaks(stage, MediaAsset, dead.id, state="deleted")
        await breaks(stage, MediaAsset, refused.id, state="deleted", error_code="storage_unauthorized")
        await breaks(stage, MediaAsset, foreign.id, profile="of_yesterday")
        await breaks(stage, MediaAsset, wrong.id, kind="video")
        signed = MediaUploadSession.url_expires_at.is_not(None)
        await stage.rindle.database.write(
            lambda session: session.execute(
                update(MediaUploadSession).where(signed).values(url_expires_at=utc_now() - OLD)
            )
        )
        of_rows = {
            "cancelled_work": failed.id,
            "deletion_failing": refused.id,
            "failed_work": failed.id,
            "orphan_suspect": lost.id,
            "outbox_parked": await unsent_for_long(
                stage, parked, state="parked", last_error="INVALID_ARGUMENT: by hand"
            ),
            "outbox_stalled": await unsent_for_long(stage, stalled),
            "probe_drift": wrong.id,
            "profile_unregistered": foreign.id,
            "purge_stuck": dead.id,
            "queue_starved": lost.id,
            "recipe_drift": drifted.id,
            "release_failing": await left_behind(stage, unreleased, "aborted", release_error_code="storage_permanent"),
            "session_overdue": await left_behind(stage, overdue, "signed"),
            "session_residue": await left_behind(stage, residue, "expired"),
            "storage_drift": drifted.id,
            "stuck_promotion": stuck.id,
            "workflow_missing": silent.id,
        }

        erasure = await lost_erasure(stage)

        # A run without rows, and steps that are retried.
        client = await stage.client()
        nothing = messages.VariantInput(asset_id=new_id())
        run_id, idle = stage.variants_workflow(nothing.asset_id), f"{stage.prefix}-idle"
        await client.start_workflow(messages.VARIANT_WORKFLOW, nothing, id=run_id, task_queue=idle)
        stage.tell("scanner", "down")
        of_rows["retrying"] = (await stage.verified("scanned", image)).id

        report = await reported(stage, *of_rows, "erasure_stuck", "run_without_rows")
        others = {"erasure_stuck", "run_without_rows", "no_worker", "temporal_unreachable"}
        assert {*of_rows, *others, *OF_PROVIDERS} == set(REMEDIES)
        [retried] = [one for finding in report.findings if finding.name == "retrying" for one in finding.samples]
        assert isinstance(retried, findings.RetrySample)
        assert (retried.activity, retried.error_code) == ("rindle.scan", "scanner_unavailable")
        assert retried.worker and retried.attempt >= runs.RETRIED_ATTEMPTS

        # explain prints what status prints, and that is all that is typed.
        for name, asset_id in of_rows.items():
            command = (await explain(stage.rindle.services, asset_id)).diagnosis.command
            assert command in {one for row in of_rows for one in commands_of(report, row)}, name
            if name not in ("failed_work", "orphan_suspect"):  # the other condition of the same asset comes first
                assert command in commands_of(report, name), name
        for command in sorted({one for name in of_rows for one in commands_of(report, name)}):
            code, printed = await typed(command)
            assert code == 0 or command.startswith("rindle doctor"), printed
        [retry] = commands_of(report, "erasure_stuck")
        assert (await explain_erasure(stage.rindle.services, erasure)).diagnosis.command == retry
        assert f"Fix: {retry}" in (await typed(f"rindle explain {erasure}"))[1]
        assert (await typed(retry))[0] == 0
        [terminate] = commands_of(report, "run_without_rows")
        await temporal(stage, *shlex.split(terminate.replace("WORKFLOW", run_id))[1:])
        # Two of the causes are outside: a profile that was removed from the code, and a scanner that is away.
        assert "of_yesterday" in (await typed("rindle doctor --only profiles.unregistered"))[1]
        await breaks(stage, MediaAsset, foreign.id, profile="plain")
        stage.tell("scanner", "")

        await everything_is_fine(stage)
        await stage.gone(dead.id)
        await stage.gone(refused.id)


async def test_a_temporal_that_is_away_is_started_first(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = await stage.verified("plain")
    address, away = stage.environment["TEMPORAL_ADDRESS"], f"127.0.0.1:{free_port()}"
    here = "rindle doctor --only temporal.reachable"
    alone = stage.application(TEMPORAL_ADDRESS=away)
    told = stage.application(TEMPORAL_ADDRESS=away, RINDLE_START_TEMPORAL_COMMAND="systemctl start temporal")

    since = utc_now() - OLD
    await stage.rindle.database.write(
        lambda session: session.execute(update(MediaOutbox).values(inserted_at=since, available_at=since))
    )

    report = await alone.runtime_status()
    assert {one.name for one in report.findings} == {"outbox_stalled", "temporal_unreachable"}
    # Draining the outbox would fail with 4.
    assert {one.surface for one in report.recommendations} == {here}
    diagnosis = (await explain(alone.services, asset.id)).diagnosis
    assert (diagnosis.command, "start its server" in diagnosis.summary) == (here, True)
    assert (await explain(told.services, asset.id)).diagnosis.command == "systemctl start temporal"

    monkeypatch.setenv("TEMPORAL_ADDRESS", away)
    assert (await typed(here))[0] == 1
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    assert (await typed(here))[0] == 0


async def rows_of_an_outage(stage: Stage) -> dict[str, list[str]]:
    """Write what an outage leaves: failed variants, promotions that gave up, tombstones; returns the assets."""
    found: dict[str, list[str]] = {"variants": [], "promotions": [], "tombstones": []}
    aged = {"inserted_at": utc_now() - OLD, "updated_at": utc_now() - OLD}

    def add(session: Session) -> None:
        def asset(kind: str, **facts: Any) -> MediaAsset:
            made = MediaAsset(**{"id": new_id(), "storage_key": new_id(), "profile": "plain", **aged, **facts})
            session.add(made)
            session.flush()
            found[kind].append(made.id)
            return made

        for code in ("storage_transient", "storage_transient", "decode_failed"):
            of = asset("variants", state="degraded", profile="avatar")
            session.add(
                MediaVariant(
                    asset_id=of.id, name="thumb", state="failed", error_code=code, recipe_digest="0" * 64, **aged
                )
            )
        for code in ("scanner_unavailable", "storage_transient"):
            of = asset("promotions", state="analyzing", error_code=code)
            ends = {"expires_at": utc_now() + OLD, "url_expires_at": utc_now() - OLD}
            session.add(
                MediaUploadSession(asset_id=of.id, state="completed", upload_key=of.storage_key, **ends, **aged)
            )
            asset("tombstones", state="deleted", error_code=code)

    await stage.rindle.database.write(add)
    return found


async def test_what_an_outage_left_is_repaired_by_one_command_and_only_counted_first(stage: Stage) -> None:
    rows = await rows_of_an_outage(stage)

    async def counted(command: str) -> dict[str, Any]:
        code, printed = await typed(f"{command} --format json")
        assert code == 0, printed
        return dict(json.loads(printed))

    expected = {
        "rindle requeue --code storage_transient": rows["variants"][:2],
        "rindle requeue --code decode_failed --profile avatar --since 1d": rows["variants"][2:],
        "rindle resume --code scanner_unavailable": rows["promotions"][:1],
        "rindle resume --all": rows["promotions"][1:],  # the other one is under way again
        "rindle purge --retry --code storage_transient": rows["tombstones"][1:],
    }
    bounded = await counted("rindle resume --all --limit 1")
    assert (bounded["found"], bounded["has_more"]) == (1, True)
    for command, asset_ids in expected.items():
        before = await stage.outbox()
        dry = await counted(command)
        assert (dry["found"], dry["dry_run"]) == (len(asset_ids), True), command
        assert len(await stage.outbox()) == len(before), command
        done = await counted(f"{command} --execute")
        assert done.get("done", done.get("started")) == len(asset_ids), command
    woken = {row.payload["facts"]["asset_id"] for row in await stage.outbox()}
    assert woken == {*rows["variants"], *rows["promotions"], rows["tombstones"][1]}
    states = await stage.read(lambda session: set(session.scalars(select(MediaVariant.state))))
    assert states == {"queued"}

    recent = await counted("rindle purge --retry --since 90m")
    assert recent["found"] == 0


@pytest.mark.parametrize(
    "command",
    [
        "rindle resume",
        "rindle requeue",
        "rindle resume --all --code x",
        "rindle requeue 0198f6d4-8f2c-7000-8000-000000000000 --all",
        "rindle resume 0198f6d4-8f2c-7000-8000-000000000000 --execute",
        "rindle requeue --all --variant thumb",
        "rindle purge --code x",
        "rindle resume --since yesterday",
        "rindle resume --since 2026-05-01T17:00:00",
        "rindle resume --all --limit 0",
    ],
)
async def test_a_selection_that_could_be_misread_is_refused(stage: Stage, command: str) -> None:
    assert (await typed(command))[0] == 2


async def test_the_work_of_a_removed_profile_is_refused_and_not_retried_for_ever(stage: Stage) -> None:
    asset = await stage.verified("plain")
    await breaks(stage, MediaAsset, asset.id, profile="of_yesterday")
    before = len(await stage.outbox())

    for command in (f"rindle resume {asset.id}", f"rindle purge {asset.id} --execute"):
        code, printed = await typed(command)
        assert (code, printed.partition(":")[0]) == (1, "unknown_profile"), printed
    assert len(await stage.outbox()) == before
    found = await stage.rindle.doctor(only=["profiles.unregistered"])
    assert [(one.status, one.detail) for one in found.checks] == [("warn", {"profiles": {"of_yesterday": 1}})]
    diagnosis = (await explain(stage.rindle.services, asset.id)).diagnosis
    assert "of_yesterday" in diagnosis.summary
    assert diagnosis.command == REMEDIES["profile_unregistered"].command


@pytest.mark.parametrize(
    ("broken", "condition", "command"),
    [
        ("DROP INDEX ix_media_assets_profile_id; DROP TABLE media_processing_runs", "incomplete", "rindle db repair"),
        ("ALTER TABLE media_assets DROP COLUMN operator_reason", "incomplete", "rindle db repair"),
        ("DELETE FROM rindle_alembic_version", "unversioned", "rindle db stamp"),
        (
            "ALTER TABLE media_assets DROP COLUMN operator_reason; UPDATE rindle_alembic_version SET version_num = 'x'",
            "ahead",
            "pip install --upgrade rindle",
        ),
        ("UPDATE rindle_alembic_version SET version_num = '0002'", "behind", "rindle db upgrade"),
    ],
)
async def test_each_condition_of_the_tables_has_a_command_of_its_own(
    stage: Stage, broken: str, condition: str, command: str
) -> None:
    async with stage.engine.begin() as connection:
        for statement in broken.split(";"):
            await connection.exec_driver_sql(statement)

    for look in ("rindle runtime-status --fail-on any", f"rindle explain {new_id()}", "rindle doctor --only db.schema"):
        code, printed = await typed(look)
        if code == 0 or "not_found" in printed:  # what is broken does not concern it
            continue
        assert (code, command in printed) == (1, True), f"{look}\n{printed}"
    found = await stage.rindle.doctor(only=["db.migrations", "db.schema"])
    assert {one.fix for one in found.checks if one.status == "error"} == {command}
    if condition in ("incomplete", "unversioned"):
        code, printed = await typed(command)
        assert code == 0, printed
        assert (await stage.rindle.doctor(only=["db.migrations", "db.schema"])).success
        assert (await typed("rindle runtime-status --fail-on any"))[0] == 0


async def test_old_failures_and_cancellations_are_counted_and_no_longer_reported(stage: Stage) -> None:
    """Otherwise one user who cancels a video would keep every monitor at 3."""
    asset = MediaAsset(id=new_id(), state="degraded", storage_key="avatar/x", profile="avatar")
    old = {"cancelled": timedelta(days=1, hours=1), "failed": timedelta(days=7, hours=1)}

    def add(session: Session) -> None:
        session.add(asset)
        session.flush()
        for state, age in old.items():
            for name, when in ((f"old_{state}", utc_now() - age), (f"new_{state}", utc_now() - timedelta(minutes=5))):
                facts = {"state": state, "recipe_digest": "0" * 64, "inserted_at": when, "updated_at": when}
                session.add(MediaVariant(asset_id=asset.id, name=name, **facts))

    await stage.rindle.database.write(add)
    report = await stage.rindle.runtime_status()

    assert {one.name: one.count for one in report.findings} == {"cancelled_work": 1, "failed_work": 1}
    assert report.variants.counts == {"cancelled": 2, "failed": 2, "total": 4}
    assert (await typed("rindle runtime-status --fail-on alert"))[0] == 0
    assert (await typed("rindle runtime-status --fail-on alert,failed_work"))[0] == 3
    for_ever = stage.application(RINDLE_FAILED_WORK_SECONDS="100000000", RINDLE_CANCELLED_WORK_SECONDS="100000000")
    found = (await for_ever.runtime_status()).findings
    assert {one.name: one.count for one in found} == {"cancelled_work": 2, "failed_work": 2}
