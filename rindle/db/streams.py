"""SQL of uploads that pass through the application in several requests: their lease, their offset, their end.

At most one request at a time has the lease of an upload and changes its offset. A lease that was not renewed, or not
given back in time after another request needed it, is free; a commit of its former holder changes nothing.

A request in the middle of an upload changes no state. It takes the lease and records its bytes by one conditional
UPDATE each, which needs no lock on the asset. Everything else locks the asset and then the session.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from rindle.db import uploads as rows
from rindle.db.events import record_event, session_payload
from rindle.db.models import MediaAsset, MediaUploadSession, is_id, unstored_copy, utc_now
from rindle.db.transitions import lock_asset, move_session, set_fields, set_fields_if
from rindle.errors import TusError
from rindle.protocols import Part, PartStreamState
from rindle.states import ENDED_BADLY, ENDED_SESSIONS, AssetState, SessionState

#: Values of ``resumable_protocol`` of uploads that pass through the application: tus 1.0.0, and the draft of the IETF.
TUS, IETF = "tus", "ietf"
STREAMED = frozenset({TUS, IETF})
#: Values of ``concat_role``.
WHOLE, PARTIAL, FINAL = "none", "partial", "final"
#: ``failure_reason`` of a partial upload that has become part of a verified one.
CONCATENATED = "concatenated"
#: States in which bytes may still arrive.
OPEN = frozenset({SessionState.INITIALIZED, SessionState.SIGNED, SessionState.RESUMING, SessionState.UPLOADING})

#: States of an upload whose bytes are all stored and whose object is not verified.
ASSEMBLING = frozenset({SessionState.UPLOADED, SessionState.VERIFYING})


@dataclass(frozen=True, slots=True)
class Stream:
    """An upload session and its asset, as they were when they were read; a partial upload has no asset."""

    session: MediaUploadSession
    asset: MediaAsset | None

    @property
    def upload(self) -> rows.Upload:
        """The same rows of an upload that has an asset."""
        if self.asset is None:
            raise ValueError("a partial upload has no asset")
        return rows.Upload(self.session, self.asset)


def state_of(upload: MediaUploadSession) -> PartStreamState:
    """Return what the row knows of the bytes in the store."""
    return PartStreamState(
        offset=upload.last_known_offset,
        part_size=upload.part_size or 0,
        upload_id=upload.multipart_upload_id,
        parts=tuple(Part(one["part_number"], one["etag"], one["size"]) for one in upload.multipart_parts),
    )


def columns_of(state: PartStreamState) -> dict[str, Any]:
    """Return ``state`` as columns of a session."""
    return {
        "last_known_offset": state.offset,
        "part_size": state.part_size or None,
        "multipart_upload_id": state.upload_id,
        "multipart_parts": [
            {"part_number": part.part_number, "etag": part.etag, "size": part.size} for part in state.parts
        ],
    }


# --- reading and locking -----------------------------------------------------------------------------------------


def find_stream(session: Session, session_id: str) -> Stream | None:
    """Return an upload session with its asset, if it has one; ``None`` when there is no such session."""
    if not is_id(session_id):
        return None
    found = session.execute(_FINDING, {"session_id": session_id}).one_or_none()
    return None if found is None else Stream(*found)


def find_streams(session: Session, session_ids: Collection[str]) -> dict[str, Stream]:
    """Return upload sessions by their ids."""
    found = session.execute(
        _WITH_ASSETS.where(MediaUploadSession.id.in_([one for one in set(session_ids) if is_id(one)]))
    )
    return {upload.id: Stream(upload, asset) for upload, asset in found}


_WITH_ASSETS = (
    select(MediaUploadSession, MediaAsset)
    .outerjoin(MediaAsset, MediaAsset.id == MediaUploadSession.asset_id)
    .execution_options(populate_existing=True)
)
#: Built once, because every request begins with it.
_FINDING = _WITH_ASSETS.where(MediaUploadSession.id == bindparam("session_id"))


def live_of(session: Session, session_ids: Collection[str]) -> set[str]:
    """Return those of the upload sessions that have not ended."""
    found = find_streams(session, session_ids)
    return {session_id for session_id, stream in found.items() if stream.session.state not in ENDED_SESSIONS}


def assembling_of(session: Session, session_ids: Collection[str]) -> set[str]:
    """Return those of the uploads whose bytes are all stored and whose object is not verified."""
    found = select(MediaUploadSession.id).where(
        MediaUploadSession.id.in_(session_ids), MediaUploadSession.state.in_(ASSEMBLING)
    )
    return set(session.scalars(found))


def find_partial(session: Session, session_id: str) -> MediaUploadSession | None:
    """Return a partial upload, or ``None``."""
    found = find_stream(session, session_id)
    return found.session if found is not None and found.session.concat_role == PARTIAL else None


def lock_stream(session: Session, session_id: str) -> Stream:
    """Lock the asset, if there is one, and the session; return the rows as they are now.

    Raises:
        NotFound: no such session, or its asset was purged.
    """
    if not is_id(session_id):
        raise rows.no_such_upload()
    named = session.execute(
        select(MediaUploadSession.asset_id).where(MediaUploadSession.id == session_id)
    ).one_or_none()
    if named is None:
        raise rows.no_such_upload()
    asset_id: str | None = named[0]
    asset = None if asset_id is None else lock_asset(session, asset_id)
    upload = session.scalars(_LOCKING, {"session_id": session_id}).one_or_none()
    if upload is None or (asset_id is not None and asset is None):
        raise rows.no_such_upload()
    return Stream(upload, asset)


_LOCKING = (
    select(MediaUploadSession)
    .where(MediaUploadSession.id == bindparam("session_id"))
    .with_for_update(key_share=True)
    .execution_options(populate_existing=True)
)


def _lock_receiving(session: Session, session_id: str) -> Stream:
    """Lock an upload that is about to take bytes, or has just done so.

    Raises:
        NotFound: no such session, or its asset is being purged: what arrives now would outlive it.
    """
    found = lock_stream(session, session_id)
    _require_receiving(found)
    return found


def _require_receiving(found: Stream) -> None:
    if found.asset is not None and found.asset.state == AssetState.DELETED:
        raise rows.no_such_upload()


def insert_partial(session: Session, upload: MediaUploadSession, profile: str) -> None:
    """Add a partial upload, with its event."""
    session.add(upload)
    session.flush()
    record_event(
        session,
        "upload_session_initialized",
        scope=("upload_session", upload.id),
        payload=session_payload(upload),
        asset_id=None,
        profile=profile,
        actor=upload.actor,
    )


def note_opened(session: Session, upload: MediaUploadSession, *, is_complete: bool) -> None:
    """Move a new upload to ``signed``, and to ``uploaded`` when all its bytes are there."""
    path = [SessionState.SIGNED, *([SessionState.UPLOADED] if is_complete else [])]
    move_session(session, upload, path[-1], through=path[:-1])


def keep_until(session: Session, upload: MediaUploadSession, expires_at: datetime) -> None:
    """Extend the life of an upload, which the caller has locked, to ``expires_at`` at least."""
    if upload.expires_at < expires_at:
        set_fields(session, upload, expires_at=expires_at)


# --- the lease ---------------------------------------------------------------------------------------------------


def take_lease(
    session: Session, known: Stream, owner: str, *, seconds: float, yield_seconds: float
) -> tuple[Stream, bool]:
    """Give the lease of an upload to ``owner``, or note that another request needs it.

    Args:
        known: the upload as it was read before.

    Returns:
        the upload, and whether ``owner`` has the lease now. Otherwise the present holder has ``yield_seconds`` left.

    Raises:
        NotFound: no such session, or its asset is being purged.
    """
    _require_receiving(known)
    now = utc_now()
    values: dict[str, Any] = {
        "lock_owner": owner,
        "lock_expires_at": now + timedelta(seconds=seconds),
        "lock_yield": False,
    }
    # A purge that has begun since then has changed the session, too: :func:`end_leases`.
    unchanged = {name: getattr(known.session, name) for name in ("updated_at", "state", "last_known_offset")}
    taken = unstored_copy(known.session)
    if set_fields_if(session, taken, {**unchanged, "lock_owner": None}, **values):
        return Stream(taken, known.asset), True
    found = _lock_receiving(session, known.session.id)
    upload = found.session
    is_abandoned = upload.lock_owner is not None and (upload.lock_expires_at is None or upload.lock_expires_at <= now)
    if upload.lock_owner is not None and not is_abandoned:
        limit = now + timedelta(seconds=yield_seconds)
        held_until = limit if upload.lock_expires_at is None else min(limit, upload.lock_expires_at)
        if not upload.lock_yield:
            set_fields(session, upload, lock_yield=True, lock_expires_at=held_until)
        return found, False
    if is_abandoned and upload.part_size:
        # The former holder may still send a part: its number is not used again.
        values["multipart_parts"] = columns_of(state_of(upload).without_next_number())["multipart_parts"]
    set_fields(session, upload, **values)
    return found, True


def leases_of(session: Session, session_ids: Sequence[str]) -> dict[str, tuple[str | None, bool]]:
    """Return the holder of each lease, and whether another request needs it."""
    found = session.execute(
        select(MediaUploadSession.id, MediaUploadSession.lock_owner, MediaUploadSession.lock_yield).where(
            MediaUploadSession.id.in_(session_ids)
        )
    )
    return {session_id: (owner, is_needed) for session_id, owner, is_needed in found}


def renew_leases(session: Session, owners: Mapping[str, str], *, seconds: float) -> dict[str, tuple[str | None, bool]]:
    """Extend the leases ``{session id: owner}`` that nobody else needs; returns all of them, as :func:`leases_of`."""
    session.execute(
        update(MediaUploadSession)
        .where(
            MediaUploadSession.id.in_(list(owners)),
            MediaUploadSession.lock_owner.in_(list(owners.values())),
            MediaUploadSession.lock_yield.is_(False),
        )
        .values(lock_expires_at=utc_now() + timedelta(seconds=seconds))
        .execution_options(synchronize_session=False)
    )
    return leases_of(session, list(owners))


def release_lease(session: Session, session_id: str, owner: str) -> None:
    """End the lease if ``owner`` still has it."""
    session.execute(
        update(MediaUploadSession)
        .where(MediaUploadSession.id == session_id, MediaUploadSession.lock_owner == owner)
        .values(**_FREE)
        .execution_options(synchronize_session=False)
    )


def end_leases(session: Session, asset_id: str) -> None:
    """End the leases of an asset's uploads, and give none to a request that has read them before.

    Holders record nothing more, and notice it soon. This changes ``updated_at``, which :func:`take_lease` compares.
    """
    session.execute(
        update(MediaUploadSession)
        .where(MediaUploadSession.asset_id == asset_id)
        .values(**_FREE)
        .execution_options(synchronize_session=False)
    )


_FREE: Mapping[str, Any] = {"lock_owner": None, "lock_expires_at": None, "lock_yield": False}


# --- the offset --------------------------------------------------------------------------------------------------


def commit_state(
    session: Session,
    known: Stream,
    owner: str,
    *,
    state: PartStreamState,
    ttl_seconds: float,
    release: bool,
    ends: bool = True,
) -> tuple[Stream, bool]:
    """Record what the holder of the lease has stored; returns the upload and whether its last byte has arrived.

    Args:
        known: the upload as the holder has taken it, or recorded it before.
        ttl_seconds: how long a session with progress lives from now.
        release: end the lease as well; only then is an upload complete.
        ends: whether it is complete then when it has as many bytes as its length.

    Raises:
        TusError: ``tus_locked``, the lease belongs to another request by now; ``tus_session_expired``, the upload has
            ended. Nothing was changed.
        NotFound: it was purged, or is being purged.
    """
    base = known.session.last_known_offset
    values: dict[str, Any] = columns_of(state)
    if state.offset != base:
        values["expires_at"] = rows.slid_expiry(known.session, ttl_seconds)
    if release:
        values |= _FREE
    is_complete = release and ends and known.session.upload_length == state.offset
    if known.session.state == SessionState.UPLOADING and not is_complete:  # no transition
        held = {"lock_owner": owner, "last_known_offset": base, "state": SessionState.UPLOADING}
        recorded = unstored_copy(known.session)
        if set_fields_if(session, recorded, held, **values):
            return Stream(recorded, known.asset), False
    found = _lock_receiving(session, known.session.id)
    upload = found.session
    if upload.lock_owner != owner or upload.last_known_offset != base:
        raise _taken_over()
    if upload.state not in OPEN:
        raise TusError(f"the upload is {upload.state}", code="tus_session_expired", detail={"state": upload.state})
    path: list[SessionState] = []
    if state.offset > 0 and upload.state != SessionState.UPLOADING:
        path.append(SessionState.UPLOADING)
    if is_complete:
        path.append(SessionState.UPLOADED)
    if path:
        move_session(session, upload, path[-1], through=path[:-1], **values)
    else:
        set_fields(session, upload, **values)
    return found, is_complete


def set_length(session: Session, session_id: str, owner: str, length: int) -> Stream:
    """Record the length of an upload whose length was unknown.

    Raises:
        TusError: ``tus_locked``; NotFound: as :func:`commit_state`.
    """
    found = _lock_receiving(session, session_id)
    if found.session.lock_owner != owner:
        raise _taken_over()
    set_fields(session, found.session, upload_length=length, expected_size=length)
    return found


def _taken_over() -> TusError:
    return TusError("another request continues this upload", code="tus_locked", retryable=True, retry_after=1)


# --- the end -----------------------------------------------------------------------------------------------------


def abort_stream(session: Session, session_id: str, *, reason: str | None = None) -> tuple[Stream, bool]:
    """Abort an upload that has not ended; returns whether this call did it.

    Raises:
        TusError: ``tus_locked``, a final upload is being made of this partial one.
    """
    found = lock_stream(session, session_id)
    if found.session.state in ENDED_SESSIONS or found.session.state == SessionState.VERIFYING:
        return found, False
    if found.session.concat_role == PARTIAL and reason != CONCATENATED and open_finals(session, session_id):
        raise TusError("a final upload is made of this one", code="tus_locked", retryable=True, retry_after=1)
    move_session(session, found.session, SessionState.ABORTED, failure_reason=reason, **_FREE)
    return found, True


def expire_stream(session: Session, session_id: str, *, now: datetime | None = None) -> tuple[Stream, bool]:
    """Expire an upload after its ``expires_at``; returns it and whether this call did it.

    One that was extended or has ended does not change, nor one whose bytes have all arrived, unless it is partial; nor
    a partial one that a final upload still needs.
    """
    found = lock_stream(session, session_id)
    lives = OPEN | ({SessionState.UPLOADED} if found.session.concat_role == PARTIAL else set())
    if found.session.state not in lives or found.session.expires_at > (now or utc_now()):
        return found, False
    if found.session.concat_role == PARTIAL and open_finals(session, session_id):
        return found, False
    move_session(session, found.session, SessionState.EXPIRED, error_code="upload_session_expired", **_FREE)
    return found, True


def note_joined(session: Session, session_id: str) -> None:
    """Record that the object of a final upload was made."""
    found = lock_stream(session, session_id)
    set_fields(session, found.session, last_known_offset=found.session.upload_length)


def note_metadata(session: Session, session_id: str, metadata: str) -> Stream:
    """Replace ``upload_metadata`` of an upload, and return it."""
    found = lock_stream(session, session_id)
    set_fields(session, found.session, upload_metadata=metadata)
    return found


def fail_stream(
    session: Session, session_id: str, *, code: str, reason: str, owner: str | None = None
) -> tuple[Stream, bool]:
    """End an upload whose stored bytes are lost; returns whether this call did it.

    Args:
        owner: the request that has not found the bytes; ``None`` in the workflow, whose turn comes after all requests.

    Raises:
        TusError: ``tus_locked``, the lease belongs to another request by now, or that one has completed the upload.
            ``owner`` has looked for bytes that were moved.
    """
    found = lock_stream(session, session_id)
    state = found.session.state
    if owner is not None and found.session.lock_owner != owner and state not in ENDED_BADLY:
        raise _taken_over()
    if state in ENDED_SESSIONS or state == SessionState.VERIFYING:
        return found, False
    move_session(session, found.session, SessionState.FAILED, error_code=code, failure_reason=reason, **_FREE)
    return found, True


def source_ids(upload: MediaUploadSession) -> list[str]:
    """Return the ids of the partial uploads that a final one joins, in their order; one may occur repeatedly."""
    return [source["session_id"] for source in upload.concat_sources]


def open_finals(session: Session, partial_id: str) -> list[str]:
    """Return the ids of the unfinished uploads that join the partial upload ``partial_id``."""
    found = session.scalars(
        select(MediaUploadSession).where(
            MediaUploadSession.upload_strategy == "resumable",
            MediaUploadSession.resumable_protocol == TUS,
            MediaUploadSession.state.in_([SessionState.SIGNED, SessionState.UPLOADED, SessionState.VERIFYING]),
            MediaUploadSession.concat_role == FINAL,
        )
    )
    return [upload.id for upload in found if partial_id in source_ids(upload)]
