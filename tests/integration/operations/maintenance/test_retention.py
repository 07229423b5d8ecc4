"""Events are deleted when their retention has passed; what must be kept for ever, and what is sent, is not touched."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from rindle import MediaEvent
from rindle.db.models import utc_now
from rindle.events import EVENT_TYPES, PROGRESS_TYPES, STATE_TYPES
from rindle.messages import SweepProgress
from rindle.operations.maintenance import retention as module
from rindle.operations.maintenance import runs
from rindle.operations.maintenance.retention import Retention, RetentionOptions, RetentionReport, retention
from rindle.operations.maintenance.sweep import run_here
from rindle.settings import Settings
from tests.stage import Stage

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


async def happened(stage: Stage, event_type: str, ago: timedelta, **values: Any) -> None:
    """Write an event of an asset that is long gone."""

    def write(session: Session) -> None:
        row = {"scope_key": "asset", "scope_id": "gone", "asset_id": None, "payload": {}, **values}
        session.add(MediaEvent(type=event_type, occurred_at=utc_now() - ago, **row))

    await stage.rindle.database.write(write)


async def kept(stage: Stage) -> list[tuple[str, int]]:
    """Return type and age in days of all events."""
    now: datetime = utc_now()
    rows = await stage.read(lambda session: session.scalars(select(MediaEvent).order_by(MediaEvent.id)).all())
    return [(row.type, (now - row.occurred_at) // DAY) for row in rows]


def test_the_defaults_are_ninety_days_and_an_hour() -> None:
    settings = Settings()
    assert settings.event_retention_seconds == 90 * 24 * 3600
    assert settings.progress_retention_seconds == 3600


async def test_changes_of_state_go_after_ninety_days_and_progress_after_an_hour(stage: Stage) -> None:
    services = stage.rindle.services
    for event_type in ("asset_state_changed", "variant_ready", "variant_state_changed", "upload_session_signed"):
        await happened(stage, event_type, 90 * DAY + HOUR)
        await happened(stage, event_type, 90 * DAY - HOUR)
    await happened(stage, "variant_progress", HOUR + timedelta(minutes=1))
    await happened(stage, "variant_progress", HOUR - timedelta(minutes=5))

    assert await retention(services) == RetentionReport(events=4, progress_events=1)
    assert len(await kept(stage)) == 10

    assert await retention(services, dry_run=False) == RetentionReport(events=4, progress_events=1)
    assert await kept(stage) == [
        ("asset_state_changed", 89),
        ("variant_ready", 89),
        ("variant_state_changed", 89),
        ("upload_session_signed", 89),
        ("variant_progress", 0),
    ]
    assert await retention(services, dry_run=False) == RetentionReport()


async def test_audit_events_are_kept_for_ever(stage: Stage) -> None:
    audited = sorted(set(EVENT_TYPES) - STATE_TYPES - PROGRESS_TYPES)
    assert "owner.erased" in audited
    for event_type in audited:
        await happened(stage, event_type, 3650 * DAY, audit=True)
    await happened(stage, "asset_state_changed", 3650 * DAY, audit=True)

    assert await retention(stage.rindle.services, dry_run=False) == RetentionReport()
    assert await kept(stage) == [(event_type, 3650) for event_type in [*audited, "asset_state_changed"]]


async def test_pages_are_transactions_of_their_own(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    for _ in range(7):
        await happened(stage, "variant_ready", 91 * DAY)
    await happened(stage, "variant_started", 91 * DAY)
    seen: list[int] = []

    outcome = await run_here(
        stage.rindle.services,
        Retention(),
        RetentionOptions(dry_run=False),
        on_page=lambda progress: seen.append(progress.counters["events"]),
    )

    assert outcome.report == RetentionReport(events=8)
    assert [count for count in dict.fromkeys(seen) if count] == [3, 6, 7, 8]
    assert await kept(stage) == []


async def test_a_dry_run_counts_in_pages_also_events_of_one_moment(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COUNTED", 3)
    moment = utc_now() - 91 * DAY

    def write(session: Session) -> None:
        facts = {"type": "variant_ready", "scope_key": "asset", "scope_id": "gone", "asset_id": None, "payload": {}}
        session.add_all(MediaEvent(occurred_at=moment, **facts) for _ in range(7))
        session.add_all(MediaEvent(occurred_at=moment + number * HOUR, **facts) for number in range(1, 3))
        session.add(MediaEvent(occurred_at=utc_now(), **facts))

    await stage.rindle.database.write(write)
    seen: list[int] = []

    def note(progress: SweepProgress) -> None:
        seen.append(progress.counters["events"])

    outcome = await run_here(stage.rindle.services, Retention(), RetentionOptions(), on_page=note)

    assert outcome.report == RetentionReport(events=9)
    assert [count for count in dict.fromkeys(seen) if count] == [3, 6, 9]


async def test_settings_decide_and_a_worker_does_it(stage: Stage) -> None:
    short = stage.application(RINDLE_EVENT_RETENTION_SECONDS="3600", RINDLE_PROGRESS_RETENTION_SECONDS="60")
    await stage.member(short)
    await happened(stage, "variant_ready", 2 * HOUR)
    await happened(stage, "variant_progress", timedelta(minutes=5))
    await happened(stage, "variant_ready", timedelta(minutes=30))

    handle = await runs.start(short.services, Retention(), RetentionOptions(dry_run=False))
    outcome = await runs.follow(short.services, handle, Retention())

    assert outcome.report == RetentionReport(events=1, progress_events=1)
    assert not outcome.report.has_errors
    assert await kept(stage) == [("variant_ready", 0)]
    sent = [row.state for row in await stage.outbox()]
    assert set(sent) <= {"dispatched"}  # those are deleted by the relays
