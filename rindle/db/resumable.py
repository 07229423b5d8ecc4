"""SQL of resumable sessions of the store: their row, and how far they are."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from rindle.db.models import MediaAsset, MediaUploadSession
from rindle.db.transitions import move_session, set_fields
from rindle.db.uploads import Upload, insert_upload, lock_upload, no_such_upload, slid_expiry
from rindle.states import AssetState, SessionState

#: The strategy of these sessions, and their protocol.
RESUMABLE, GCS = "resumable", "gcs"
#: States in which bytes are sent.
OPEN = frozenset({SessionState.SIGNED, SessionState.RESUMING, SessionState.UPLOADING})


def insert_begun(
    session: Session,
    asset: MediaAsset,
    upload: MediaUploadSession,
    *,
    session_uri: str,
    session_uri_expires_at: datetime,
    region_hint: str | None,
) -> Upload:
    """Add the rows of an upload whose session the store has begun; the upload starts as ``signed``.

    Args:
        session_uri: as it is kept; see :mod:`rindle.uploads.session_uris`.
    """
    inserted = insert_upload(session, asset, upload)
    move_session(
        session,
        inserted.session,
        SessionState.SIGNED,
        session_uri=session_uri,
        session_uri_expires_at=session_uri_expires_at,
        region_hint=region_hint,
        # Until then a PUT to the session URI may create the object.
        url_expires_at=inserted.session.expires_at,
    )
    return inserted


def note_status(
    session: Session,
    session_id: str,
    *,
    committed_bytes: int,
    region_hint: str | None,
    is_resumed: bool,
    ttl_seconds: float,
) -> Upload:
    """Record how many bytes the store has; more bytes than before extend the session. Ended ones do not change.

    Args:
        is_resumed: a client is about to continue: the session moves to ``resuming``, and with its next bytes back to
            ``uploading``.

    Raises:
        NotFound: the asset is being purged: its session must not be extended.
    """
    found = lock_upload(session, session_id)
    upload = found.session
    if found.asset.state == AssetState.DELETED:
        raise no_such_upload()
    if upload.state not in OPEN:
        return found
    has_grown = committed_bytes > upload.last_known_offset
    values: dict[str, Any] = {}
    if committed_bytes != upload.last_known_offset:
        values["last_known_offset"] = committed_bytes
    if region_hint is not None and region_hint != upload.region_hint:
        values["region_hint"] = region_hint
    if has_grown or is_resumed:
        values["expires_at"] = values["url_expires_at"] = slid_expiry(upload, ttl_seconds)
    through = [SessionState.UPLOADING] if has_grown and upload.state != SessionState.UPLOADING else []
    if is_resumed and (through or upload.state != SessionState.RESUMING):
        move_session(session, upload, SessionState.RESUMING, through=through, **values)
    elif through:
        move_session(session, upload, SessionState.UPLOADING, **values)
    elif values:
        set_fields(session, upload, **values)
    return found
