"""The state tables: which moves are allowed, and what stays refused."""

from __future__ import annotations

import pytest

from rindle.states import (
    ASSET_MOVES,
    DELIVERABLE,
    ENDED_SESSIONS,
    PROVIDER_MOVES,
    SESSION_MOVES,
    UNVALIDATED,
    VARIANT_MOVES,
    AssetState,
    ProviderState,
    SessionState,
    VariantState,
)

A, V = AssetState, VariantState


@pytest.mark.parametrize(
    ("came_from", "to"),
    [
        ("staged", "ready"),
        ("staged", "degraded"),
        ("analyzing", "deleted"),
        ("transcoding", "deleted"),
        ("transcoding", "available"),
        ("quarantined", "available"),
        ("deleted", "staged"),
    ],
)
def test_an_asset_never_takes_these_moves(came_from: str, to: str) -> None:
    assert A(to) not in ASSET_MOVES[A(came_from)]


@pytest.mark.parametrize(
    ("came_from", "to"),
    [("planned", "ready"), ("queued", "purged"), ("ready", "cancelled"), ("cancelled", "processing")],
)
def test_a_variant_never_takes_these_moves(came_from: str, to: str) -> None:
    assert V(to) not in VARIANT_MOVES[V(came_from)]


@pytest.mark.parametrize(
    ("came_from", "to"), [("initialized", "completed"), ("uploaded", "completed"), ("completed", "failed")]
)
def test_a_session_never_takes_these_moves(came_from: str, to: str) -> None:
    assert SessionState(to) not in SESSION_MOVES[SessionState(came_from)]


@pytest.mark.parametrize(
    ("came_from", "to"),
    [
        ("pending", "ready"),
        ("pending", "processing"),
        ("uploading", "ready"),
        ("processing", "uploading"),
        ("ready", "uploading"),
        ("deleted", "pending"),
    ],
)
def test_an_asset_at_a_provider_never_takes_these_moves(came_from: str, to: str) -> None:
    assert ProviderState(to) not in PROVIDER_MOVES[ProviderState(came_from)]


def test_every_state_has_a_row_in_its_table_and_ends_are_ends() -> None:
    assert set(ASSET_MOVES) == set(A)
    assert set(VARIANT_MOVES) == set(V)
    assert set(PROVIDER_MOVES) == set(ProviderState)
    assert set(SESSION_MOVES) == set(SessionState)
    assert {state for state, moves in SESSION_MOVES.items() if not moves} == ENDED_SESSIONS
    assert not DELIVERABLE & UNVALIDATED
    assert {A.QUARANTINED, A.DELETED}.isdisjoint(DELIVERABLE | UNVALIDATED)
