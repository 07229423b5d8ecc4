"""SQL of the purge: the decision under the lock, the list of objects, the deletion of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import NamedTuple

from sqlalchemy import BindParameter, Select, bindparam, delete, exists, false, func, select
from sqlalchemy.orm import Session

from rindle.db import erasures, providers
from rindle.db.events import record_event
from rindle.db.models import (
    MediaAsset,
    MediaAttachment,
    MediaErasureAsset,
    MediaProviderAsset,
    MediaUploadSession,
    MediaVariant,
    is_id,
    utc_now,
)
from rindle.db.streams import end_leases
from rindle.db.transitions import lock_asset, set_fields, tombstone
from rindle.db.uploads import NO_REJECTION, late_put_wait
from rindle.db.variants import group_of
from rindle.messages import PurgeDecision, PurgeResult
from rindle.states import ENDED_SESSIONS, AssetState, SessionState, VariantState

#: States of an asset whose validation has ended well.
_VALIDATED = frozenset({AssetState.READY, AssetState.DEGRADED})
#: States of a variant for which no build runs. The build of a cancelled one may still be ending.
_IDLE = frozenset({VariantState.READY, VariantState.STALE, VariantState.MISSING})

_ASSET_ID: BindParameter[str] = bindparam("asset_id")
#: Built once: an erasure purges tens of thousands of assets.
_ATTACHMENTS = select(func.count()).select_from(MediaAttachment).where(MediaAttachment.asset_id == _ASSET_ID)
_VARIANTS = select(MediaVariant).where(MediaVariant.asset_id == _ASSET_ID).order_by(MediaVariant.name)
_SESSIONS = select(MediaUploadSession).where(MediaUploadSession.asset_id == _ASSET_ID)
_LAST_TICKET = select(func.max(MediaUploadSession.url_expires_at)).where(MediaUploadSession.asset_id == _ASSET_ID)
_DELETION = delete(MediaAsset).where(MediaAsset.id == _ASSET_ID).execution_options(synchronize_session=False)


class Tombstone(NamedTuple):
    """A deleted asset with all that its rows name."""

    asset: MediaAsset
    variants: Sequence[MediaVariant]
    sessions: Sequence[MediaUploadSession]
    providers: Sequence[MediaProviderAsset]
    #: Whether an erasure waits for the purge.
    is_erased: bool

    def uploads_end_at(self, late_put_seconds: float) -> datetime | None:
        """Return until when a PUT with a signed URL of the asset may end; ``None`` when none was signed."""
        expiries = [session.url_expires_at for session in self.sessions if session.url_expires_at is not None]
        return max(expiries) + timedelta(seconds=late_put_seconds) if expiries else None


def attachment_count(session: Session, asset_id: str) -> int:
    """Return how many attachments the asset has."""
    return session.scalar(_ATTACHMENTS, {"asset_id": asset_id}) or 0


class _Users(NamedTuple):
    """Who uses an asset: its attachments, whether providers have it, whether an erasure waits for its purge."""

    attachments: int
    have_providers: bool
    is_erased: bool


def _users(session: Session, asset_id: str) -> _Users:
    statement = _users_statement(providers.have_table(session), erasures.have_tables(session))
    return _Users(*session.execute(statement, {"asset_id": asset_id}).one())


@cache
def _users_statement(have_providers: bool, have_erasures: bool) -> Select[int, bool, bool]:
    """Return one statement for all facts; the tables of the previous release may lack some."""
    provided = exists().where(MediaProviderAsset.asset_id == _ASSET_ID)
    erased = exists().where(MediaErasureAsset.asset_id == _ASSET_ID, MediaErasureAsset.outcome == erasures.PENDING)
    return select(
        _ATTACHMENTS.scalar_subquery(),
        provided if have_providers else false(),
        erased if have_erasures else false(),
    )


def begin(session: Session, asset_id: str, *, late_put_seconds: float) -> tuple[PurgeDecision, Tombstone | None]:
    """Tombstone the asset unless it is attached, under the lock that attaching also takes.

    Returns:
        the decision, and the tombstone when it can be deleted at once: nothing of the asset was running, so nothing has
        to be stopped first, and no PUT ticket can be redeemed any more. A tombstone that existed already does not say
        what was running.
    """
    asset = lock_asset(session, asset_id, "exclusive") if is_id(asset_id) else None
    if asset is None:
        return PurgeDecision(outcome="gone"), None
    state, users = AssetState(asset.state), _users(session, asset_id)
    if state is not AssetState.DELETED:
        if users.attachments:
            return PurgeDecision(outcome="still_attached", attachments=users.attachments), None
        tombstone(session, asset)
        if asset.error_code is not None:  # from now on it says why the deletion failed; the events keep the old one
            set_fields(session, asset, **NO_REJECTION)
    found = _tombstone(session, asset, users)
    if any(row.state not in ENDED_SESSIONS for row in found.sessions):
        end_leases(session, asset_id)
    decision = PurgeDecision(
        outcome="purge",
        groups=tuple(sorted({group_of(asset.kind, row) for row in found.variants})),
        session_ids=tuple(sorted(row.id for row in found.sessions)),
        providers=tuple(row.provider_name for row in found.providers),
    )
    return decision, found if state in _VALIDATED and _is_idle(found, late_put_seconds) else None


def _is_idle(found: Tombstone, late_put_seconds: float) -> bool:
    """Whether no upload, build, removal or provider is at work on a validated asset, and no PUT can arrive."""
    uploads_end_at = found.uploads_end_at(late_put_seconds)
    return (
        not found.providers
        and (uploads_end_at is None or uploads_end_at <= utc_now())
        and all(row.state == SessionState.COMPLETED for row in found.sessions)
        and all(row.state in _IDLE and not row.obsolete_keys for row in found.variants)
    )


def purgeable(session: Session, asset_id: str) -> Tombstone | None:
    """Return a tombstone with all that its rows name; ``None`` when the asset is not to be deleted."""
    asset = session.get(MediaAsset, asset_id, populate_existing=True)
    if asset is None or asset.state != AssetState.DELETED:
        return None
    return _tombstone(session, asset, _users(session, asset_id))


def _tombstone(session: Session, asset: MediaAsset, users: _Users) -> Tombstone:
    return Tombstone(
        asset,
        session.scalars(_VARIANTS, {"asset_id": asset.id}).all(),
        session.scalars(_SESSIONS, {"asset_id": asset.id}).all(),
        providers.all_of(session, asset.id) if users.have_providers else (),
        users.is_erased,
    )


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
        wait_seconds = late_put_wait(session.scalar(_LAST_TICKET, {"asset_id": asset_id}), late_put_seconds)
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
    session.execute(_DELETION, {"asset_id": asset_id})
    return PurgeResult(asset_id=asset_id, outcome="purged", objects=objects, variants=variants)
