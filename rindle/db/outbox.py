"""SQL of the outbox: rows are written in the caller's transaction, then claimed and dispatched by relays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Integer, bindparam, delete, func, literal_column, or_, select, true, update
from sqlalchemy import insert as bulk_insert
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased
from sqlalchemy.sql.dml import ReturningUpdate

from rindle.db.models import MediaOutbox, utc_now
from rindle.db.notices import notify
from rindle.states import OutboxState

#: Postgres channel on which a commit wakes the relays.
CHANNEL = "rindle_outbox"
#: Payload of the notification when a relay of the committing process sends the row; empty otherwise.
LOCAL_RELAY = "in hand"
#: How long a claimed row stays invisible to other relays.
LEASE = timedelta(seconds=30)
#: How many rows one claim takes.
BATCH = 100
#: How many dispatched rows one transaction deletes.
DELETION_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class OutboxBacklog:
    """The waiting rows: due or rescheduled ones, parked ones, and the age of the oldest due row in seconds."""

    pending: int
    parked: int
    oldest_age_seconds: float


def insert(
    session: Session,
    *,
    workflow_type: str,
    workflow_id: str,
    task_queue: str,
    payload: Mapping[str, Any],
    signal: str | None = None,
    priority: int = 3,
    available_at: datetime | None = None,
    has_local_relay: bool = False,
) -> None:
    """Add a row that starts a workflow, or with ``signal`` signals it (and starts it if necessary).

    Rows are not deduplicated here: if a pending row absorbed this one and was sent before this transaction commits, the
    wake-up would be lost. The relay merges the rows it has claimed. ``has_local_relay`` notifies the relays of other
    processes that this process has its own relay.
    """
    session.add(
        MediaOutbox(
            kind="signal" if signal else "start",
            workflow_type=workflow_type,
            workflow_id=workflow_id,
            task_queue=task_queue,
            signal=signal,
            payload=dict(payload),
            priority=priority,
            available_at=available_at or utc_now(),
        )
    )
    notify(session, CHANNEL, lambda _: LOCAL_RELAY if has_local_relay else "")


#: Kind of a row that holds a webhook.
WEBHOOK = "provider_webhook"
#: How long webhooks that were sent are kept, in seconds: their provider may send one again for so long.
WEBHOOK_SECONDS = 30 * 86_400


def insert_webhook(
    session: Session,
    event: Mapping[str, Any],
    *,
    dedupe_key: str,
    workflow_type: str,
    workflow_id: str,
    task_queue: str,
    has_local_relay: bool,
) -> None:
    """Add a row that holds a webhook.

    Raises:
        IntegrityError: a row has this ``dedupe_key``.
    """
    session.add(
        MediaOutbox(
            kind=WEBHOOK,
            workflow_type=workflow_type,
            workflow_id=workflow_id,
            task_queue=task_queue,
            payload={"event": dict(event)},
            dedupe_key=dedupe_key,
        )
    )
    session.flush()
    notify(session, CHANNEL, lambda _: LOCAL_RELAY if has_local_relay else "")


def has_webhook(session: Session, dedupe_key: str) -> bool:
    """Whether a webhook is stored, sent or not."""
    return session.scalar(select(MediaOutbox.id).where(MediaOutbox.dedupe_key == dedupe_key)) is not None


def in_state(state: OutboxState, column: InstrumentedAttribute[str] = MediaOutbox.state) -> ColumnElement[bool]:
    """Return the condition that a row is in ``state``, as literal SQL.

    The indexes are partial. With a parameter, a prepared statement of Postgres could not use them.
    """
    return column == literal_column(f"'{state.value}'")


def is_unsent() -> ColumnElement[bool]:
    """Return the condition that a row waits or is parked, which the partial indexes of the few such rows serve."""
    return or_(in_state(OutboxState.PENDING), in_state(OutboxState.PARKED))


def has_due(session: Session) -> bool:
    """Whether a row could be claimed now, or would be if no older row of its workflow were claimed elsewhere."""
    due = select(MediaOutbox.id).where(in_state(OutboxState.PENDING), MediaOutbox.available_at <= utc_now())
    first = due.order_by(MediaOutbox.available_at).limit(1)  # in order: Postgres would read the table, full of others
    return session.scalar(first) is not None


def claim(session: Session, *, limit: int = BATCH) -> Sequence[MediaOutbox]:
    """Claim up to ``limit`` due rows, longest due first, for :data:`LEASE`; two relays never claim the same row.

    A row waits while an older row of the same workflow is claimed elsewhere or rescheduled, or becomes due later, so
    that each workflow receives its signals in order.
    """
    now = utc_now()
    rows = session.scalars(_CLAIM, {"now": now, "leased_until": now + LEASE, "most": limit}).all()
    for row in rows:
        session.expunge(row)
    return sorted(rows, key=lambda row: row.id)


def _claiming() -> ReturningUpdate[MediaOutbox]:
    now, older = bindparam("now", type_=MediaOutbox.available_at.type), aliased(MediaOutbox)
    blocked = (
        select(older.id)
        .where(
            older.workflow_id == MediaOutbox.workflow_id,
            in_state(OutboxState.PENDING, older.state),
            older.id < MediaOutbox.id,
            older.available_at > MediaOutbox.available_at,
        )
        .exists()
    )
    due = (
        select(MediaOutbox.id)
        # Postgres may execute NOT EXISTS as a join with all pending rows; this form looks up row by row.
        .where(in_state(OutboxState.PENDING), MediaOutbox.available_at <= now, blocked.is_not(true()))
        .order_by(MediaOutbox.available_at, MediaOutbox.id)
        .limit(bindparam("most", type_=Integer))
        .with_for_update(skip_locked=True)
        .cte("due")  # runs once, whatever the plan of the update is
    )
    return (
        update(MediaOutbox)
        .where(MediaOutbox.id.in_(select(due.c.id)))
        .values(available_at=bindparam("leased_until"), updated_at=now)
        .returning(MediaOutbox)
        .execution_options(synchronize_session=False, populate_existing=True)
    )


#: Made once: every relay runs it several times a second, and its alias takes longer to build than Postgres to answer.
_CLAIM = _claiming()


def mark_dispatched(session: Session, row_ids: Iterable[int]) -> None:
    """Note that the rows were sent."""
    now = utc_now()
    _set(session, row_ids, state=OutboxState.DISPATCHED.value, dispatched_at=now, last_error=None)


def reschedule(session: Session, row_ids: Iterable[int], *, seconds: float, error: str) -> None:
    """Try the rows again after ``seconds``."""
    _set(
        session,
        row_ids,
        available_at=utc_now() + timedelta(seconds=seconds),
        attempts=MediaOutbox.attempts + 1,
        last_error=error,
    )


def park(session: Session, row_ids: Iterable[int], *, error: str) -> None:
    """Park rows that the server rejected as invalid. They stay until an operator drains them."""
    _set(session, row_ids, state=OutboxState.PARKED.value, attempts=MediaOutbox.attempts + 1, last_error=error)


def make_due(session: Session) -> int:
    """Make parked rows and rows rescheduled after a failure due at once; returns how many were parked."""
    now = utc_now()
    due = {"available_at": now, "updated_at": now}
    quietly = {"synchronize_session": False}
    parked = update(MediaOutbox).where(in_state(OutboxState.PARKED))
    reschedule = update(MediaOutbox).where(in_state(OutboxState.PENDING), MediaOutbox.attempts > 0)
    session.execute(reschedule.where(MediaOutbox.available_at > now).values(**due).execution_options(**quietly))
    freed = session.execute(
        parked.values(state=OutboxState.PENDING.value, **due).returning(MediaOutbox.id).execution_options(**quietly)
    )
    return len(freed.all())


def delete_dispatched(session: Session, *, older_than_seconds: float, limit: int) -> int:
    """Delete up to ``limit`` rows that were sent so long ago, oldest first; returns how many."""
    old = (
        select(MediaOutbox.id)
        .where(
            in_state(OutboxState.DISPATCHED),
            MediaOutbox.dispatched_at < utc_now() - timedelta(seconds=older_than_seconds),
            or_(
                MediaOutbox.kind != WEBHOOK,
                MediaOutbox.dispatched_at < utc_now() - timedelta(seconds=max(older_than_seconds, WEBHOOK_SECONDS)),
            ),
        )
        .order_by(MediaOutbox.dispatched_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("old")
    )
    gone = delete(MediaOutbox).where(MediaOutbox.id.in_(select(old.c.id))).returning(MediaOutbox.id)
    return len(session.execute(gone.execution_options(synchronize_session=False)).all())


def backlog(session: Session) -> OutboxBacklog:
    """Return how many rows wait and for how long."""
    now = utc_now()
    waiting = {
        state: session.scalar(select(func.count()).select_from(MediaOutbox).where(in_state(state))) or 0
        for state in (OutboxState.PENDING, OutboxState.PARKED)
    }
    # A purge in its grace period is not late: age counts from when the row was first due.
    due = select(func.min(MediaOutbox.available_at)).where(
        in_state(OutboxState.PENDING), MediaOutbox.available_at <= now
    )
    failed = select(func.min(MediaOutbox.inserted_at)).where(in_state(OutboxState.PENDING), MediaOutbox.attempts > 0)
    since = [found for found in (session.scalar(due), session.scalar(failed)) if found is not None]
    return OutboxBacklog(
        pending=waiting[OutboxState.PENDING],
        parked=waiting[OutboxState.PARKED],
        oldest_age_seconds=max(0.0, (now - min(since)).total_seconds()) if since else 0.0,
    )


def _set(session: Session, row_ids: Iterable[int], **values: Any) -> None:
    wanted = list(row_ids)
    statement = update(MediaOutbox).where(MediaOutbox.id.in_(wanted), in_state(OutboxState.PENDING))
    session.execute(statement.values(**values, updated_at=utc_now()).execution_options(synchronize_session=False))


def insert_all(session: Session, rows: Sequence[Mapping[str, Any]], *, has_local_relay: bool = False) -> None:
    """Add many rows with the columns of :func:`insert`, in few statements."""
    if not rows:
        return
    columns = [{**row, "kind": "signal" if row.get("signal") else "start"} for row in rows]
    session.execute(bulk_insert(MediaOutbox), columns)
    notify(session, CHANNEL, lambda _: LOCAL_RELAY if has_local_relay else "")


def waiting_workflows(session: Session, workflow_ids: Sequence[str]) -> set[str]:
    """Return those of the workflows for which a row has not been sent yet."""
    statement = select(MediaOutbox.workflow_id).where(
        MediaOutbox.workflow_id.in_(workflow_ids), in_state(OutboxState.PENDING)
    )
    return set(session.scalars(statement))
