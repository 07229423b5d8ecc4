"""Direct uploads: a ticket, a signed PUT, and proof that the bytes arrived. No byte passes the application."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from rindle import outbox, telemetry
from rindle.capabilities import require_upload
from rindle.db import uploads as rows
from rindle.db.models import MediaAsset, MediaUploadSession, new_id, utc_now
from rindle.db.uploads import Upload
from rindle.errors import (
    InvalidArgument,
    InvalidTransition,
    NotFound,
    RindleError,
    StorageError,
    StorageNotFound,
    StorageObjectMissing,
    StorageTransient,
    UploadAlreadyCompleted,
    UploadCancelled,
    UploadRejected,
    UploadSessionExpired,
    error_of,
)
from rindle.profile import Profile
from rindle.protocols import ObjectHead, Presigned
from rindle.security import check_declared, original_key, sanitize_filename
from rindle.services import Services
from rindle.settings import SEVEN_DAYS, Settings
from rindle.states import ENDED_SESSIONS, SessionState

#: Shortest life an upload session may be given by a caller.
MIN_SESSION_SECONDS = 60


@dataclass(frozen=True, slots=True)
class SignedUpload:
    """A session and the grant to PUT its object."""

    session: MediaUploadSession
    presigned: Presigned


async def initiate_upload(
    services: Services,
    profile: str | type[Profile],
    *,
    filename: str = "unknown",
    size: int | None = None,
    content_type: str | None = None,
    expires_in: int | None = None,
    actor: str | None = None,
    idempotency_key: str | None = None,
    auto_verify: bool = False,
) -> MediaUploadSession:
    """Open an upload session; see ``Rindle.initiate_upload``."""
    chosen = services.profile(profile)
    require_upload(services.storage(chosen), "presigned_put")
    ttl_seconds = _session_ttl(services.settings, expires_in)
    if idempotency_key is not None:
        known = await services.database.read(rows.find_by_idempotency_key, actor, idempotency_key)
        if known is not None:
            return known.session
    check_declared(chosen.upload_policy(), filename, size)
    asset, upload = new_upload(
        chosen, filename=filename, actor=actor, strategy="presigned_put", ttl_seconds=ttl_seconds
    )
    upload.expected_size = size
    upload.client_content_type = content_type
    upload.idempotency_key = idempotency_key
    upload.auto_verify = auto_verify

    def create(session: Session) -> Upload:
        made = rows.insert_upload(session, asset, upload)
        outbox.wake_upload(session, services.settings, made.session, asset.profile)
        return made

    try:
        made = await services.database.write(create)
    except IntegrityError:
        # Two requests with one idempotency key: the other one was first.
        known = None
        if idempotency_key is not None:
            known = await services.database.read(rows.find_by_idempotency_key, actor, idempotency_key)
        if known is None:
            raise
        return known.session
    telemetry.emit("rindle.upload.start", {"profile": chosen.name, "session_id": made.session.id})
    return made.session


def new_upload(
    profile: type[Profile], *, filename: str, actor: str | None, strategy: str, ttl_seconds: float
) -> tuple[MediaAsset, MediaUploadSession]:
    """Make the two rows of a new upload; nothing of the filename but its cleaned extension reaches the key."""
    asset_id = new_id()
    key = original_key(profile.name, asset_id, filename)
    asset = MediaAsset(
        id=asset_id,
        storage_key=key,
        profile=profile.name,
        uploaded_by=actor,
        filename=sanitize_filename(filename),
    )
    upload = MediaUploadSession(
        id=new_id(),
        upload_key=key,
        upload_strategy=strategy,
        actor=actor,
        expires_at=utc_now() + timedelta(seconds=ttl_seconds),
    )
    return asset, upload


def _session_ttl(settings: Settings, expires_in: int | None) -> int:
    if expires_in is None:
        return settings.upload_session_ttl_seconds
    if isinstance(expires_in, bool) or not MIN_SESSION_SECONDS <= expires_in <= SEVEN_DAYS:
        raise InvalidArgument(
            f"expires_in of an upload session must be between {MIN_SESSION_SECONDS} and {SEVEN_DAYS} seconds",
            detail={"option": "expires_in", "found": expires_in},
        )
    return expires_in


async def sign_url(services: Services, session_id: str, *, expires_in: int | None = None) -> SignedUpload:
    """Sign a PUT for a live session; see ``Rindle.sign_url``."""
    wanted = services.settings.presigned_put_ttl_seconds if expires_in is None else expires_in
    if isinstance(wanted, bool) or not 1 <= wanted <= SEVEN_DAYS:
        raise InvalidArgument(
            f"expires_in of a signed URL must be between 1 and {SEVEN_DAYS} seconds",
            detail={"option": "expires_in", "found": wanted},
        )
    upload, asset = await _load(services, session_id)
    chosen = services.profile(asset.profile)
    if upload.state not in (SessionState.INITIALIZED, SessionState.SIGNED, SessionState.UPLOADING):
        raise InvalidTransition(
            f"an upload that is {upload.state} cannot be signed again; start a new one",
            detail={"entity": "MediaUploadSession", "from": upload.state, "to": SessionState.SIGNED.value},
        )
    remaining = int(rows.live_seconds(upload))
    if remaining < 1:
        raise _expired()
    storage = services.storage(chosen)
    require_upload(storage, "presigned_put")
    presigned = await storage.presigned_put(
        upload.upload_key,
        min(wanted, remaining),
        content_type=upload.client_content_type,
        content_length=upload.expected_size,
        max_bytes=chosen.upload_policy().max_bytes,
        write_once=True,
    )

    def note(session: Session) -> Upload:
        signed = rows.note_signed(session, session_id, presigned.expires_at)
        if upload.auto_verify:  # the workflow begins to look for the object
            outbox.wake_upload(session, services.settings, signed.session, chosen.name, signal="touch")
        return signed

    return SignedUpload((await services.database.write(note)).session, presigned)


async def verify_completion(services: Services, session_id: str) -> Upload:
    """Prove that the bytes arrived and hand the asset to promotion; see ``Rindle.verify_completion``."""
    found = await _load_upload(services, session_id)
    upload, asset = found.session, found.asset
    if upload.state == SessionState.COMPLETED:
        return found
    if upload.state in ENDED_SESSIONS:
        raise _ended(upload)
    if upload.state == SessionState.INITIALIZED:
        raise InvalidTransition(
            "this upload was never signed: call sign_url, send the bytes, then verify",
            detail={"entity": "MediaUploadSession", "from": upload.state, "to": SessionState.VERIFYING.value},
        )
    chosen = services.profile(asset.profile)
    try:
        head = await services.storage(chosen).head(upload.upload_key)
    except StorageNotFound as error:
        if rows.live_seconds(upload) <= 0:
            expired, _ = await services.database.write(_expire_and_wake, services.settings, session_id)
            if expired.session.state == SessionState.COMPLETED:
                return expired
            raise _ended(expired.session) from error
        raise StorageObjectMissing(
            "no object has arrived for this upload; send the bytes to the signed URL and verify again",
            detail={"session_id": session_id},
        ) from error
    except StorageError as error:
        # The browser may never call again: the workflow finishes the job when the store is back.
        await services.database.write(_wake, services.settings, session_id, "complete")
        if error.retryable:
            raise
        raise StorageTransient(
            "the store could not be asked for the object; verification goes on by itself", adapter=error.adapter
        ) from error
    refusal = _size_refusal(chosen, upload, head)
    if refusal is not None:
        await _reject(services, session_id, refusal)
    done, first = await services.database.write(_complete_and_wake, services.settings, session_id, head)
    if done.session.state in ENDED_SESSIONS and done.session.state != SessionState.COMPLETED:
        raise _ended(done.session)
    if first:
        facts = {"profile": chosen.name, "session_id": session_id, "asset_id": asset.id}
        telemetry.emit("rindle.upload.stop", facts)
    return done


def _size_refusal(profile: type[Profile], upload: MediaUploadSession, head: ObjectHead) -> UploadRejected | None:
    max_bytes = profile.upload_policy().max_bytes
    if head.size == 0:
        return UploadRejected(
            f"the upload for profile {profile.name!r} is empty; choose a file with content", code="empty_upload"
        )
    if max_bytes is not None and head.size > max_bytes:
        return UploadRejected(
            f"the upload has {head.size} bytes, profile {profile.name!r} allows max_bytes={max_bytes}",
            code="max_bytes_exceeded",
            detail={"limit": max_bytes, "found": head.size},
        )
    if upload.expected_size is not None and head.size != upload.expected_size:
        return UploadRejected(
            f"the upload has {head.size} bytes, {upload.expected_size} were announced; start a new upload",
            code="size_mismatch",
            detail={"expected": upload.expected_size, "found": head.size},
        )
    return None


async def _reject(services: Services, session_id: str, refusal: UploadRejected) -> None:
    def reject(session: Session) -> Upload:
        found, first = rows.reject_upload(session, session_id, code=refusal.code, reason=refusal.message)
        if first:
            outbox.wake_upload(session, services.settings, found.session, found.asset.profile, signal="touch")
        return found

    found = await services.database.write(reject)
    if found.session.state != SessionState.COMPLETED:
        raise refusal


def _complete_and_wake(session: Session, settings: Settings, session_id: str, head: ObjectHead) -> tuple[Upload, bool]:
    found, first = rows.complete_upload(
        session, session_id, size=head.size, etag=head.etag, content_type=head.content_type
    )
    if first:
        outbox.wake_upload(session, settings, found.session, found.asset.profile, signal="verified")
    return found, first


def _expire_and_wake(session: Session, settings: Settings, session_id: str) -> tuple[Upload, bool]:
    found, first = rows.expire_upload(session, session_id)
    if first:
        outbox.wake_upload(session, settings, found.session, found.asset.profile, signal="touch")
    return found, first


def _wake(session: Session, settings: Settings, session_id: str, signal: str) -> None:
    found = rows.lock_upload(session, session_id)
    outbox.wake_upload(session, settings, found.session, found.asset.profile, signal=signal)


async def cancel_upload(services: Services, session_id: str) -> MediaUploadSession:
    """Abort a live session; see ``Rindle.cancel_upload``."""

    def abort(session: Session) -> Upload:
        found, first = rows.abort_upload(session, session_id)
        if first:
            outbox.wake_upload(session, services.settings, found.session, found.asset.profile, signal="cancel")
        return found

    found = await services.database.write(abort)
    if found.session.state == SessionState.COMPLETED:
        raise UploadAlreadyCompleted(
            "this upload is complete and cannot be cancelled; purge the asset instead",
            detail={"session_id": session_id},
        )
    return found.session


async def resume(services: Services, asset_id: str) -> None:
    """Let promotion go on from where the asset's rows stand; used after an outage outlived its budget."""

    def wake(session: Session) -> None:
        found = rows.find_by_asset(session, asset_id)
        if found is None:
            raise NotFound("could not resume the upload: not found", detail={"entity": "asset"})
        outbox.wake_upload(session, services.settings, found.session, found.asset.profile, signal="verified")

    await services.database.write(wake)


async def get_session(services: Services, session_id: str) -> MediaUploadSession:
    """Return a session row.

    Raises:
        NotFound: no such session.
    """
    return (await _load_upload(services, session_id)).session


async def session_of_key(services: Services, key: str) -> MediaUploadSession:
    """Return the session whose object is at ``key``.

    Raises:
        NotFound: no such session.
    """
    found = await services.database.read(rows.find_by_key, key)
    if found is None:
        raise rows.no_such_upload()
    return found.session


async def _load_upload(services: Services, session_id: str) -> Upload:
    found = await services.database.read(rows.find_upload, session_id)
    if found is None:
        raise rows.no_such_upload()
    return found


async def _load(services: Services, session_id: str) -> tuple[MediaUploadSession, MediaAsset]:
    found = await _load_upload(services, session_id)
    return found.session, found.asset


def _expired() -> UploadSessionExpired:
    return UploadSessionExpired("the upload's time is over; start a new one")


def _ended(upload: MediaUploadSession) -> RindleError:
    if upload.state == SessionState.EXPIRED:
        return _expired()
    if upload.state == SessionState.ABORTED:
        return UploadCancelled("the upload was cancelled; start a new one")
    return error_of(upload.error_code or "upload_rejected", upload.failure_reason or "the upload was refused")
