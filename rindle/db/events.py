"""Durable events: rows of ``media_events``, written with the change they report; subscribers are notified after it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, or_, select
from sqlalchemy.orm import Session

from rindle.db.models import MediaAsset, MediaEvent, MediaProviderAsset, MediaUploadSession, MediaVariant, is_id
from rindle.db.notices import notify
from rindle.events import EVENT_TYPES, PROGRESS_TYPES, STATE_TYPES, WEBHOOK_TYPES

#: Postgres channel that wakes subscribers after a commit. The payload is ``id,asset_id`` of the newest event, without
#: the asset when there are events of several assets.
CHANNEL = "rindle_events"
#: Assets that are named one by one in notifications that are sent together.
_MOST_NAMED = 64
#: Key of ``Session.info``: the rows of the current transaction that subscribers wait for.
_FOLLOWED = "rindle.followed_events"


def record_event(
    session: Session,
    event_type: str,
    *,
    scope: tuple[str, str],
    payload: Mapping[str, Any],
    asset_id: str | None,
    profile: str | None = None,
    actor: str | None = None,
    audit: bool = False,
) -> None:
    """Add one event row under its narrowest scope.

    The caller holds the asset's row lock when the type is streamed, so that ids are ordered per asset.
    """
    if event_type not in EVENT_TYPES:
        raise ValueError(f"event type {event_type!r} is not registered in rindle.events")
    row = MediaEvent(
        type=event_type,
        scope_key=scope[0],
        scope_id=scope[1],
        asset_id=asset_id,
        payload=dict(payload),
        profile=profile,
        actor=actor,
        audit=audit,
    )
    session.add(row)
    if EVENT_TYPES[event_type].streamed and notify(session, CHANNEL, _newest, merge=_merged):
        session.info.setdefault(_FOLLOWED, []).append(row)


def record_events(session: Session, event_type: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Add many event rows of a type that is not streamed, in one statement; ``entries`` hold their other columns."""
    if EVENT_TYPES[event_type].streamed:
        raise ValueError(f"{event_type!r} is streamed: record its events one by one, under the lock of the asset")
    if entries:
        session.execute(insert(MediaEvent), [{**entry, "type": event_type} for entry in entries])


def _newest(session: Session) -> str | None:
    """Return the payload of the notification: ``id,asset_id`` of the newest streamed event."""
    followed: list[MediaEvent] = session.info.pop(_FOLLOWED, [])
    written = [row for row in followed if row in session]  # not those of a savepoint that was rolled back
    if not written:
        return None
    assets = {row.asset_id for row in written}
    about = assets.pop() if len(assets) == 1 else None
    return f"{max(row.id for row in written)},{about or ''}"


def _merged(payloads: Collection[str]) -> list[str]:
    """Keep the newest event of each asset; one payload without an asset stands for all."""
    newest: dict[str, int] = {}
    for payload in payloads:
        number, _, asset_id = payload.partition(",")
        newest[asset_id] = max(newest.get(asset_id, 0), int(number))
    if "" in newest or len(newest) > _MOST_NAMED:
        return [f"{max(newest.values())},"]
    return [f"{number},{asset_id}" for asset_id, number in newest.items()]


def asset_payload(asset: MediaAsset, came_from: str) -> dict[str, Any]:
    """Payload of ``asset_state_changed``."""
    return {
        "asset_id": asset.id,
        "from": came_from,
        "state": asset.state,
        "kind": asset.kind,
        "profile": asset.profile,
    }


def variant_payload(variant: MediaVariant) -> dict[str, Any]:
    """Payload of the variant events."""
    return {
        "asset_id": variant.asset_id,
        "variant_id": variant.id,
        "variant_name": variant.name,
        "state": variant.state,
        "progress": variant.progress,
    }


def session_payload(upload: MediaUploadSession) -> dict[str, Any]:
    """Payload of the upload session events."""
    return {
        "session_id": upload.id,
        "asset_id": upload.asset_id,
        "state": upload.state,
        "upload_strategy": upload.upload_strategy,
        "resumable_protocol": upload.resumable_protocol,
    }


def provider_payload(row: MediaProviderAsset) -> dict[str, Any]:
    """Payload of the events of an asset at a provider; of the provider's ids, only playback ids are public."""
    return {
        "asset_id": row.asset_id,
        "playback_ids": list(row.playback_ids),
        "profile": row.profile,
        "provider": row.provider_name,
        "state": row.state,
    }


def timeline(session: Session, asset_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[MediaEvent]:
    """Return the events of an asset after event id ``after``, oldest first."""
    if not is_id(asset_id):
        return []
    found = session.scalars(
        select(MediaEvent)
        .where(MediaEvent.asset_id == asset_id, MediaEvent.id > after)
        .order_by(MediaEvent.id)
        .limit(limit)
    )
    return found.all()


def count_expired(
    session: Session, event_type: str, before: datetime, *, limit: int, after: tuple[datetime, int] | None = None
) -> tuple[int, tuple[datetime, int] | None]:
    """Count up to ``limit`` events of a type of state changes or progress, older than ``before``.

    Args:
        after: time and id of the last event that was counted before.

    Returns:
        their number, and time and id of the last one; ``None`` when no more are left.
    """
    in_order = _expired(event_type, before).order_by(MediaEvent.occurred_at, MediaEvent.id)
    if after is not None:
        in_order = in_order.where(_later(after))
    last = session.execute(
        in_order.with_only_columns(MediaEvent.occurred_at, MediaEvent.id).offset(limit - 1).limit(1)
    ).one_or_none()
    if last is not None:
        return limit, (last.occurred_at, last.id)
    return session.scalar(select(func.count()).select_from(in_order.order_by(None).subquery())) or 0, None


def _later(than: tuple[datetime, int]) -> ColumnElement[bool]:
    occurred_at, event_id = than
    same_time = and_(MediaEvent.occurred_at == occurred_at, MediaEvent.id > event_id)
    # The first condition bounds the range of the index; without it, Postgres would read from the beginning.
    return and_(MediaEvent.occurred_at >= occurred_at, or_(MediaEvent.occurred_at > occurred_at, same_time))


def delete_expired(session: Session, event_type: str, before: datetime, *, limit: int) -> int:
    """Delete up to ``limit`` events of a type of state changes or progress, older than ``before``; returns how many."""
    first = _expired(event_type, before).order_by(MediaEvent.occurred_at).limit(limit)
    old = first.with_for_update(skip_locked=True).cte("old")
    gone = delete(MediaEvent).where(MediaEvent.id.in_(select(old.c.id))).returning(MediaEvent.id)
    return len(session.execute(gone.execution_options(synchronize_session=False)).all())


def _expired(event_type: str, before: datetime) -> Select[int]:
    if event_type not in STATE_TYPES | PROGRESS_TYPES | WEBHOOK_TYPES:
        raise ValueError(f"{event_type!r} is a type of audit events, which are kept for ever")
    return select(MediaEvent.id).where(
        MediaEvent.type == event_type, MediaEvent.occurred_at < before, MediaEvent.audit.is_(False)
    )
