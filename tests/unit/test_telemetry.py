"""Telemetry: registered names only, handlers that cannot hurt, nothing emitted for what rolled back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from rindle import telemetry
from rindle.db.after_commit import after_commit
from rindle.events import EVENT_TYPES, PUBLIC_EVENTS, SESSION_EVENTS, VARIANT_EVENTS


@pytest.fixture
def heard() -> Iterator[list[tuple[str, dict[str, Any], dict[str, float]]]]:
    """Everything emitted during the test."""
    events: list[tuple[str, dict[str, Any], dict[str, float]]] = []

    def listen(name: str, metadata: Mapping[str, Any], measurements: Mapping[str, float]) -> None:
        events.append((name, dict(metadata), dict(measurements)))

    remove = telemetry.add_handler(listen)
    yield events
    remove()


def test_an_event_reaches_handlers_with_the_adapter_of_its_profile(
    heard: list[tuple[str, dict[str, Any], dict[str, float]]],
) -> None:
    telemetry.register_adapters({"telemetry_test": "LocalStorage"})
    telemetry.emit("rindle.upload.start", {"profile": "telemetry_test", "session_id": "s"})
    assert heard == [
        ("rindle.upload.start", {"profile": "telemetry_test", "session_id": "s", "adapter": "LocalStorage"}, {})
    ]


@pytest.mark.parametrize(("name", "metadata"), [("rindle.nonsense", {}), ("rindle.asset.purged", {})])
def test_an_unknown_name_or_a_missing_key_raises_in_tests_and_is_logged_in_production(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    heard: list[tuple[str, dict[str, Any], dict[str, float]]],
    name: str,
    metadata: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match=name):
        telemetry.emit(name, metadata)
    monkeypatch.delenv("RINDLE_STRICT_EVENTS")
    telemetry.emit(name, metadata)
    assert heard == []
    assert name in caplog.text


def test_a_handler_that_raises_disturbs_nobody(heard: list[tuple[str, dict[str, Any], dict[str, float]]]) -> None:
    def broken(name: str, metadata: Mapping[str, Any], measurements: Mapping[str, float]) -> None:
        raise RuntimeError("no")

    remove = telemetry.add_handler(broken)
    try:
        telemetry.emit("rindle.outbox.delivered", {"kind": "batch"}, {"count": 1})
    finally:
        remove()
    assert [name for name, _, _ in heard] == ["rindle.outbox.delivered"]


def test_every_event_a_transition_writes_is_registered() -> None:
    assert {*VARIANT_EVENTS.values(), *SESSION_EVENTS.values()} <= set(EVENT_TYPES)
    assert all(name.startswith("rindle.") for name in PUBLIC_EVENTS)


def test_what_waits_for_a_commit_runs_after_the_outermost_one_only() -> None:
    engine = create_engine("sqlite://")
    ran: list[str] = []
    with Session(engine) as session:
        session.begin()
        after_commit(session, lambda: ran.append("outer"))
        with session.begin_nested():
            after_commit(session, lambda: ran.append("kept savepoint"))
        with session.begin_nested() as lost:
            after_commit(session, lambda: ran.append("lost savepoint"))
            lost.rollback()
        assert ran == []
        session.commit()
        assert ran == ["outer", "kept savepoint"]
        session.begin()
        after_commit(session, lambda: ran.append("rolled back"))
        with session.begin_nested():
            after_commit(session, lambda: ran.append("released, then rolled back"))
        session.rollback()
        session.begin()
        session.commit()
    assert ran == ["outer", "kept savepoint"]
    engine.dispose()
