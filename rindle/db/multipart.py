"""SQL of multipart uploads: the store's upload id, grants of parts, progress, and the manifest of the object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import delete
from sqlalchemy.orm import Session

from rindle.db.models import MediaAsset, MediaEvent, MediaOutbox, MediaUploadSession
from rindle.db.transitions import move_session, set_fields
from rindle.db.uploads import Upload, lock_upload, no_such_upload, slid_expiry
from rindle.errors import InvalidTransition, NotFound
from rindle.protocols import Part
from rindle.states import ENDED_SESSIONS, AssetState, SessionState

#: The strategy of these sessions.
MULTIPART = "multipart"
#: States in which parts are sent and listed.
OPEN = frozenset({SessionState.INITIALIZED, SessionState.SIGNED, SessionState.UPLOADING})


class Begun(NamedTuple):
    """A session with an upload in the store; ``is_first`` when this call recorded it."""

    upload: Upload
    is_first: bool


def manifest_of(upload: MediaUploadSession) -> list[Part]:
    """Return the parts from which the object is made; empty until completion is requested."""
    return [Part(**part) for part in upload.multipart_parts]


def note_begun(session: Session, session_id: str, upload_id: str) -> Begun:
    """Record the store's upload of a session that has none yet and has not ended.

    Raises:
        NotFound: the session is gone, or its asset is being purged.
    """
    found = lock_upload(session, session_id)
    if found.asset.state == AssetState.DELETED:
        raise no_such_upload()
    if found.session.multipart_upload_id is not None or found.session.state in ENDED_SESSIONS:
        return Begun(found, False)
    set_fields(session, found.session, multipart_upload_id=upload_id)
    return Begun(found, True)


def forget(session: Session, session_id: str, workflow_id: str) -> bool:
    """Delete the rows of a session that was never begun in the store; returns whether there were such rows.

    Args:
        workflow_id: of the upload; its messages that are not sent yet are deleted, too.
    """
    try:
        found = lock_upload(session, session_id)
    except NotFound:
        return False
    if found.session.multipart_upload_id is not None or found.session.state != SessionState.INITIALIZED:
        return False
    asset_id = found.asset.id
    session.execute(delete(MediaEvent).where(MediaEvent.asset_id == asset_id))
    session.execute(
        delete(MediaOutbox).where(MediaOutbox.workflow_id == workflow_id, MediaOutbox.dispatched_at.is_(None))
    )
    session.expunge(found.session)
    session.expunge(found.asset)
    session.execute(delete(MediaUploadSession).where(MediaUploadSession.id == session_id))
    session.execute(delete(MediaAsset).where(MediaAsset.id == asset_id))
    return True


def abandon(session: Session, session_id: str) -> tuple[Upload, bool]:
    """Abort a session whose upload may or may not have begun in the store; returns whether this call did it."""
    found = lock_upload(session, session_id)
    if found.session.multipart_upload_id is not None or found.session.state != SessionState.INITIALIZED:
        return found, False
    move_session(session, found.session, SessionState.ABORTED)
    return found, True


def note_part_signed(
    session: Session, session_id: str, url_expires_at: datetime, ttl_seconds: float
) -> tuple[Upload, bool]:
    """Record the expiry of a part's grant, and extend the session; returns whether it was the first grant.

    Raises:
        NotFound: the asset is being purged: no new grant may outlive it.
        InvalidTransition: the session has ended, or its object is being made.
    """
    found = lock_upload(session, session_id)
    upload = found.session
    if found.asset.state == AssetState.DELETED:
        raise no_such_upload()
    if upload.state not in OPEN:
        raise not_open(upload)
    known = upload.url_expires_at
    values: dict[str, Any] = {
        "url_expires_at": url_expires_at if known is None else max(known, url_expires_at),
        "expires_at": slid_expiry(upload, ttl_seconds),
    }
    is_first = upload.state == SessionState.INITIALIZED
    if is_first:
        move_session(session, upload, SessionState.SIGNED, **values)
    else:
        set_fields(session, upload, **values)
    return found, is_first


def not_open(upload: MediaUploadSession) -> InvalidTransition:
    """Return the error of a session that takes no parts any more."""
    return InvalidTransition(
        f"an upload in state {upload.state} takes no parts; start a new one",
        detail={"entity": "MediaUploadSession", "from": upload.state, "to": SessionState.SIGNED.value},
    )


def note_progress(session: Session, session_id: str, parts: Sequence[Part], ttl_seconds: float) -> Upload:
    """Record the parts that the store has; more bytes than before extend the session. Ended ones do not change."""
    found = lock_upload(session, session_id)
    upload = found.session
    size = sum(part.size for part in parts)
    if upload.state not in OPEN or size == upload.last_known_offset:
        return found
    values: dict[str, Any] = {"last_known_offset": size}
    if size > upload.last_known_offset:
        values["expires_at"] = slid_expiry(upload, ttl_seconds)
    _set_while_uploading(session, upload, values)
    return found


def note_manifest(session: Session, session_id: str, parts: Sequence[Part], ttl_seconds: float) -> Upload:
    """Record the parts from which the object is about to be made, unless the session has ended or is complete."""
    found = lock_upload(session, session_id)
    upload = found.session
    if upload.state not in OPEN:
        return found
    values: dict[str, Any] = {
        "multipart_parts": [asdict(part) for part in parts],
        "last_known_offset": sum(part.size for part in parts),
        "expires_at": slid_expiry(upload, ttl_seconds),
    }
    _set_while_uploading(session, upload, values)
    return found


def _set_while_uploading(session: Session, upload: MediaUploadSession, values: Mapping[str, Any]) -> None:
    """Set columns of an open session whose parts arrive, and move it to ``uploading`` unless it is there."""
    if upload.state == SessionState.UPLOADING:
        set_fields(session, upload, **values)
    else:
        through = [SessionState.SIGNED] if upload.state == SessionState.INITIALIZED else []
        move_session(session, upload, SessionState.UPLOADING, through=through, **values)


def drop_manifest(session: Session, session_id: str) -> None:
    """Forget a manifest that the store has refused: the upload waits for its parts again."""
    found = lock_upload(session, session_id)
    if found.session.state in OPEN and found.session.multipart_parts:
        set_fields(session, found.session, multipart_parts=[])


def note_assembled(session: Session, session_id: str) -> tuple[Upload, bool]:
    """Move a session whose object was made to ``uploaded``; returns whether this call did it.

    Raises:
        NotFound: the asset was purged, or is being purged: its object must not stay.
    """
    found = lock_upload(session, session_id)
    if found.asset.state == AssetState.DELETED:
        raise no_such_upload()
    if found.session.state not in OPEN:
        return found, False
    move_session(session, found.session, SessionState.UPLOADED)
    return found, True


def fail_upload(session: Session, session_id: str, *, code: str, reason: str) -> tuple[Upload, bool]:
    """End a session whose parts are gone from the store; returns whether this call did it."""
    found = lock_upload(session, session_id)
    if found.session.state not in OPEN:
        return found, False
    move_session(session, found.session, SessionState.FAILED, error_code=code, failure_reason=reason)
    return found, True
