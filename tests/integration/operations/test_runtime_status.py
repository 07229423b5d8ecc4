"""``runtime_status``: what stands still is found, what is being worked on is not, and the report stays cheap."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session
from temporalio.client import Client

from rindle import (
    MediaAsset,
    MediaOutbox,
    MediaUploadSession,
    MediaVariant,
    Rindle,
    TemporalConnection,
    messages,
    telemetry,
)
from rindle.db.models import MediaErasure, MediaErasureAsset, new_id, utc_now
from rindle.errors import InspectionFailed, InvalidFilter, RindleError, SetupIncomplete, UnknownFilters
from rindle.messages import VariantInput
from rindle.operations import lost_runs, runs
from rindle.operations.explain import explain
from rindle.operations.findings import AssetSample, RunSample, SessionSample, VariantSample
from rindle.operations.remedies import FINDING_OF_VARIANT, REMEDIES
from rindle.operations.runtime_status import RuntimeStatus, runtime_status
from rindle.relay import Relay
from tests.integration.operations.test_provider_findings import OF_PROVIDERS
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import free_port
from tests.stage import Stage, on_postgres
from tests.workflows.fleet import closed, temporal

HOUR = 3600
#: Classes that are not found in the rows of the library; ``test_remedies`` plays them.
OF_SURROUNDINGS = {
    *("no_worker", "profile_unregistered", "retrying", "run_without_rows", "temporal_unreachable"),
    *OF_PROVIDERS,
}


@pytest.fixture
async def rindle(stage: Stage) -> Rindle:
    """The stage's application, its tables marked as this release's."""
    await stage.stamp()
    return stage.rindle


def aged(seconds: float) -> dict[str, Any]:
    then = utc_now() - timedelta(seconds=seconds)
    return {"inserted_at": then, "updated_at": then}


def an_asset(state: str, age_seconds: float, **facts: Any) -> MediaAsset:
    return MediaAsset(
        **({"id": new_id(), "state": state, "storage_key": f"avatar/{uuid.uuid4()}", "profile": "avatar"} | facts),
        **aged(age_seconds),
    )


def a_variant(asset: MediaAsset, state: str, age_seconds: float, **facts: Any) -> MediaVariant:
    return MediaVariant(
        **(
            {"asset_id": asset.id, "name": f"v{uuid.uuid4().hex[:8]}", "state": state, "recipe_digest": "0" * 64}
            | facts
        ),
        **aged(age_seconds),
    )


def a_session(asset: MediaAsset, state: str, age_seconds: float, **facts: Any) -> MediaUploadSession:
    expires_at = utc_now() - timedelta(seconds=age_seconds)
    return MediaUploadSession(
        **(
            {"id": new_id(), "asset_id": asset.id, "state": state, "upload_key": str(uuid.uuid4())}
            | {"expires_at": expires_at}
            | facts
        ),
        **aged(age_seconds),
    )


async def keep(rindle: Rindle, *rows: Any) -> None:
    """Write rows as they are; assets first, which the others point at."""

    def add(session: Session) -> None:
        for group in ([row for row in rows if isinstance(row, MediaAsset)], rows):
            session.add_all(group)
            session.flush()

    await rindle.database.write(add)


def findings(report: RuntimeStatus) -> dict[str, int]:
    """Return all findings of a report as ``class -> count``."""
    return {one.name: one.count for one in report.findings}


# --- shape ---------------------------------------------------------------------------------------------------------


async def test_nothing_stuck_is_an_empty_report_of_the_whole_shape(rindle: Rindle) -> None:
    report = (await rindle.runtime_status()).to_dict()

    report.pop("generated_at")
    running = report["temporal"].pop("running")
    assert report == {
        "filters": {"profile": None, "older_than": None, "limit": 5, "format": None, "provider_stuck": False},
        "runtime_checks": {"counts": {}, "findings": []},
        "assets": {"counts": {"total": 0}},
        "variants": {"counts": {"total": 0}, "findings": []},
        "upload_sessions": {"counts": {"total": 0}, "findings": []},
        "provider_assets": {"counts": {"total": 0}, "threshold_seconds": 7200, "findings": []},
        "outbox": {"pending": 0, "parked": 0, "oldest_age_seconds": 0},
        "purges": {"pending": 0, "oldest_age_seconds": 0, "findings": []},
        "erasures": {"pending": 0, "oldest_age_seconds": 0, "findings": []},
        "temporal": {"reachable": True, "verified": True, "truncated": False, "findings": []},
        "recommendations": [],
    }
    assert running == {
        "upload": 0,
        "variants": 0,
        "provider_push": 0,
        "provider_upload": 0,
        "purge": 0,
        "erasure": 0,
        "maintenance": 0,
    }


async def test_every_kind_of_standstill_is_found_with_its_remedy(rindle: Rindle) -> None:
    home = an_asset("degraded", HOUR)
    waiting = an_asset("validating", 2 * HOUR)
    gave_up = an_asset("analyzing", 60, error_code="scanner_unavailable")
    dead = an_asset("deleted", 3 * HOUR)
    refused = an_asset("deleted", 60, error_code="storage_unauthorized")
    ticketed = an_asset("deleted", 3 * HOUR)  # its objects are deleted once more when the ticket has expired
    staged = an_asset("staged", HOUR)
    await keep(
        rindle,
        *(home, waiting, gave_up, dead, refused, ticketed, staged),
        a_session(ticketed, "completed", HOUR, url_expires_at=utc_now() - timedelta(minutes=30)),
        a_session(staged, "aborted", 60, release_error_code="storage_permanent"),
        a_session(waiting, "completed", HOUR),
        an_asset("available", 30, kind="audio"),
        *(a_variant(home, state, 30) for state in ("failed", "cancelled", "stale", "missing")),
        a_variant(home, "queued", 400),
        a_variant(home, "processing", 1000),
        a_session(staged, "signed", HOUR),
        a_session(staged, "expired", HOUR, failure_reason="too late"),
        a_session(staged, "aborted", HOUR, backing_released_at=utc_now()),
        MediaOutbox(kind="start", workflow_type="t", workflow_id="w", task_queue="q", **aged(HOUR)),
        MediaOutbox(kind="start", workflow_type="t", workflow_id="x", task_queue="q", state="parked", **aged(HOUR)),
        MediaErasure(id=new_id(), owner_type="member", owner_id="ada", **aged(HOUR)),
        MediaErasure(id=new_id(), owner_type="member", owner_id="bob", completed_at=utc_now(), **aged(HOUR)),
    )

    # What SQLAlchemy's default would have set to now: the row has been due for as long as it exists.
    await rindle.database.write(
        lambda session: session.execute(update(MediaOutbox).values(available_at=MediaOutbox.inserted_at))
    )
    report = await rindle.runtime_status()

    assert findings(report) == {
        "cancelled_work": 1,
        "deletion_failing": 1,
        "erasure_stuck": 1,
        "failed_work": 1,
        "orphan_suspect": 1,
        "outbox_parked": 1,
        "outbox_stalled": 1,
        "probe_drift": 1,
        "purge_stuck": 1,
        "queue_starved": 1,
        "recipe_drift": 1,
        "release_failing": 1,
        "session_overdue": 1,
        "session_residue": 1,
        "storage_drift": 1,
        "stuck_promotion": 1,
        "workflow_missing": 1,
    }
    assert [one.name for one in report.recommendations] == sorted(set(REMEDIES) - OF_SURROUNDINGS)
    assert {one.name: one.surface for one in report.recommendations}["failed_work"] == "rindle requeue ASSET"
    assert report.assets.counts == {
        **{"analyzing": 1, "available": 1, "degraded": 1, "deleted": 3, "staged": 1, "validating": 1},
        "total": 8,
    }
    [missing] = [one for one in report.runtime_checks.findings if one.name == "workflow_missing"]
    assert missing.oldest_age_seconds == pytest.approx(2 * HOUR, abs=60)
    assert [sample.asset_id for sample in missing.samples if isinstance(sample, AssetSample)] == [waiting.id]
    [residue] = [one for one in report.upload_sessions.findings if one.name == "session_residue"]
    [sample] = residue.samples
    assert isinstance(sample, SessionSample)
    assert (residue.state, sample.failure_reason) == ("expired", "too late")
    shown = report.to_dict()
    [as_json] = [one for one in shown["upload_sessions"]["findings"] if one["class"] == "session_residue"]
    assert list(as_json) == ["class", "state", "count", "oldest_age_seconds", "samples"]
    assert set(as_json["samples"][0]) == {"session_id", "asset_id", "state", "failure_reason"}
    assert list(shown["recommendations"][0]) == ["class", "action", "surface", "summary"]


@pytest.mark.parametrize("name", sorted(set(REMEDIES) - OF_SURROUNDINGS))
async def test_what_repairs_one_asset_is_what_repairs_all(lite_stage: Stage, name: str) -> None:
    """``explain`` and ``runtime_status`` read one table: whoever is asked, the advice is the same."""
    rindle = lite_stage.rindle
    await lite_stage.stamp()
    states = {
        **dict.fromkeys(("outbox_parked", "outbox_stalled", "session_overdue", "session_residue"), "staged"),
        **{"deletion_failing": "deleted", "release_failing": "staged"},
        **{"purge_stuck": "deleted", "stuck_promotion": "analyzing", "workflow_missing": "validating"},
        **{"erasure_stuck": "ready", "probe_drift": "ready"},
    }
    failed = {"stuck_promotion": "scanner_unavailable", "deletion_failing": "storage_unauthorized"}
    facts = {"error_code": failed[name]} if name in failed else {}
    if name == "probe_drift":
        facts = {"kind": "video"}
    asset = an_asset(states.get(name, "degraded"), 2 * HOUR, **facts)
    ended = {"session_residue": "expired", "release_failing": "aborted"}
    released = {"release_error_code": "storage_permanent"} if name == "release_failing" else {}
    upload = a_session(asset, ended.get(name, "signed"), HOUR, **released)
    rows: list[Any] = [asset]
    if asset.state == "staged":
        rows.append(upload)
    if name.startswith("outbox"):
        state = "parked" if name == "outbox_parked" else "pending"
        workflow_id = lite_stage.upload_workflow(upload.id)
        send = {"kind": "start", "workflow_type": "t", "workflow_id": workflow_id, "task_queue": "q"}
        rows.append(MediaOutbox(**send, state=state, available_at=utc_now() - timedelta(hours=1), **aged(HOUR)))
    of_variants = {finding: state.value for state, finding in FINDING_OF_VARIANT.items()}
    of_variants |= {"queue_starved": "queued", "orphan_suspect": "processing"}
    if name in of_variants:
        rows.append(a_variant(asset, of_variants[name], HOUR))
    if name == "erasure_stuck":
        erasure = MediaErasure(id=new_id(), owner_type="member", owner_id="ada", **aged(HOUR))
        await keep(rindle, erasure)
        waits = {"erasure_id": erasure.id, "asset_id": asset.id, "profile": asset.profile, "outcome": "pending"}
        rows.append(MediaErasureAsset(**waits))
    await keep(rindle, *rows)

    [advice] = [one for one in (await rindle.runtime_status()).recommendations if one.name == name]
    diagnosis = (await explain(rindle.services, asset.id)).diagnosis

    assert diagnosis.command == advice.surface.replace("ASSET", asset.id)


async def test_a_variant_of_an_older_recipe_is_explained_before_a_sweep_marks_it(lite_stage: Stage) -> None:
    rindle = lite_stage.rindle
    await lite_stage.stamp()
    asset = an_asset("ready", HOUR)
    current = rindle.services.profile("avatar").recipe_digest("thumb")
    await keep(
        rindle,
        asset,
        a_variant(asset, "ready", HOUR, name="large"),
        a_variant(asset, "ready", HOUR, name="thumb", recipe_digest=current),
        a_variant(asset, "ready", HOUR, name="of_yesterday"),  # no longer declared: left alone
    )

    diagnosis = (await explain(rindle.services, asset.id)).diagnosis

    assert diagnosis.summary == "built from an older recipe: large"
    assert diagnosis.command == REMEDIES["recipe_drift"].command


async def test_what_is_merely_young_is_no_finding(rindle: Rindle) -> None:
    home = an_asset("available", 10)
    await keep(
        rindle,
        *(home, an_asset("validating", 200), an_asset("deleted", HOUR / 2)),
        *(a_variant(home, "queued", 200), a_variant(home, "processing", 800)),
        a_variant(home, "processing", 1100, output_kind="video"),
        *(a_session(home, "signed", 200), a_session(home, "completed", 2 * HOUR)),
    )

    assert findings(await rindle.runtime_status()) == {}


async def test_rows_of_dynamic_transforms_are_nobodys_work(rindle: Rindle) -> None:
    home = an_asset("ready", 10)
    await keep(rindle, home, a_variant(home, "failed", HOUR, dynamic=True))

    assert findings(await rindle.runtime_status()) == {}


# --- runs without rows ---------------------------------------------------------------------------------------------


async def open_run(stage: Stage, workflow_type: str, workflow_id: str, argument: Any, **options: Any) -> None:
    """Start a run on a queue without workers: it stays open and never gets a task."""
    client = await stage.client()
    await client.start_workflow(workflow_type, argument, id=workflow_id, task_queue=f"{stage.prefix}-idle", **options)


async def test_open_runs_whose_rows_are_gone_are_listed_with_the_command_that_ends_them(
    rindle: Rindle, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_runs, "RUN_SECONDS", 0)
    kept = an_asset("processing", 10)
    await keep(rindle, kept)
    orders = {key: VariantInput(asset_id=key) for key in (kept.id, new_id(), new_id())}
    for key, order in orders.items():
        await open_run(stage, messages.VARIANT_WORKFLOW, stage.variants_workflow(key), order)
    lost = {stage.variants_workflow(key) for key in orders if key != kept.id}

    async def look() -> RuntimeStatus | None:  # visibility lags behind
        report = await rindle.runtime_status()
        return report if report.temporal.running["variants"] == len(orders) and report.temporal.findings else None

    report = await until(look, what="visibility to list the runs")

    [found] = report.temporal.findings
    assert (found.name, found.count) == ("run_without_rows", 2)
    samples = [sample for sample in found.samples if isinstance(sample, RunSample)]
    assert {sample.workflow_id for sample in samples} == lost
    assert [sample.started_at for sample in samples] == sorted(sample.started_at for sample in samples)
    [advice] = report.recommendations
    command = advice.surface.replace("WORKFLOW", samples[0].workflow_id).split()
    assert command[0] == "temporal"
    await temporal(stage, *command[1:])
    assert await closed(stage, samples[0].workflow_id) == "TERMINATED"

    async def one_is_left() -> bool:
        return findings(await rindle.runtime_status(limit=1)) == {"run_without_rows": 1}

    await until(one_is_left, what="visibility to list the end of one run")
    assert findings(await rindle.runtime_status(profile="plain")) == {}, "these runs carry no profile"
    monkeypatch.setattr(lost_runs, "RUN_SECONDS", HOUR)
    assert findings(await rindle.runtime_status()) == {}, "rows may be gone while a purge ends"


# --- filters -------------------------------------------------------------------------------------------------------


async def test_samples_are_limited_and_oldest_first(rindle: Rindle) -> None:
    home = an_asset("degraded", 10)
    rows = [a_variant(home, "failed", age) for age in (100, 300, 200, 400)]
    await keep(rindle, home, *rows)

    [failed] = (await rindle.runtime_status(limit=2)).variants.findings

    assert failed.count == 4
    names = [sample.variant_name for sample in failed.samples if isinstance(sample, VariantSample)]
    assert names == [rows[3].name, rows[1].name]
    assert failed.oldest_age_seconds == pytest.approx(400, abs=30)


async def test_older_than_hides_findings_and_never_counts_or_loosens_a_threshold(rindle: Rindle) -> None:
    home = an_asset("degraded", 10)
    await keep(rindle, home, a_variant(home, "failed", 100), a_variant(home, "queued", 200))

    report = await rindle.runtime_status(older_than=150)
    assert findings(report) == {}
    assert report.variants.counts == {"failed": 1, "queued": 1, "total": 2}
    assert findings(await rindle.runtime_status(older_than=50)) == {"failed_work": 1}


async def test_a_profile_narrows_counts_and_findings(rindle: Rindle) -> None:
    ours, theirs = an_asset("degraded", 10), an_asset("degraded", 10, profile="plain")
    await keep(
        rindle,
        *(ours, theirs, a_variant(ours, "failed", 100), a_variant(theirs, "failed", 100)),
        *(a_session(theirs, "signed", HOUR), an_asset("deleted", 2 * HOUR, profile="plain")),
    )

    report = await rindle.runtime_status(profile="avatar")

    assert findings(report) == {"failed_work": 1}
    parts = (report.assets, report.variants, report.upload_sessions)
    assert [part.counts["total"] for part in parts] == [1, 1, 0]
    assert report.purges.pending == 0


@pytest.mark.parametrize(
    ("filters", "code"),
    [
        ({"older": 1}, "unknown_filters"),
        ({"profile": "avatr"}, "invalid_profile"),
        ({"older_than": -1}, "invalid_older_than"),
        ({"older_than": "1h"}, "invalid_older_than"),
        ({"older_than": True}, "invalid_older_than"),
        ({"limit": 0}, "invalid_limit"),
        ({"limit": 101}, "invalid_limit"),
        ({"format": "xml"}, "invalid_format"),
    ],
)
async def test_a_mistyped_filter_is_refused(lite_stage: Stage, filters: dict[str, Any], code: str) -> None:
    with pytest.raises(RindleError) as refused:
        await lite_stage.rindle.runtime_status(**filters)

    assert refused.value.code == code
    assert isinstance(refused.value, UnknownFilters | InvalidFilter)


# --- refusals ------------------------------------------------------------------------------------------------------


async def test_tables_of_an_unknown_release_are_not_counted(stage: Stage) -> None:
    with pytest.raises(SetupIncomplete, match="rindle db stamp") as refused:
        await stage.rindle.runtime_status()

    assert refused.value.detail["component"] == "rindle_tables"


async def test_a_database_that_is_away_is_an_inspection_that_failed(lite_stage: Stage, tmp_path: Path) -> None:
    url = f"postgresql+psycopg://rindle:canary@127.0.0.1:{free_port()}/canary"
    engine = create_async_engine(url)
    base = lite_stage.rindle
    lost = Rindle(engine=engine, profiles=list(base.profiles), storages=base.storages, temporal=base.temporal)

    with pytest.raises(InspectionFailed) as refused:
        await lost.runtime_status()

    assert "canary" not in str(refused.value)
    await engine.dispose()


async def test_every_refusal_is_an_event(lite_stage: Stage) -> None:
    seen: list[tuple[str, dict[str, str]]] = []
    remove = telemetry.add_handler(lambda name, facts, numbers: seen.append((name, dict(facts))))
    try:
        for filters in ({"limit": 0}, {}):
            with pytest.raises(RindleError):
                await lite_stage.rindle.runtime_status(**filters)
    finally:
        remove()

    assert [facts for name, facts in seen if name == "rindle.runtime.refusal"] == [
        {"surface": "runtime_status", "reason": reason, "mode": "refuse"}
        for reason in ("invalid_limit", "setup_incomplete")
    ]


# --- Temporal ------------------------------------------------------------------------------------------------------


async def test_work_that_a_run_is_still_doing_is_not_stuck(stage: Stage, rindle: Rindle) -> None:
    """No worker polls, so the run stays open without touching its row."""
    asset = await stage.verified()
    await Relay(rindle.database, rindle.temporal, rindle.settings).dispatch_once()
    await rindle.database.write(lambda session: session.execute(update(MediaAsset).values(**aged(HOUR))))

    report = await rindle.runtime_status()
    assert findings(report) == {}
    assert report.temporal.verified is True

    async def counted() -> bool:  # visibility follows after a moment
        return (await rindle.runtime_status()).temporal.running["upload"] == 1

    await until(counted, what="the open run to be counted")
    sessions = await stage.read(lambda session: session.query(MediaUploadSession.id).scalar())
    await (await stage.client()).get_workflow_handle(stage.upload_workflow(str(sessions))).terminate()

    [missing] = (await rindle.runtime_status()).runtime_checks.findings
    [sample] = missing.samples
    assert isinstance(sample, AssetSample)
    assert (missing.name, sample.asset_id) == ("workflow_missing", asset.id)


async def test_a_backlog_whose_runs_all_live_is_load_and_no_standstill(stage: Stage, rindle: Rindle) -> None:
    for _ in range(14):
        await stage.verified()
    relay = Relay(rindle.database, rindle.temporal, rindle.settings)
    while await relay.dispatch_once():
        pass
    await rindle.database.write(lambda session: session.execute(update(MediaAsset).values(**aged(HOUR))))

    report = await rindle.runtime_status()

    assert findings(report) == {}
    assert report.temporal.truncated is True


async def test_with_temporal_away_the_report_still_answers_and_says_it_could_not_verify(rindle: Rindle) -> None:
    await keep(rindle, an_asset("validating", HOUR), an_asset("analyzing", HOUR, error_code="scanner_unavailable"))
    nowhere = TemporalConnection(connect_seconds=0.5, environment={"TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}"})

    report = (await runtime_status(replace(rindle.services, temporal=nowhere))).to_dict()

    [away] = report["temporal"].pop("findings")
    assert away["class"] == "temporal_unreachable"
    assert report["temporal"] == {"reachable": False, "running": {}, "verified": False, "truncated": False}
    given_up, missing = report["runtime_checks"]["findings"]
    assert (missing["class"], missing["reason"]) == ("workflow_missing", "unverified")
    assert "reason" not in given_up


@pytest.mark.parametrize("ask", ["runtime_status", "explain"])
async def test_the_time_for_the_answers_begins_when_the_client_is_connected(
    rindle: Rindle, stage: Stage, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    """Otherwise a process that needs longer to connect than for the answers would never connect."""
    asset = an_asset("ready", 10)
    await keep(rindle, asset)
    client = await stage.client()

    async def connect() -> Client:
        await asyncio.sleep(0)  # a limit that began before has expired now
        monkeypatch.setattr(runs, "TEMPORAL_SECONDS", PATIENCE_SECONDS)
        return client

    monkeypatch.setattr(runs, "TEMPORAL_SECONDS", 0)
    slow = TemporalConnection(connect=connect, connect_seconds=PATIENCE_SECONDS)
    services = replace(rindle.services, temporal=slow)

    if ask == "runtime_status":
        assert (await runtime_status(services)).temporal.verified
    else:
        assert (await explain(services, asset.id)).temporal.reachable


# --- cost ----------------------------------------------------------------------------------------------------------


async def test_it_changes_nothing_and_asks_as_often_for_many_rows_as_for_none(rindle: Rindle) -> None:
    statements: list[str] = []
    engine = rindle.database.engine
    assert isinstance(engine, AsyncEngine)
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    home = an_asset("degraded", HOUR)
    await keep(rindle, home, *(a_variant(home, "failed", 100) for _ in range(3)))
    await rindle.runtime_status()  # the first one looks up which tables there are
    statements.clear()
    await rindle.runtime_status()
    few = len(statements)
    assert not [one for one in statements if one.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE"))]

    await keep(rindle, *(a_variant(home, "failed", 100) for _ in range(300)))
    statements.clear()
    await rindle.runtime_status()

    assert len(statements) == few


@pytest.mark.parametrize("filters", [{}, {"profile": "avatar"}])
async def test_large_states_are_estimated_on_postgres_and_said_to_be(
    rindle: Rindle, monkeypatch: pytest.MonkeyPatch, filters: dict[str, Any]
) -> None:
    monkeypatch.setattr("rindle.operations.runtime_status.EXACT_ROWS", 2)
    home = an_asset("ready", 10)
    await keep(rindle, home, *(a_variant(home, "ready", 10) for _ in range(5)), a_variant(home, "failed", 10))
    await keep(rindle, an_asset("ready", 10), an_asset("ready", 10))

    variants = (await rindle.runtime_status(**filters)).to_dict()["variants"]

    assert variants["counts"]["failed"] == 1
    if rindle.database.dialect == "postgresql":
        assert variants["estimated"] == ["ready"]
        assert variants["counts"]["ready"] > (0 if filters else 2)
    else:
        assert "estimated" not in variants
        assert variants["counts"]["ready"] == 5


async def test_a_small_profile_is_counted_exactly_beside_large_states(
    rindle: Rindle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rindle.operations.runtime_status.EXACT_ROWS", 2)
    home = an_asset("ready", 10, profile="plain")
    await keep(rindle, home, *(a_variant(home, "ready", 10) for _ in range(4)))
    await keep(rindle, *(an_asset("ready", 10) for _ in range(5)))

    report = (await rindle.runtime_status(profile="plain")).to_dict()

    assert report["assets"]["counts"] == {"ready": 1, "total": 1}
    assert report["variants"]["counts"] == {"ready": 4, "total": 4}
    assert "estimated" not in report["assets"] and "estimated" not in report["variants"]


@on_postgres
@pytest.mark.parametrize("filters", [{}, {"profile": "avatar"}])
async def test_no_query_reads_a_whole_table(rindle: Rindle, filters: dict[str, Any]) -> None:
    """With sequential scans made expensive, Postgres falls back to one only where no index serves the query."""
    home = an_asset("degraded", HOUR)
    await keep(
        rindle,
        *(home, an_asset("validating", HOUR), an_asset("deleted", 2 * HOUR)),
        *(a_variant(home, state, 2 * HOUR) for state in ("failed", "queued", "processing", "stale")),
        *(a_session(home, state, HOUR) for state in ("signed", "expired")),
        MediaOutbox(kind="start", workflow_type="t", workflow_id="x", task_queue="q", state="parked", **aged(HOUR)),
    )
    asked: list[tuple[str, Any]] = []
    engine = rindle.database.engine
    assert isinstance(engine, AsyncEngine)
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    await rindle.runtime_status(**filters)
    queries = [(sql, parameters) for sql, parameters in asked if "FROM media_" in sql]
    assert len(queries) > 12

    async with engine.connect() as connection:
        await connection.execute(text("SET enable_seqscan = off"))
        for sql, parameters in queries:
            plan = await connection.exec_driver_sql(f"EXPLAIN {sql}", parameters)
            shown = "\n".join(row[0] for row in plan)
            assert "Seq Scan" not in shown, f"{sql}\n{shown}"
