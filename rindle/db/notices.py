"""What a transaction tells other processes with its commit: one NOTIFY statement on Postgres, whatever it has written.

Postgres delivers notifications with the commit and drops them with a rollback. Elsewhere nothing is told: whoever waits
looks by itself.

Source: PostgreSQL "NOTIFY".
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

#: Returns the payload to send on a channel, or ``None`` to stay silent; asked when everything is written.
Payload = Callable[[Session], str | None]

_KEY = "rindle.notices"


def tell(session: Session, channel: str, payload: Payload) -> bool:
    """Notify ``channel`` at the end of the session's transaction; of several calls the last one counts.

    Returns:
        whether this database tells anybody anything.
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
    told = {channel: payload(session) for channel, payload in notices.items()}
    calls = [func.pg_notify(channel, payload) for channel, payload in told.items() if payload is not None]
    if calls:
        session.execute(select(*calls))
