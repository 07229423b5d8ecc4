"""Compare rows and stores in both directions: rows without objects, and objects without rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from pydantic import Field
from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from rindle.db.models import MediaAsset, MediaUploadSession, MediaVariant
from rindle.db.transitions import lock_asset, move_variant, recompute
from rindle.errors import RindleError, StorageNotFound
from rindle.operations.maintenance.sweep import (
    PAGE,
    Page,
    Sweep,
    SweepFailure,
    SweepOptions,
    SweepReport,
    SweepRun,
    for_each,
    run_here,
)
from rindle.protocols import ListedObject
from rindle.security.storage_key import asset_id_of, key_segment
from rindle.services import Services
from rindle.states import DELIVERABLE, AssetState, VariantState

#: States of a variant whose row names an object of a finished build.
_WITH_KEY = (VariantState.READY, VariantState.STALE, VariantState.MISSING, VariantState.FAILED)
#: The steps of the sweep, in their order; a cursor is ``step|profile|id``.
_VARIANTS, _ORIGINALS, _OBJECTS = "1-variants", "2-originals", "3-objects"


class VerifyStorageOptions(SweepOptions):
    """Options of the sweep.

    Attributes:
        profile: only assets and objects of this profile; all registered ones when ``None``.
        originals: look for the objects of originals, too.
        objects: list the stores, and look for objects without rows.
        min_age_seconds: objects that are younger are not counted: a row may not name them yet.
    """

    profile: str | None = None
    originals: bool = False
    objects: bool = True
    min_age_seconds: int = Field(default=3_600, ge=0)


class VerifyStorageReport(SweepReport):
    """Numbers of rows, and of objects without rows.

    Attributes:
        checked: rows whose object was looked for. One that changed meanwhile has no other counter.
        present: rows whose object is there.
        missing: rows without their object; variants that were ready are now ``missing``.
        fsm_blocked: variants without their object whose state does not change: stale and failed ones.
        restored: variants that were missing and are ready again.
        unreferenced: objects below the prefixes of the profiles that no row names.
        errors: objects and stores about which nothing is known.
    """

    checked: int = 0
    present: int = 0
    missing: int = 0
    fsm_blocked: int = 0
    restored: int = 0
    unreferenced: int = 0
    errors: int = 0


#: A variant: id, asset, state, key, size, profile.
_VariantRow = Row[str, str, str, str | None, int | None, str]
#: An asset: id, profile, key.
_AssetRow = Row[str, str, str]


class _Place(NamedTuple):
    """Where a page begins: behind an asset or a variant of a step, which is done for each profile or for all."""

    step: str
    profile: str = ""
    after: str = ""

    @classmethod
    def of(cls, cursor: str) -> _Place:
        step, _, rest = cursor.partition("|")
        profile, _, after = rest.rpartition("|")
        return cls(step, profile, after)

    def cursor(self) -> str:
        return "|".join(self)


@dataclass(frozen=True, slots=True)
class _Found:
    """What the store has of one row."""

    counter: str
    failure: SweepFailure | None = None


class VerifyStorage(Sweep[VerifyStorageOptions, VerifyStorageReport]):
    """Looks for the object of every variant that has one, and lists the stores for objects that no row names.

    A ready variant without its object becomes ``missing``, and a missing one whose object is back, with its size,
    ``ready``. Any other response of a store than "not found" changes nothing. Originals without their object are named
    among the failures, because no state says so. Objects without rows stay where they are, and their keys are logged.
    """

    name = "verify-storage"
    title = "Verify storage"
    options, report = VerifyStorageOptions, VerifyStorageReport

    def check(self, services: Services, options: VerifyStorageOptions) -> None:
        """Check the name of the profile.

        Raises:
            UnknownProfile: it is not registered.
        """
        if options.profile is not None:
            services.profile(options.profile)

    async def page(self, run: SweepRun[VerifyStorageOptions], cursor: str) -> Page[VerifyStorageReport]:
        """Look for up to 500 objects of rows, or list up to about 500 objects of a store."""
        place = _Place.of(cursor) if cursor else _Place(_VARIANTS)
        if place.step == _OBJECTS:
            return await _list_objects(run, place)
        return await (_check_originals if place.step == _ORIGINALS else _check_variants)(run, place)


async def verify_storage(
    services: Services,
    *,
    profile: str | None = None,
    originals: bool = False,
    objects: bool = True,
    min_age_seconds: int = 3_600,
) -> VerifyStorageReport:
    """Compare rows and stores in this process; see :class:`VerifyStorage` and :class:`VerifyStorageOptions`.

    Raises:
        UnknownProfile: the profile is not registered.
    """
    options = VerifyStorageOptions(
        profile=profile, originals=originals, objects=objects, min_age_seconds=min_age_seconds
    )
    return (await run_here(services, VerifyStorage(), options)).report


def _next_step(run: SweepRun[VerifyStorageOptions], done: _Place) -> str | None:
    """Return the cursor of the step after ``done``; ``None`` after the last one."""
    steps = [_Place(_VARIANTS)]
    if run.options.originals:
        steps.append(_Place(_ORIGINALS))
    if run.options.objects:
        steps += [_Place(_OBJECTS, name) for name in _listed_profiles(run)]
    later = [place for place in steps if place[:2] > done[:2]]
    return later[0].cursor() if later else None


def _listed_profiles(run: SweepRun[VerifyStorageOptions]) -> list[str]:
    """Return the profiles whose objects are listed, sorted; one of those that share a prefix in a store."""
    names = _profiles(run)
    places = {(run.services.storage_name(name), _prefix(name)): name for name in sorted(names, reverse=True)}
    return sorted(places.values())


def _profiles(run: SweepRun[VerifyStorageOptions]) -> Collection[str]:
    return run.services.profiles.names if run.options.profile is None else [run.options.profile]


def _prefix(profile: str) -> str:
    return f"{key_segment(profile, fallback='profile')}/"


def _page(
    run: SweepRun[VerifyStorageOptions], place: _Place, last_id: str | None, found: Iterable[_Found]
) -> Page[VerifyStorageReport]:
    """Return the page of rows with these results; ``last_id`` is ``None`` when the step is done."""
    results = list(found)
    counters = {"checked": len(results)}
    for one in results:
        if one.counter:
            counters[one.counter] = counters.get(one.counter, 0) + 1
    return Page(
        VerifyStorageReport(**counters),
        _next_step(run, place) if last_id is None else place._replace(after=last_id).cursor(),
        tuple(one.failure for one in results if one.failure is not None),
    )


# --- rows without objects ----------------------------------------------------------------------------------------


async def _check_variants(run: SweepRun[VerifyStorageOptions], place: _Place) -> Page[VerifyStorageReport]:
    rows = await run.services.database.read(_variants, _profiles(run), place.after)

    async def check(row: _VariantRow) -> _Found:
        try:
            return await _check_variant(run.services, row)
        except RindleError as error:
            return _Found("errors", SweepFailure(item=row.asset_id, code=error.code))

    return _page(run, place, rows[-1].id if len(rows) == PAGE else None, await for_each(rows, check))


def _variants(session: Session, profiles: Collection[str], after: str) -> Sequence[_VariantRow]:
    row = MediaVariant
    statement = (
        select(row.id, row.asset_id, row.state, row.storage_key, row.byte_size, MediaAsset.profile)
        .join(MediaAsset, MediaAsset.id == row.asset_id)
        .where(row.state.in_(_WITH_KEY), row.storage_key.is_not(None))
        .where(MediaAsset.profile.in_(profiles), MediaAsset.state.in_(DELIVERABLE))
        .order_by(row.id)
        .limit(PAGE)
    )
    return session.execute(statement.where(row.id > after) if after else statement).all()


async def _check_variant(services: Services, row: _VariantRow) -> _Found:
    """Look for the object of one variant, and move the row when its state does not say what the store says.

    Raises:
        RindleError: the store gave no answer, or the row could not be moved.
    """
    try:
        size: int | None = (await services.storage(row.profile).head(row.storage_key)).size
    except StorageNotFound:
        size = None
    was_missing = row.state == VariantState.MISSING
    if size is None:
        if was_missing:
            return _Found("missing")
        if row.state != VariantState.READY:
            return _Found("fsm_blocked")
        return _Found("missing" if await _move(services, row, VariantState.MISSING) else "")
    if not was_missing:
        return _Found("present")
    if size != row.byte_size:  # another object than the one that was built
        return _Found("missing")
    return _Found("restored" if await _move(services, row, VariantState.READY) else "")


async def _move(services: Services, row: _VariantRow, to: VariantState) -> bool:
    """Move a variant unless it has changed since it was read; returns whether it was moved."""

    def move(session: Session) -> bool:
        asset = lock_asset(session, row.asset_id)
        variant = session.get(MediaVariant, row.id, populate_existing=True)
        if asset is None or variant is None or asset.state not in DELIVERABLE:
            return False
        if (variant.state, variant.storage_key) != (row.state, row.storage_key):
            return False
        move_variant(session, variant, to)
        recompute(session, asset.id)
        return True

    return await services.database.write(move)


async def _check_originals(run: SweepRun[VerifyStorageOptions], place: _Place) -> Page[VerifyStorageReport]:
    rows = await run.services.database.read(_originals, _profiles(run), place.after)

    async def check(row: _AssetRow) -> _Found:
        try:
            await run.services.storage(row.profile).head(row.storage_key)
        except RindleError as error:
            counter = "missing" if isinstance(error, StorageNotFound) else "errors"
            return _Found(counter, SweepFailure(item=row.id, code=error.code))
        return _Found("present")

    return _page(run, place, rows[-1].id if len(rows) == PAGE else None, await for_each(rows, check))


def _originals(session: Session, profiles: Collection[str], after: str) -> Sequence[_AssetRow]:
    row = MediaAsset
    statement = (
        select(row.id, row.profile, row.storage_key)
        .where(row.state.in_(DELIVERABLE), row.profile.in_(profiles))
        .order_by(row.id)
        .limit(PAGE)
    )
    return session.execute(statement.where(row.id > after) if after else statement).all()


# --- objects without rows ----------------------------------------------------------------------------------------


async def _list_objects(run: SweepRun[VerifyStorageOptions], place: _Place) -> Page[VerifyStorageReport]:
    """List a part of one profile's prefix.

    A page ends behind all objects of one asset: its id is the cursor, because keys that Rindle did not make may hold
    anything, and a cursor is stored in Temporal's history.
    """
    prefix, listed, unreferenced = _prefix(place.profile), 0, list[str]()
    # "0" follows "/": the first key behind those of the asset.
    after: str | None = f"{prefix}{place.after}0" if place.after else None
    ending_asset: str | None = None  # of which the rest is listed, below its own prefix
    try:
        storage = run.services.storage(place.profile)
        while True:
            below = prefix if ending_asset is None else f"{prefix}{ending_asset}/"
            found = await storage.list_keys(below, after=after, limit=PAGE)
            listed += len(found.objects)
            unreferenced += await _unreferenced(run, found.objects)
            if found.next_after is None:
                break
            after = found.next_after
            if ending_asset is None and listed >= PAGE:
                ending_asset = _asset_of(prefix, after)
    except RindleError as error:
        failure = SweepFailure(item=place.profile, code=error.code)
        return Page(VerifyStorageReport(errors=1), _next_step(run, place), (failure,))
    return Page(
        VerifyStorageReport(unreferenced=len(unreferenced)),
        _next_step(run, place) if ending_asset is None else place._replace(after=ending_asset).cursor(),
        notes=tuple(f"object without a row: {run.services.storage_name(place.profile)} {key}" for key in unreferenced),
    )


def _asset_of(prefix: str, key: str) -> str | None:
    """Return the id of the asset below whose prefix ``key`` is; ``None`` for keys that Rindle did not make."""
    found = asset_id_of(key)
    return found if found is not None and key.startswith(f"{prefix}{found}/") else None


async def _unreferenced(run: SweepRun[VerifyStorageOptions], objects: Sequence[ListedObject]) -> list[str]:
    """Return the keys that no row names, of objects that are old enough for that."""
    until = run.started_at - timedelta(seconds=run.options.min_age_seconds)
    old = [one.key for one in objects if one.last_modified is None or one.last_modified <= until]
    if not old:
        return []
    named = await run.services.database.read(_named_keys, old)
    return [key for key in old if key not in named]


def _named_keys(session: Session, keys: Sequence[str]) -> set[str]:
    """Return those of ``keys`` that rows name, with all keys of assets whose purge is still to delete their objects."""
    asset_ids = sorted({found for key in keys if (found := asset_id_of(key)) is not None})
    named: set[str | None] = set()
    deleted = set()
    asset, variant, upload = MediaAsset, MediaVariant, MediaUploadSession
    columns = select(asset.id, asset.state, asset.storage_key, asset.superseded_key)
    for row in session.execute(columns.where(asset.id.in_(asset_ids))):
        named |= {row.storage_key, row.superseded_key}
        if row.state == AssetState.DELETED:
            deleted.add(row.id)
    stored = select(variant.storage_key, variant.superseded_key, variant.obsolete_keys)
    for stored_keys in session.execute(stored.where(variant.asset_id.in_(asset_ids))):
        named |= {stored_keys.storage_key, stored_keys.superseded_key, *(stored_keys.obsolete_keys or ())}
    named |= set(session.scalars(select(upload.upload_key).where(upload.upload_key.in_(keys))))
    return {key for key in keys if key in named or asset_id_of(key) in deleted}
