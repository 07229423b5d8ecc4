"""SQL of the purge: the decision under the lock, the list of objects, the deletion of the rows."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from rindle.db import providers
from rindle.db.events import record_event
from rindle.db.models import MediaAsset, MediaAttachment, MediaUploadSession, MediaVariant, is_id
from rindle.db.streams import end_leases
from rindle.db.transitions import lock_asset, set_fields, tombstone
from rindle.db.uploads import NO_REJECTION, late_put_wait
from rindle.db.variants import group_of
from rindle.messages import PurgeDecision, PurgeResult
from rindle.states import AssetState


def attachment_count(session: Session, asset_id: str) -> int:
    """Return how many attachments the asset has."""
    statement = select(func.count()).select_from(MediaAttachment).where(MediaAttachment.asset_id == asset_id)
    return session.scalar(statement) or 0


def begin(session: Session, asset_id: str) -> PurgeDecision:
    """Tombstone the asset unless it is attached, under the lock that attaching also takes."""
    asset = lock_asset(session, asset_id, "exclusive") if is_id(asset_id) else None
    if asset is None:
        return PurgeDecision(outcome="gone")
    if asset.state != AssetState.DELETED:
        attached = attachment_count(session, asset_id)
        if attached:
            return PurgeDecision(outcome="still_attached", attachments=attached)
        tombstone(session, asset)
        end_leases(session, asset_id)
        if asset.error_code is not None:  # from now on it says why the deletion failed; the events keep the old one
            set_fields(session, asset, **NO_REJECTION)
    variants = session.scalars(select(MediaVariant).where(MediaVariant.asset_id == asset_id)).all()
    sessions = session.scalars(select(MediaUploadSession.id).where(MediaUploadSession.asset_id == asset_id)).all()
    return PurgeDecision(
        outcome="purge",
        groups=tuple(sorted({group_of(asset.kind, row) for row in variants})),
        session_ids=tuple(sorted(sessions)),
        providers=tuple(row.provider_name for row in providers.all_of(session, asset_id)),
    )


def purgeable(
    session: Session, asset_id: str
) -> tuple[MediaAsset, Sequence[MediaVariant], Sequence[MediaUploadSession]] | None:
    """Return a tombstoned asset with all its variants and sessions; ``None`` when it is not to be deleted."""
    asset = session.get(MediaAsset, asset_id, populate_existing=True)
    if asset is None or asset.state != AssetState.DELETED:
        return None
    variants = session.scalars(
        select(MediaVariant).where(MediaVariant.asset_id == asset_id).order_by(MediaVariant.name)
    ).all()
    sessions = session.scalars(select(MediaUploadSession).where(MediaUploadSession.asset_id == asset_id)).all()
    return asset, variants, sessions


def note_failed(session: Session, asset_id: str, code: str, reason: str) -> None:
    """Write why the objects of a tombstone could not be deleted, once per cause, so that its age stays visible."""
    asset = lock_asset(session, asset_id)
    if asset is not None and asset.state == AssetState.DELETED and asset.error_code != code:
        set_fields(session, asset, error_code=code, error_reason=reason)


def finish(
    session: Session, asset_id: str, *, objects: int, variants: int, late_put_seconds: float | None
) -> PurgeResult:
    """Delete the rows (events stay) and write the audit event, unless a PUT ticket may still be redeemed.

    Args:
        late_put_seconds: for how long after the expiry of a ticket a PUT that began before it may end; ``None`` deletes
            the rows in any case.
    """
    asset = lock_asset(session, asset_id, "exclusive")
    if asset is None:
        return PurgeResult(asset_id=asset_id, outcome="gone")
    if late_put_seconds is not None:
        expiry = session.scalar(
            select(func.max(MediaUploadSession.url_expires_at)).where(MediaUploadSession.asset_id == asset_id)
        )
        wait_seconds = late_put_wait(expiry, late_put_seconds)
        if wait_seconds > 0:
            if asset.error_code is not None:
                set_fields(session, asset, **NO_REJECTION)
            return PurgeResult(
                asset_id=asset_id, outcome="waiting", objects=objects, variants=variants, wait_seconds=wait_seconds
            )
    record_event(
        session,
        "asset.purged",
        scope=("asset", asset_id),
        payload={"asset_id": asset_id, "objects": objects, "variants": variants},
        asset_id=asset_id,
        profile=asset.profile,
        audit=True,
    )
    session.flush()
    session.expunge(asset)
    session.execute(delete(MediaAsset).where(MediaAsset.id == asset_id).execution_options(synchronize_session=False))
    return PurgeResult(asset_id=asset_id, outcome="purged", objects=objects, variants=variants)
