"""Compare rows and stores in both directions: rows without objects, and objects without rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from pydantic import Field
from sqlalchemy import Row, or_, select
from sqlalchemy.orm import Session

from rindle.db.direct_uploads import is_stored
from rindle.db.models import MediaAsset, MediaUploadSession, MediaVariant
from rindle.db.transitions import lock_asset, move_variant, recompute
from rindle.errors import RindleError, StorageNotFound
from rindle.operations.maintenance.sweep import (
    PAGE,
    Page,
    ProfileOptions,
    Sweep,
    SweepFailure,
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
#: The steps of the sweep, in their order; a cursor is ``step|profile|id``. The id is that of an asset; between two
#: variants of one asset it is ``asset:variant``.
_VARIANTS, _ORIGINALS, _OBJECTS = "1-variants", "2-originals", "3-objects"


class VerifyStorageOptions(ProfileOptions):
    """Options of the sweep, beside the profile.

    Attributes:
        originals: look for the objects of originals, too.
        objects: list the stores, and look for objects without rows.
        min_age_seconds: objects that are younger are not counted: a row may not name them yet.
    """

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


#: A variant: id, asset, state, key, size.
_VariantRow = Row[str, str, str, str | None, int | None]
#: An asset: id, state, key.
_AssetRow = Row[str, str, str]


class _Place(NamedTuple):
    """Where a page begins: behind an asset or a variant of a step, which is done for each profile."""

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

    async def page(self, run: SweepRun[VerifyStorageOptions], cursor: str) -> Page[VerifyStorageReport]:
        """Look for up to 500 objects of rows, or list up to about 500 objects of a store."""
        places = [_Place.of(cursor)] if cursor else _places(run)[:1]
        if not places:
            return Page(VerifyStorageReport())
        place = places[0]
        while True:
            page = await _STEPS[place.step](run, place)
            following = None if page.next_cursor is None else _Place.of(page.next_cursor)
            goes_on = following is not None and following.step == place.step and not following.after
            if following is None or not goes_on or page.report.checked or place.step == _OBJECTS:
                return page
            place = following  # a profile without rows is no page of its own


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


def _places(run: SweepRun[VerifyStorageOptions]) -> list[_Place]:
    """Return where each step begins, in their order."""
    names = sorted(_profiles(run))
    places = [_Place(_VARIANTS, name) for name in names]
    if run.options.originals:
        places += [_Place(_ORIGINALS, name) for name in names]
    if run.options.objects:
        places += [_Place(_OBJECTS, name) for name in _listed_profiles(run)]
    return places


def _next_step(run: SweepRun[VerifyStorageOptions], done: _Place) -> str | None:
    """Return the cursor of the step after ``done``; ``None`` after the last one."""
    later = [place for place in _places(run) if place[:2] > done[:2]]
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
    run: SweepRun[VerifyStorageOptions], place: _Place, after: str | None, found: Iterable[_Found]
) -> Page[VerifyStorageReport]:
    """Return the page of rows with these results; ``after`` is ``None`` when the step is done."""
    results = list(found)
    counters = {"checked": len(results)}
    for one in results:
        if one.counter:
            counters[one.counter] = counters.get(one.counter, 0) + 1
    return Page(
        VerifyStorageReport(**counters),
        _next_step(run, place) if after is None else place._replace(after=after).cursor(),
        tuple(one.failure for one in results if one.failure is not None),
    )


# --- rows without objects ----------------------------------------------------------------------------------------


async def _check_variants(run: SweepRun[VerifyStorageOptions], place: _Place) -> Page[VerifyStorageReport]:
    rows, after = await run.services.database.read(_variants, place.profile, place.after)

    async def check(row: _VariantRow) -> _Found:
        try:
            return await _check_variant(run.services, place.profile, row)
        except RindleError as error:
            return _Found("errors", SweepFailure(item=row.asset_id, code=error.code))

    return _page(run, place, after, await for_each(rows, check))


def _variants(session: Session, profile: str, after: str) -> tuple[Sequence[_VariantRow], str | None]:
    """Return variants of the next assets of a profile, and where the next page begins.

    A page examines up to 500 assets and returns up to 500 variants: one that took as many variants that have an object
    would read all others before them.
    """
    asset_id, _, variant_id = after.partition(":")
    assets, last_id = _next_assets(session, profile, asset_id, is_begun=bool(variant_id))
    row = MediaVariant
    statement = (
        select(row.id, row.asset_id, row.state, row.storage_key, row.byte_size)
        .where(row.asset_id.in_([asset.id for asset in assets]))
        .where(row.state.in_(_WITH_KEY), row.storage_key.is_not(None))
        .order_by(row.asset_id, row.id)
        .limit(PAGE)
    )
    if variant_id:
        statement = statement.where(or_(row.asset_id != asset_id, row.id > variant_id))
    rows = session.execute(statement).all()
    return rows, f"{rows[-1].asset_id}:{rows[-1].id}" if len(rows) == PAGE else last_id


def _next_assets(
    session: Session, profile: str, after: str, *, is_begun: bool = False
) -> tuple[list[_AssetRow], str | None]:
    """Return those of the next assets of a profile that can be delivered, and the id where the next page begins.

    Args:
        is_begun: the asset ``after`` is the first one, instead of the last one of the page before.
    """
    asset = MediaAsset
    statement = select(asset.id, asset.state, asset.storage_key).where(asset.profile == profile, is_stored())
    if after:
        statement = statement.where(asset.id >= after if is_begun else asset.id > after)
    examined = session.execute(statement.order_by(asset.id).limit(PAGE)).all()
    return [row for row in examined if row.state in DELIVERABLE], examined[-1].id if len(examined) == PAGE else None


async def _check_variant(services: Services, profile: str, row: _VariantRow) -> _Found:
    """Look for the object of one variant, and move the row when its state does not say what the store says.

    Raises:
        RindleError: the store gave no answer, or the row could not be moved.
    """
    try:
        size: int | None = (await services.storage(profile).head(row.storage_key)).size
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
    rows, after = await run.services.database.read(_next_assets, place.profile, place.after)

    async def check(row: _AssetRow) -> _Found:
        try:
            await run.services.storage(place.profile).head(row.storage_key)
        except RindleError as error:
            counter = "missing" if isinstance(error, StorageNotFound) else "errors"
            return _Found(counter, SweepFailure(item=row.id, code=error.code))
        return _Found("present")

    return _page(run, place, after, await for_each(rows, check))


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


_STEPS = {_VARIANTS: _check_variants, _ORIGINALS: _check_originals, _OBJECTS: _list_objects}
