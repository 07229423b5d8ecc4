"""Delete what ended uploads left behind: the object, the session, and the asset that never got its bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from rindle import telemetry
from rindle.db import erasures, purge
from rindle.db.models import MediaAsset, MediaAttachment, MediaUploadSession, MediaVariant
from rindle.db.streams import lock_stream
from rindle.db.transitions import lock_asset
from rindle.errors import NotFound, RindleError
from rindle.operations.maintenance.session_pages import SessionRow, of_sessions, profile_of, session_page
from rindle.operations.maintenance.sweep import (
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
from rindle.states import ENDED_BADLY, AssetState
from rindle.uploads.backing import remove

#: The profile of a session in events whose own is not known.
UNKNOWN_PROFILE = "unknown"


class CleanupOrphansOptions(ProfileOptions):
    """Options of the sweep.

    Attributes:
        profile: only uploads of this profile; all when ``None``, also those of profiles that are not registered, which
            are counted as skipped.
        dry_run: only count; the default.
    """

    dry_run: bool = True


class CleanupOrphansReport(SweepReport):
    """Numbers of upload sessions and objects.

    Attributes:
        sessions_found: sessions that ended without an asset, and whose tickets have all expired.
        sessions_deleted: those of them whose rows are deleted.
        objects_deleted: objects that were deleted; a store that does not say whether one existed (S3) counts each call.
        resumable_skipped: sessions of the store that are still open; ``abort-incomplete-uploads`` ends them.
        storage_skipped: sessions of a profile that is not registered here: their store is unknown.
        storage_errors: sessions whose object could not be deleted; their rows stay.
    """

    sessions_found: int = 0
    sessions_deleted: int = 0
    objects_deleted: int = 0
    resumable_skipped: int = 0
    storage_skipped: int = 0
    storage_errors: int = 0
    error_counters: ClassVar[tuple[str, ...]] = ("storage_errors",)


@dataclass(frozen=True, slots=True)
class _Cleaned:
    """What became of one session; ``counter`` names why nothing was deleted."""

    profile: str
    counter: str = ""
    objects: int = 0
    is_deleted: bool = False
    failure: SweepFailure | None = None


class CleanupOrphans(Sweep[CleanupOrphansOptions, CleanupOrphansReport]):
    """Deletes the objects of aborted, expired and failed uploads, then their sessions and their staged assets.

    An asset whose bytes were verified is never touched, also a quarantined one: it is deleted by a purge. An asset that
    is attached loses its session only. Uploads whose tickets may still be redeemed are left out, because a late PUT
    would recreate the object.
    """

    name = "cleanup-orphans"
    title = "Clean up orphans"
    options, report = CleanupOrphansOptions, CleanupOrphansReport
    not_beside = ("abort-incomplete-uploads",)

    async def page(self, run: SweepRun[CleanupOrphansOptions], cursor: str) -> Page[CleanupOrphansReport]:
        """Clean up behind those of the next 500 ended sessions that left something; the cursor is the last id."""
        until = run.started_at - timedelta(seconds=run.services.settings.late_put_seconds)
        found, next_cursor = await run.services.database.read(_residue, run.options.profile, until, cursor)
        named = [(upload, profile_of(run.services, upload, name)) for upload, name in found]
        wanted = [row for row in named if run.options.profile in (None, row[1])]
        cleaned = await for_each(wanted, lambda row: _clean(run, row[0], row[1] or UNKNOWN_PROFILE))
        failures = tuple(one.failure for one in cleaned if one.failure is not None)
        _emit(cleaned, dry_run=run.options.dry_run)
        return Page(_report(cleaned), next_cursor, failures)


async def cleanup_orphans(
    services: Services, *, profile: str | None = None, dry_run: bool = True
) -> CleanupOrphansReport:
    """Delete what ended uploads left behind, in this process; see :class:`CleanupOrphans`.

    Args:
        profile: only uploads of this profile; all when left out.
        dry_run: only count; the default.

    Raises:
        UnknownProfile: the profile is not registered.
    """
    options = CleanupOrphansOptions(profile=profile, dry_run=dry_run)
    return (await run_here(services, CleanupOrphans(), options)).report


def _residue(
    session: Session, profile: str | None, until: datetime, after: str
) -> tuple[Sequence[SessionRow], str | None]:
    """Return ended sessions of staged assets whose tickets expired before ``until``, and where the next page begins."""
    upload = MediaUploadSession
    wanted = (
        of_sessions()
        .where(or_(MediaAsset.state == AssetState.STAGED, upload.asset_id.is_(None)))
        .where(or_(upload.url_expires_at.is_(None), upload.url_expires_at <= until))
    )
    if profile is not None:
        wanted = wanted.where(or_(MediaAsset.profile == profile, upload.asset_id.is_(None)))
    return session_page(session, wanted, ENDED_BADLY, after)


async def _clean(run: SweepRun[CleanupOrphansOptions], upload: MediaUploadSession, profile: str) -> _Cleaned:
    services = run.services
    if profile not in services.profiles:
        return _Cleaned(profile, "storage_skipped")
    if upload.session_uri is not None:
        return _Cleaned(profile, "resumable_skipped")
    if run.options.dry_run:
        return _Cleaned(profile)
    try:
        objects = await remove(services, services.storage(profile), upload)
        if upload.asset_id is None:
            is_deleted = await services.database.write(_delete_partial, upload.id)
        else:
            is_deleted = await services.database.write(_delete_rows, upload.id, upload.asset_id, objects)
    except RindleError as error:
        return _Cleaned(profile, "storage_errors", failure=SweepFailure(item=upload.id, code=error.code))
    return _Cleaned(profile, objects=objects, is_deleted=is_deleted)


def _delete_rows(session: Session, session_id: str, asset_id: str, objects: int) -> bool:
    """Delete a session whose object is deleted, and its asset unless something else refers to it.

    Returns:
        whether the session was deleted; ``False`` when a purge or an erasure of its asset has begun meanwhile.
    """
    asset = lock_asset(session, asset_id, "exclusive")
    upload = session.get(MediaUploadSession, session_id, populate_existing=True)
    if asset is None or upload is None or asset.state != AssetState.STAGED or upload.state not in ENDED_BADLY:
        return False
    if erasures.is_pending(session, asset_id):
        return False
    if _is_referred_to(session, asset_id, session_id):
        session.delete(upload)
        return True
    purge.finish(session, asset_id, objects=objects, variants=0, late_put_seconds=None)
    return True


def _delete_partial(session: Session, session_id: str) -> bool:
    """Delete a partial upload, which has no asset; returns whether this call did it."""
    try:
        upload = lock_stream(session, session_id).session
    except NotFound:
        return False
    if upload.state not in ENDED_BADLY:
        return False
    session.delete(upload)
    return True


def _is_referred_to(session: Session, asset_id: str, session_id: str) -> bool:
    """Whether an asset has an attachment, a variant, or a session beside ``session_id``."""
    others = select(func.count()).select_from(MediaUploadSession)
    variants = select(func.count()).select_from(MediaVariant)
    attachments = select(func.count()).select_from(MediaAttachment)
    return any(
        session.scalar(statement)
        for statement in (
            attachments.where(MediaAttachment.asset_id == asset_id),
            variants.where(MediaVariant.asset_id == asset_id),
            others.where(MediaUploadSession.asset_id == asset_id, MediaUploadSession.id != session_id),
        )
    )


def _report(cleaned: Sequence[_Cleaned]) -> CleanupOrphansReport:
    skipped = Counter(one.counter for one in cleaned if one.counter)
    return CleanupOrphansReport(
        sessions_found=len(cleaned),
        sessions_deleted=sum(one.is_deleted for one in cleaned),
        objects_deleted=sum(one.objects for one in cleaned),
        **skipped,
    )


def _emit(cleaned: Sequence[_Cleaned], *, dry_run: bool) -> None:
    for profile in sorted({one.profile for one in cleaned}):
        report = _report([one for one in cleaned if one.profile == profile])
        telemetry.emit(
            "rindle.cleanup.run",
            {"worker": CleanupOrphans.name, "profile": profile, "dry_run": dry_run},
            {"sessions_deleted": report.sessions_deleted, "objects_deleted": report.objects_deleted},
        )
