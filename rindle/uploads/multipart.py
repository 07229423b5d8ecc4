"""Multipart uploads: clients send the parts of one object directly to the store, in any order, also after a break.

The rules of all lanes (rows, idempotency keys, verification of arrival) are in :mod:`rindle.uploads.sessions`; the
store's side is the ability :class:`~rindle.protocols.MultipartUploads`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from rindle import outbox
from rindle.cancellation import run_to_end
from rindle.capabilities import unsupported
from rindle.crash_points import crash_point
from rindle.db import multipart as rows
from rindle.db import uploads as upload_rows
from rindle.db.ids import SessionOrId
from rindle.db.models import MediaUploadSession
from rindle.db.multipart import MULTIPART as MULTIPART  # the strategy, also of the routes
from rindle.db.multipart import OPEN, manifest_of
from rindle.db.streams import STREAMED
from rindle.db.uploads import Upload
from rindle.errors import (
    CapabilityUnsupported,
    InvalidArgument,
    InvalidMultipartParts,
    InvalidPartNumber,
    MultipartUploadNotInitialized,
    NotFound,
    RindleError,
    StateConflict,
    StorageError,
    StorageNotFound,
    StorageObjectMissing,
    StorageTransient,
    StorageUnauthorized,
    UploadRejected,
)
from rindle.profile import Profile
from rindle.protocols import MultipartUploads, Part, PresignedPart, Storage
from rindle.rejections import rejected
from rindle.security import granted_type
from rindle.services import Services
from rindle.states import ENDED_SESSIONS, SessionState
from rindle.uploads import sessions
from rindle.uploads.sessions import UploadRequest
from rindle.workflows import ids

log = logging.getLogger(__name__)

MIB = 1024 * 1024
#: Size in bytes of a part when the caller names none.
DEFAULT_PART_BYTES = 8 * MIB
#: Smallest and largest size in bytes of a part that is not the last one (S3 API, multipart limits).
MIN_PART_BYTES, MAX_PART_BYTES = 5 * MIB, 5 * 1024 * MIB
#: Largest number of parts, and the largest object that they can make (S3 API, multipart limits).
MAX_PART_COUNT, MAX_OBJECT_BYTES = 10_000, 5 * 1024 * 1024 * MIB
#: How often an ended upload is aborted before the caller has to come again: a part on its way may survive an abort.
_ABORTS = 3


@dataclass(frozen=True, slots=True)
class MultipartGrant:
    """How to send a file in parts.

    Attributes:
        upload_id: the store's name of the upload; it stays on the server.
        upload_key: key of the object that the parts become.
        part_size: size in bytes of every part but the last.
        part_count: number of parts of the declared size; ``None`` when no size was declared.
        part_headers: headers of every part beside those of its own grant.
    """

    upload_id: str = field(repr=False)
    upload_key: str
    part_size: int
    part_count: int | None
    part_headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenedMultipart:
    """A session and how to send its parts."""

    session: MediaUploadSession
    multipart: MultipartGrant


@dataclass(frozen=True, slots=True)
class SignedPart:
    """A session and the grant to PUT one of its parts."""

    session: MediaUploadSession
    presigned: PresignedPart


# --- sizes -------------------------------------------------------------------------------------------------------


def part_size_for(wanted: int | None, *, size: int | None, max_bytes: int | None = None) -> int:
    """Return the size in bytes of the parts of a file.

    Args:
        wanted: the caller's choice; 8 MiB when it makes none.
        size: the declared size; the parts become larger, in whole MiB, where 10000 would not suffice.
        max_bytes: the largest accepted size, for a file of unknown size.

    Raises:
        InvalidArgument: ``wanted`` is out of 5 MiB to 5 GiB.
        UploadRejected: no store keeps an object of this size.
    """
    if wanted is not None and (isinstance(wanted, bool) or not MIN_PART_BYTES <= wanted <= MAX_PART_BYTES):
        raise InvalidArgument(
            f"part_size must be between {MIN_PART_BYTES} and {MAX_PART_BYTES} bytes",
            detail={"option": "part_size", "found": wanted},
        )
    if size is not None and size > MAX_OBJECT_BYTES:
        raise rejected(
            UploadRejected,
            "max_bytes_exceeded",
            f"the declared size is {size} bytes; a multipart upload carries at most {MAX_OBJECT_BYTES}",
            limit=MAX_OBJECT_BYTES,
            found=size,
        )
    largest = min(max_bytes or 0, MAX_OBJECT_BYTES) if size is None else size
    smallest = _ceil(largest, MAX_PART_COUNT)
    chosen = DEFAULT_PART_BYTES if wanted is None else wanted
    return chosen if smallest <= chosen else _ceil(smallest, MIB) * MIB


def part_count_of(upload: MediaUploadSession) -> int | None:
    """Return how many parts the declared size has; ``None`` when none was declared."""
    if upload.expected_size is None or upload.part_size is None:
        return None
    return max(1, _ceil(upload.expected_size, upload.part_size))


def _ceil(amount: int, unit: int) -> int:
    return -(-amount // unit)


# --- opening -----------------------------------------------------------------------------------------------------


async def initiate(
    services: Services, profile: str | type[Profile], request: UploadRequest, *, part_size: int | None = None
) -> OpenedMultipart:
    """Open a session and its upload in the store; see ``Rindle.initiate_multipart_upload``."""
    chosen = services.profile(profile)
    storage = _multipart_storage(services.storage(chosen))
    new = sessions.requested_upload(services.settings, chosen, request, strategy=MULTIPART)
    new.session.part_size = part_size_for(part_size, size=request.size, max_bytes=chosen.upload_policy().max_bytes)
    opened = await sessions.open_upload(services, new)
    if opened.session.multipart_upload_id is None and opened.session.state not in ENDED_SESSIONS:
        # To its end: nobody would know an upload whose id arrived after the cancellation of the caller.
        opened = await run_to_end(_begin(services, storage, opened))
    if opened.session.state in ENDED_SESSIONS and opened.session.state != SessionState.COMPLETED:
        raise sessions.ended_error(opened.session)
    return OpenedMultipart(opened.session, grant_of(opened.session))


def grant_of(upload: MediaUploadSession) -> MultipartGrant:
    """Return how to send the parts of an upload.

    Raises:
        CapabilityUnsupported: it is not sent in parts.
        MultipartUploadNotInitialized: it has not begun in the store.
    """
    upload_id = _upload_id(upload)
    return MultipartGrant(upload_id, upload.upload_key, upload.part_size or DEFAULT_PART_BYTES, part_count_of(upload))


async def _begin(services: Services, storage: MultipartUploads, opened: Upload) -> Upload:
    upload, policy = opened.session, services.profile(opened.asset.profile).upload_policy()
    try:
        begun = await storage.initiate_multipart_upload(
            upload.upload_key,
            upload.part_size or DEFAULT_PART_BYTES,
            # Never the client's own type: the store answers with it until the promotion has detected the real one.
            content_type=granted_type(policy, opened.asset.filename),
        )
    except RindleError as error:
        await _withdraw(services, storage, opened, error)
        raise
    crash_point("multipart.begun")
    try:
        recorded = await services.database.write(rows.note_begun, upload.id, begun.upload_id)
    except BaseException as error:
        await _abort_quietly(storage, upload.upload_key, begun.upload_id)
        if isinstance(error, NotFound):  # a concurrent call with the same idempotency key was refused
            raise StateConflict("this upload was given up by another call; call again") from error
        raise
    if not recorded.is_first:  # another call with the same idempotency key was quicker, or the session has ended
        await _abort_quietly(storage, upload.upload_key, begun.upload_id)
    return recorded.upload


async def _withdraw(services: Services, storage: MultipartUploads, opened: Upload, error: RindleError) -> None:
    """Leave no rows of an upload that the store has refused, and nothing in the store if its answer was lost.

    An upload with an idempotency key stays when the answer was lost: the repeated call continues with it, and if there
    is none, its workflow releases it.
    """
    upload = opened.session
    # Missing permissions are retryable, because an operator may grant them, but the store has answered.
    is_refused = isinstance(error, StorageUnauthorized) or (isinstance(error, StorageError) and not error.retryable)
    if not is_refused and upload.idempotency_key is not None:
        return
    try:
        if not is_refused:
            await release_parts(storage, upload)
    except RindleError:
        await services.database.write(_abandon_and_wake, services, upload.id)
        return
    workflow_id = ids.upload_id(upload.id, prefix=services.settings.workflow_id_prefix)
    await services.database.write(rows.forget, upload.id, workflow_id)


def _abandon_and_wake(session: Session, services: Services, session_id: str) -> None:
    found, first = rows.abandon(session, session_id)
    if first:
        outbox.wake_upload(session, services.settings, found.session, found.asset.profile, signal="cancel")


async def _abort_quietly(storage: MultipartUploads, key: str, upload_id: str) -> None:
    """Abort an upload that no row names; its failure must not hide the error before it."""
    try:
        await storage.abort_multipart_upload(key, upload_id)
    except RindleError as error:
        log.warning("a multipart upload without a row was not aborted", extra={"key": key, "error": error.code})


def _multipart_storage(storage: Storage) -> MultipartUploads:
    if not isinstance(storage, MultipartUploads):
        raise unsupported(storage, "multipart_upload")
    return storage


def _upload_id(upload: MediaUploadSession) -> str:
    if upload.upload_strategy != MULTIPART:
        raise CapabilityUnsupported(
            f"this upload is not sent in parts: its lane is {sessions.lane_of(upload)}", capability="multipart_upload"
        )
    if upload.multipart_upload_id is None:
        raise MultipartUploadNotInitialized(
            "the store has not begun this upload; repeat initiate_multipart_upload", detail={"session_id": upload.id}
        )
    return upload.multipart_upload_id


# --- parts -------------------------------------------------------------------------------------------------------


async def sign_part(services: Services, session_id: SessionOrId, part_number: int) -> SignedPart:
    """Sign the PUT of one part; see ``Rindle.sign_multipart_part``."""
    return await sign(services, await sessions.find_upload(services, session_id), part_number)


async def sign(services: Services, found: Upload, part_number: int) -> SignedPart:
    """Sign the PUT of one part of an upload that was just read, as :func:`sign_part` does."""
    session, signed = await sign_several(services, found, (part_number,))
    return SignedPart(session, signed[0])


async def sign_several(
    services: Services, found: Upload, part_numbers: Sequence[int]
) -> tuple[MediaUploadSession, list[PresignedPart]]:
    """Sign the PUTs of some parts of an upload that was just read, all or none, and extend it once.

    Raises:
        InvalidPartNumber: the list is empty, or the upload does not have one of them.
        RindleError: as :func:`sign_part`.
    """
    upload = found.session
    upload_id = _upload_id(upload)
    if not part_numbers:
        raise InvalidPartNumber("name at least one part", detail={"found": None})
    for part_number in part_numbers:
        _check_part_number(upload, part_number)
    if upload.state not in OPEN:
        raise rows.not_open(upload)
    if upload_rows.live_seconds(upload) < 1:
        raise sessions.session_expired()
    ttl_seconds = services.settings.upload_session_ttl_seconds
    slid = upload_rows.slid_expiry(upload, ttl_seconds)
    remaining = int((slid - upload.expires_at).total_seconds() + upload_rows.live_seconds(upload))
    storage = _multipart_storage(services.storage(found.asset.profile))
    presigned = [
        await storage.presigned_upload_part(
            upload.upload_key,
            upload_id,
            part_number,
            max(1, min(services.settings.presigned_put_ttl_seconds, remaining)),
            content_length=_part_length(upload, part_number),
        )
        for part_number in part_numbers
    ]
    last_expiry = max(part.expires_at for part in presigned)

    def note(session: Session) -> Upload:
        signed, is_first = rows.note_part_signed(session, upload.id, last_expiry, ttl_seconds)
        if is_first and signed.session.auto_verify:  # the workflow starts to look for the parts
            outbox.wake_upload(session, services.settings, signed.session, signed.asset.profile, signal="touch")
        return signed

    return (await services.database.write(note)).session, presigned


def _check_part_number(upload: MediaUploadSession, part_number: int) -> None:
    count = part_count_of(upload) or MAX_PART_COUNT
    is_whole = isinstance(part_number, int) and not isinstance(part_number, bool)
    if not is_whole or not 1 <= part_number <= count:
        raise InvalidPartNumber(
            f"the parts of this upload have the numbers 1 to {count}", detail={"found": part_number, "max": count}
        )


def _part_length(upload: MediaUploadSession, part_number: int) -> int | None:
    if upload.expected_size is None or upload.part_size is None:
        return None
    return min(upload.part_size, upload.expected_size - (part_number - 1) * upload.part_size)


async def list_parts(services: Services, session_id: SessionOrId) -> list[Part]:
    """Return the parts that the store has; see ``Rindle.list_parts``."""
    return await parts_of(services, await sessions.find_upload(services, session_id))


async def parts_of(services: Services, found: Upload) -> list[Part]:
    """Return the parts of an upload that was just read, as :func:`list_parts` does."""
    upload = found.session
    upload_id = _upload_id(upload)
    if upload.state in ENDED_SESSIONS and upload.state != SessionState.COMPLETED:
        raise sessions.ended_error(upload)
    if upload.state not in OPEN:
        return manifest_of(upload)
    storage = _multipart_storage(services.storage(found.asset.profile))
    try:
        stored = await storage.list_parts(upload.upload_key, upload_id)
    except StorageNotFound:
        upload = (await sessions.find_upload(services, upload.id)).session  # the object may have been made meanwhile
        if upload.multipart_parts:
            return manifest_of(upload)
        raise
    await _note_progress(services, upload, stored)
    return stored


async def _note_progress(services: Services, upload: MediaUploadSession, stored: Sequence[Part]) -> None:
    if sum(part.size for part in stored) != upload.last_known_offset:
        ttl_seconds = services.settings.upload_session_ttl_seconds
        await services.database.write(rows.note_progress, upload.id, stored, ttl_seconds)


# --- completing --------------------------------------------------------------------------------------------------


async def complete(services: Services, session_id: SessionOrId, parts: Sequence[Any] | None) -> Upload:
    """Make the object from its parts and verify it; see ``Rindle.complete_multipart_upload``."""
    return await complete_found(services, await sessions.find_upload(services, session_id), parts)


async def complete_found(services: Services, found: Upload, parts: Sequence[Any] | None) -> Upload:
    """Complete an upload that was just read, as :func:`complete` does."""
    named = None if parts is None else named_parts(parts)
    upload = found.session
    upload_id = _upload_id(upload)
    if upload.state not in OPEN:  # complete, ended, or its object exists
        return await sessions.verify(services, found)
    storage = _multipart_storage(services.storage(found.asset.profile))
    try:
        stored = await storage.list_parts(upload.upload_key, upload_id)
    except StorageNotFound as error:  # another call has made the object, or the store has lost the parts
        found = await sessions.find_upload(services, upload.id)  # that call may have begun after this one read the row
        if found.session.state not in OPEN:
            return await sessions.verify(services, found)
        if not found.session.multipart_parts:
            raise await _lost(services, found) from error
        return await _assemble(services, found)
    return await _complete(services, found, stored if named is None else _selected(named, stored), stored)


async def _complete(services: Services, found: Upload, parts: Sequence[Part], stored: Sequence[Part]) -> Upload:
    """Make the object from ``parts``, which are among the ``stored`` ones."""
    upload, ttl_seconds = found.session, services.settings.upload_session_ttl_seconds
    await _note_progress(services, upload, stored)
    size = sum(part.size for part in parts)
    max_bytes = services.profile(found.asset.profile).upload_policy().max_bytes
    if max_bytes is not None and size > max_bytes:
        await sessions.reject(
            services,
            upload.id,
            rejected(
                UploadRejected,
                "max_bytes_exceeded",
                f"the parts have {size} bytes; profile {found.asset.profile!r} allows max_bytes={max_bytes}",
                limit=max_bytes,
                found=size,
            ),
        )
    if not parts:
        raise InvalidMultipartParts("no part of this upload has arrived; send them and complete it again")
    if upload.expected_size is not None and size != upload.expected_size:
        raise InvalidMultipartParts(
            f"the parts have {size} bytes, but {upload.expected_size} were declared; send the missing parts and "
            "complete the upload again",
            detail={"expected": upload.expected_size, "found": size},
        )

    def note(session: Session) -> Upload:
        noted = rows.note_manifest(session, upload.id, parts, ttl_seconds)
        if noted.session.state in OPEN:  # if this process ends now, the workflow makes the object
            outbox.wake_upload(session, services.settings, noted.session, noted.asset.profile, signal="touch")
        return noted

    noted = await services.database.write(note)
    if noted.session.state not in OPEN:
        return await sessions.verify(services, noted)
    crash_point("multipart.noted")
    return await _assemble(services, noted)


async def _assemble(services: Services, found: Upload) -> Upload:
    """Make the object of an upload from its manifest, and verify it; it can be repeated."""
    upload = found.session
    storage = services.storage(found.asset.profile)
    completing = _multipart_storage(storage).complete_multipart_upload(
        upload.upload_key, _upload_id(upload), manifest_of(upload)
    )
    try:
        await run_to_end(completing)
    except InvalidMultipartParts:
        await services.database.write(rows.drop_manifest, upload.id)
        raise
    except StorageNotFound as error:
        lost = await _lost(services, found)
        raise lost from error
    except StorageError as error:
        if error.retryable and not isinstance(error, StorageUnauthorized):
            raise
        raise StorageTransient(
            "the store does not make the object now; it is tried again in the background", adapter=error.adapter
        ) from error
    crash_point("multipart.made")
    try:
        done, _ = await services.database.write(rows.note_assembled, upload.id)
    except NotFound:  # purged meanwhile, perhaps before there was an object to delete
        await run_to_end(storage.delete(upload.upload_key))
        raise
    if done.session.state in ENDED_SESSIONS and done.session.state != SessionState.COMPLETED:
        # Cancelled or expired meanwhile; its release may have come before the object.
        await run_to_end(storage.delete(upload.upload_key))
        raise sessions.ended_error(done.session)
    return await sessions.verify(services, done)


async def _lost(services: Services, found: Upload) -> RindleError:
    """End an upload of which the store has neither parts nor object; returns the error of the session."""
    ended = await services.database.write(_fail_and_wake, services, found.session.id)
    if ended.session.state in ENDED_SESSIONS and ended.session.state != SessionState.COMPLETED:
        return sessions.ended_error(ended.session)
    return StateConflict("another call completes this upload; call again")


def _fail_and_wake(session: Session, services: Services, session_id: str) -> Upload:
    found, first = rows.fail_upload(
        session,
        session_id,
        code=StorageObjectMissing.code,
        reason="the store has no parts of this upload any more; start a new one",
    )
    if first:
        outbox.wake_upload(session, services.settings, found.session, found.asset.profile, signal="touch")
    return found


def named_parts(parts: Sequence[Any]) -> dict[int, str]:
    """Return the ETag of each part number in a client's list, in the order of the numbers.

    Args:
        parts: :class:`~rindle.protocols.Part` objects, or mappings with ``part_number`` and ``etag`` or with
            ``PartNumber`` and ``ETag``; quotes and ``W/`` of the ETags are removed.

    Raises:
        InvalidMultipartParts: the list is empty or longer than 10000, an entry has another form, or a number occurs
            twice.
    """
    if isinstance(parts, str | bytes | Mapping) or not isinstance(parts, Sequence):
        raise InvalidMultipartParts("parts must be a list of {part_number, etag}")
    if not 1 <= len(parts) <= MAX_PART_COUNT:
        raise InvalidMultipartParts(
            f"an upload has 1 to {MAX_PART_COUNT} parts", detail={"found": len(parts), "max": MAX_PART_COUNT}
        )
    found: dict[int, str] = {}
    for index, entry in enumerate(parts):
        number, etag = _named_part(entry)
        if number is None or etag is None:
            raise InvalidMultipartParts(
                f"entry {index} of parts is not {{part_number: 1 to {MAX_PART_COUNT}, etag}}", detail={"entry": index}
            )
        if number in found:
            raise InvalidMultipartParts(f"parts names part {number} twice", detail={"part_number": number})
        found[number] = etag
    return dict(sorted(found.items()))


def _named_part(entry: Any) -> tuple[int | None, str | None]:
    if isinstance(entry, Part):
        number, etag = entry.part_number, entry.etag
    elif isinstance(entry, Mapping):
        number = entry.get("part_number", entry.get("PartNumber"))
        etag = entry.get("etag", entry.get("ETag"))
    else:
        return None, None
    is_number = isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MAX_PART_COUNT
    plain = etag.strip().removeprefix("W/").strip('"') if isinstance(etag, str) else ""
    return number if is_number else None, plain or None


def _selected(named: Mapping[int, str], stored: Sequence[Part]) -> list[Part]:
    """Return the stored parts that a client names.

    Raises:
        InvalidMultipartParts: one is not stored, or with another ETag.
    """
    known = {part.part_number: part for part in stored}
    for number, etag in named.items():
        part = known.get(number)
        if part is None or part.etag != etag:
            what = "has not arrived" if part is None else "was stored with another ETag"
            raise InvalidMultipartParts(
                f"part {number} {what}; send it again, or leave parts out to take those of the store",
                detail={"part_number": number},
            )
    return [known[number] for number in named]


# --- the workflow's side -----------------------------------------------------------------------------------------


async def finish(services: Services, session_id: SessionOrId) -> Upload:
    """Verify an upload of any lane for its workflow; the object of a multipart upload is made first where it must be.

    That is an upload whose completion was requested and interrupted, and one with ``auto_verify`` whose parts have all
    arrived.

    Raises:
        StorageObjectMissing: also while the object of a tus or IETF upload is not made, which is a step of its own.
        StorageTransient: also when an object that was made is missing, so that the step is repeated after a pause.
        RindleError: as ``verify_completion``.
    """
    found = await sessions.find_upload(services, session_id)
    upload = found.session
    if upload.resumable_protocol in STREAMED and upload.state == SessionState.UPLOADED:
        raise StorageObjectMissing("the object of this upload is still to be made of its bytes")
    if upload.upload_strategy == MULTIPART and upload.multipart_upload_id is not None and upload.state in OPEN:
        if upload.multipart_parts:
            return await _assemble(services, found)
        if upload.auto_verify and upload.expected_size:
            stored = await parts_of(services, found)
            if sum(part.size for part in stored) == upload.expected_size:
                return await _complete(services, found, stored, stored)
    try:
        return await sessions.verify(services, found)
    except StorageObjectMissing as error:
        if upload.state == SessionState.UPLOADED:
            raise StorageTransient("the object that was made of this upload is missing") from error
        raise


async def release_parts(storage: object, upload: MediaUploadSession) -> None:
    """Abort every upload of the store to the key of an ended session, until none is left.

    More than one is possible: the store may have begun an upload whose answer was lost.

    Raises:
        StorageError: something may be left; the call can be repeated.
    """
    if not isinstance(storage, MultipartUploads):
        raise CapabilityUnsupported(
            "the storage of this upload takes no multipart uploads any more: its parts cannot be removed",
            capability="multipart_upload",
        )
    left = {upload.multipart_upload_id} - {None}
    for _ in range(_ABORTS):
        for upload_id in sorted(left | set(await storage.list_multipart_uploads(upload.upload_key)), key=str):
            # To its end: nobody would know whether the store executes it later.
            await run_to_end(storage.abort_multipart_upload(upload.upload_key, str(upload_id)))
        left = set(await storage.list_multipart_uploads(upload.upload_key))
        if not left:
            return
    raise StorageTransient("the store still has parts of an upload that was aborted")
