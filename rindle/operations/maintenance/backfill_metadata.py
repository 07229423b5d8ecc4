"""Run the analyzers of profiles again over assets that exist already."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from rindle.db.direct_uploads import is_stored
from rindle.db.models import MediaAsset
from rindle.db.transitions import lock_asset, set_fields
from rindle.errors import RindleError, StateConflict
from rindle.operations.maintenance.originals import Originals, ReadElsewhere
from rindle.operations.maintenance.sweep import (
    AT_ONCE,
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
from rindle.services import Services
from rindle.states import AssetState

#: States of assets that are analyzed again.
_STATES = (AssetState.AVAILABLE, AssetState.READY, AssetState.DEGRADED)
#: Seconds after which a page ends although rows are left: originals are downloaded, and a page has five minutes.
_PAGE_SECONDS = 30.0


class BackfillMetadataOptions(ProfileOptions):
    """Options of the sweep.

    Attributes:
        profile: only assets of this profile; all with an analyzer when ``None``.
        replace: replace what the analyzer found before, instead of merging the new result into it.
    """

    replace: bool = False


class BackfillMetadataReport(SweepReport):
    """Numbers of assets.

    Attributes:
        assets_found: assets that were analyzed.
        assets_updated: assets whose metadata changed.
        failures: assets that could not be read or analyzed; their metadata did not change.
    """

    assets_found: int = 0
    assets_updated: int = 0
    failures: int = 0
    error_counters: ClassVar[tuple[str, ...]] = ("failures",)


class BackfillMetadata(Sweep[BackfillMetadataOptions, BackfillMetadataReport]):
    """Reads the originals of assets that are ``available``, ``ready`` or ``degraded``, and analyzes them again.

    What the analyzer finds is merged into ``metadata["analyzer"]``; all other metadata stays. Assets of profiles
    without an analyzer are left out.
    """

    name = "backfill-metadata"
    title = "Backfill metadata"
    options, report = BackfillMetadataOptions, BackfillMetadataReport

    def __init__(self, originals: Originals | None = None) -> None:
        self._originals: Originals = originals or ReadElsewhere()

    async def page(self, run: SweepRun[BackfillMetadataOptions], cursor: str) -> Page[BackfillMetadataReport]:
        """Analyze the assets of the next ids, until the page has taken long enough."""
        services, options = run.services, run.options
        analyzed = {
            profile.name
            for profile in services.profiles
            if profile.analyzer is not None and options.profile in (None, profile.name)
        }
        found = await services.database.read(_read_page, cursor, options.profile)
        due = [row for row in found if row[1] in analyzed and row[2] in _STATES]
        ends_at = time.monotonic() + _PAGE_SECONDS
        next_cursor = found[-1][0] if len(found) == PAGE else None
        updated, failures, done = 0, [], 0

        async def backfill(row: _AssetRow) -> bool | SweepFailure:
            try:
                return await self._backfill(services, row[0], replace=options.replace)
            except RindleError as error:
                return SweepFailure(item=row[0], code=error.code)

        while done < len(due):
            batch = due[done : done + AT_ONCE]
            for outcome in await for_each(batch, backfill):
                if isinstance(outcome, SweepFailure):
                    failures.append(outcome)
                else:
                    updated += outcome
            done += len(batch)
            if done < len(due) and time.monotonic() > ends_at:
                next_cursor = batch[-1][0]
                break
        report = BackfillMetadataReport(assets_found=done, assets_updated=updated, failures=len(failures))
        return Page(report, next_cursor, tuple(failures))

    async def _backfill(self, services: Services, asset_id: str, *, replace: bool) -> bool:
        """Analyze one asset; returns whether its metadata changed."""
        asset = await services.database.read(_find, asset_id)
        if asset is None:
            return False  # purged meanwhile
        found = await self._originals.analysis(asset)
        return await services.database.write(_merge, asset, found, replace=replace)


async def backfill_metadata(
    services: Services, originals: Originals, *, profile: str | None = None, replace: bool = False
) -> BackfillMetadataReport:
    """Analyze the assets of profiles with an analyzer again, in this process; see :class:`BackfillMetadata`.

    Args:
        originals: reads the originals; :func:`rindle.bootstrap.reading_originals` gives the one of this release.
        profile: only assets of this profile; all when left out.
        replace: replace earlier results of the analyzer instead of merging into them.

    Raises:
        UnknownProfile: the profile is not registered.
    """
    options = BackfillMetadataOptions(profile=profile, replace=replace)
    return (await run_here(services, BackfillMetadata(originals), options)).report


#: An asset: id, profile, state.
_AssetRow = Row[str, str, str]


def _read_page(session: Session, after: str, profile: str | None) -> Sequence[_AssetRow]:
    asset = MediaAsset
    statement = select(asset.id, asset.profile, asset.state).where(is_stored())
    if profile is not None:
        statement = statement.where(asset.profile == profile)
    if after:
        statement = statement.where(asset.id > after)
    return session.execute(statement.order_by(asset.id).limit(PAGE)).all()


def _find(session: Session, asset_id: str) -> MediaAsset | None:
    return session.get(MediaAsset, asset_id, populate_existing=True)


def _merge(session: Session, read: MediaAsset, found: Mapping[str, Any], *, replace: bool) -> bool:
    """Write what the analyzer found, unless the asset has other bytes by now; returns whether anything changed."""
    asset = lock_asset(session, read.id)
    if asset is None or AssetState(asset.state) in (AssetState.QUARANTINED, AssetState.DELETED):
        return False
    if (asset.storage_key, asset.stored_etag) != (read.storage_key, read.stored_etag):
        raise StateConflict("the asset changed while it was read", detail={"entity": "asset"})
    before = asset.media_metadata.get("analyzer", {})
    after = dict(found) if replace else {**before, **found}
    if after == before:
        return False
    set_fields(session, asset, media_metadata={**asset.media_metadata, "analyzer": after})
    return True
