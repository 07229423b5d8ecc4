"""Conditions, as SQL of both databases, of the few upload sessions with something to do among all that have ended.

Indexes have exactly these rows; queries contain the condition as it stands, so that they use them.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, and_, literal_column

from rindle.db.models import MediaUploadSession
from rindle.states import ENDED_BADLY, ENDED_SESSIONS, SessionState

_LIVE = tuple(state for state in SessionState if state not in ENDED_SESSIONS)


def is_live() -> ColumnElement[bool]:
    """Return the condition that a session has not ended."""
    return _in(_LIVE)


def is_unreleased() -> ColumnElement[bool]:
    """Return the condition that a session ended without an asset, and that its bytes were not removed."""
    return and_(MediaUploadSession.backing_released_at.is_(None), _in(ENDED_BADLY))


def _in(states: Iterable[SessionState]) -> ColumnElement[bool]:
    return MediaUploadSession.state.in_([literal_column(f"'{state.value}'") for state in states])
