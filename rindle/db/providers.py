"""SQL of assets at streaming providers: the rows, their freshness, and what providers report of them.

What a provider reports is final: what it reports early moves a row through the states between, in one transaction.
What it reports late fills in ids, and never moves a state backwards.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4
from weakref import WeakSet

from sqlalchemy import Dialect, inspect, select
from sqlalchemy.orm import Session

from rindle.db import given_up
from rindle.db.events import provider_payload, record_event
from rindle.db.models import MediaAsset, MediaEvent, MediaOutbox, MediaProviderAsset, MediaVariant, utc_now
from rindle.db.transitions import follow_provider, lock_asset, move_provider_asset, set_fields
from rindle.messages import Failure
from rindle.profile import DIRECT_CREATOR_UPLOAD, Profile, StreamingPolicy
from rindle.protocols import ProviderAsset, WebhookKind
from rindle.states import DELIVERABLE, OPEN_PROVIDER_STATES, PROVIDER_MOVES, AssetState, VariantState
from rindle.states import ProviderState as P

#: Most of what a provider reports of an asset that a row keeps, in bytes of JSON.
MAX_RAW_BYTES = 16 << 10
#: Beginning of ``last_sync_error`` of a row that was given up, though the provider may still finish the asset.
GIVEN_UP = ("stuck", "timeout")
#: Why a new asset is not recorded: another attempt, which was taken for lost, has created one.
CREATED_BEFORE = "created_before"
#: Engines, by their dialect object, whose database has the table of providers.
_HAVE_TABLE: WeakSet[Dialect] = WeakSet()
#: The states through which a row goes on the way from one state to another.
_WAYPOINTS: Mapping[tuple[P, P], tuple[P, ...]] = {
    (P.PENDING, P.PROCESSING): (P.UPLOADING,),
    (P.PENDING, P.READY): (P.UPLOADING, P.PROCESSING),
    (P.UPLOADING, P.READY): (P.PROCESSING,),
}


@dataclass(frozen=True, slots=True)
class PushSource:
    """The object that is pushed: the guard against a source that changes meanwhile."""

    key: str
    digest: str


def new_passthrough() -> str:
    """Return a random value that a provider keeps with an asset, to find its row."""
    return uuid4().hex


def bounded_raw(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a provider reports of an asset, or its size when it is longer than :data:`MAX_RAW_BYTES`."""
    size = len(json.dumps(raw, default=str).encode())
    return dict(raw) if size <= MAX_RAW_BYTES else {"truncated": True, "bytes": size}


def direct_key(provider: str, asset_id: str) -> str:
    """Return the key of an asset whose bytes only a provider has; nothing is stored at it."""
    return f"streaming/{provider}/direct_upload/{asset_id}"


def is_only_at_provider(asset: MediaAsset) -> bool:
    """Whether an asset was uploaded to a provider itself, so that the storage has no bytes of it."""
    parts = asset.storage_key.split("/")
    return len(parts) == 4 and asset.storage_key == direct_key(parts[1], asset.id)


# --- rows --------------------------------------------------------------------------------------------------------


def find(session: Session, asset_id: str, profile: str, provider: str) -> MediaProviderAsset | None:
    """Return the row of an asset at a provider."""
    return session.scalars(
        select(MediaProviderAsset)
        .where(
            MediaProviderAsset.asset_id == asset_id,
            MediaProviderAsset.profile == profile,
            MediaProviderAsset.provider_name == provider,
        )
        .execution_options(populate_existing=True)
    ).one_or_none()


def have_table(session: Session) -> bool:
    """Whether the database has the table of providers; without it no asset can be at one.

    It is missing while this release runs on the tables of the previous one.
    """
    connection = session.connection()
    if connection.dialect in _HAVE_TABLE:
        return True
    found = inspect(connection).has_table(MediaProviderAsset.__tablename__)
    if found:
        _HAVE_TABLE.add(connection.dialect)
    return found


def all_of(session: Session, asset_id: str) -> Sequence[MediaProviderAsset]:
    """Return the rows of an asset at all providers."""
    if not have_table(session):
        return []
    statement = select(MediaProviderAsset).where(MediaProviderAsset.asset_id == asset_id)
    statement = statement.execution_options(populate_existing=True)
    return session.scalars(statement.order_by(MediaProviderAsset.provider_name)).all()


def ensure(
    session: Session, asset_id: str, profile: type[Profile], policy: StreamingPolicy
) -> MediaProviderAsset | None:
    """Return the row of an asset at the provider of its profile, inserted if necessary; ``None`` for a gone asset."""
    asset = lock_asset(session, asset_id)
    if asset is None or AssetState(asset.state) not in DELIVERABLE or asset.profile != profile.name:
        return None
    row = find(session, asset_id, profile.name, policy.provider)
    if row is None:
        row = MediaProviderAsset(
            asset_id=asset_id,
            profile=profile.name,
            provider_name=policy.provider,
            mux_passthrough=new_passthrough(),
            playback_policy=policy.playback_policy,
            ingest_mode=policy.ingest_mode,
        )
        session.add(row)
        session.flush()
    return row


def locked(session: Session, asset_id: str, profile: str, provider: str) -> MediaProviderAsset | None:
    """Lock the asset, and return its row at the provider as it is now."""
    return None if lock_asset(session, asset_id) is None else find(session, asset_id, profile, provider)


def locked_as_seen(session: Session, seen: MediaProviderAsset) -> MediaProviderAsset | None:
    """Lock the asset, and return its row at the provider, if it is still as it was when it was read.

    An answer of the provider is about the row that was read before the call. Meanwhile a webhook may have moved it, or
    a retry may have begun another attempt.
    """
    row = locked(session, seen.asset_id, seen.profile, seen.provider_name)
    return row if row is not None and _version_of(row) == _version_of(seen) else None


def _version_of(row: MediaProviderAsset) -> tuple[str | None, ...]:
    return row.state, row.provider_asset_id, row.provider_upload_id, row.mux_passthrough, row.last_event_id


# --- pushing -----------------------------------------------------------------------------------------------------


def push_source(session: Session, asset_id: str, profile: type[Profile], variant: str) -> PushSource | str:
    """Return the object to push, or why there is none: ``asset_changed`` or ``recipe_changed``."""
    asset = session.get(MediaAsset, asset_id, populate_existing=True)
    if asset is None or AssetState(asset.state) not in DELIVERABLE:
        return "asset_changed"
    row = session.scalars(
        select(MediaVariant)
        .where(MediaVariant.asset_id == asset_id, MediaVariant.name == variant)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None or row.state != VariantState.READY or not row.storage_key:
        return "asset_changed"
    if variant not in profile.variants or row.recipe_digest != profile.recipe_digest(variant):
        return "recipe_changed"
    return PushSource(row.storage_key, row.recipe_digest)


def begin_create(
    session: Session, asset_id: str, profile: str, provider: str
) -> tuple[MediaProviderAsset, bool] | None:
    """Move a row to ``uploading`` before anything is created at the provider.

    Returns:
        the row, and whether an earlier attempt may have created the asset; ``None`` when there is nothing to create.
    """
    row = locked(session, asset_id, profile, provider)
    if row is None or P(row.state) not in OPEN_PROVIDER_STATES or row.provider_asset_id is not None:
        return None
    may_exist = row.state != P.PENDING
    if not may_exist:
        move_provider_asset(session, row, P.UPLOADING)
    return row, may_exist


def created(
    session: Session,
    asset_id: str,
    profile: type[Profile],
    policy: StreamingPolicy,
    source: PushSource,
    made: ProviderAsset,
    passthrough: str,
) -> str | None:
    """Record the asset that was created at the provider, unless the source has changed meanwhile.

    Returns:
        why the asset must be deleted at the provider again: ``asset_changed``, ``recipe_changed`` or
        :data:`CREATED_BEFORE`; ``None`` when it was recorded.
    """
    row = locked(session, asset_id, profile.name, policy.provider)
    if row is None or row.state == P.DELETED or row.mux_passthrough != passthrough:
        return "asset_changed"
    if row.provider_asset_id is not None and row.provider_asset_id != made.id:
        return CREATED_BEFORE
    found = push_source(session, asset_id, profile, policy.source_variant)
    if found != source:
        # The next push must not find the asset that is deleted now.
        set_fields(session, row, mux_passthrough=new_passthrough(), provider_asset_id=None, playback_ids=[])
        return found if isinstance(found, str) else "asset_changed"
    _apply(session, row, P(made.state) if made.state else P.PROCESSING, made)
    return None


def _apply(session: Session, row: MediaProviderAsset, to: P, made: ProviderAsset) -> None:
    """Write what the provider reports of an asset, and move the row to where the provider says it is."""
    values: dict[str, Any] = {"provider_asset_id": made.id}
    if made.playback_ids:
        values["playback_ids"] = list(made.playback_ids)
    if made.raw:
        values["raw_provider_metadata"] = bounded_raw(made.raw)
    _move(session, row, to, error=made.error, values=values)


def _move(session: Session, row: MediaProviderAsset, to: P, *, error: str | None, values: dict[str, Any]) -> bool:
    """Move a row to the state that its provider reports, if the row can have it; otherwise write the values alone."""
    came_from = P(row.state)
    if to is P.ERRORED:
        values = {**values, "last_sync_error": error or "the provider reports an error"}
    elif to is P.READY:
        values = {**values, "last_sync_error": None}
    waypoints = _WAYPOINTS.get((came_from, to), ())
    if came_from is P.ERRORED and (to is P.PROCESSING or not _was_given_up(row)) and to is not P.DELETED:
        can_move = False
    else:
        can_move = bool(waypoints) or to in PROVIDER_MOVES[came_from]
    if can_move:
        has_moved = move_provider_asset(session, row, to, through=waypoints, **values)
        asset = lock_asset(session, row.asset_id)
        if to is P.READY and row.ingest_mode == DIRECT_CREATOR_UPLOAD and asset is not None:
            follow_provider(session, asset)
        return has_moved
    if came_from is not to:
        values.pop("last_sync_error", None)
    if any(getattr(row, name) != value for name, value in values.items()):
        if came_from is P.ERRORED:  # its age is that of its failure
            values["updated_at"] = row.updated_at
        set_fields(session, row, **values)
    return False


def _was_given_up(row: MediaProviderAsset) -> bool:
    return (row.last_sync_error or "").startswith(GIVEN_UP)


def apply_poll(session: Session, seen: MediaProviderAsset, found: ProviderAsset) -> None:
    """Apply the answer of a poll, unless the row has changed since it was ``seen``: the answer may be the older one."""
    row = locked_as_seen(session, seen)
    if row is None or row.provider_asset_id != found.id or not found.state:
        return
    _apply(session, row, P(found.state), found)


def note_error(session: Session, seen: MediaProviderAsset, error: str) -> None:
    """Record on an open row why the last call to the provider failed, unless the row has changed since.

    It is recorded once per cause, and does not make the row younger. A settled row keeps its text, which says whether
    the provider may still finish an asset that was given up.
    """
    row = locked_as_seen(session, seen)
    if row is not None and P(row.state) in OPEN_PROVIDER_STATES and row.last_sync_error != error:
        set_fields(session, row, last_sync_error=error, updated_at=row.updated_at)


def give_up(session: Session, asset_id: str, profile: str, provider: str, error: str) -> None:
    """Move an open row to ``errored``."""
    _give_up(session, locked(session, asset_id, profile, provider), error)


def give_up_as_seen(session: Session, seen: MediaProviderAsset, error: str) -> None:
    """Move an open row to ``errored``, unless it has changed since it was ``seen``."""
    _give_up(session, locked_as_seen(session, seen), error)


def give_up_stuck(session: Session, seen: MediaProviderAsset, *, after_seconds: float) -> bool:
    """Move an open row to ``errored`` that has not changed for so long; returns whether it has moved."""
    row = locked_as_seen(session, seen)
    if row is None or not is_stuck(row, after_seconds=after_seconds):
        return False
    return move_provider_asset(session, row, P.ERRORED, last_sync_error=f"stuck in {row.state} past threshold")


def give_up_once(
    session: Session, asset_id: str, profile: str, provider: str, failure: Failure, step: Mapping[str, Any]
) -> None:
    """Move an open row to ``errored`` as a step of its workflow.

    A repeated step changes nothing: the asset may have been given to the provider again in between.
    """
    row = locked(session, asset_id, profile, provider)
    if row is not None and given_up.note_once(session, asset_id, failure, step):
        _give_up(session, row, f"{failure.code}: {failure.message}" if failure.message else failure.code)


def _give_up(session: Session, row: MediaProviderAsset | None, error: str) -> None:
    """Move a locked row to ``errored`` if it is open."""
    if row is not None and P(row.state) in OPEN_PROVIDER_STATES:
        move_provider_asset(session, row, P.ERRORED, last_sync_error=error)


def restart(session: Session, row: MediaProviderAsset, *, passthrough: str | None) -> bool:
    """Move an ``errored`` row back to ``processing``, as one of which the provider has nothing.

    It gets a new passthrough: webhooks and searches of the first attempt no longer find it.

    Returns:
        whether it has moved; not if it is in another state, or another passthrough than ``passthrough`` by now.
    """
    if row.state != P.ERRORED or row.mux_passthrough != passthrough:
        return False
    return move_provider_asset(
        session,
        row,
        P.PROCESSING,
        mux_passthrough=new_passthrough(),
        provider_asset_id=None,
        playback_ids=[],
        last_sync_error=None,
        last_event_id=None,
        last_event_at=None,
        raw_provider_metadata={},
    )


def is_stuck(row: MediaProviderAsset, *, after_seconds: float) -> bool:
    """Whether an open row has not changed for so long."""
    return P(row.state) in OPEN_PROVIDER_STATES and utc_now() - row.updated_at > timedelta(seconds=after_seconds)


# --- webhooks ----------------------------------------------------------------------------------------------------


def of_event(session: Session, event: Mapping[str, Any]) -> MediaProviderAsset | None:
    """Return the row that a webhook is about: by the provider's id, else the passthrough, else the upload."""
    named = (
        (MediaProviderAsset.provider_asset_id, event.get("provider_asset_id")),
        (MediaProviderAsset.mux_passthrough, event.get("passthrough")),
        (MediaProviderAsset.provider_upload_id, event.get("upload_id")),
    )
    for column, value in named:
        if value:
            statement = select(MediaProviderAsset).where(
                MediaProviderAsset.provider_name == event["provider"], column == value
            )
            row = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
            if row is not None:
                return row
    return None


def _scope(event: Mapping[str, Any]) -> tuple[str, str]:
    return "webhook", f"{event['provider']}:{event['id']}"


def is_applied(session: Session, event: Mapping[str, Any]) -> bool:
    """Whether a webhook was applied before, or dropped because nobody knows its asset."""
    scope_key, scope_id = _scope(event)
    statement = select(MediaEvent.id).where(MediaEvent.scope_key == scope_key, MediaEvent.scope_id == scope_id)
    return session.scalar(statement.limit(1)) is not None


def note_orphan(session: Session, event: Mapping[str, Any]) -> None:
    """Record that no row belongs to a webhook; it is not looked at again.

    What is reported of an asset after its purge is no orphan: the purge itself has caused it.
    """
    if is_applied(session, event):
        return
    payload = {"provider": event["provider"], "kind": event["kind"]}
    if WebhookKind(event["kind"]) in _OF_THE_END:
        payload["outcome"] = "unknown"
        record_event(session, "provider_webhook", scope=_scope(event), payload=payload, asset_id=None)
        return
    record_event(session, "orphan_event", scope=_scope(event), payload=payload, asset_id=None)


def apply_event(session: Session, outbox_id: int) -> tuple[Mapping[str, Any], str, str | None] | None:
    """Apply a webhook that the outbox holds, exactly once.

    Returns:
        the event, the outcome (``applied``, ``unchanged``, ``refused``, or ``errored`` when the provider has made an
        asset of an upload whose row is ``errored``), and the provider's id of an asset that must be deleted there,
        because its row is ``deleted``; ``None`` when there is nothing to apply.
    """
    stored = session.get(MediaOutbox, outbox_id)
    if stored is None or "event" not in stored.payload:
        return None
    event: Mapping[str, Any] = stored.payload["event"]
    row = of_event(session, event)
    if row is None or lock_asset(session, row.asset_id) is None:
        return None
    session.refresh(row)
    if is_applied(session, event):
        return None
    outcome, unwanted = _apply_event(session, row, event)
    record_event(
        session,
        "provider_webhook",
        scope=_scope(event),
        payload={"provider": event["provider"], "kind": event["kind"], "outcome": outcome},
        asset_id=row.asset_id,
        profile=row.profile,
    )
    return event, outcome, unwanted


def _apply_event(session: Session, row: MediaProviderAsset, event: Mapping[str, Any]) -> tuple[str, str | None]:
    kind, asset_id = WebhookKind(event["kind"]), event.get("provider_asset_id")
    occurred_at = datetime.fromisoformat(event["occurred_at"]) if event.get("occurred_at") else None
    if row.state == P.DELETED:
        if asset_id is None or kind in (WebhookKind.DELETED, WebhookKind.ERRORED):
            return "unchanged", None
        set_fields(session, row, provider_asset_id=asset_id, cleanup_pending=True)
        return "refused", asset_id
    is_late = occurred_at is not None and row.last_event_at is not None and occurred_at < row.last_event_at
    values: dict[str, Any] = {}
    if asset_id is not None and (row.provider_asset_id is None or (kind in _LINKS and not is_late)):
        values["provider_asset_id"] = asset_id
    if event.get("upload_id") and row.provider_upload_id is None:
        values["provider_upload_id"] = event["upload_id"]
    if event.get("playback_ids") and (not is_late or not row.playback_ids):
        values["playback_ids"] = list(event["playback_ids"])
    if is_late:
        if values:
            set_fields(session, row, **values)
        return "unchanged", None
    if event.get("raw"):
        values["raw_provider_metadata"] = bounded_raw(event["raw"])
    values |= {"last_event_id": event["id"], "last_event_at": occurred_at or row.last_event_at}
    before = row.provider_asset_id
    moved = _move(session, row, _TARGETS[kind], error=event.get("error"), values=values)
    if kind is WebhookKind.UPLOAD_ASSET_CREATED and asset_id and asset_id != before:
        if row.state == P.ERRORED:
            return "errored", None
        note_linked(session, row)
    return ("applied" if moved else "unchanged"), None


def note_linked(session: Session, row: MediaProviderAsset) -> None:
    """Record that the provider has made an asset of a direct upload."""
    record_event(
        session,
        "provider_asset_created",
        scope=("provider_asset", row.asset_id),
        payload=provider_payload(row),
        asset_id=row.asset_id,
        profile=row.profile,
    )


#: Kinds that also come after a row is gone.
_OF_THE_END = frozenset({WebhookKind.DELETED, WebhookKind.UPLOAD_CANCELLED})
#: Kinds that name the asset that was made of an upload.
_LINKS = frozenset({WebhookKind.UPLOAD_ASSET_CREATED})
#: The state that a webhook reports.
_TARGETS: Mapping[WebhookKind, P] = {
    WebhookKind.CREATED: P.PROCESSING,
    WebhookKind.UPLOAD_ASSET_CREATED: P.PROCESSING,
    WebhookKind.READY: P.READY,
    WebhookKind.ERRORED: P.ERRORED,
    WebhookKind.DELETED: P.DELETED,
    WebhookKind.UPLOAD_ERRORED: P.ERRORED,
    WebhookKind.UPLOAD_CANCELLED: P.DELETED,
}


# --- deleting ----------------------------------------------------------------------------------------------------


def note_removed(session: Session, row_id: str, removed: Collection[str]) -> bool:
    """Record that the provider has deleted its copy, unless the row has learned of something else meanwhile.

    Args:
        removed: the provider's ids of what was deleted and cancelled there.

    Returns:
        whether nothing is left at the provider. Otherwise the row stays as it is, and must be read again.
    """
    row = session.get(MediaProviderAsset, row_id, populate_existing=True)
    if row is None or lock_asset(session, row.asset_id) is None:
        return True
    session.refresh(row)
    if row.state == P.DELETED and not row.cleanup_pending:
        return True
    if not {row.provider_asset_id, row.provider_upload_id} <= {None, *removed}:
        return False
    if row.state != P.DELETED:
        waypoints = (P.ERRORED,) if P.DELETED not in PROVIDER_MOVES[P(row.state)] else ()
        move_provider_asset(session, row, P.DELETED, through=waypoints, cleanup_pending=False)
    else:
        set_fields(session, row, cleanup_pending=False)
    return True
