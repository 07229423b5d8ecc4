"""Notifications of a transaction to other processes, on Postgres: collected here, sent after the commit.

They are never part of the transaction itself (:mod:`rindle.db.notifier` says why). A rollback drops them. Other
databases have no notifications; their readers poll.

Source: PostgreSQL "NOTIFY".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from rindle.db.after_commit import after_commit
from rindle.db.notifier import Merge, notifier_of

#: Returns the payload for a channel, or ``None`` for no notification; called when everything is written.
Payload = Callable[[Session], str | None]

_KEY = "rindle.notices"


def notify(session: Session, channel: str, payload: Payload, *, merge: Merge = set) -> bool:
    """Notify ``channel`` once the session's transaction has committed; the last call per channel counts.

    Args:
        merge: reduces the payloads of several transactions, which are sent together. By default each is sent once.

    Returns:
        whether this database has notifications.
    """
    if session.get_bind().dialect.name != "postgresql":
        return False
    notices: dict[str, tuple[Payload, Merge]] = session.info.setdefault(_KEY, {})
    if not notices and not event.contains(session, "before_commit", _collect):
        event.listen(session, "before_commit", _collect)
    notices[channel] = payload, merge
    return True


def _collect(session: Session) -> None:
    """Compute the payloads while the session can still be used."""
    if session.in_nested_transaction():  # a savepoint is released: the transaction goes on
        return
    notices: dict[str, tuple[Payload, Merge]] = session.info.pop(_KEY, {})
    if not notices:
        return
    session.flush()
    found = [(channel, payload(session), merge) for channel, (payload, merge) in notices.items()]
    posts = [(channel, payload, merge) for channel, payload, merge in found if payload is not None]
    if posts:
        after_commit(session, partial(_post, session.get_bind().engine, posts))


def _post(engine: Engine, posts: Sequence[tuple[str, str, Merge]]) -> None:
    notifier = notifier_of(engine)
    for channel, payload, merge in posts:
        notifier.post(channel, payload, merge)
