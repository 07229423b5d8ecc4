"""SQL of variants: planning, claiming, recording and repairing them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Table, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from rindle.db.events import record_event, variant_payload
from rindle.db.models import MediaAsset, MediaProcessingRun, MediaVariant, new_id, utc_now
from rindle.db.transitions import add_queued, lock_asset, move_variant, recompute, set_fields
from rindle.errors import StaleSource
from rindle.messages import IMAGES_GROUP, Failure, GroupStatus
from rindle.profile import Profile
from rindle.security import variant_key
from rindle.states import DELIVERABLE, OPEN_VARIANTS, AssetState, MediaKind, OutputKind, RunState, VariantState

log = logging.getLogger(__name__)

_RUNS = cast("Table", MediaProcessingRun.__table__)


#: Keys of objects to delete, by variant id. No row expects them again, so they may be deleted at any later time.
ObsoleteKeys = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Claim:
    """One variant row that a build has claimed: what to build, and the values that the row must still have."""

    variant_id: str
    name: str
    generation: int
    digest: str
    key: str
    attempts: int


@dataclass(frozen=True, slots=True)
class ClaimedGroup:
    """The asset at the time of the claim, the claims, and the obsolete keys of the group by variant id."""

    asset: MediaAsset
    claims: tuple[Claim, ...]
    obsolete: ObsoleteKeys


def group_of(asset_kind: str, variant: MediaVariant) -> str:
    """Return the build group of a row: ``images`` for image variants of an image asset, else the variant's name."""
    if asset_kind == MediaKind.IMAGE and variant.output_kind == OutputKind.IMAGE:
        return IMAGES_GROUP
    return variant.name


def variants_of(session: Session, asset_id: str) -> Sequence[MediaVariant]:
    """Return the variants of an asset by name, without the rows of dynamic transforms."""
    statement = (
        select(MediaVariant)
        .where(MediaVariant.asset_id == asset_id, MediaVariant.dynamic.is_(False))
        .order_by(MediaVariant.name)
        .execution_options(populate_existing=True, autoflush=any(isinstance(row, MediaVariant) for row in session.new))
    )
    return session.scalars(statement).all()


def rows_of_group(session: Session, asset: MediaAsset, group: str) -> list[MediaVariant]:
    """Return the rows of one group by name."""
    return _in_group(asset, variants_of(session, asset.id), group)


def _in_group(asset: MediaAsset, rows: Iterable[MediaVariant], group: str) -> list[MediaVariant]:
    return [row for row in rows if group_of(asset.kind, row) == group]


def plan_variants(
    session: Session, asset: MediaAsset, profile: type[Profile], *, only: str | None = None
) -> list[MediaVariant]:
    """Insert and queue the declared variants that the asset lacks, or only the one named ``only``; returns them.

    The caller calls :func:`recompute` in the same transaction.
    """
    planned = missing_variants(asset, profile, variants_of(session, asset.id), only=only)
    add_queued(session, asset, planned)
    set_fields(session, asset, recipe_digest=profile.profile_digest())
    return planned


def missing_variants(
    asset: MediaAsset, profile: type[Profile], rows: Iterable[MediaVariant], *, only: str | None = None
) -> list[MediaVariant]:
    """Return new rows, not yet added, for the variants that apply to ``asset`` and are not among ``rows``."""
    applicable, skipped = profile.applicable(asset.kind, asset.has_video_track, asset.has_audio_track)
    for name, reason in skipped.items():
        log.info("variant_skipped", extra={"asset_id": asset.id, "variant": name, "reason": reason})
    existing = {row.name for row in rows}
    return [
        MediaVariant(
            id=new_id(),
            asset_id=asset.id,
            name=name,
            recipe_digest=profile.recipe_digest(name),
            output_kind=profile.variants[name].output_kind,
            state=VariantState.PLANNED.value,
            generation=0,
            attempts=0,
            progress=0,
            dynamic=False,
        )
        for name in applicable
        if name not in existing and only in (None, name)
    ]


def open_groups(session: Session, asset_id: str) -> list[str]:
    """Return the groups of an asset that have queued or processing rows."""
    asset = session.get(MediaAsset, asset_id, populate_existing=True)
    return [] if asset is None else groups_to_build(asset, variants_of(session, asset_id))


def groups_to_build(asset: MediaAsset, rows: Iterable[MediaVariant]) -> list[str]:
    """Return the groups that have queued or processing rows among ``rows``."""
    wanted = (VariantState.QUEUED, VariantState.PROCESSING)
    return sorted({group_of(asset.kind, row) for row in rows if row.state in wanted})


def obsolete_keys(row: MediaVariant) -> list[str]:
    """Return the keys of a row that no build writes any more: replaced objects, and those of earlier builds."""
    keys = list(row.obsolete_keys or ())
    if row.state == VariantState.PROCESSING:
        keys = keys[:-1]  # the last one belongs to the build in progress
    return [row.superseded_key, *keys] if row.superseded_key else keys


def obsolete_of_group(session: Session, asset_id: str, group: str) -> tuple[MediaAsset | None, ObsoleteKeys]:
    """Return the asset, and the obsolete keys of a group; those of a gone asset are the purge's."""
    asset = session.get(MediaAsset, asset_id, populate_existing=True)
    return asset, {} if asset is None else _obsolete(_in_group(asset, variants_of(session, asset_id), group))


def _obsolete(rows: Iterable[MediaVariant]) -> ObsoleteKeys:
    return {row.id: keys for row in rows if (keys := obsolete_keys(row))}


def forget_keys(session: Session, variant_id: str, keys: Iterable[str]) -> None:
    """Remove the keys of objects whose deletion is confirmed from their row."""
    gone = set(keys)
    variant = _locked(session, variant_id)
    if variant is None:
        return
    left = [key for key in variant.obsolete_keys or () if key not in gone]
    replaced = None if variant.superseded_key in gone else variant.superseded_key
    set_fields(session, variant, obsolete_keys=left or None, superseded_key=replaced)


def _locked(session: Session, variant_id: str) -> MediaVariant | None:
    """Lock the asset of a variant, then return the variant as it is now."""
    variant = session.get(MediaVariant, variant_id, populate_existing=True)
    if variant is None or lock_asset(session, variant.asset_id) is None:
        return None
    session.refresh(variant)
    return variant


def status(session: Session, asset_id: str, group: str, *, moved: int = 0) -> GroupStatus:
    """Count the states of a group's rows."""
    asset = session.get(MediaAsset, asset_id, populate_existing=True)
    if asset is None:
        return GroupStatus(asset_id=asset_id, group=group, moved=moved)
    return _status(asset, group, variants_of(session, asset_id), moved=moved)


def _status(asset: MediaAsset, group: str, rows: Iterable[MediaVariant], *, moved: int = 0) -> GroupStatus:
    of_group = _in_group(asset, rows, group)
    states = [row.state for row in of_group]
    return GroupStatus(
        asset_id=asset.id,
        group=group,
        asset_state=asset.state,
        queued=states.count(VariantState.QUEUED),
        processing=states.count(VariantState.PROCESSING),
        ready=states.count(VariantState.READY),
        failed=states.count(VariantState.FAILED),
        cancelled=states.count(VariantState.CANCELLED),
        moved=moved,
        obsolete=sum(len(keys) for keys in _obsolete(of_group).values()),
    )


def claim_group(
    session: Session, asset_id: str, group: str, profile_of: Any, run: Mapping[str, Any]
) -> ClaimedGroup | None:
    """Claim the queued rows of a group for a build; ``None`` when the asset is purged or not deliverable.

    The row remembers the key of its build before the build can store anything there, until the object is recorded or
    its deletion is confirmed.

    A row that a lost attempt left ``processing`` is queued first, which increases its generation: a late result of the
    lost attempt then fails its compare-and-set. One open workflow per group makes that safe.
    """
    asset = lock_asset(session, asset_id)
    if asset is None or AssetState(asset.state) not in DELIVERABLE:
        return None
    profile: type[Profile] = profile_of(asset.profile)
    rows = variants_of(session, asset_id)
    claims, obsolete = [], {}
    for row in _in_group(asset, rows, group):
        if row.state == VariantState.PROCESSING:
            _end_runs(session, [row], RunState.FAILED, code="interrupted", reason="the worker was lost")
            move_variant(session, row, VariantState.QUEUED, recipe_digest=_digest(profile, row))
        if keys := obsolete_keys(row):
            obsolete[row.id] = keys
        if row.state != VariantState.QUEUED:
            continue
        if row.name not in profile.variants:
            move_variant(session, row, VariantState.CANCELLED, generation=row.generation, error_code=StaleSource.code)
            continue
        claim = claim_of(asset, row, profile)
        known = [*(row.obsolete_keys or ()), claim.key]
        move_variant(session, row, VariantState.PROCESSING, recipe_digest=claim.digest, obsolete_keys=known)
        claims.append(claim)
    _note_runs(session, asset_id, claims, run)
    recompute(session, asset_id, rows)
    return ClaimedGroup(asset, tuple(claims), obsolete)


def still_claimed(session: Session, claims: Iterable[Claim]) -> set[str]:
    """Return the variant ids of those claims whose rows still belong to the build that claimed them."""
    generations = {claim.variant_id: claim.generation for claim in claims}
    found = session.execute(
        select(MediaVariant.id, MediaVariant.generation).where(
            MediaVariant.id.in_(generations), MediaVariant.state == VariantState.PROCESSING
        )
    )
    return {variant_id for variant_id, generation in found if generation == generations[variant_id]}


def _digest(profile: type[Profile], row: MediaVariant) -> str:
    return profile.recipe_digest(row.name) if row.name in profile.variants else row.recipe_digest


def claim_of(asset: MediaAsset, row: MediaVariant, profile: type[Profile]) -> Claim:
    """Return the claim on ``row`` under the current recipe."""
    extension, digest = profile.variants[row.name].extension, _digest(profile, row)
    key = variant_key(asset.profile, asset.id, row.name, digest, row.generation, extension)
    return Claim(row.id, row.name, row.generation, digest, key, row.attempts)


def record_group(
    session: Session, asset_id: str, source_key: str, made: Sequence[tuple[Claim, Mapping[str, Any]]]
) -> tuple[ObsoleteKeys, Sequence[MediaVariant]]:
    """Record finished objects on the rows that still expect them, all in one transaction.

    The compare-and-set requires the claimed state, generation and digest, and a locked asset whose source is unchanged
    and neither quarantined nor deleted. Otherwise the new object is obsolete for ever: the row has moved past the
    generation in its key.

    Returns:
        the keys to delete, and the asset's variants after the change.
    """
    asset = lock_asset(session, asset_id)
    if asset is None or AssetState(asset.state) in (AssetState.QUARANTINED, AssetState.DELETED):
        return {claim.variant_id: [claim.key] for claim, _ in made}, []
    rows = variants_of(session, asset_id)
    known = {row.id: row for row in rows}
    unwanted: dict[str, Sequence[str]] = {}
    ready: list[MediaVariant] = []
    for claim, facts in made:
        variant = known.get(claim.variant_id)
        if variant is None:
            unwanted[claim.variant_id] = [claim.key]
            continue
        fresh = variant.generation == claim.generation and variant.state == VariantState.PROCESSING
        if fresh and asset.storage_key == source_key and variant.recipe_digest == claim.digest:
            old = variant.storage_key
            obsolete = [key for key in variant.obsolete_keys or () if key != claim.key]
            obsolete += [old] if old and old != claim.key else []
            move_variant(
                session,
                variant,
                VariantState.READY,
                generation=claim.generation,
                storage_key=claim.key,
                generated_at=utc_now(),
                obsolete_keys=obsolete or None,
                **facts,
            )
            ready.append(variant)
            if obsolete:
                unwanted[variant.id] = obsolete
            continue
        if fresh:
            _cancel_stale(session, asset, variant, claim, source_key)
        if variant.storage_key != claim.key:  # it is the row's own when this call repeats one that has committed
            unwanted[variant.id] = [claim.key]
    _end_runs(session, ready, RunState.SUCCEEDED)
    recompute(session, asset.id, rows)
    return unwanted, rows


def ready_of(session: Session, asset_id: str, made: Sequence[tuple[Claim, Mapping[str, Any]]]) -> set[str]:
    """Return the names of those builds whose object their row has recorded."""
    names = {claim.key: claim.name for claim, _ in made}
    return {
        names[row.storage_key]
        for row in variants_of(session, asset_id)
        if row.state == VariantState.READY and row.storage_key in names
    }


def _cancel_stale(session: Session, asset: MediaAsset, variant: MediaVariant, claim: Claim, source_key: str) -> None:
    """Cancel a row whose source or recipe changed during its build."""
    changed = "asset_changed" if asset.storage_key != source_key else "recipe_changed"
    move_variant(
        session,
        variant,
        VariantState.CANCELLED,
        generation=claim.generation,
        error_code=StaleSource.code,
        error_reason=changed,
    )
    _end_runs(session, [variant], RunState.CANCELLED, code=StaleSource.code, reason=changed)


def record_built(
    session: Session,
    asset_id: str,
    group: str,
    source_key: str,
    made: Sequence[tuple[Claim, Mapping[str, Any]]],
    measured_ms: int | None = None,
) -> tuple[ObsoleteKeys, GroupStatus]:
    """Record the results of a build; also returns the status of the group, see :func:`record_group`.

    Args:
        measured_ms: duration of the original, if the build measured it; the estimate of the probe is replaced.
    """
    unwanted, rows = record_group(session, asset_id, source_key, made)
    asset = lock_asset(session, asset_id)
    if asset is None or not rows:
        return unwanted, status(session, asset_id, group)
    timed = asset.kind in (MediaKind.AUDIO, MediaKind.VIDEO) and asset.storage_key == source_key
    if timed and measured_ms is not None and asset.duration_ms != measured_ms:
        set_fields(session, asset, duration_ms=measured_ms)
    return unwanted, _status(asset, group, rows)


def record_failure(
    session: Session,
    claim: Claim,
    *,
    code: str,
    reason: str,
    final: bool,
    counted: bool = True,
    may_exist: bool = False,
) -> bool:
    """Record a failed attempt: ``failed`` when it was the last, else back to ``queued``; ``True`` when it moved.

    Args:
        may_exist: whether the attempt has begun to store its object; the row then keeps the key, to delete the object.
    """
    variant = _locked(session, claim.variant_id)
    if variant is None:
        return False
    if not may_exist and claim.key in (variant.obsolete_keys or ()):
        left = [key for key in variant.obsolete_keys or () if key != claim.key]
        set_fields(session, variant, obsolete_keys=left or None)
    if variant.generation != claim.generation or variant.state != VariantState.PROCESSING:
        return False  # the row belongs to another build now
    attempts = variant.attempts + (1 if counted else 0)
    _end_runs(session, [variant], RunState.FAILED, code=code, reason=reason)
    if final:
        move_variant(
            session,
            variant,
            VariantState.FAILED,
            generation=claim.generation,
            attempts=attempts,
            error_code=code,
            error_reason=reason,
        )
        recompute(session, variant.asset_id)
    else:
        move_variant(session, variant, VariantState.QUEUED, generation=claim.generation, attempts=attempts)
    return True


def record_progress(session: Session, variant_id: str, generation: int, percent: int) -> bool:
    """Write the progress of a build, with the event ``variant_progress``; ``False`` when the row is not the build's.

    This is not a state change, but it also locks the asset, so that the ids of an asset's events are in order. Nothing
    is written when the row is not ``processing``, belongs to another generation or does not exist.

    Args:
        percent: 1 to 99; 0 and 100 come with ``variant_started`` and ``variant_ready``. The caller limits the rate.
    """
    if not 1 <= percent <= 99:
        raise ValueError(f"progress is 1 to 99 per cent, not {percent}")
    asset_id = session.scalar(select(MediaVariant.asset_id).where(MediaVariant.id == variant_id))
    asset = None if asset_id is None else lock_asset(session, asset_id)
    variant = session.get(MediaVariant, variant_id, populate_existing=True)
    if asset is None or variant is None:
        return False
    if variant.generation != generation or variant.state != VariantState.PROCESSING:
        return False
    set_fields(session, variant, progress=percent)
    record_event(
        session,
        "variant_progress",
        scope=("variant", variant.id),
        payload=variant_payload(variant),
        asset_id=variant.asset_id,
        profile=asset.profile,
    )
    return True


def cancel_rows(
    session: Session, asset: MediaAsset, rows: Iterable[MediaVariant], *, actor: str | None = None
) -> list[str]:
    """Move open rows to ``cancelled``, invalidate their builds, and write the audit event; returns the names."""
    names = []
    for row in rows:
        if VariantState(row.state) not in OPEN_VARIANTS:
            continue
        if row.state == VariantState.PROCESSING:
            _end_runs(session, [row], RunState.CANCELLED, code="variant_processing_cancelled", reason="cancelled")
        move_variant(
            session,
            row,
            VariantState.CANCELLED,
            generation=row.generation,
            **{"error_code": "variant_processing_cancelled", "error_reason": "cancelled on request"},
        )
        set_fields(session, row, generation=row.generation + 1)
        names.append(row.name)
    if names:
        _audit(session, asset, "variants.cancelled", names, actor)
        recompute(session, asset.id)
    return names


def requeue_rows(
    session: Session,
    asset: MediaAsset,
    rows: Iterable[MediaVariant],
    profile: type[Profile],
    *,
    actor: str | None = None,
) -> list[str]:
    """Move rows to ``queued`` under the current recipe and write the audit event; returns the names.

    The row keeps the key of its object, which may be served until the new one replaces it. The object of a missing
    variant is not there: its key is only kept to be deleted.
    """
    names = []
    for row in rows:
        digest = profile.recipe_digest(row.name)
        values: dict[str, Any] = {"recipe_digest": digest}
        if row.state == VariantState.MISSING and row.storage_key:
            values["obsolete_keys"] = [row.storage_key, *(row.obsolete_keys or ())]
            values["storage_key"] = None
        move_variant(session, row, VariantState.QUEUED, **values)
        names.append(row.name)
    if names:
        _audit(session, asset, "variants.requeued", names, actor)
        recompute(session, asset.id)
    return names


def is_outdated(profile: type[Profile], name: str, state: str, digest: str | None) -> bool:
    """Whether a variant is ready, but was built from an older recipe; an undeclared one has no other recipe."""
    return name in profile.variants and state == VariantState.READY and digest != profile.recipe_digest(name)


def detect_drift(session: Session, asset: MediaAsset, profile: type[Profile]) -> list[str]:
    """Move ready rows whose recipe changed to ``stale``; returns the names. Undeclared rows do not change."""
    names = []
    for row in variants_of(session, asset.id):
        if is_outdated(profile, row.name, row.state, row.recipe_digest):
            move_variant(session, row, VariantState.STALE)
            names.append(row.name)
    if names:
        recompute(session, asset.id)
    return names


def apply_once(session: Session, rows: Iterable[MediaVariant], step: str) -> list[MediaVariant]:
    """Mark the rows with a step of their workflow; returns those to which the step was not yet applied.

    Temporal runs a step again when its completion was lost. Without the mark the repetition would undo what an operator
    has done in between, for example cancel what was queued again. The caller holds the lock of the asset.
    """
    new = [row for row in rows if row.applied_step != step]
    for row in new:
        set_fields(session, row, applied_step=step)
    return new


def fail_group(session: Session, asset_id: str, group: str, failure: Failure, step: str) -> int:
    """Fail the open rows of a group whose build failed permanently; returns how many. A repeated step fails none."""
    asset = lock_asset(session, asset_id)
    if asset is None:
        return 0
    moved = 0
    for row in apply_once(session, rows_of_group(session, asset, group), step):
        if row.state == VariantState.QUEUED:
            move_variant(session, row, VariantState.PROCESSING)
        if row.state == VariantState.PROCESSING:
            _end_runs(session, [row], RunState.FAILED, code=failure.code, reason=failure.message)
            move_variant(session, row, VariantState.FAILED, error_code=failure.code, error_reason=failure.message)
            moved += 1
    if moved:
        recompute(session, asset_id)
    return moved


def _audit(session: Session, asset: MediaAsset, event_type: str, names: list[str], actor: str | None) -> None:
    record_event(
        session,
        event_type,
        scope=("asset", asset.id),
        payload={"asset_id": asset.id, "names": sorted(names)},
        asset_id=asset.id,
        profile=asset.profile,
        actor=actor,
        audit=True,
    )


def _note_runs(session: Session, asset_id: str, claims: Sequence[Claim], run: Mapping[str, Any]) -> None:
    """Record the start of an attempt for the claimed variants; repeated calls record it once."""
    if not claims:
        return
    now = utc_now()
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    noted = [
        {
            "id": new_id(),
            "asset_id": asset_id,
            "variant_name": claim.name,
            "state": RunState.PROCESSING.value,
            "started_at": now,
            "inserted_at": now,
            "updated_at": now,
            **run,
        }
        for claim in claims
    ]
    with session.no_autoflush:
        session.execute(insert(_RUNS).values(noted).on_conflict_do_nothing())


def _end_runs(
    session: Session,
    rows: Sequence[MediaVariant],
    state: RunState,
    *,
    code: str | None = None,
    reason: str | None = None,
) -> None:
    """Close the open audit rows of variants of one asset."""
    if not rows:
        return
    now = utc_now()
    ended = (
        update(_RUNS)
        .where(
            _RUNS.c.asset_id == rows[0].asset_id,
            _RUNS.c.variant_name.in_([row.name for row in rows]),
            _RUNS.c.state == RunState.PROCESSING.value,
        )
        .values(state=state.value, finished_at=now, updated_at=now, error_code=code, error_reason=reason)
    )
    with session.no_autoflush:
        session.execute(ended)


__all__ = [
    "Claim",
    "ClaimedGroup",
    "ObsoleteKeys",
    "apply_once",
    "cancel_rows",
    "claim_group",
    "claim_of",
    "detect_drift",
    "fail_group",
    "forget_keys",
    "group_of",
    "groups_to_build",
    "is_outdated",
    "missing_variants",
    "obsolete_keys",
    "obsolete_of_group",
    "open_groups",
    "plan_variants",
    "record_built",
    "record_failure",
    "record_group",
    "record_progress",
    "requeue_rows",
    "rows_of_group",
    "status",
    "variants_of",
]
