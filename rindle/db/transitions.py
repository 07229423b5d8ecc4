"""The only writer of state columns: compare-and-set and event row in one transaction.

A transition is ``UPDATE ... WHERE id = :id AND state = :from [AND generation = :g]`` and an event row. Metrics are
emitted after the commit, so that a change which rolls back is never counted. The lock order is always: asset, variants
by name, sessions, attachments; several assets by id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, Literal, cast

from sqlalchemy import BindParameter, CursorResult, Table, Update, bindparam, inspect, select, update
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import set_committed_value

from rindle import telemetry
from rindle.db.after_commit import after_commit
from rindle.db.events import asset_payload, provider_payload, record_event, session_payload, variant_payload
from rindle.db.models import MediaAsset, MediaProviderAsset, MediaUploadSession, MediaVariant, utc_now
from rindle.errors import InvalidTransition, StateConflict
from rindle.events import PROVIDER_EVENTS, SESSION_EVENTS, VARIANT_EVENTS
from rindle.states import (
    AGGREGATED,
    ASSET_MOVES,
    DIRECT_ASSET_MOVES,
    PROVIDER_MOVES,
    SESSION_MOVES,
    VARIANT_MOVES,
    AssetState,
    MediaKind,
    OutputKind,
    ProviderState,
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
#: Built once, because no statement runs as often. Pending rows need not be flushed first: they cannot change which
#: asset this is.
_LOCKING = {
    mode: select(MediaAsset)
    .where(MediaAsset.id == bindparam("asset_id"))
    .with_for_update(**strength)
    .execution_options(populate_existing=True, autoflush=False)
    for mode, strength in _LOCKS.items()
}
_STRENGTH: Mapping[str, int] = {"share": 0, "update": 1, "exclusive": 2}
#: Key of ``Session.info``: a transaction and the assets it has locked, each with the strength of its lock.
_LOCKED = "rindle.locked_assets"


def lock_asset(session: Session, asset_id: str, mode: LockMode = "update") -> MediaAsset | None:
    """Lock the asset row and return it as it is now, or ``None`` when it is gone.

    An application transaction that holds an attach open (``FOR KEY SHARE``) does not stall the pipeline
    (``FOR NO KEY UPDATE``), while a purge (``FOR UPDATE``) waits for it. SQLite has one writer: there the immediate
    transaction is the lock. A second call in the same transaction costs no statement, because nobody else can have
    changed the row.

    Source: PostgreSQL "Explicit Locking", row-level lock conflicts.
    """
    held = _held_locks(session)
    known, strength = held.get(asset_id, (None, -1))
    if known is not None and strength >= _STRENGTH[mode] and known in session:
        return known
    found = session.scalars(_LOCKING[mode], {"asset_id": asset_id}).one_or_none()
    # A rollback to a savepoint releases the locks taken inside it, so those are not remembered.
    if found is not None and not session.in_nested_transaction():
        _held_locks(session)[asset_id] = (found, max(strength, _STRENGTH[mode]))
    return found


def _held_locks(session: Session) -> dict[str, tuple[MediaAsset, int]]:
    """Return the locks of the session's current transaction; another transaction starts with none."""
    transaction = session.get_transaction()
    owner, held = session.info.get(_LOCKED, (None, {}))
    if owner is not transaction or transaction is None:
        held = {}
        session.info[_LOCKED] = (transaction, held)
    return cast("dict[str, tuple[MediaAsset, int]]", held)


def move_asset(
    session: Session,
    asset: MediaAsset,
    to: AssetState,
    *,
    through: Sequence[AssetState] = (),
    actor: str | None = None,
    **values: Any,
) -> bool:
    """Move an asset to a state and set ``values`` with it; results and errors are those of :func:`_move`.

    With ``through`` the asset passes these states: one write, and an event for each.
    """
    path = [AssetState(asset.state), *through, to]
    if not _move(session, asset, ASSET_MOVES, path, values):
        return False
    for came_from, state in pairwise(path):
        _asset_moved(session, asset, came_from.value, actor, state=state.value)
    return True


def follow_provider(session: Session, asset: MediaAsset) -> bool:
    """Move an asset that was uploaded to its streaming provider to ``ready`` with its row there.

    Only a ``staged`` one is moved: its bytes are not in the storage, so no validation follows.
    """
    if asset.state != AssetState.STAGED:
        return False
    path = [AssetState.STAGED, AssetState.READY]
    if not _move(session, asset, DIRECT_ASSET_MOVES, path, {}):
        return False
    _asset_moved(session, asset, AssetState.STAGED.value, None, state=AssetState.READY.value)
    return True


def tombstone(session: Session, asset: MediaAsset, *, actor: str | None = None) -> bool:
    """Set ``deleted`` from any state: the transition of a purge, which the public table does not list.

    The caller holds the ``exclusive`` lock and has made sure that nothing is attached.
    """
    came_from = asset.state
    if came_from == AssetState.DELETED:
        return False
    _write(session, asset, {"state": came_from}, {"state": AssetState.DELETED.value})
    _asset_moved(session, asset, came_from, actor, state=asset.state)
    return True


def move_variant(
    session: Session, variant: MediaVariant, to: VariantState, *, generation: int | None = None, **values: Any
) -> bool:
    """Move a variant to a state; with ``generation`` only while the row still belongs to that build.

    Every transition to ``queued`` increases the generation and clears progress and error. Results of older builds are
    then discarded. The caller calls :func:`recompute` in the same transaction.
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
    fence = {} if generation is None else {"generation": generation}
    if not _move(session, variant, VARIANT_MOVES, [came_from, to], values, fence):
        return False
    _variant_moved(session, asset, variant, came_from, to)
    return True


def add_queued(session: Session, asset: MediaAsset, variants: Sequence[MediaVariant]) -> None:
    """Insert planned rows, which have their ids, as ``queued``: one INSERT, and an event for each row.

    The caller holds the asset's lock and calls :func:`recompute` in the same transaction.
    """
    session.add_all(variants)
    for variant in variants:
        variant.state, variant.generation = VariantState.QUEUED.value, variant.generation + 1
        _variant_moved(session, asset, variant, VariantState.PLANNED, VariantState.QUEUED)


def _variant_moved(
    session: Session, asset: MediaAsset, variant: MediaVariant, came_from: VariantState, to: VariantState
) -> None:
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


def move_session(
    session: Session,
    upload: MediaUploadSession,
    to: SessionState,
    *,
    through: Sequence[SessionState] = (),
    profile: str | None = None,
    **values: Any,
) -> bool:
    """Move an upload session to a state and set ``values`` with it; ``through`` as in :func:`move_asset`."""
    if upload.asset_id is not None:
        asset = lock_asset(session, upload.asset_id)
        profile = profile or (asset.profile if asset is not None else None)
    path = [SessionState(upload.state), *through, to]
    if not _move(session, upload, SESSION_MOVES, path, values):
        return False
    for came_from, state in pairwise(path):
        _session_moved(session, upload, came_from, state, profile)
    return True


def _session_moved(
    session: Session, upload: MediaUploadSession, came_from: SessionState, to: SessionState, profile: str | None
) -> None:
    event_type = SESSION_EVENTS.get(to, "upload_session_state_changed")
    payload = session_payload(upload) | {"state": to.value}
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


def move_provider_asset(
    session: Session,
    row: MediaProviderAsset,
    to: ProviderState,
    *,
    through: Sequence[ProviderState] = (),
    **values: Any,
) -> bool:
    """Move an asset at a provider to a state and set ``values`` with it; ``through`` as in :func:`move_asset`.

    Nothing happens when the row already has the state: a provider may report the same thing twice.
    """
    if lock_asset(session, row.asset_id) is None:
        raise StateConflict("the asset was purged meanwhile", detail={"entity": "provider_asset", "to": to.value})
    came_from = ProviderState(row.state)
    if came_from is to:
        return False
    path = [came_from, *through, to]
    if not _move(session, row, PROVIDER_MOVES, path, {"lock_version": row.lock_version + 1, **values}):
        return False
    for before, after in pairwise(path):
        _provider_moved(session, row, before, after)
    return True


def _provider_moved(session: Session, row: MediaProviderAsset, came_from: ProviderState, to: ProviderState) -> None:
    event_type = PROVIDER_EVENTS.get(to, "provider_asset_state_changed")
    payload = provider_payload(row) | {"state": to.value}
    if event_type == "provider_asset_state_changed":
        payload["from"] = came_from.value
    record_event(
        session,
        event_type,
        scope=("provider_asset", row.asset_id),
        payload=payload,
        asset_id=row.asset_id,
        profile=row.profile,
    )
    facts = {
        "profile": row.profile,
        "provider": row.provider_name,
        "asset_id": row.asset_id,
        "from": came_from.value,
        "to": to.value,
    }
    after_commit(session, partial(telemetry.emit, "rindle.provider_asset.state_change", facts))


def recompute(session: Session, asset_id: str, rows: Sequence[MediaVariant] | None = None) -> AssetState | None:
    """Apply the aggregate rule to an asset and return its state (``None`` when it is gone).

    Runs in the transaction that changed a variant, under the lock of the asset row. Without the lock, two variants that
    finish together would each see the other one running, and the asset would never become ready. Only promoted assets
    change; purged and dynamic variants do not count.

    Args:
        rows: all variants of the asset except dynamic ones, if the caller has just read them under that lock.
    """
    asset = lock_asset(session, asset_id)
    if asset is None:
        return None
    current = AssetState(asset.state)
    if current not in AGGREGATED:
        return current
    if rows is None:
        session.flush()
        found: Sequence[tuple[str, str]] = session.execute(
            select(MediaVariant.state, MediaVariant.output_kind).where(
                MediaVariant.asset_id == asset_id,
                MediaVariant.dynamic.is_(False),
                MediaVariant.state != VariantState.PURGED,
            )
        ).all()
    else:
        found = [(row.state, row.output_kind) for row in rows if row.state != VariantState.PURGED]
    target = aggregate(current, MediaKind(asset.kind), [(VariantState(s), OutputKind(k)) for s, k in found])
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
        return current  # the table has no transition between the two: the current state stays
    return target


def _move(
    session: Session,
    row: Any,
    moves: Mapping[Any, frozenset[Any]],
    path: Sequence[Any],
    values: dict[str, Any],
    fence: Mapping[str, Any] | None = None,
) -> bool:
    """Compare-and-set from the first state of ``path`` to its last.

    Returns:
        ``True`` when this call moved the row, ``False`` when the row already had the last state.

    Raises:
        InvalidTransition: the table lacks one of the transitions; nothing was written.
        StateConflict: another transaction moved the row, or it belongs to another generation.
    """
    entity = type(row).__name__
    for before, after in pairwise(path):
        if after not in moves[before]:
            raise InvalidTransition(
                f"{entity} cannot go from {before.value} to {after.value}",
                detail={"entity": entity, "from": before.value, "to": after.value},
            )
    came_from, to = path[0], path[-1]
    if _write(session, row, {"state": came_from.value, **(fence or {})}, {"state": to.value, **values}):
        return True
    session.refresh(row)
    if row.state == to.value and not fence:
        return False
    raise StateConflict(
        f"{entity} is now {row.state} and was not moved to {to.value}",
        detail={"entity": entity, "from": came_from.value, "to": to.value, "found": row.state},
    )


def _write(session: Session, row: Any, expected: Mapping[str, Any], values: dict[str, Any]) -> bool:
    """Update one row if its columns still have the ``expected`` values; ``False`` if they differ."""
    model = type(row)
    written = {"updated_at": utc_now(), **values}
    if model is MediaAsset:
        written["lock_version"] = row.lock_version + 1
    if row in session.new:
        session.flush()
    conditions = {"id": row.id, **expected}
    mapper = inspect(model)
    missing = tuple(name for name, value in conditions.items() if value is None)
    statement = _update_of(mapper, tuple(conditions), missing, tuple(written))
    parameters = {f"expected_{name}": value for name, value in conditions.items() if value is not None}
    parameters |= {f"new_{name}": value for name, value in written.items()}
    # Pending events are inserted together at the end, not one by one before each update.
    with session.no_autoflush:
        done = cast("CursorResult[Any]", session.execute(statement, parameters, bind_arguments={"mapper": mapper}))
    if done.rowcount != 1:
        return False
    for name, value in written.items():
        set_committed_value(row, name, value)
    return True


@lru_cache(maxsize=512)
def _update_of(
    mapper: Mapper[Any], expected: tuple[str, ...], missing: tuple[str, ...], written: tuple[str, ...]
) -> Update:
    """Return the UPDATE of some attributes of one row; built once per pattern, of which there are a few dozen.

    Args:
        missing: those of ``expected`` that must be ``NULL``.
    """

    def parameter(kind: str, name: str) -> BindParameter[Any]:
        return bindparam(f"{kind}_{name}", type_=mapper.columns[name].type)

    return (
        update(cast("Table", mapper.local_table))
        .where(
            *(
                mapper.columns[name].is_(None)
                if name in missing
                else mapper.columns[name] == parameter("expected", name)
                for name in expected
            )
        )
        .values({mapper.columns[name]: parameter("new", name) for name in written})
    )


def set_fields(session: Session, row: Any, **values: Any) -> None:
    """Write other columns of a row that the caller has locked; never the state."""
    set_fields_if(session, row, {}, **values)


def set_fields_if(session: Session, row: Any, expected: Mapping[str, Any], **values: Any) -> bool:
    """Write other columns of a row, which need not be locked, if columns still have the ``expected`` values.

    Returns:
        whether the row was changed, in the database and in memory.
    """
    if "state" in values:
        raise ValueError("state changes only through a transition")
    return _write(session, row, expected, values)


def _asset_moved(session: Session, asset: MediaAsset, came_from: str, actor: str | None, *, state: str) -> None:
    record_event(
        session,
        "asset_state_changed",
        scope=("asset", asset.id),
        payload=asset_payload(asset, came_from) | {"state": state},
        asset_id=asset.id,
        profile=asset.profile,
        actor=actor,
    )
    _emit_later(session, "rindle.asset.state_change", asset.profile, came_from, state)


def _emit_later(session: Session, name: str, profile: str, came_from: str, to: str) -> None:
    after_commit(session, partial(telemetry.emit, name, {"profile": profile, "from": came_from, "to": to}))
