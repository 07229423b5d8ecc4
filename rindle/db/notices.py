"""Notifications of a transaction to other processes: one NOTIFY statement per commit on Postgres.

Postgres delivers notifications with the commit and drops them with a rollback. Other databases have none; their readers
poll.

Source: PostgreSQL "NOTIFY".
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

#: Returns the payload for a channel, or ``None`` for no notification; called when everything is written.
Payload = Callable[[Session], str | None]

_KEY = "rindle.notices"


def notify(session: Session, channel: str, payload: Payload) -> bool:
    """Notify ``channel`` at the end of the session's transaction; the last call per channel counts.

    Returns:
        whether this database has notifications.
    """
    if session.get_bind().dialect.name != "postgresql":
        return False
    notices: dict[str, Payload] = session.info.setdefault(_KEY, {})
    if not notices and not event.contains(session, "before_commit", _send):
        event.listen(session, "before_commit", _send)
    notices[channel] = payload
    return True


def _send(session: Session) -> None:
    if session.in_nested_transaction():  # a savepoint is released: the transaction goes on
        return
    notices: dict[str, Payload] = session.info.pop(_KEY, {})
    if not notices:
        return
    session.flush()
    payloads = {channel: payload(session) for channel, payload in notices.items()}
    calls = [func.pg_notify(channel, payload) for channel, payload in payloads.items() if payload is not None]
    if calls:
        session.execute(select(*calls))
