"""Upload sessions: the rules of all upload lanes.

New rows and their lifetime, idempotency keys, verification of arrival, cancel and resume. The lanes, which transfer the
bytes, are :mod:`rindle.uploads.direct` and :mod:`rindle.uploads.server_side`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from rindle import outbox, telemetry
from rindle.arguments import MAX_FILENAME_CHARS, check_text
from rindle.db import promotion
from rindle.db import uploads as rows
from rindle.db.ids import AssetOrId, SessionOrId, id_of_asset, id_of_session
from rindle.db.models import MAX_KEY_CHARS, MediaAsset, MediaUploadSession, new_id, unstored_copy, utc_now
from rindle.db.uploads import Upload as Upload  # the argument and result of these flows
from rindle.db.uploads import no_such_upload as no_such_upload  # also raised for the uploads of others
from rindle.errors import (
    InvalidArgument,
    InvalidTransition,
    NotFound,
    RindleError,
    StorageError,
    StorageNotFound,
    StorageObjectMissing,
    StorageTransient,
    StorageUnauthorized,
    UploadAlreadyCompleted,
    UploadCancelled,
    UploadRejected,
    UploadSessionExpired,
    error_of,
)
from rindle.profile import Profile
from rindle.protocols import MAX_URL_SECONDS, ObjectHead
from rindle.rejections import rejected
from rindle.security import check_declared, display_name, original_key, sanitize_filename
from rindle.services import Services
from rindle.settings import Settings
from rindle.states import ENDED_SESSIONS, SessionState
from rindle.uploads.digests import WholeDigest

#: Shortest lifetime in seconds that a caller may set for an upload session.
MIN_SESSION_SECONDS = 60
#: Longest metadata of a client that are kept.
MAX_METADATA_CHARS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest:
    """A caller's facts about the file to upload; see ``Rindle.initiate_upload`` for each field.

    ``metadata`` is what a client's protocol sends along; it is kept in the row and nothing is decided by it.

    Raises:
        InvalidArgument: one of the strings cannot be stored.
    """

    filename: str = "unknown"
    size: int | None = None
    content_type: str | None = None
    expires_in: int | None = None
    actor: str | None = None
    idempotency_key: str | None = None
    auto_verify: bool = False
    metadata: str | None = None

    def __post_init__(self) -> None:
        check_text("filename", self.filename, max_chars=MAX_FILENAME_CHARS)
        check_text("metadata", self.metadata, max_chars=MAX_METADATA_CHARS)
        for option in ("content_type", "actor", "idempotency_key"):
            check_text(option, getattr(self, option))


def lane_of(upload: MediaUploadSession) -> str:
    """Return the lane of a session: its strategy, or the protocol (``tus``, ``ietf``, ``gcs``) of ``resumable``.

    Sessions of tus and of the IETF are resumable, too, but their bytes are kept in another way.
    """
    if upload.upload_strategy == "resumable":
        return upload.resumable_protocol or "gcs"
    return upload.upload_strategy


# --- opening -----------------------------------------------------------------------------------------------------


def new_upload(
    profile: type[Profile], *, filename: str, actor: str | None, strategy: str, ttl_seconds: float
) -> tuple[MediaAsset, MediaUploadSession]:
    """Make the two rows of a new upload; the key contains only the sanitised extension of the filename."""
    asset_id = new_id()
    key = original_key(profile.name, asset_id, filename)
    asset = MediaAsset(
        id=asset_id,
        storage_key=key,
        profile=profile.name,
        uploaded_by=actor,
        filename=sanitize_filename(filename),
        display_name=display_name(filename),
    )
    upload = MediaUploadSession(
        id=new_id(),
        upload_key=key,
        upload_strategy=strategy,
        actor=actor,
        expires_at=utc_now() + timedelta(seconds=ttl_seconds),
    )
    return asset, upload


def requested_upload(settings: Settings, profile: type[Profile], request: UploadRequest, *, strategy: str) -> Upload:
    """Make the two rows of ``request``; nothing is stored yet.

    Raises:
        InvalidArgument: ``expires_in`` is out of range, or there is an idempotency key without an actor.
        UploadRejected: the profile refuses the extension or the declared size.
    """
    ttl_seconds = _session_ttl(settings, request.expires_in)
    if request.idempotency_key is not None and request.actor is None:
        raise InvalidArgument(
            "an idempotency key needs an actor; leave it out for anonymous uploads",
            detail={"option": "idempotency_key"},
        )
    check_declared(profile.upload_policy(), request.filename, request.size)
    asset, upload = new_upload(
        profile, filename=request.filename, actor=request.actor, strategy=strategy, ttl_seconds=ttl_seconds
    )
    upload.expected_size = request.size
    upload.client_content_type = request.content_type
    upload.idempotency_key = request.idempotency_key
    upload.auto_verify = request.auto_verify
    upload.upload_metadata = request.metadata
    return Upload(upload, asset)


async def open_upload(services: Services, new: Upload, *, signed_until: datetime | None = None) -> Upload:
    """Store the rows of ``new`` and start its workflow, in one transaction.

    Returns:
        ``new``, or the upload that the actor opened earlier with the same idempotency key, also for concurrent
        requests.

    Args:
        signed_until: expiry of the URL that was signed for ``new``; the session then starts as ``signed``.

    Raises:
        InvalidArgument: the actor used the idempotency key for an upload of another profile or lane.
    """

    def insert(session: Session, copy: Upload) -> Upload:
        inserted = rows.insert_upload(session, copy.asset, copy.session, signed_until=signed_until)
        # A signed upload with auto_verify: the workflow starts to poll for the object.
        signal = "touch" if signed_until is not None and inserted.session.auto_verify else None
        outbox.wake_upload(session, services.settings, inserted.session, inserted.asset.profile, signal=signal)
        return inserted

    new_session_id = new.session.id
    opened = await insert_once(services, new, insert)
    if opened.session.id == new_session_id:
        telemetry.emit("rindle.upload.start", {"profile": opened.asset.profile, "session_id": new_session_id})
    return opened


async def insert_once(services: Services, new: Upload, insert: Callable[[Session, Upload], Upload]) -> Upload:
    """Run ``insert`` in a transaction, unless the actor already used the idempotency key of ``new``.

    Args:
        insert: adds the rows that it is given, copies of those of ``new``. A transaction may be repeated, and rows that
            one transaction has changed cannot be added again.

    Returns:
        the inserted upload, or the one of the earlier call; for concurrent calls one of them is inserted.

    Raises:
        InvalidArgument: the actor used the key for an upload of another profile or lane.
    """

    def find_or_insert(session: Session) -> Upload:
        return _known(session, new) or insert(session, Upload(unstored_copy(new.session), unstored_copy(new.asset)))

    try:
        opened = await services.database.write(find_or_insert)
    except IntegrityError:
        # Two concurrent calls with one key: the other one was first.
        found = await services.database.read(_known, new)
        if found is None:
            raise
        opened = found
    _check_owner_of_key(opened, new)
    return opened


async def known_upload(services: Services, new: Upload) -> Upload | None:
    """Return the upload that the actor opened earlier with the idempotency key of ``new``, or ``None``.

    Raises:
        InvalidArgument: it has another profile or lane.
    """
    found = await services.database.read(_known, new)
    if found is not None:
        _check_owner_of_key(found, new)
    return found


def _known(session: Session, new: Upload) -> Upload | None:
    actor, key = new.session.actor, new.session.idempotency_key
    return None if actor is None or key is None else rows.find_by_idempotency_key(session, actor, key)


def _check_owner_of_key(found: Upload, new: Upload) -> None:
    for what, one, other in (
        ("profile", found.asset.profile, new.asset.profile),
        ("lane", lane_of(found.session), lane_of(new.session)),
    ):
        if one != other:
            raise InvalidArgument(
                f"this idempotency key belongs to an upload of another {what}; use a new key",
                detail={"option": "idempotency_key"},
            )


def _session_ttl(settings: Settings, expires_in: int | None) -> int:
    if expires_in is None:
        return settings.upload_session_ttl_seconds
    if isinstance(expires_in, bool) or not MIN_SESSION_SECONDS <= expires_in <= MAX_URL_SECONDS:
        raise InvalidArgument(
            f"expires_in of an upload session must be between {MIN_SESSION_SECONDS} and {MAX_URL_SECONDS} seconds",
            detail={"option": "expires_in", "found": expires_in},
        )
    return expires_in


# --- finding -----------------------------------------------------------------------------------------------------


async def find_upload(services: Services, session_id: SessionOrId) -> Upload:
    """Return an upload session and its asset.

    Raises:
        NotFound: no such session.
    """
    return _found(await services.database.read(rows.find_upload, id_of_session(session_id)))


async def find_upload_by_key(services: Services, key: str) -> Upload:
    """Return the upload whose object is at the storage key ``key``.

    Raises:
        InvalidArgument: the key cannot be stored.
        NotFound: no such session.
    """
    check_text("key", key, max_chars=MAX_KEY_CHARS)
    return _found(await services.database.read(rows.find_by_key, key))


def _found(upload: Upload | None) -> Upload:
    if upload is None:
        raise no_such_upload()
    return upload


# --- verification ------------------------------------------------------------------------------------------------


async def verify_completion(services: Services, session_id: SessionOrId) -> Upload:
    """Verify that the bytes arrived and start the promotion of the asset; see ``Rindle.verify_completion``."""
    return await verify(services, await find_upload(services, session_id))


async def verify(services: Services, found: Upload) -> Upload:
    """Verify an upload that was just read, as :func:`verify_completion` does."""
    upload, asset = found.session, found.asset
    session_id = upload.id
    if upload.state == SessionState.COMPLETED:
        return found
    if upload.state in ENDED_SESSIONS:
        raise ended_error(upload)
    if upload.state == SessionState.INITIALIZED:
        raise InvalidTransition(
            "this upload was never signed; call sign_url, send the bytes, then verify",
            detail={"entity": "MediaUploadSession", "from": upload.state, "to": SessionState.VERIFYING.value},
        )
    chosen = services.profile(asset.profile)
    try:
        head = await services.storage(chosen).head(upload.upload_key)
    except StorageNotFound as error:
        if upload.state != SessionState.UPLOADED and rows.live_seconds(upload) <= 0:
            found, _ = await services.database.write(_expire_and_wake, services.settings, session_id)
        else:  # it may have ended since it was read, and then its object is deleted
            found = await find_upload(services, session_id)
        if found.session.state == SessionState.COMPLETED:
            return found
        if found.session.state in ENDED_SESSIONS:
            raise ended_error(found.session) from error
        raise StorageObjectMissing(
            "the object of this upload has not arrived; send the bytes to the signed URL and verify again",
            detail={"session_id": session_id},
        ) from error
    except StorageError as error:
        # The browser may never call again: the workflow verifies the upload when the store answers again.
        await services.database.write(_wake, services.settings, session_id, "complete")
        if error.retryable and not isinstance(error, StorageUnauthorized):
            raise
        raise StorageTransient(
            "the store does not answer; verification continues in the background", adapter=error.adapter
        ) from error
    digest = WholeDigest.of(upload)
    if digest is not None and digest.is_pending:
        raise StorageObjectMissing(
            "the digest of this upload is not compared yet, which its workflow does; verify again in a moment",
            detail={"session_id": session_id},
        )
    rejection = _size_error(chosen, upload, head)
    if rejection is not None:
        await reject(services, session_id, rejection)
    done, first = await services.database.write(_complete_and_wake, services.settings, session_id, head)
    if done.session.state in ENDED_SESSIONS and done.session.state != SessionState.COMPLETED:
        raise ended_error(done.session)
    if first:
        facts = {"profile": chosen.name, "session_id": session_id, "asset_id": asset.id}
        telemetry.emit("rindle.upload.stop", facts)
    return done


def _size_error(profile: type[Profile], upload: MediaUploadSession, head: ObjectHead) -> UploadRejected | None:
    max_bytes = profile.upload_policy().max_bytes
    if head.size == 0:
        return rejected(UploadRejected, "empty_upload", "the uploaded file is empty", found=0)
    if max_bytes is not None and head.size > max_bytes:
        return rejected(
            UploadRejected,
            "max_bytes_exceeded",
            f"the upload has {head.size} bytes; profile {profile.name!r} allows max_bytes={max_bytes}",
            limit=max_bytes,
            found=head.size,
        )
    if upload.expected_size is not None and head.size != upload.expected_size:
        return rejected(
            UploadRejected,
            "size_mismatch",
            f"the upload has {head.size} bytes, but {upload.expected_size} were declared",
            expected=upload.expected_size,
            found=head.size,
        )
    return None


async def reject(services: Services, session_id: SessionOrId, rejection: UploadRejected) -> None:
    """Fail a session whose bytes the profile refuses, and have them removed.

    Raises:
        UploadRejected: ``rejection``, unless the session was completed meanwhile.
    """

    wanted = id_of_session(session_id)

    def note(session: Session) -> Upload:
        found, first = rows.reject_upload(session, wanted, rejection)
        if first:
            outbox.wake_upload(session, services.settings, found.session, found.asset.profile, signal="touch")
        return found

    found = await services.database.write(note)
    if found.session.state != SessionState.COMPLETED:
        raise rejection


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


# --- cancel and resume ------------------------------------------------------------------------------------------


async def cancel_upload(services: Services, session_id: SessionOrId) -> MediaUploadSession:
    """Abort a live session; see ``Rindle.cancel_upload``."""
    wanted = id_of_session(session_id)

    def abort(session: Session) -> Upload:
        found, first = rows.abort_upload(session, wanted)
        if first:
            outbox.wake_upload(session, services.settings, found.session, found.asset.profile, signal="cancel")
        return found

    found = await services.database.write(abort)
    if found.session.state == SessionState.COMPLETED:
        raise UploadAlreadyCompleted(
            "this upload is complete and cannot be cancelled; purge the asset instead",
            detail={"session_id": wanted},
        )
    return found.session


async def resume(services: Services, asset: AssetOrId) -> None:
    """Continue promotion from the state of the asset's rows, after an outage that exceeded the retry time."""

    asset_id = id_of_asset(asset)

    def wake(session: Session) -> None:
        found = rows.find_by_asset(session, asset_id)
        if found is None:
            raise NotFound("no upload of an asset with this id", detail={"entity": "asset"})
        services.profile(found.asset.profile)  # no step can run without it
        promotion.forget_failure(session, asset_id)
        outbox.wake_upload(session, services.settings, found.session, found.asset.profile, signal="verified")

    await services.database.write(wake)


def session_expired() -> UploadSessionExpired:
    """Return the error of an expired session."""
    return UploadSessionExpired("the upload session has expired; start a new one")


def ended_error(upload: MediaUploadSession) -> RindleError:
    """Return the error of a session that has ended without its object."""
    if upload.state == SessionState.EXPIRED:
        return session_expired()
    if upload.state == SessionState.ABORTED:
        return UploadCancelled("the upload was cancelled; start a new one")
    return error_of(upload.error_code or "upload_rejected", upload.failure_reason or "the upload was rejected")
