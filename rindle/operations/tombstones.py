"""Deleted assets: preview a purge, and restart lost purges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from rindle import outbox
from rindle.db.assets import no_such_asset
from rindle.db.ids import AssetOrId, id_of_asset
from rindle.db.models import MediaAsset, MediaVariant, is_id
from rindle.db.purge import attachment_count
from rindle.operations.bulk import MAX_LIMIT, Selection
from rindle.operations.reports import Report
from rindle.services import Services
from rindle.states import AssetState

#: Rows of one page and transaction.
PAGE = 500


@dataclass(frozen=True, slots=True)
class PurgePreview(Report):
    """Outcome of a purge of one asset: the attachments that prevent it, or the objects it deletes."""

    asset_id: str
    profile: str
    state: str
    attachments: int
    variants: int
    objects: int


@dataclass(frozen=True, slots=True)
class RetryReport(Report):
    """Number of tombstones found, and of purges started."""

    found: int
    started: int
    dry_run: bool


async def preview_purge(services: Services, asset: AssetOrId) -> PurgePreview:
    """Preview ``purge_asset``; writes nothing.

    Raises:
        NotFound: no such asset.
    """

    asset_id = id_of_asset(asset)

    def preview(session: Session) -> PurgePreview:
        found = session.get(MediaAsset, asset_id) if is_id(asset_id) else None
        if found is None:
            raise no_such_asset()
        variants, stored = session.execute(
            select(func.count(), func.count(MediaVariant.storage_key)).where(MediaVariant.asset_id == asset_id)
        ).one()
        return PurgePreview(
            asset_id=found.id,
            profile=found.profile,
            state=found.state,
            attachments=attachment_count(session, asset_id),
            variants=variants,
            objects=1 + stored,
        )

    return await services.database.read(preview)


async def retry_purges(services: Services, selection: Selection | None = None, *, dry_run: bool = True) -> RetryReport:
    """Start the purge of every tombstone, or of the selected ones; a running purge is only signalled.

    Pages of 500, each in a transaction of its own, so that a run can be interrupted and repeated. Tombstones whose
    profile is not registered are left out: their store is unknown.

    Raises:
        UnknownProfile: the profile of the selection is not registered.
        InvalidArgument: its limit is out of its range.
    """
    selection = selection or Selection(limit=MAX_LIMIT)
    selection.check(services)
    where = [
        MediaAsset.state == AssetState.DELETED,
        MediaAsset.profile.in_(services.profiles.names),
        *selection.of_rows(MediaAsset, MediaAsset.error_code),
        *selection.of_assets(),
    ]
    found = started = 0
    after = ""
    run = services.database.read if dry_run else services.database.write
    while True:

        def page(session: Session, after: str = after, size: int = min(PAGE, selection.limit - found)) -> Sequence[str]:
            statement = select(MediaAsset.id, MediaAsset.profile).where(*where)
            if after:
                statement = statement.where(MediaAsset.id > after)
            rows = session.execute(statement.order_by(MediaAsset.id).limit(size)).all()
            if not dry_run:
                for asset_id, profile in rows:
                    outbox.start_purge(session, services.settings, asset_id, profile)
            return [asset_id for asset_id, _ in rows]

        asset_ids = await run(page) if found < selection.limit else ()
        if not asset_ids:
            return RetryReport(found=found, started=started, dry_run=dry_run)
        found += len(asset_ids)
        started += 0 if dry_run else len(asset_ids)
        after = asset_ids[-1]
