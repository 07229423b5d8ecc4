"""SQL of subscriptions: the status of a subject, and its later events.

Events are read by asset, and only those of streamed types. Such rows are written under the lock of their asset, so that
their ids become visible in order per asset: reading all events above the last known id misses none. Across assets, and
for other types, ids of open transactions may still appear below known ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ColumnElement, Select, and_, column, func, literal, select
from sqlalchemy.orm import Session

from rindle.db import providers
from rindle.db.events import provider_payload
from rindle.db.models import MediaAsset, MediaEvent, MediaUploadSession, MediaVariant
from rindle.events import STREAMED_TYPES
from rindle.states import AssetState

_TYPES = sorted(STREAMED_TYPES)
_ASSET_ID = MediaEvent.__table__.c.asset_id.type


@dataclass(frozen=True, slots=True)
class Subject:
    """What a subscription follows. A ``provider_asset`` is named by the id of its asset."""

    scope: str
    id: str


@dataclass(frozen=True, slots=True)
class Feed:
    """The events that contain those of a subject: the events of an asset, or of an upload session without one."""

    asset_id: str | None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One row of a feed, shared by all subscriptions of the feed."""

    feed: Feed
    id: int
    type: str
    subject: Subject
    payload: Mapping[str, Any]
    occurred_at: datetime

    def concerns(self, subject: Subject) -> bool:
        """Whether a subscription to ``subject``, which has this feed, receives the event."""
        return subject.scope == "asset" or subject == self.subject

    @property
    def is_last(self) -> bool:
        """Whether this event deletes the asset, so that no later one matters."""
        return self.type == "asset_state_changed" and self.payload.get("state") == AssetState.DELETED


@dataclass(frozen=True, slots=True)
class SubjectStatus:
    """The status of a subject.

    Attributes:
        feed: the feed with its events.
        newest: id of the feed's last event, 0 when there is none. It is read before the state, so that no event
            between the two reads is missed.
        asset: its asset, ``None`` when it was purged or there is none.
        upload: its upload session, when that is the subject.
        state: its state, ``None`` when it has none; ``deleted`` when it was purged.
        snapshot: the state as clients receive it.
        since: when the subject was created, ``None`` when it was purged.
    """

    subject: Subject
    feed: Feed
    newest: int
    asset: MediaAsset | None
    upload: MediaUploadSession | None
    state: str | None
    snapshot: Mapping[str, Any]
    since: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether the asset is deleted."""
        return self.state == AssetState.DELETED or (self.asset is not None and self.asset.state == AssetState.DELETED)


def read_statuses(session: Session, subjects: Iterable[Subject]) -> list[SubjectStatus | None]:
    """Return the status of each subject, ``None`` for one that never existed."""
    return [_status(session, subject) for subject in subjects]


def _status(session: Session, subject: Subject) -> SubjectStatus | None:
    feed = _feed_of(session, subject)
    if feed is None:
        return None
    newest = session.scalar(select(func.max(MediaEvent.id)).where(_of_feed(feed), MediaEvent.type.in_(_TYPES))) or 0
    asset = None if feed.asset_id is None else session.get(MediaAsset, feed.asset_id, populate_existing=True)
    if asset is None and feed.session_id is None:
        gone = {"asset_id": feed.asset_id, "state": AssetState.DELETED.value}
        return SubjectStatus(subject, feed, newest, None, None, gone["state"], gone, None) if newest else None
    if subject.scope == "upload_session":
        upload = session.get(MediaUploadSession, subject.id, populate_existing=True)
        if upload is None:
            return None
        snapshot: dict[str, Any] = {"session_id": upload.id, "state": upload.state, "offset": upload.last_known_offset}
        return SubjectStatus(subject, feed, newest, asset, upload, upload.state, snapshot, upload.inserted_at)
    if asset is None:
        return None
    if subject.scope == "variant":
        variant = session.get(MediaVariant, subject.id, populate_existing=True)
        if variant is None:
            return None
        snapshot = {
            "asset_id": asset.id,
            "variant_id": variant.id,
            "variant_name": variant.name,
            "state": variant.state,
            "progress": variant.progress,
        }
        return SubjectStatus(subject, feed, newest, asset, None, variant.state, snapshot, variant.inserted_at)
    if subject.scope == "provider_asset":
        return _status_at_provider(session, subject, feed, newest, asset)
    snapshot = {
        "asset_id": asset.id,
        "state": asset.state,
        "kind": asset.kind,
        "variants": _variants(session, asset.id),
    }
    return SubjectStatus(subject, feed, newest, asset, None, asset.state, snapshot, asset.inserted_at)


def _status_at_provider(
    session: Session, subject: Subject, feed: Feed, newest: int, asset: MediaAsset
) -> SubjectStatus:
    """Return the status at the provider that changed last; an asset that was never pushed has none."""
    row = max(providers.all_of(session, asset.id), key=lambda one: one.updated_at, default=None)
    if row is None:
        snapshot: dict[str, Any] = {"asset_id": asset.id, "state": None}
        return SubjectStatus(subject, feed, newest, asset, None, None, snapshot, asset.inserted_at)
    return SubjectStatus(subject, feed, newest, asset, None, row.state, provider_payload(row), row.inserted_at)


def _variants(session: Session, asset_id: str) -> list[dict[str, Any]]:
    found = session.execute(
        select(MediaVariant.name, MediaVariant.state, MediaVariant.progress)
        .where(MediaVariant.asset_id == asset_id, MediaVariant.dynamic.is_(False))
        .order_by(MediaVariant.name)
    )
    return [{"name": name, "state": state, "progress": progress} for name, state, progress in found]


def _feed_of(session: Session, subject: Subject) -> Feed | None:
    if subject.scope in ("asset", "provider_asset"):
        return Feed(subject.id)
    owner: type[MediaVariant | MediaUploadSession] = MediaVariant if subject.scope == "variant" else MediaUploadSession
    row = session.execute(select(owner.id, owner.asset_id).where(owner.id == subject.id)).one_or_none()
    if row is not None:
        return Feed(row.asset_id) if row.asset_id else Feed(None, subject.id)
    # Purged: its events still name the asset.
    asset_id = session.scalar(
        select(MediaEvent.asset_id)
        .where(MediaEvent.scope_key == subject.scope, MediaEvent.scope_id == subject.id)
        .limit(1)
    )
    return None if asset_id is None else Feed(asset_id)


def _of_feed(feed: Feed) -> ColumnElement[bool]:
    if feed.asset_id is not None:
        return MediaEvent.asset_id == feed.asset_id
    return and_(
        MediaEvent.scope_key == "upload_session",
        MediaEvent.scope_id == feed.session_id,
        MediaEvent.asset_id.is_(None),
    )


def _columns() -> Select[Any]:
    return select(
        MediaEvent.id,
        MediaEvent.type,
        MediaEvent.scope_key,
        MediaEvent.scope_id,
        MediaEvent.asset_id,
        MediaEvent.payload,
        MediaEvent.occurred_at,
    ).where(MediaEvent.type.in_(_TYPES))


def events_after(session: Session, positions: Mapping[Feed, int], *, limit: int) -> list[FeedEvent]:
    """Return the events of each feed above its position, in the order of their ids, at most ``limit``.

    One statement for all assets. Events beyond the limit have higher ids than all returned ones, so that the next call
    misses none.
    """
    assets = [(feed.asset_id, after) for feed, after in positions.items() if feed.asset_id is not None]
    alone = [and_(_of_feed(feed), MediaEvent.id > after) for feed, after in positions.items() if feed.asset_id is None]
    found: list[Any] = []
    if assets:
        found += session.execute(_of_assets(session, assets).order_by(MediaEvent.id).limit(limit)).all()
    for condition in alone:
        found += session.execute(_columns().where(condition).order_by(MediaEvent.id).limit(limit)).all()
    return [_event(row) for row in sorted(found, key=lambda row: row.id)[:limit]]


def _of_assets(session: Session, positions: Sequence[tuple[str | None, int]]) -> Select[Any]:
    """Join the events to a list of assets and positions, passed as one JSON parameter.

    A list of VALUES would have to be compiled for each number of assets, which takes longer than the query itself.
    """
    if session.get_bind().dialect.name == "postgresql":
        listed = [{"asset_id": asset_id, "after": after} for asset_id, after in positions]
        columns = (column("asset_id", _ASSET_ID), column("after", BigInteger))
        table = func.json_to_recordset(literal(listed, JSON)).table_valued(*columns, name="watched")
        watched = table.render_derived(with_types=True)
        newer = and_(MediaEvent.asset_id == watched.c.asset_id, MediaEvent.id > watched.c.after)
    else:  # where ids are 32 hexadecimal digits
        plain = [[str(asset_id).replace("-", ""), after] for asset_id, after in positions]
        watched = func.json_each(literal(plain, JSON)).table_valued("value", name="watched")
        asset_id, after = func.json_extract(watched.c.value, "$[0]"), func.json_extract(watched.c.value, "$[1]")
        newer = and_(MediaEvent.asset_id == asset_id, MediaEvent.id > after)
    return _columns().join(watched, newer)


def _event(row: Any) -> FeedEvent:
    subject = Subject(row.scope_key, row.scope_id)
    feed = Feed(row.asset_id) if row.asset_id else Feed(None, row.scope_id)
    return FeedEvent(feed, row.id, row.type, subject, row.payload, row.occurred_at)


def reset_reason(
    session: Session, statuses: Sequence[SubjectStatus], after: Sequence[int], *, kept_since: datetime, most: int | None
) -> str | None:
    """Return why one of the subjects cannot resume after its number, or ``None`` when all can.

    Returns:
        ``unknown``: a number is above the feed's newest event. ``expired``: it is older than ``kept_since``, and later
        events may have been swept. ``too_many``: more than ``most`` events are missing.
    """
    pairs = [(status, number) for status, number in zip(statuses, after, strict=True)]
    if any(number > status.newest for status, number in pairs):
        return "unknown"
    if any(_has_expired(session, status, number, kept_since) for status, number in pairs):
        return "expired"
    if most is not None and any(_missing(session, status, number, most + 1) > most for status, number in pairs):
        return "too_many"
    return None


def _has_expired(session: Session, status: SubjectStatus, number: int, kept_since: datetime) -> bool:
    if status.since is not None and status.since >= kept_since:
        return False  # no event of such a new subject has been swept
    # The row itself may be a swept progress event; the row below it is about as old.
    nearest = select(MediaEvent.occurred_at).where(MediaEvent.id <= number).order_by(MediaEvent.id.desc()).limit(1)
    when = session.scalar(nearest)
    return when is None or when < kept_since


def _missing(session: Session, status: SubjectStatus, number: int, limit: int) -> int:
    missed = select(MediaEvent.id).where(_of_feed(status.feed), MediaEvent.id > number, MediaEvent.type.in_(_TYPES))
    if status.subject.scope != "asset":
        missed = missed.where(MediaEvent.scope_key == status.subject.scope, MediaEvent.scope_id == status.subject.id)
    return session.scalar(select(func.count()).select_from(missed.limit(limit).subquery())) or 0
