"""End uploads that nobody ended: those past their expiry, and those whose bytes are still in the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

from rindle import outbox, telemetry
from rindle.db import direct_uploads
from rindle.db import uploads as rows
from rindle.db.models import MediaAsset, MediaUploadSession, utc_now
from rindle.db.streams import expire_stream, lock_stream
from rindle.errors import NotFound, RindleError
from rindle.operations.maintenance.session_pages import SessionRow, of_sessions, profile_of, session_page
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
from rindle.services import Services
from rindle.states import ENDED_BADLY, AssetState, SessionState
from rindle.uploads.backing import remove
from rindle.uploads.sessions import lane_of

#: Session states that end at the expiry; a verification that has begun decides by itself.
_LIVE = (
    SessionState.INITIALIZED,
    SessionState.SIGNED,
    SessionState.RESUMING,
    SessionState.UPLOADING,
    SessionState.UPLOADED,
)
#: The steps of the sweep, in their order; a cursor is ``step|id`` of the last session.
_OVERDUE, _UNRELEASED, _AT_PROVIDERS = "1-overdue", "2-unreleased", "3-at-providers"
#: How long the asset of an upload to a provider stays after it was cancelled or has failed.
_FAILED_UPLOADS_STAY = timedelta(hours=24)
#: The counter of each lane; uploads through the application have none of their own.
_COUNTERS: Mapping[str, str] = {
    "presigned_put": "presigned_put_aborts",
    "multipart": "multipart_aborts",
    "gcs": "resumable_aborts",
    "tus": "tus_aborts",
    "ietf": "tus_aborts",  # the same bytes under another protocol
}


class AbortIncompleteUploadsReport(SweepReport):
    """Numbers of upload sessions.

    Attributes:
        sessions_found: sessions past their expiry, and ended ones whose bytes were not removed yet.
        sessions_aborted: those of them that have ended now, without anything left in the store.
        resumable_aborts: those of resumable sessions of the store itself.
        multipart_aborts: those of multipart uploads.
        presigned_put_aborts: those of presigned PUT requests.
        tus_aborts: those of uploads that passed through the application, by tus or the draft of the IETF.
        direct_purges: staged assets of uploads to a streaming provider that were cancelled or failed a day ago. They
            are purged, unless they are attached.
        abort_errors: sessions whose bytes could not be removed; the row has the code, and the next run tries again.
    """

    sessions_found: int = 0
    sessions_aborted: int = 0
    resumable_aborts: int = 0
    multipart_aborts: int = 0
    presigned_put_aborts: int = 0
    tus_aborts: int = 0
    direct_purges: int = 0
    abort_errors: int = 0
    error_counters: ClassVar[tuple[str, ...]] = ("abort_errors",)


@dataclass(frozen=True, slots=True)
class _Ended:
    """What became of one session; without a counter when somebody else ended it meanwhile."""

    profile: str
    lane: str = ""
    is_aborted: bool = False
    failure: SweepFailure | None = None


class AbortIncompleteUploads(Sweep[ProfileOptions, AbortIncompleteUploadsReport]):
    """Expires sessions past their expiry, and removes what stores hold for sessions that ended without an asset.

    The workflow of each upload does the same, at once: this sweep does what it missed. The row is moved before the
    store is called, so that a verification which comes at the same time either has won or finds the upload expired.
    While a ticket may still be redeemed, the workflow of the upload is started: it deletes the object once more when
    no ticket is valid any more.
    """

    name = "abort-incomplete-uploads"
    title = "Abort incomplete uploads"
    options, report = ProfileOptions, AbortIncompleteUploadsReport

    async def page(self, run: SweepRun[ProfileOptions], cursor: str) -> Page[AbortIncompleteUploadsReport]:
        """End those of the next 500 sessions that are overdue or unreleased."""
        step, _, after = (cursor or _OVERDUE).partition("|")
        profile = run.options.profile
        wanted = run.services.profiles.names if profile is None else [profile]
        if step == _AT_PROVIDERS:
            found_there, last = await run.services.database.write(_purge_failed, run, wanted, after)
            report = AbortIncompleteUploadsReport(direct_purges=found_there)
            return Page(report, None if last is None else f"{step}|{last}", ())
        select_page = _overdue if step == _OVERDUE else _unreleased
        found, last_id = await run.services.database.read(select_page, wanted, run.started_at, after)
        named = [(upload, profile_of(run.services, upload, name)) for upload, name in found]
        ended = await for_each(
            [(upload, name) for upload, name in named if name in wanted], lambda row: _end(run, row[0], str(row[1]))
        )
        next_cursor = None if last_id is None else f"{step}|{last_id}"
        if next_cursor is None:
            next_cursor = _UNRELEASED if step == _OVERDUE else _AT_PROVIDERS
        failures = tuple(one.failure for one in ended if one.failure is not None)
        _emit(ended)
        return Page(_report(ended), next_cursor, failures)


async def abort_incomplete_uploads(services: Services, *, profile: str | None = None) -> AbortIncompleteUploadsReport:
    """End incomplete uploads in this process; see :class:`AbortIncompleteUploads`.

    Args:
        profile: only uploads of this profile; all registered ones when left out.

    Raises:
        UnknownProfile: the profile is not registered.
    """
    options = ProfileOptions(profile=profile)
    return (await run_here(services, AbortIncompleteUploads(), options)).report


def _overdue(
    session: Session, profiles: Collection[str], started_at: datetime, after: str
) -> tuple[Sequence[SessionRow], str | None]:
    """Return live sessions past their expiry, and where the next page begins."""
    overdue = _of_profiles(profiles).where(MediaUploadSession.expires_at < started_at)
    return session_page(session, overdue, _LIVE, after)


def _unreleased(
    session: Session, profiles: Collection[str], started_at: datetime, after: str
) -> tuple[Sequence[SessionRow], str | None]:
    """Return ended sessions whose bytes are not removed, and where the next page begins.

    Those that ended in this sweep are left out: they were counted.
    """
    upload = MediaUploadSession
    unreleased = _of_profiles(profiles).where(upload.backing_released_at.is_(None), upload.updated_at < started_at)
    return session_page(session, unreleased, ENDED_BADLY, after)


def _of_profiles(profiles: Collection[str]) -> Select[MediaUploadSession, str | None]:
    """Return the query of sessions of these profiles; partial uploads name none, so all of them are among these."""
    of_asset = MediaAsset.profile.in_(profiles) & (MediaAsset.state != AssetState.DELETED)
    return of_sessions().where(of_asset | MediaUploadSession.asset_id.is_(None))


async def _end(run: SweepRun[ProfileOptions], upload: MediaUploadSession, profile: str) -> _Ended:
    services = run.services
    try:
        if upload.state in _LIVE:
            if upload.asset_id is None:
                upload = (await services.database.write(expire_stream, upload.id, now=run.started_at))[0].session
            else:
                upload = (await services.database.write(rows.expire_upload, upload.id, now=run.started_at))[0].session
        if upload.state not in ENDED_BADLY:  # verified or extended meanwhile
            return _Ended(profile)
        began_at = utc_now()
        await remove(services, services.storage(profile), upload)
        await services.database.write(_note_released, services, upload.id, began_at)
    except NotFound:  # purged meanwhile
        return _Ended(profile)
    except RindleError as error:
        await services.database.write(rows.note_not_released, upload.id, error.code)
        return _Ended(profile, failure=SweepFailure(item=upload.id, code=error.code))
    return _Ended(profile, lane_of(upload), is_aborted=True)


def _note_released(session: Session, services: Services, session_id: str, began_at: datetime) -> None:
    found, late_put_seconds = lock_stream(session, session_id), services.settings.late_put_seconds
    rows.note_released(session, session_id, began_at=began_at)
    if (
        found.asset is not None
        and rows.late_put_wait(found.session.url_expires_at, late_put_seconds, since=began_at) > 0
    ):
        outbox.wake_upload(session, services.settings, found.session, found.asset.profile, signal="touch")


def _purge_failed(
    session: Session, run: SweepRun[ProfileOptions], profiles: Collection[str], after: str
) -> tuple[int, str | None]:
    """Request the purge of staged assets whose upload to a provider came to nothing; returns how many, and the last."""
    before = run.started_at - _FAILED_UPLOADS_STAY
    found, last = direct_uploads.failed(session, profiles, before, after, limit=PAGE)
    outbox.start_purges(session, run.services.settings, found)
    return len(found), last


def _report(ended: Sequence[_Ended]) -> AbortIncompleteUploadsReport:
    lanes = Counter(_COUNTERS[one.lane] for one in ended if one.lane in _COUNTERS)
    return AbortIncompleteUploadsReport(
        sessions_found=len(ended),
        sessions_aborted=sum(one.is_aborted for one in ended),
        abort_errors=sum(one.failure is not None for one in ended),
        **lanes,
    )


def _emit(ended: Sequence[_Ended]) -> None:
    for profile in sorted({one.profile for one in ended}):
        report = _report([one for one in ended if one.profile == profile])
        telemetry.emit(
            "rindle.cleanup.run",
            {"worker": AbortIncompleteUploads.name, "profile": profile, "dry_run": False},
            {"sessions_aborted": report.sessions_aborted, "resumable_aborts": report.resumable_aborts},
        )
