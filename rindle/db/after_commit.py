"""Callbacks that run once the outermost transaction of a session has really committed.

SQLAlchemy's own ``after_commit`` also fires when a SAVEPOINT is released. Callbacks that were added inside a savepoint
or transaction which rolls back must not run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

_KEY = "rindle.after_commit"


def after_commit(session: Session, callback: Callable[[], None]) -> None:
    """Run ``callback`` after the outermost commit of ``session``; drop it when its transaction rolls back.

    The callback must not use the session and must not raise.
    """
    waiting: list[tuple[SessionTransaction | None, Callable[[], None]]] | None = session.info.get(_KEY)
    if waiting is None:
        waiting = session.info[_KEY] = []
    if not event.contains(session, "after_commit", _committed):
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_soft_rollback", _rolled_back)
    waiting.append((session.get_nested_transaction() or session.get_transaction(), callback))


def _committed(session: Session) -> None:
    if session.in_nested_transaction():  # a released savepoint: its work now belongs to the enclosing transaction
        nested = session.get_nested_transaction()
        parent = None if nested is None else nested.parent
        waiting = session.info.get(_KEY, [])
        session.info[_KEY] = [(parent if owner is nested else owner, callback) for owner, callback in waiting]
        return
    for _, callback in session.info.pop(_KEY, []):
        callback()


def _rolled_back(session: Session, ended: SessionTransaction) -> None:
    def lost(owner: Any) -> bool:
        while owner is not None:
            if owner is ended:
                return True
            owner = owner.parent
        return False

    waiting = session.info.get(_KEY, [])
    session.info[_KEY] = [(owner, callback) for owner, callback in waiting if not lost(owner)]
