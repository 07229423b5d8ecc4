"""The only writer of state columns: compare-and-set and event row in one transaction.

A move is ``UPDATE ... WHERE id = :id AND state = :from [AND generation = :g]`` with the event row beside it. Metrics
are
emitted after commit, so a change that rolls back is never counted. Lock order everywhere: asset, variants by name,
sessions, attachments; several assets by id.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, CursorResult, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from rindle import telemetry
from rindle.db.after_commit import after_commit
from rindle.db.events import asset_payload, record_event, session_payload, variant_payload
from rindle.db.models import MediaAsset, MediaUploadSession, MediaVariant, utc_now
from rindle.errors import InvalidTransition, StateConflict
from rindle.events import SESSION_EVENTS, VARIANT_EVENTS
from rindle.states import (
    AGGREGATED,
    ASSET_MOVES,
    SESSION_MOVES,
    VARIANT_MOVES,
    AssetState,
    MediaKind,
    OutputKind,
    SessionState,
    VariantState,
)

#: ``share`` for attach, ``update`` for transitions and events, ``exclusive`` for purge and erasure.
LockMode = Literal["share", "update", "exclusive"]

_LOCKS: Mapping[str, dict[str, Any]] = {
    "share": {"read": True, "key_share": True},  # FOR KEY SHARE
    "update": {"key_share": True},  # FOR NO KEY UPDATE
    "exclusive": {},  # FOR UPDATE
}


def lock_asset(session: Session, asset_id: str, mode: LockMode = "update") -> MediaAsset | None:
    """Lock the asset row and return it as it is now, or ``None`` when it is gone.

    An application transaction that holds an attach open (``FOR KEY SHARE``) does not stall the pipeline
    (``FOR NO KEY UPDATE``), while a purge (``FOR UPDATE``) waits for it. SQLite has one writer: there the immediate
    transaction is the lock.

    Source: PostgreSQL "Explicit Locking", row-level lock conflicts.
    """
    statement = select(MediaAsset).where(MediaAsset.id == asset_id).with_for_update(**_LOCKS[mode])
    return session.scalars(statement.execution_options(populate_existing=True)).one_or_none()


def move_asset(session: Session, asset: MediaAsset, to: AssetState, *, actor: str | None = None, **values: Any) -> bool:
    """Move an asset and set ``values`` with it; see :func:`_move` for the promise."""
    came_from = asset.state
    if not _move(session, asset, ASSET_MOVES, AssetState(came_from), to, values):
        return False
    _asset_moved(session, asset, came_from, actor)
    return True


def tombstone(session: Session, asset: MediaAsset, *, actor: str | None = None) -> bool:
    """Set ``deleted`` from any state: the purge's move, which the public table does not offer.

    The caller holds the ``exclusive`` lock and has made sure that nothing is attached.
    """
    came_from = asset.state
    if came_from == AssetState.DELETED:
        return False
    _write(session, asset, [MediaAsset.state == came_from], {"state": AssetState.DELETED.value})
    _asset_moved(session, asset, came_from, actor)
    return True


def move_variant(
    session: Session, variant: MediaVariant, to: VariantState, *, generation: int | None = None, **values: Any
) -> bool:
    """Move a variant; with ``generation`` only while the row still belongs to that build.

    Every move to ``queued`` bumps the generation and clears progress and error, which fences off whatever an older
    build may still deliver. The caller calls :func:`recompute` in the same transaction.
    """
    asset = lock_asset(session, variant.asset_id)
    if asset is None:
        raise StateConflict("the asset was purged meanwhile", detail={"entity": "variant", "to": to.value})
    came_from = VariantState(variant.state)
    if to is VariantState.QUEUED:
        lost_attempt = came_from is VariantState.PROCESSING
        values = {
            "generation": variant.generation + 1,
            "progress": 0,
            "error_code": None,
            "error_reason": None,
            **({} if lost_attempt else {"attempts": 0}),
            **values,
        }
    elif to is VariantState.READY:
        values = {"progress": 100, "error_code": None, "error_reason": None, **values}
    extra = [] if generation is None else [MediaVariant.generation == generation]
    if not _move(session, variant, VARIANT_MOVES, came_from, to, values, extra):
        return False
    event_type = VARIANT_EVENTS.get(to, "variant_state_changed")
    payload = variant_payload(variant)
    if event_type == "variant_state_changed":
        payload["from"] = came_from.value
    elif event_type == "variant_failed":
        payload["error_code"] = variant.error_code
    record_event(
        session,
        event_type,
        scope=("variant", variant.id),
        payload=payload,
        asset_id=variant.asset_id,
        profile=asset.profile,
    )
    _emit_later(session, "rindle.variant.state_change", asset.profile, came_from.value, to.value)
    return True


def move_session(
    session: Session, upload: MediaUploadSession, to: SessionState, *, profile: str | None = None, **values: Any
) -> bool:
    """Move an upload session and set ``values`` with it."""
    if upload.asset_id is not None:
        asset = lock_asset(session, upload.asset_id)
        profile = profile or (asset.profile if asset is not None else None)
    came_from = SessionState(upload.state)
    if not _move(session, upload, SESSION_MOVES, came_from, to, values):
        return False
    event_type = SESSION_EVENTS.get(to, "upload_session_state_changed")
    payload = session_payload(upload)
    if event_type == "upload_session_state_changed":
        payload["from"] = came_from.value
    elif event_type == "upload_session_uploading":
        payload["offset"] = upload.last_known_offset
    elif to in (SessionState.EXPIRED, SessionState.FAILED):
        payload["error_code"] = upload.error_code
    record_event(
        session,
        event_type,
        scope=("upload_session", upload.id),
        payload=payload,
        asset_id=upload.asset_id,
        profile=profile,
        actor=upload.actor,
    )
    return True


def recompute(session: Session, asset_id: str) -> AssetState | None:
    """Apply the aggregate rule to an asset and return its state (``None`` when it is gone).

    Runs in the transaction that changed a variant, after locking the asset row: two variants that finish together would
    otherwise each see the other running and the asset would hang. Only assets that were promoted are touched; purged
    and
    dynamic variants do not count.
    """
    asset = lock_asset(session, asset_id)
    if asset is None:
        return None
    current = AssetState(asset.state)
    if current not in AGGREGATED:
        return current
    session.flush()
    rows = session.execute(
        select(MediaVariant.state, MediaVariant.output_kind).where(
            MediaVariant.asset_id == asset_id,
            MediaVariant.dynamic.is_(False),
            MediaVariant.state != VariantState.PURGED,
        )
    ).all()
    target = aggregate(current, MediaKind(asset.kind), [(VariantState(s), OutputKind(k)) for s, k in rows])
    if target is not current:
        move_asset(session, asset, target)
    return target


def aggregate(current: AssetState, kind: MediaKind, variants: list[tuple[VariantState, OutputKind]]) -> AssetState:
    """Return the state an asset of ``kind`` in ``current`` should have, given its ``variants``; first match wins."""
    states = [state for state, _ in variants]
    if not states:
        return AssetState.READY
    if any(s in (VariantState.FAILED, VariantState.CANCELLED, VariantState.MISSING) for s in states):
        return AssetState.DEGRADED
    if all(s in (VariantState.READY, VariantState.STALE) for s in states):
        return AssetState.READY
    if current is AssetState.AVAILABLE and all(s in (VariantState.PLANNED, VariantState.QUEUED) for s in states):
        return current
    finished = (VariantState.READY, VariantState.STALE)
    is_av = any(
        state not in finished and (output is not OutputKind.IMAGE or kind is MediaKind.VIDEO)
        for state, output in variants
    )
    target = AssetState.TRANSCODING if is_av else AssetState.PROCESSING
    if current in (AssetState.PROCESSING, AssetState.TRANSCODING):
        return current  # the table has no edge between the two: the run that is under way keeps its name
    return target


def _move(
    session: Session,
    row: Any,
    moves: Mapping[Any, frozenset[Any]],
    came_from: Any,
    to: Any,
    values: dict[str, Any],
    extra: list[ColumnElement[bool]] | None = None,
) -> bool:
    """Compare-and-set; ``True`` when this call moved the row, ``False`` when it was already there.

    Raises:
        InvalidTransition: the table has no such move; nothing was written.
        StateConflict: the row was moved by somebody else, or belongs to another generation.
    """
    entity = type(row).__name__
    if to not in moves[came_from]:
        raise InvalidTransition(
            f"{entity} cannot go from {came_from.value} to {to.value}",
            detail={"entity": entity, "from": came_from.value, "to": to.value},
        )
    condition = [type(row).state == came_from.value, *(extra or [])]
    if _write(session, row, condition, {"state": to.value, **values}):
        return True
    session.refresh(row)
    if row.state == to.value and not extra:
        return False
    raise StateConflict(
        f"{entity} is {row.state} by now and was not moved to {to.value}",
        detail={"entity": entity, "from": came_from.value, "to": to.value, "found": row.state},
    )


def _write(session: Session, row: Any, condition: list[ColumnElement[bool]], values: dict[str, Any]) -> bool:
    model = type(row)
    written = {"updated_at": utc_now(), **values}
    if model is MediaAsset:
        written["lock_version"] = row.lock_version + 1
    session.flush()
    statement = update(model).where(model.id == row.id, *condition).values(**written)
    done = cast("CursorResult[Any]", session.execute(statement.execution_options(synchronize_session=False)))
    if done.rowcount != 1:
        return False
    for name, value in written.items():
        set_committed_value(row, name, value)
    return True


def set_fields(session: Session, row: Any, **values: Any) -> None:
    """Write other columns of a row the caller has locked; refuses to touch its state."""
    if "state" in values:
        raise ValueError("state moves through a transition")
    _write(session, row, [], values)


def _asset_moved(session: Session, asset: MediaAsset, came_from: str, actor: str | None) -> None:
    record_event(
        session,
        "asset_state_changed",
        scope=("asset", asset.id),
        payload=asset_payload(asset, came_from),
        asset_id=asset.id,
        profile=asset.profile,
        actor=actor,
    )
    _emit_later(session, "rindle.asset.state_change", asset.profile, came_from, asset.state)


def _emit_later(session: Session, name: str, profile: str, came_from: str, to: str) -> None:
    after_commit(session, partial(telemetry.emit, name, {"profile": profile, "from": came_from, "to": to}))
