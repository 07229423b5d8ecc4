"""SQL of owner erasures: the plan, the removal of attachments, and the evidence that objects were deleted.

The row of an erasure has the owner, whom Temporal never sees, and the stored report. A row per asset outlives the asset
and records how its purge ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar, cast
from weakref import WeakSet

from sqlalchemy import CursorResult, Dialect, Row, Select, bindparam, delete, func, insert, inspect, select, update
from sqlalchemy.orm import Session, aliased

from rindle.db.events import record_event, record_events
from rindle.db.models import MediaAsset, MediaAttachment, MediaErasure, MediaErasureAsset, utc_now
from rindle.errors import SetupIncomplete, StateConflict
from rindle.protocols import OwnerRef
from rindle.states import AssetState

T = TypeVar("T")
#: Values of one IN list, rows of one INSERT.
CHUNK = 500
#: Rounds of locking before an owner counts as changing too fast.
_LOCK_ROUNDS = 5

PENDING, PURGED, ATTACHED_AGAIN, GONE = "pending", "purged", "attached_again", "gone"

#: An attachment of an owner: id, asset, slot; profile and state of the asset, and its attachments of all owners.
Owned = Row[str, str, str, str, str, int]


#: Engines, by their dialect object, whose database has the tables of erasures.
_HAVE_TABLES: WeakSet[Dialect] = WeakSet()


def have_tables(session: Session) -> bool:
    """Whether the database has the tables of erasures; without them no erasure can wait for anything.

    They are missing while this release runs on the tables of the previous one.
    """
    connection = session.connection()
    if connection.dialect in _HAVE_TABLES:
        return True
    found = inspect(connection).has_table(MediaErasureAsset.__tablename__)
    if found:
        _HAVE_TABLES.add(connection.dialect)
    return found


def _require_tables(session: Session) -> None:
    if not have_tables(session):
        raise SetupIncomplete(
            "the tables of erasures are missing, and nothing was erased. To fix: 1. rindle db upgrade; 2. repeat the "
            "call",
            detail={"component": "rindle_tables", "condition": "behind"},
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What an erasure of one owner removes.

    Attributes:
        attachments: the owner's, ordered by slot, asset and id.
        profiles: profile of each asset, by asset id in order.
        survivors: attachments of other owners per asset; the assets without any are purged.
        deleted: assets that are deleted already.
    """

    attachments: Sequence[Owned]
    profiles: Mapping[str, str]
    survivors: Mapping[str, int]
    deleted: frozenset[str]

    @property
    def to_purge(self) -> list[str]:
        """Ids of the assets that no other owner uses, in order."""
        return [asset_id for asset_id in self.profiles if not self.survivors[asset_id]]

    @property
    def retained(self) -> list[str]:
        """Ids of the assets that other owners still use, in order."""
        return [asset_id for asset_id in self.profiles if self.survivors[asset_id]]


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Yield ``values`` in parts that fit into one statement."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def plan(session: Session, ref: OwnerRef, *, removed: Mapping[str, int] | None = None) -> Plan:
    """Return what an erasure would remove now; writes and locks nothing.

    Args:
        removed: attachments per asset that earlier owners of the same batch will have removed by then.
    """
    return _plan(session.execute(_owned(ref)).all(), removed or {})


def locked_plan(session: Session, ref: OwnerRef) -> Plan:
    """Lock the owner's assets and attachments, and return what the erasure removes.

    An attachment that another transaction changes meanwhile is read again. One that is added after the locks were taken
    is newer than the erasure and stays.

    Raises:
        StateConflict: the attachments change faster than they can be locked.
    """
    locked: set[str] = set()
    found = session.execute(_owned(ref)).all()
    for _ in range(_LOCK_ROUNDS):
        missing = sorted({row.asset_id for row in found} - locked)
        for chunk in chunks(missing):
            session.execute(
                select(MediaAsset.id).where(MediaAsset.id.in_(chunk)).order_by(MediaAsset.id).with_for_update()
            ).all()
        locked.update(missing)
        found = session.execute(_owned(ref).with_for_update(of=MediaAttachment)).all()
        if {row.asset_id for row in found} <= locked:
            return _plan(found, {})
    raise StateConflict("the attachments of the owner change all the time; repeat the call")


def _owned(ref: OwnerRef) -> Select[Any]:
    """Return the query of the owner's attachments, each with facts of its asset: one statement for all of them."""
    of_asset = aliased(MediaAttachment)
    in_use = select(func.count()).where(of_asset.asset_id == MediaAttachment.asset_id).scalar_subquery()
    return (
        select(
            MediaAttachment.id,
            MediaAttachment.asset_id,
            MediaAttachment.slot,
            MediaAsset.profile,
            MediaAsset.state,
            in_use.label("in_use"),
        )
        .join(MediaAsset, MediaAsset.id == MediaAttachment.asset_id)
        .where(MediaAttachment.owner_type == ref.type, MediaAttachment.owner_id == ref.id)
        .order_by(MediaAttachment.slot, MediaAttachment.asset_id, MediaAttachment.id)
    )


def _plan(found: Sequence[Owned], removed: Mapping[str, int]) -> Plan:
    own: Counter[str] = Counter()
    assets: dict[str, tuple[str, str, int]] = {}
    # Unpacked, and once: an owner may have tens of thousands of rows, whose attributes are slow to read by name.
    for _, asset_id, _, profile, state, in_use in found:
        own[asset_id] += 1
        assets[asset_id] = profile, state, in_use
    return Plan(
        found,
        {asset_id: assets[asset_id][0] for asset_id in sorted(assets)},
        {
            asset_id: max(0, in_use - own[asset_id] - removed.get(asset_id, 0))
            for asset_id, (_, _, in_use) in assets.items()
        },
        frozenset(asset_id for asset_id, (_, state, _) in assets.items() if state == AssetState.DELETED),
    )


def remove_attachments(session: Session, found: Plan, *, actor: str | None) -> None:
    """Delete the attachments of a plan, with an audit event for each."""
    for chunk in chunks(found.attachments):
        session.execute(
            delete(MediaAttachment)
            .where(MediaAttachment.id.in_([row.id for row in chunk]))
            .execution_options(synchronize_session=False)
        )
        record_events(
            session,
            "attachment_changed",
            [
                {
                    "scope_key": "asset",
                    "scope_id": row.asset_id,
                    "asset_id": row.asset_id,
                    "payload": {"asset_id": row.asset_id, "change": "detached", "slot": row.slot},
                    "profile": found.profiles[row.asset_id],
                    "actor": actor,
                    "audit": True,
                }
                for row in chunk
            ],
        )


def has_attachments(session: Session, owner_types: Sequence[str]) -> set[str]:
    """Return those of the owner types that any attachment has."""
    return {
        name
        for name in owner_types
        if session.scalar(select(MediaAttachment.id).where(MediaAttachment.owner_type == name).limit(1)) is not None
    }


# --- the row of an operation -------------------------------------------------------------------------------------


def find(session: Session, operation_id: str, *, lock: bool = False) -> MediaErasure | None:
    """Return the row of an operation.

    Raises:
        SetupIncomplete: the tables of erasures are missing.
    """
    _require_tables(session)
    return session.get(MediaErasure, operation_id, populate_existing=True, with_for_update=True if lock else None)


def is_detached(session: Session, operation_id: str) -> bool:
    """Whether the attachments of an operation's owner are removed."""
    detached = MediaErasure.detached_at.is_not(None)
    return session.scalar(select(MediaErasure.id).where(MediaErasure.id == operation_id, detached)) is not None


def request(session: Session, operation_id: str, ref: OwnerRef, actor: str | None) -> bool:
    """Add the row of an operation; ``False`` when there is one already."""
    if find(session, operation_id) is not None:
        return False
    session.add(MediaErasure(id=operation_id, owner_type=ref.type, owner_id=ref.id, actor=actor))
    session.flush()
    return True


def withdraw(session: Session, operation_id: str) -> bool:
    """Remove the row of an operation that has done nothing yet; ``False`` when it has already removed attachments."""
    found = find(session, operation_id, lock=True)
    if found is not None and found.detached_at is not None:
        return False
    if found is not None:
        session.delete(found)
    return True


def add_assets(session: Session, operation_id: str, assets: Sequence[tuple[str, str]]) -> None:
    """Add a row for each asset that the operation purges."""
    for chunk in chunks(assets):
        session.execute(
            insert(MediaErasureAsset),
            [{"erasure_id": operation_id, "asset_id": asset_id, "profile": profile} for asset_id, profile in chunk],
        )


# --- how purges end ----------------------------------------------------------------------------------------------


#: Built once: each purge runs them.
_WAITING = (
    select(MediaErasureAsset.erasure_id, MediaErasureAsset.objects)
    .where(MediaErasureAsset.asset_id == bindparam("asset_id"), MediaErasureAsset.outcome == PENDING)
    .order_by(MediaErasureAsset.erasure_id)
)
_COUNT_DOWN = (
    update(MediaErasure)
    .where(MediaErasure.id == bindparam("operation_id"))
    .values(pending=MediaErasure.pending - 1)
    .returning(MediaErasure.pending)
    .execution_options(synchronize_session=False)
)


def is_pending(session: Session, asset_id: str) -> bool:
    """Whether an erasure waits for the purge of this asset."""
    return bool(waiting_operations(session, asset_id))


def waiting_operations(session: Session, asset_id: str) -> Sequence[str]:
    """Return the ids of the erasures that wait for the purge of this asset, sorted."""
    return [row.erasure_id for row in _waiting(session, asset_id)]


def _waiting(session: Session, asset_id: str) -> Sequence[Row[str, list[dict[str, Any]] | None]]:
    return session.execute(_WAITING, {"asset_id": asset_id}).all() if have_tables(session) else ()


def note_objects(
    session: Session,
    asset_id: str,
    objects: Sequence[Mapping[str, Any]],
    uploads_end_at: datetime | None,
    *,
    outcome: str = PENDING,
) -> list[str]:
    """Write the evidence of deleted objects; a deletion that was confirmed earlier keeps its time.

    Args:
        outcome: how the purge ends with them; ``pending`` when it has not ended.

    Returns:
        the operations of which it was the last purge.
    """
    ended = []
    for operation_id, recorded in _waiting(session, asset_id):
        known = {(one["storage"], one["key"]): dict(one) for one in recorded or ()}
        for one in objects:
            place = (one["storage"], one["key"])
            known[place] = {**one, "deleted_at": known.get(place, one)["deleted_at"]}
        evidence = {"objects": [known[place] for place in sorted(known)], "uploads_end_at": uploads_end_at}
        if _end(session, operation_id, asset_id, outcome, evidence):
            ended.append(operation_id)
    return ended


def decide(session: Session, asset_id: str, outcome: str, *, operation_id: str | None = None) -> list[str]:
    """Record how the purge of an asset ended; returns the operations of which it was the last one."""
    waiting = waiting_operations(session, asset_id) if operation_id is None else [operation_id]
    return [one for one in waiting if _end(session, one, asset_id, outcome, {})]


def _end(session: Session, operation_id: str, asset_id: str, outcome: str, evidence: Mapping[str, Any]) -> bool:
    """Write evidence and outcome of a purge that has not ended; whether it was the last one of its operation."""
    decided = {} if outcome == PENDING else {"outcome": outcome, "decided_at": utc_now()}
    written = session.execute(
        update(MediaErasureAsset)
        .where(
            MediaErasureAsset.erasure_id == operation_id,
            MediaErasureAsset.asset_id == asset_id,
            MediaErasureAsset.outcome == PENDING,
        )
        .values(**evidence, **decided)
        .execution_options(synchronize_session=False)
    )
    if not decided or cast("CursorResult[Any]", written).rowcount != 1:
        return False
    return session.scalar(_COUNT_DOWN, {"operation_id": operation_id}) == 0


@dataclass(frozen=True, slots=True)
class PendingAsset:
    """An asset whose purge has not ended; ``is_present`` and ``is_attached`` are its rows as they are now."""

    asset_id: str
    profile: str
    is_present: bool
    is_attached: bool


def pending_page(session: Session, operation_id: str, after: str) -> list[PendingAsset]:
    """Return up to :data:`CHUNK` assets of an operation whose purge has not ended, by id after ``after``."""
    statement = select(MediaErasureAsset.asset_id, MediaErasureAsset.profile).where(
        MediaErasureAsset.erasure_id == operation_id, MediaErasureAsset.outcome == PENDING
    )
    if after:
        statement = statement.where(MediaErasureAsset.asset_id > after)
    page = session.execute(statement.order_by(MediaErasureAsset.asset_id).limit(CHUNK)).all()
    asset_ids = [row.asset_id for row in page]
    present = select(MediaAsset.id, MediaAsset.state).where(MediaAsset.id.in_(asset_ids))
    states = {row.id: row.state for row in session.execute(present)}
    attached = set(
        session.scalars(select(MediaAttachment.asset_id).where(MediaAttachment.asset_id.in_(asset_ids)).distinct())
    )
    return [
        PendingAsset(
            asset_id=row.asset_id,
            profile=row.profile,
            is_present=row.asset_id in states,
            is_attached=row.asset_id in attached and states.get(row.asset_id) != AssetState.DELETED,
        )
        for row in page
    ]


def pending_count(session: Session, operation_id: str) -> int:
    """Return how many purges of an operation have not ended; 0 for an unknown one."""
    return session.scalar(select(MediaErasure.pending).where(MediaErasure.id == operation_id)) or 0


def has_changed(session: Session, operation_id: str, since: datetime) -> bool:
    """Whether the row of an operation was written after ``since``: each purge that ends writes it."""
    changed = select(MediaErasure.id).where(MediaErasure.id == operation_id, MediaErasure.updated_at > since)
    return session.scalar(changed) is not None


def complete(session: Session, operation_id: str) -> bool:
    """Record that every purge has ended, once, with an audit event; ``False`` when that was done before."""
    moved = session.execute(
        update(MediaErasure)
        .where(
            MediaErasure.id == operation_id,
            MediaErasure.pending == 0,
            MediaErasure.detached_at.is_not(None),
            MediaErasure.completed_at.is_(None),
        )
        .values(completed_at=utc_now())
        .execution_options(synchronize_session=False)
    )
    if cast("CursorResult[Any]", moved).rowcount != 1:
        return False
    counted = select(MediaErasureAsset.outcome, func.count()).where(MediaErasureAsset.erasure_id == operation_id)
    outcomes = {row[0]: row[1] for row in session.execute(counted.group_by(MediaErasureAsset.outcome))}
    actor = session.scalar(select(MediaErasure.actor).where(MediaErasure.id == operation_id))
    record_event(
        session,
        "owner.erasure_completed",
        scope=("owner_erasure", operation_id),
        payload={"operation_id": operation_id}
        | {outcome: outcomes.get(outcome, 0) for outcome in (PURGED, ATTACHED_AGAIN, GONE)},
        asset_id=None,
        actor=actor,
        audit=True,
    )
    return True


def assets_of(session: Session, operation_id: str) -> Sequence[MediaErasureAsset]:
    """Return the assets of an operation, by id."""
    return session.scalars(
        select(MediaErasureAsset)
        .where(MediaErasureAsset.erasure_id == operation_id)
        .order_by(MediaErasureAsset.asset_id)
    ).all()
