"""Resumable sessions of the store: the client sends the bytes to a session URI, and continues there after a break.

The rules of all lanes (rows, idempotency keys, verification of arrival) are in :mod:`rindle.uploads.sessions`; the
store's side is the ability :class:`~rindle.protocols.ResumableSessions`. How session URIs are kept:
:mod:`rindle.uploads.session_uris`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pydantic import SecretStr
from sqlalchemy.orm import Session

from rindle import outbox, telemetry
from rindle.arguments import check_text
from rindle.cancellation import run_to_end
from rindle.capabilities import unsupported
from rindle.db import resumable as rows
from rindle.db import uploads as upload_rows
from rindle.db.ids import SessionOrId
from rindle.db.models import MediaUploadSession
from rindle.db.resumable import GCS, OPEN, RESUMABLE
from rindle.db.uploads import Upload
from rindle.errors import (
    CapabilityUnsupported,
    OffsetMismatch,
    ResumableUploadNotInitialized,
    RindleError,
    SessionUriExpired,
    SessionUriUnknown,
    StorageNotFound,
)
from rindle.profile import Profile
from rindle.protocols import ResumableSessions, ResumableStatus, ResumableUpload, Storage
from rindle.security import granted_type
from rindle.services import Services
from rindle.settings import Settings
from rindle.states import ENDED_SESSIONS, SessionState
from rindle.uploads import sessions
from rindle.uploads.session_uris import opened, sealed
from rindle.uploads.sessions import UploadRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResumableGrant:
    """Where a client sends the bytes of a file.

    Attributes:
        session_uri: bearer credential for the client that uploads: whoever has it may send the bytes.
        upload_id: the store's name of the session; it stays on the server. ``None`` for the session of a repeated call.
        expires_at: when the store forgets the session, aware UTC.
    """

    session_uri: SecretStr
    upload_id: str | None = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class OpenedResumable:
    """An upload session and where to send its bytes."""

    session: MediaUploadSession
    resumable: ResumableGrant


@dataclass(frozen=True, slots=True)
class ResumableProgress:
    """How far an upload is; ``complete`` is the store's claim, which only ``verify_completion`` confirms.

    Attributes:
        committed_bytes: that the store has, from the beginning of the file: the client continues there.
    """

    session: MediaUploadSession
    committed_bytes: int
    state: Literal["in_progress", "complete"]


# --- opening -----------------------------------------------------------------------------------------------------


async def initiate(
    services: Services, profile: str | type[Profile], request: UploadRequest, *, origin: str | None = None
) -> OpenedResumable:
    """Open a session of the store and its rows; see ``Rindle.initiate_resumable_session``."""
    check_text("origin", origin)
    chosen = services.profile(profile)
    storage = _resumable_storage(services.storage(chosen))
    new = sessions.requested_upload(services.settings, chosen, request, strategy=RESUMABLE)
    new.session.resumable_protocol = GCS
    known = await sessions.known_upload(services, new)
    if known is not None:
        return _repeated(services, known)
    # To its end: after the cancellation of the caller, a session without a row would have to expire in the store.
    return await run_to_end(_begin(services, storage, new, origin))


async def _begin(services: Services, storage: ResumableSessions, new: Upload, origin: str | None) -> OpenedResumable:
    policy = services.profile(new.asset.profile).upload_policy()
    begun = await storage.initiate_resumable_upload(
        new.session.upload_key,
        new.session.expected_size,
        # Never the client's own type: the store answers with it until the promotion has detected the real one.
        content_type=granted_type(policy, new.asset.filename),
        origin=origin,
    )
    new_id = new.session.id
    try:
        stored = await sessions.insert_once(
            services, new, lambda session, copy: _insert(session, services, copy, begun)
        )
    except BaseException:
        await _cancel_quietly(storage, new.session.upload_key, begun.session_uri)
        raise
    if stored.session.id != new_id:  # a concurrent call with the same idempotency key was quicker
        await _cancel_quietly(storage, new.session.upload_key, begun.session_uri)
        return _repeated(services, stored)
    facts = {"profile": stored.asset.profile, "session_id": new_id}
    telemetry.emit("rindle.upload.start", facts)
    telemetry.emit("rindle.upload.resumable.start", {**facts, "state": stored.session.state, "protocol": GCS})
    return OpenedResumable(stored.session, ResumableGrant(begun.session_uri, begun.upload_id, begun.expires_at))


def _insert(session: Session, services: Services, copy: Upload, begun: ResumableUpload) -> Upload:
    inserted = rows.insert_begun(
        session,
        copy.asset,
        copy.session,
        session_uri=sealed(services.settings, begun.session_uri),
        session_uri_expires_at=begun.expires_at,
        region_hint=begun.region_hint,
    )
    # With auto_verify the workflow starts to poll for the object.
    signal = "touch" if inserted.session.auto_verify else None
    outbox.wake_upload(session, services.settings, inserted.session, inserted.asset.profile, signal=signal)
    return inserted


def _repeated(services: Services, found: Upload) -> OpenedResumable:
    upload = found.session
    if upload.state in ENDED_SESSIONS and upload.state != SessionState.COMPLETED:
        raise sessions.ended_error(upload)
    uri = _session_uri(services.settings, upload)
    return OpenedResumable(upload, ResumableGrant(uri, None, upload.session_uri_expires_at or upload.expires_at))


async def _cancel_quietly(storage: ResumableSessions, key: str, uri: SecretStr) -> None:
    """Give up a session that no row names; its failure must not hide the error before it."""
    try:
        await storage.cancel_resumable_upload(key, uri)
    except RindleError as error:
        log.warning("a resumable session without a row was not cancelled", extra={"key": key, "error": error.code})


def _resumable_storage(storage: Storage) -> ResumableSessions:
    if not isinstance(storage, ResumableSessions):
        raise unsupported(storage, "resumable_upload")
    return storage


def _session_uri(settings: Settings, upload: MediaUploadSession) -> SecretStr:
    if upload.upload_strategy != RESUMABLE or upload.resumable_protocol != GCS:
        raise CapabilityUnsupported(
            f"this upload has no resumable session of the store: its lane is {sessions.lane_of(upload)}",
            capability="resumable_upload_session",
        )
    if upload.session_uri is None:
        raise ResumableUploadNotInitialized(
            "this upload has no resumable session any more; start a new one", detail={"session_id": upload.id}
        )
    return opened(settings, upload.session_uri)


# --- progress ----------------------------------------------------------------------------------------------------


async def status(
    services: Services, session_id: SessionOrId, *, client_offset: int | None = None, resume: bool = False
) -> ResumableProgress:
    """Return how many bytes the store has; see ``Rindle.resumable_session_status``."""
    return await status_of(
        services, await sessions.find_upload(services, session_id), client_offset=client_offset, resume=resume
    )


async def status_of(
    services: Services, found: Upload, *, client_offset: int | None = None, resume: bool = False
) -> ResumableProgress:
    """Return how far an upload is that was just read, as :func:`status` does."""
    upload = found.session
    if upload.state in ENDED_SESSIONS and upload.state != SessionState.COMPLETED:
        raise sessions.ended_error(upload)
    uri = _session_uri(services.settings, upload)
    if upload.state not in OPEN:
        return ResumableProgress(upload, found.asset.byte_size or upload.last_known_offset, "complete")
    storage = services.storage(found.asset.profile)
    seen = await _seen(storage, upload, uri)

    def note(session: Session) -> Upload:
        return rows.note_status(
            session,
            upload.id,
            committed_bytes=seen.committed_bytes,
            region_hint=seen.region_hint,
            is_resumed=resume and seen.state == "in_progress",
            ttl_seconds=services.settings.upload_session_ttl_seconds,
        )

    noted = (await services.database.write(note)).session
    telemetry.emit(
        "rindle.upload.resumable.status",
        {"profile": found.asset.profile, "session_id": upload.id, "state": noted.state, "protocol": GCS},
    )
    if client_offset is not None and client_offset != seen.committed_bytes:
        raise OffsetMismatch(
            f"the store has {seen.committed_bytes} bytes of this upload; continue there",
            server=seen.committed_bytes,
            client=client_offset,
        )
    return ResumableProgress(noted, seen.committed_bytes, seen.state)


async def _seen(storage: Storage, upload: MediaUploadSession, uri: SecretStr) -> ResumableStatus:
    """Return what the store has of an upload. It may forget a session whose object it has made."""
    try:
        return await _resumable_storage(storage).resumable_upload_status(upload.upload_key, uri)
    except (SessionUriUnknown, SessionUriExpired):
        try:
            head = await storage.head(upload.upload_key)
        except StorageNotFound:
            head = None
        if head is None:
            raise
        return ResumableStatus(head.size, "complete")


# --- the workflow's side -----------------------------------------------------------------------------------------


async def cancel_session(services: Services, storage: Storage, upload: MediaUploadSession) -> None:
    """Cancel the store's session of an ended upload; one that it does not know any more is success.

    Raises:
        StorageError: the session may still take bytes; the call can be repeated.
    """
    if upload.session_uri is None:
        return
    uri = opened(services.settings, upload.session_uri)
    # To its end: nobody would know whether the store executes it later.
    known = await run_to_end(_resumable_storage(storage).cancel_resumable_upload(upload.upload_key, uri))
    found = await services.database.read(upload_rows.find_upload, upload.id)
    if found is not None:
        facts = {"profile": found.asset.profile, "session_id": upload.id, "protocol": GCS}
        telemetry.emit("rindle.upload.resumable.cancel", {**facts, "outcome": "cancelled" if known else "unknown"})
