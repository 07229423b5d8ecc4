"""List what happened to an asset or an upload session: the events of its rows, oldest first; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from rindle.db.ids import AssetOrId, SessionOrId, id_of
from rindle.db.models import MediaAsset, MediaEvent, MediaUploadSession, is_id
from rindle.errors import InvalidArgument, NotFound
from rindle.operations import schema
from rindle.operations.reports import Report
from rindle.services import Services

#: Events of one report unless another limit is given, and at most.
DEFAULT_LIMIT, MAX_LIMIT = 1_000, 10_000
#: Largest id of an event.
_MAX_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TimelineEvent(Report):
    """One event: ``scope`` and ``scope_id`` name the asset, variant, upload session or other subject it is about."""

    id: int
    occurred_at: datetime
    type: str
    scope: str
    scope_id: str
    actor: str | None
    audit: bool
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Timeline(Report):
    """What :func:`timeline` returns.

    Attributes:
        asset_id: the asset; ``None`` for an upload session that has none.
        events: oldest first.
        has_more: whether the limit left events out; continue after the id of the last one.
    """

    asset_id: str | None
    events: tuple[TimelineEvent, ...]
    has_more: bool


async def timeline(
    services: Services, subject: AssetOrId | SessionOrId, *, after: int = 0, limit: int = DEFAULT_LIMIT
) -> Timeline:
    """List the events of an asset with its variants and upload sessions, also after its rows were purged.

    Args:
        subject: an asset, or an upload session of it.
        after: only events with a larger id; 0 begins with the oldest one that is stored.
        limit: number of events, 1 to 10 000; 1000 by default.

    Raises:
        NotFound: no asset, upload session or event has that id.
        InvalidArgument: ``after`` or ``limit`` is out of its range.
        SetupIncomplete: the tables are not those of this release; the message has the command.
    """
    subject_id = id_of("subject", subject, MediaAsset, MediaUploadSession)
    if not 0 <= after <= _MAX_ID:
        raise InvalidArgument("after must be the id of an event, or 0", detail={"option": "after"})
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidArgument(f"limit must be 1 to {MAX_LIMIT}", detail={"option": "limit"})
    try:
        return await services.database.read(_read, subject_id, after, limit)
    except SQLAlchemyError:
        await schema.explain_failure(services)
        raise


def _read(session: Session, subject_id: str, after: int, limit: int) -> Timeline:
    asset_id, condition = _subject(session, subject_id)
    rows = session.scalars(
        select(MediaEvent).where(condition, MediaEvent.id > after).order_by(MediaEvent.id).limit(limit + 1)
    ).all()
    return Timeline(asset_id, tuple(_event(row) for row in rows[:limit]), has_more=len(rows) > limit)


def _subject(session: Session, subject_id: str) -> tuple[str | None, ColumnElement[bool]]:
    """Return the asset of a subject, and the condition on its events; events outlive their rows.

    Raises:
        NotFound: nothing has that id.
    """
    if is_id(subject_id):
        of_asset, of_session = MediaEvent.asset_id == subject_id, _of_session(subject_id)
        if session.get(MediaAsset, subject_id) is not None or _has_any(session, of_asset):
            return subject_id, of_asset
        found = session.get(MediaUploadSession, subject_id)
        asset_id = session.scalar(select(MediaEvent.asset_id).where(of_session).limit(1))
        asset_id = asset_id if found is None else found.asset_id
        if asset_id is not None:
            return asset_id, MediaEvent.asset_id == asset_id
        if found is not None or _has_any(session, of_session):
            return None, of_session
    raise NotFound("no asset, upload session or event has this id", detail={"entity": "asset"})


def _of_session(session_id: str) -> ColumnElement[bool]:
    return and_(MediaEvent.scope_key == "upload_session", MediaEvent.scope_id == session_id)


def _has_any(session: Session, condition: ColumnElement[bool]) -> bool:
    return session.scalar(select(MediaEvent.id).where(condition).limit(1)) is not None


def _event(row: MediaEvent) -> TimelineEvent:
    return TimelineEvent(
        id=row.id,
        occurred_at=row.occurred_at,
        type=row.type,
        scope=row.scope_key,
        scope_id=row.scope_id,
        actor=row.actor,
        audit=row.audit,
        payload=row.payload,
    )
