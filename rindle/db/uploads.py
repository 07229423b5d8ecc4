"""SQL of upload sessions and their assets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from rindle.db.events import record_event, session_payload
from rindle.db.models import MediaAsset, MediaUploadSession, is_id, utc_now
from rindle.db.transitions import lock_asset, move_asset, move_session, set_fields
from rindle.errors import MAX_REASON_CHARS, ContentRejected, NotFound, UploadRejected
from rindle.profile import Profile
from rindle.protocols import MAX_URL_SECONDS
from rindle.security import corrected_names
from rindle.states import ENDED_SESSIONS, AssetState, MediaKind, SessionState
from rindle.text import storable_document

#: The columns that a rejection sets, cleared.
NO_REJECTION: Mapping[str, None] = MappingProxyType(
    dict.fromkeys(("error_code", "error_reason", "error_detail", "operator_reason"))
)
_KINDS = frozenset(kind.value for kind in MediaKind)
#: Longest parameter of a rejection that a row keeps, as JSON.
MAX_PARAMETER_CHARS = 2048


@dataclass(frozen=True, slots=True)
class Upload:
    """A session and its asset, as they were when they were read."""

    session: MediaUploadSession
    asset: MediaAsset


def insert_upload(
    session: Session, asset: MediaAsset, upload: MediaUploadSession, *, signed_until: datetime | None = None
) -> Upload:
    """Add a new asset and its upload session, with their events.

    Args:
        signed_until: expiry of a URL that is already signed; the session is then ``signed``.
    """
    upload.asset_id = asset.id
    session.add(asset)
    session.flush()  # the session's foreign key needs the asset
    session.add(upload)
    session.flush()
    record_event(
        session,
        "upload_session_initialized",
        scope=("upload_session", upload.id),
        payload=session_payload(upload),
        asset_id=asset.id,
        profile=asset.profile,
        actor=upload.actor,
    )
    if signed_until is not None:
        move_session(session, upload, SessionState.SIGNED, url_expires_at=signed_until)
    return Upload(upload, asset)


def find_upload(session: Session, session_id: str) -> Upload | None:
    """Return a session and its asset, or ``None``."""
    return _one(session, _PAIR_BY_ID, {"session_id": session_id}) if is_id(session_id) else None


def find_by_asset(session: Session, asset_id: str) -> Upload | None:
    """Return the upload of an asset, or ``None``."""
    return _pair(session, MediaUploadSession.asset_id == asset_id) if is_id(asset_id) else None


def find_by_key(session: Session, key: str) -> Upload | None:
    """Return the upload whose object is at ``key``, or ``None``."""
    return _pair(session, MediaUploadSession.upload_key == key)


def find_by_idempotency_key(session: Session, actor: str, key: str) -> Upload | None:
    """Return the upload that an actor initiated with an idempotency key, or ``None``; keys are unique per actor."""
    return _pair(session, (MediaUploadSession.actor == actor) & (MediaUploadSession.idempotency_key == key))


def lock_upload(session: Session, session_id: str) -> Upload:
    """Lock the asset, then read the session as it is now.

    Raises:
        NotFound: no such session, or its asset was purged.
    """
    if not is_id(session_id):
        raise no_such_upload()
    asset_id = session.scalar(select(MediaUploadSession.asset_id).where(MediaUploadSession.id == session_id))
    asset = None if asset_id is None else lock_asset(session, asset_id)
    upload = session.get(MediaUploadSession, session_id, populate_existing=True)
    if asset is None or upload is None:
        raise no_such_upload()
    return Upload(upload, asset)


def no_such_upload() -> NotFound:
    """Return the error for an unknown session id, and for an upload that the caller may not see."""
    return NotFound("could not find the upload session: not found", detail={"entity": "upload_session"})


def note_signed(session: Session, session_id: str, url_expires_at: datetime) -> Upload:
    """Move a new session to ``signed`` and store the expiry of its newest URL.

    Raises:
        NotFound: the asset is being purged: no new URL may outlive it.
    """
    found = lock_upload(session, session_id)
    if found.asset.state == AssetState.DELETED:
        raise no_such_upload()
    known = found.session.url_expires_at
    latest = url_expires_at if known is None else max(known, url_expires_at)
    if found.session.state == SessionState.INITIALIZED:
        move_session(session, found.session, SessionState.SIGNED, url_expires_at=latest)
    elif found.session.state in (SessionState.SIGNED, SessionState.UPLOADING):
        set_fields(session, found.session, url_expires_at=latest)
    else:
        move_session(session, found.session, SessionState.SIGNED)  # raises: the table has no such transition
    return found


def complete_upload(
    session: Session, session_id: str, *, size: int, etag: str, content_type: str | None
) -> tuple[Upload, bool]:
    """Record that the bytes arrived; returns the upload and whether this call was the one that recorded it.

    Terminal sessions do not change: a second call, a cancel or the timer came first.
    """
    found = lock_upload(session, session_id)
    if found.session.state in ENDED_SESSIONS:
        return found, False
    move_session(
        session,
        found.session,
        SessionState.COMPLETED,
        through=[SessionState.VERIFYING],
        verified_at=utc_now(),
        verified_etag=etag,
        failure_reason=None,
    )
    facts: dict[str, Any] = {**NO_REJECTION, "byte_size": size, "stored_etag": etag, "content_type": content_type}
    move_asset(session, found.asset, AssetState.VALIDATING, **facts)
    return found, True


def reject_upload(session: Session, session_id: str, rejection: UploadRejected) -> tuple[Upload, bool]:
    """Fail a session and quarantine its asset with the same code."""
    found = lock_upload(session, session_id)
    if found.session.state in (SessionState.COMPLETED, SessionState.FAILED):
        return found, False
    move_session(session, found.session, SessionState.VERIFYING)
    move_session(
        session, found.session, SessionState.FAILED, error_code=rejection.code, failure_reason=rejection.message
    )
    move_asset(session, found.asset, AssetState.QUARANTINED, **rejection_columns(rejection))
    return found, True


def type_columns(mime: str) -> dict[str, str]:
    """Return the columns of an asset whose bytes have the type ``mime``; promotion writes the kind that it measures."""
    family = mime.partition("/")[0]
    return {"content_type": mime, **({"kind": family} if family in _KINDS else {})}


def file_columns(asset: MediaAsset, profile: type[Profile], mime: str) -> dict[str, Any]:
    """Return the columns of an asset whose bytes have passed the byte gate with the type ``mime``: type and names."""
    names = corrected_names(profile.upload_policy(), mime, asset.filename, asset.display_name)
    return {**type_columns(mime), "filename": names[0], "display_name": names[1]}


def rejection_columns(rejection: UploadRejected | ContentRejected) -> dict[str, Any]:
    """Return the columns of an asset whose content was rejected: one message for the uploader, one for the operator."""
    operator = rejection.operator or rejection.message
    return {
        "error_code": rejection.code,
        "error_reason": rejection.message[:MAX_REASON_CHARS],
        "error_detail": _parameters(rejection.detail),
        "operator_reason": operator[:MAX_REASON_CHARS],
    }


def _parameters(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of ``detail`` is a small JSON document; a plug-in may have put anything into it."""
    kept: dict[str, Any] = {}
    for name, value in detail.items():
        try:
            if len(json.dumps(value, allow_nan=False)) <= MAX_PARAMETER_CHARS:
                kept[str(name)] = storable_document(value)
        except (TypeError, ValueError):
            continue
    return storable_document(kept)  # type: ignore[no-any-return]


def abort_upload(session: Session, session_id: str) -> tuple[Upload, bool]:
    """Abort a live session; returns whether this call did it. Terminal sessions do not change."""
    found = lock_upload(session, session_id)
    if found.session.state in ENDED_SESSIONS:
        return found, False
    move_session(session, found.session, SessionState.ABORTED)
    return found, True


def expire_upload(session: Session, session_id: str, *, now: datetime | None = None) -> tuple[Upload, bool]:
    """Expire a session after its ``expires_at``; an extended or terminal one does not change."""
    found = lock_upload(session, session_id)
    ended = found.session.state in ENDED_SESSIONS or found.session.state == SessionState.VERIFYING
    if ended or found.session.expires_at > (now or utc_now()):
        return found, False
    move_session(session, found.session, SessionState.EXPIRED, error_code="upload_session_expired")
    return found, True


def note_released(session: Session, session_id: str, *, began_at: datetime) -> None:
    """Record that the object of an ended upload was deleted from the store.

    Args:
        began_at: when the deletion began. A PUT that ends after the deletion can only belong to a ticket that was valid
            then; the time at which the deletion ended could be after the expiry of that ticket.
    """
    upload = session.get(MediaUploadSession, session_id, populate_existing=True)
    if upload is not None:
        set_fields(session, upload, backing_released_at=began_at, session_uri=None, release_error_code=None)


def note_not_released(session: Session, session_id: str, code: str) -> None:
    """Write why the object of an ended upload could not be deleted, once per cause."""
    upload = session.get(MediaUploadSession, session_id, populate_existing=True)
    if upload is not None and upload.release_error_code != code:
        set_fields(session, upload, release_error_code=code)


def late_put_wait(url_expires_at: datetime | None, late_put_seconds: float, *, since: datetime | None = None) -> float:
    """Return the seconds from ``since`` (now) until no PUT with a signed URL can end any more; 0 when none can.

    A PUT that began before the expiry may end after it: the store has checked the signature at its beginning.
    """
    if url_expires_at is None:
        return 0.0
    last = url_expires_at + timedelta(seconds=late_put_seconds)
    return max(0.0, (last - (since or utc_now())) / timedelta(seconds=1))


def slid_expiry(upload: MediaUploadSession, ttl_seconds: float) -> datetime:
    """Return the expiry of a session with progress: ``ttl_seconds`` from now, at most seven days after its opening."""
    latest = upload.inserted_at + timedelta(seconds=MAX_URL_SECONDS)
    return max(upload.expires_at, min(utc_now() + timedelta(seconds=ttl_seconds), latest))


def live_seconds(upload: MediaUploadSession, *, now: datetime | None = None) -> float:
    """Return the seconds until a session expires; zero or less when it has expired."""
    return (upload.expires_at - (now or utc_now())) / timedelta(seconds=1)


def _pair(session: Session, condition: Any) -> Upload | None:
    return _one(session, _PAIR.where(condition), {})


def _one(session: Session, pairs: Select[MediaUploadSession, MediaAsset], values: Mapping[str, str]) -> Upload | None:
    row = session.execute(pairs, values).one_or_none()
    return None if row is None else Upload(*row)


_PAIR = (
    select(MediaUploadSession, MediaAsset)
    .join(MediaAsset, MediaAsset.id == MediaUploadSession.asset_id)
    .execution_options(populate_existing=True)
)
#: Built once, because every step of every upload begins with it.
_PAIR_BY_ID = _PAIR.where(MediaUploadSession.id == bindparam("session_id"))
