"""The commands as an operator types them: processes of their own on real servers, their words and their exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaOutbox, MediaUploadSession, MediaVariant
from rindle.db import migrate, transitions
from rindle.db.models import TABLES, utc_now
from rindle.operations.explain import Diagnosis, Explanation, explain
from rindle.states import AssetState
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import free_port
from tests.stage import REPOSITORY, Stage
from tests.workflows.fleet import at_rest, dispatched


@pytest.fixture
async def stage(lite_stage: Stage) -> Stage:
    """The stage with its tables marked as this release's."""
    await lite_stage.stamp()
    return lite_stage


async def rindle(stage: Stage, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command in a process of its own."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "rindle.cli", *arguments],
        env={**os.environ, **stage.environment, **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


async def with_variant(stage: Stage, state: str, **values: Any) -> MediaAsset:
    """Make a ready asset and put its thumbnail into ``state``, as if it had come to that."""
    asset = await stage.ready()
    await at_rest(stage)

    def set_state(session: Session) -> None:
        thumb = update(MediaVariant).where(MediaVariant.asset_id == asset.id, MediaVariant.name == "thumb")
        session.execute(thumb.values(state=state, **values))
        session.execute(update(MediaAsset).values(state="degraded"))

    await stage.rindle.database.write(set_state)
    return asset


# --- looking -------------------------------------------------------------------------------------------------------


async def test_doctor_prints_one_line_per_check_and_fails_on_errors_only(stage: Stage) -> None:
    doctor = ("doctor", "--timeout", str(PATIENCE_SECONDS))
    good = await rindle(stage, *doctor, "--only", "db.schema,libmagic,security.secrets")
    assert good.returncode == 0, good.stderr
    lines = good.stdout.splitlines()
    assert lines[0] == f"[OK] db.schema (database) {len(TABLES)} tables with their keys and indexes"
    assert lines[-1] == "Environment checks passed (3 checks)."
    assert "  Fix: create one with: openssl rand -hex 32" in lines

    assert (await rindle(stage, *doctor, "--only", "security.secrets", "--strict")).returncode == 1
    bad = await rindle(stage, *doctor, "--only", "temporal.pollers,libmagic", "--format", "json")
    assert bad.returncode == 1
    report = json.loads(bad.stdout)
    assert (report["success"], report["failed"], report["total"]) == (False, 1, 2)


async def test_a_mistyped_option_is_a_usage_error(stage: Stage) -> None:
    done = await rindle(stage, "doctor", "--liv")

    assert (done.returncode, done.stdout) == (2, "")
    assert "--liv" in done.stderr


async def test_runtime_status_exits_with_three_only_when_asked_to(stage: Stage) -> None:
    await stage.member()
    asset = await with_variant(stage, "failed", error_code="render_failed")

    plain = await rindle(stage, "runtime-status")
    assert plain.returncode == 0, plain.stderr
    assert "  failed_work:  1, oldest " in plain.stdout
    assert "  Fix failed_work: rindle requeue ASSET" in plain.stdout
    assert f"asset_id={asset.id}" in plain.stdout

    assert (await rindle(stage, "runtime-status", "--fail-on", "failed_work,purge_stuck")).returncode == 3
    assert (await rindle(stage, "runtime-status", "--fail-on", "purge_stuck")).returncode == 0
    assert (await rindle(stage, "runtime-status", "--fail-on", "failed_wrk")).returncode == 2
    as_json = await rindle(stage, "runtime-status", "--fail-on", "any", "--format", "json")
    assert as_json.returncode == 3
    assert json.loads(as_json.stdout)["variants"]["counts"] == {"failed": 1, "ready": 1, "total": 2}


async def test_a_database_that_is_away_and_one_that_is_not_set_up_are_told_apart(stage: Stage) -> None:
    away = f"postgresql+psycopg://rindle:canary@127.0.0.1:{free_port()}/canary"
    lost = await rindle(stage, "runtime-status", "--format", "json", APP_DATABASE_URL=away)
    assert lost.returncode == 4
    assert json.loads(lost.stdout) == {
        "status": "error",
        "classification": "inspection_failed",
        "component": "database",
        "next_action": "rindle doctor",
    }
    assert "canary" not in lost.stdout + lost.stderr
    requeue = await rindle(stage, "requeue", "0198f6d4-8f2c-7000-8000-000000000000", APP_DATABASE_URL=away)
    assert requeue.returncode == 4
    assert "canary" not in requeue.stderr

    empty = f"sqlite+aiosqlite:///{stage.home}/empty.db"
    bare = await rindle(stage, "runtime-status", "--format", "json", APP_DATABASE_URL=empty)
    assert (bare.returncode, json.loads(bare.stdout)["classification"]) == (1, "setup_incomplete")


async def test_the_tables_are_made_upgraded_and_compared(stage: Stage) -> None:
    empty = {"APP_DATABASE_URL": f"sqlite+aiosqlite:///{stage.home}/empty.db"}

    assert (await rindle(stage, "db", "current", **empty)).returncode == 1
    assert (await rindle(stage, "db", "check", **empty)).stdout.splitlines()[-1] == f"{len(TABLES)} missing."
    made = await rindle(stage, "db", "upgrade", **empty)
    assert (made.returncode, made.stdout) == (0, f"Rindle's tables: none -> {migrate.head()}.\n"), made.stderr
    assert (await rindle(stage, "migrate", **empty)).stdout == f"Rindle's tables are at {migrate.head()}.\n"
    assert (await rindle(stage, "db", "check", **empty)).returncode == 0
    assert (await rindle(stage, "db", "current", **empty)).returncode == 0

    preview = await rindle(stage, "db", "downgrade", "0005", **empty)
    assert preview.stdout.splitlines() == [
        f"[DRY RUN] Rindle's tables: {migrate.head()} -> 0005.",
        "WARNING: no later upgrade restores what this deletes. Make a backup first.",
        *(f"  {revision}: {loss}" for revision, loss in migrate.undone(migrate.head(), "0005")),
        "Done.",
    ]
    assert (await rindle(stage, "db", "current", **empty)).returncode == 0
    assert (await rindle(stage, "db", "downgrade", "0005", "--execute", **empty)).returncode == 0
    behind = await rindle(stage, "db", "check", **empty)
    assert behind.returncode == 1
    assert behind.stdout.startswith(
        f"behind: the tables are at 0005; this release needs {migrate.head()}, but works without: media_"
    )
    unknown = await rindle(stage, "db", "downgrade", "0042", **empty)
    assert (unknown.returncode, "has no revision '0042'" in unknown.stderr) == (1, True)


# --- explaining ----------------------------------------------------------------------------------------------------


async def test_explain_names_the_failure_the_run_and_the_command_that_repairs_it(stage: Stage) -> None:
    await stage.member()
    asset = await with_variant(stage, "failed", error_code="render_failed", error_reason="no picture today")

    done = await rindle(stage, "explain", asset.id, "--ui", "http://127.0.0.1:8233/")
    assert done.returncode == 0, done.stderr
    assert f"  Fix: rindle requeue {asset.id}" in done.stdout
    assert "  last error: render_failed (variant thumb) no picture today" in done.stdout
    workflow = stage.variants_workflow(asset.id)
    assert f"  {workflow}: " in done.stdout
    assert f"http://127.0.0.1:8233/namespaces/default/workflows/{workflow}/" in done.stdout

    # What it recommends is what helps.
    assert (await rindle(stage, "requeue", asset.id)).returncode == 0
    await stage.state(asset.id, "ready")
    await at_rest(stage)
    story = await explain(stage.rindle.services, asset.id)
    assert story.to_dict()["diagnosis"] == {
        "summary": "no problem found",
        "last_error": None,
        "command": None,
    }


async def test_explain_shows_an_activity_that_keeps_failing(stage: Stage) -> None:
    await stage.member()
    stage.tell("scanner", "down")
    asset = await stage.verified("scanned")
    await dispatched(stage)  # a relay that is late is a problem as well

    async def failing() -> Explanation | None:
        story = await explain(stage.rindle.services, asset.id)
        return story if story.diagnosis.last_error else None

    story = await until(failing, what="the scan to be tried again")
    assert story is not None
    assert story.diagnosis.command == "rindle doctor"  # on the worker's machine; then it goes on by itself
    assert story.diagnosis.last_error is not None
    assert story.diagnosis.last_error.code == "scanner_unavailable"
    [run] = [one for one in story.workflows if one.status == "running"]
    [pending] = run.pending_activities
    assert pending.type == "rindle.scan"

    stage.tell("scanner", "")
    await stage.settled(asset.id)


async def test_explain_finds_an_asset_by_its_upload_and_says_what_it_waits_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rindle.operations.explain.RELAY_SECONDS", PATIENCE_SECONDS)
    upload = await stage.rindle.initiate_upload("avatar")

    async def story() -> Diagnosis:
        return (await explain(stage.rindle.services, upload.id)).diagnosis

    assert (await story()).summary == "it waits for the client to send the bytes and verify"

    def age(session: Session) -> None:
        since = utc_now() - timedelta(seconds=2 * PATIENCE_SECONDS)
        session.execute(update(MediaOutbox).values(available_at=since))

    await stage.rindle.database.write(age)
    assert (await story()).command == "rindle outbox drain"

    def lose(session: Session) -> None:
        session.execute(update(MediaOutbox).values(state="dispatched"))
        session.execute(update(MediaUploadSession).values(expires_at=utc_now() - timedelta(minutes=5)))

    await stage.rindle.database.write(lose)
    assert (await story()).command == f"rindle resume {upload.asset_id}"

    unknown = await rindle(stage, "explain", "0198f6d4-8f2c-7000-8000-000000000000")
    assert (unknown.returncode, unknown.stderr.partition(":")[0]) == (1, "not_found")


# --- repairing -----------------------------------------------------------------------------------------------------


async def test_cancel_and_requeue_say_what_they_did_and_refuse_what_makes_no_sense(stage: Stage) -> None:
    await stage.member()
    stage.tell("processor", "hold")
    asset = await stage.verified("held")
    await stage.variant(asset.id, "thumb", "processing")

    cancelled = await rindle(stage, "cancel", asset.id, "--format", "json")
    assert (cancelled.returncode, json.loads(cancelled.stdout)) == (0, {"asset_id": asset.id, "cancelled": 2})
    again = await rindle(stage, "cancel", asset.id)
    assert (again.returncode, again.stderr.partition(":")[0]) == (1, "not_processing")

    stage.tell("processor", "")
    unknown = await rindle(stage, "requeue", asset.id, "--variant", "poster")
    assert (unknown.returncode, unknown.stderr.partition(":")[0]) == (1, "unknown_variant_names")
    requeued = await rindle(stage, "requeue", asset.id)
    assert requeued.returncode == 0
    assert requeued.stdout.splitlines()[1:] == [
        "  selected:  2",
        "  enqueued:  2",
        "  skipped:   0",
        "  errors:    0",
        "Done.",
    ]
    await stage.variant(asset.id, "thumb", "ready", "failed")


async def test_regenerate_rebuilds_what_an_older_recipe_made(stage: Stage) -> None:
    await stage.member()
    asset = await with_variant(stage, "missing")

    done = await rindle(stage, "regenerate-variants", "--profile", "avatar", "--format", "json")

    assert (done.returncode, json.loads(done.stdout)) == (0, {"enqueued": 1, "skipped": 0, "errors": 0})
    await stage.variant(asset.id, "thumb", "ready")


async def test_resume_brings_back_a_lost_promotion(stage: Stage) -> None:
    asset = await stage.verified()
    await stage.rindle.database.write(lambda session: session.execute(update(MediaOutbox).values(state="dispatched")))
    await stage.member()

    assert (await rindle(stage, "resume", asset.id)).returncode == 0

    assert (await stage.settled(asset.id)).state == "ready"


async def test_purge_shows_first_and_deletes_only_with_execute(stage: Stage) -> None:
    await stage.member()
    asset = await stage.ready()
    await stage.rindle.attach(asset.id, ("user", "1"), "avatar")

    refused = await rindle(stage, "purge", asset.id)
    assert (refused.returncode, "  attachments:  1" in refused.stdout) == (1, True)
    assert (await rindle(stage, "purge", asset.id, "--execute")).returncode == 1
    await stage.rindle.database.write(lambda session: session.execute(update(MediaOutbox).values(state="dispatched")))
    await stage.rindle.detach(("user", "1"), "avatar")
    await stage.gone(asset.id)

    free = await stage.ready()
    shown = await rindle(stage, "purge", free.id)
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[-1] == "[DRY RUN] Done. Nothing was changed; add --execute."
    assert (await stage.rindle.asset(free.id)).state == "ready"
    assert (await rindle(stage, "purge", free.id, "--execute")).returncode == 0
    await stage.gone(free.id)
    assert (await rindle(stage, "purge")).returncode == 2


async def test_purges_that_got_lost_are_started_again(stage: Stage) -> None:
    await stage.member()
    asset = await stage.ready()

    def lose(session: Session) -> None:
        found = transitions.lock_asset(session, asset.id, "exclusive")
        assert found is not None
        transitions.tombstone(session, found)

    await stage.rindle.database.write(lose)

    shown = await rindle(stage, "purge", "--retry", "--format", "json")
    assert json.loads(shown.stdout) == {"found": 1, "started": 0, "dry_run": True}
    assert (await stage.rindle.asset(asset.id)).state == AssetState.DELETED
    done = await rindle(stage, "purge", "--retry", "--execute", "--format", "json")
    assert json.loads(done.stdout) == {"found": 1, "started": 1, "dry_run": False}
    await stage.gone(asset.id)


async def test_drain_sends_what_was_parked_and_says_so_when_temporal_is_away(stage: Stage) -> None:
    first, second = [await stage.rindle.initiate_upload("avatar") for _ in range(2)]

    def park(session: Session) -> None:
        rows = update(MediaOutbox).where(MediaOutbox.workflow_id == stage.upload_workflow(first.id))
        session.execute(rows.values(state="parked", last_error="INVALID_ARGUMENT", attempts=1))

    await stage.rindle.database.write(park)
    away = await rindle(stage, "outbox", "drain", TEMPORAL_ADDRESS=f"127.0.0.1:{free_port()}")
    assert (away.returncode, away.stderr.partition(":")[0]) == (4, "temporal_unavailable")
    assert {row.state for row in await stage.outbox()} == {"pending", "parked"}

    done = await rindle(stage, "outbox", "drain", "--format", "json")

    assert (done.returncode, json.loads(done.stdout)) == (0, {"sent": 2, "unparked": 1, "pending": 0, "parked": 0})
    client = await stage.client()
    for upload in (first, second):
        assert (await client.get_workflow_handle(stage.upload_workflow(upload.id)).describe()).status is not None
