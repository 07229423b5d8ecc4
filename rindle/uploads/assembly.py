"""The end of uploads that passed through the application: make the object, verify it, remove the bytes of ended ones.

Steps of the workflow; the requests themselves are in :mod:`rindle.uploads.streams`. All can be repeated.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from sqlalchemy.orm import Session

from rindle import outbox
from rindle.cancellation import run_to_end
from rindle.capabilities import unsupported
from rindle.crash_points import crash_point
from rindle.db import streams as rows
from rindle.db.ids import SessionOrId, id_of_session
from rindle.db.models import MediaUploadSession
from rindle.db.streams import CONCATENATED, FINAL, Stream, source_ids, state_of
from rindle.db.uploads import Upload
from rindle.errors import (
    CapabilityUnsupported,
    InvalidMultipartParts,
    RindleError,
    StorageNotFound,
    TusTailMissing,
    UploadRejected,
)
from rindle.protocols import Concatenation, PartStream, Storage
from rindle.rejections import rejected
from rindle.services import Services
from rindle.states import ENDED_BADLY, AssetState, SessionState
from rindle.threads import in_thread
from rindle.uploads import sessions
from rindle.uploads.digests import WholeDigest, digest_of_file


def stream_storage(services: Services, stream: Stream) -> PartStream:
    """Return the storage of an upload.

    Raises:
        CapabilityUnsupported: it no longer takes such uploads.
    """
    storage = services.storage_of(stream.session.upload_key, stream.asset)
    if not isinstance(storage, PartStream):
        raise unsupported(storage, "tus_upload")
    return storage


class OpenOriginal(Protocol):
    """Makes the bytes of an object a local file inside the block; the promotion finds them where they were put."""

    def __call__(
        self, storage: Storage, storage_name: str, key: str, etag: str | None, size: int
    ) -> AbstractAsyncContextManager[Path]:
        """Yield the file."""


async def assemble(services: Services, session_id: SessionOrId, *, open_original: OpenOriginal) -> None:
    """Make the object of an upload whose bytes have all arrived, and verify it; anything else is left as it is.

    Args:
        open_original: opens the object of an upload whose digest is to be computed.

    Raises:
        StorageError: the store failed; the next attempt continues.
        RindleError: the object was refused, as by ``verify_completion``.
    """
    found = await services.database.read(rows.find_stream, id_of_session(session_id))
    if found is None or found.asset is None:
        return
    if found.session.state == SessionState.COMPLETED and found.session.concat_role == FINAL:
        await services.database.write(_release_sources, services, found.session.id)  # an earlier call ended before that
    if found.session.state != SessionState.UPLOADED:
        return
    try:
        if found.session.concat_role == FINAL:
            await _join(services, found)
        else:
            storage = stream_storage(services, found)
            await storage.complete_part_stream(found.session.upload_key, found.session.id, state_of(found.session))
    except (StorageNotFound, TusTailMissing, InvalidMultipartParts) as error:
        await services.database.write(_fail, services, found.session.id, error)
        return
    crash_point("upload.object_made")
    if not await _is_wanted(services, found.session.id):
        # It has ended meanwhile: its release, or the purge of its asset, may have come before the object.
        key = found.session.upload_key
        await run_to_end(services.storage_of(key, found.asset).delete(key))
        return
    await sessions.verify(services, await _with_digest(services, found.upload, open_original))
    if found.session.concat_role == FINAL:
        await services.database.write(_release_sources, services, found.session.id)


async def _is_wanted(services: Services, session_id: str) -> bool:
    found = await services.database.read(rows.find_stream, session_id)
    if found is None or found.asset is None or found.asset.state == AssetState.DELETED:
        return False
    return found.session.state not in ENDED_BADLY


async def _with_digest(services: Services, upload: Upload, open_original: OpenOriginal) -> Upload:
    """Compute the digest that the client gave or wants, and refuse an object that has another one.

    It is computed here and not from the requests: a hash cannot be handed on from one process to the next. Before the
    upload is verified, because the response to the last request has to say that the file was refused (draft,
    Representation Digests).

    Returns:
        the upload with the digest.

    Raises:
        UploadRejected: ``digest_mismatch``.
    """
    digest, key = WholeDigest.of(upload.session), upload.session.upload_key
    if digest is None or not digest.is_pending:
        return upload
    storage, name = services.storage(upload.asset.profile), services.storage_name(upload.asset.profile)
    head = await storage.head(key)
    async with open_original(storage, name, key, head.etag, head.size) as path:
        found = await in_thread(digest_of_file, path, digest.algorithm)
    if digest.expected not in (None, found):
        refused = rejected(
            UploadRejected,
            "digest_mismatch",
            f"the object does not have the {digest.algorithm} that the client gave with the creation of the upload",
            algorithm=digest.algorithm,
        )
        await sessions.reject(services, upload.session.id, refused)
    noted = await services.database.write(rows.note_metadata, upload.session.id, replace(digest, found=found).column)
    return noted.upload


async def _join(services: Services, final: Stream) -> None:
    storage = stream_storage(services, final)
    if not isinstance(storage, Concatenation):
        raise CapabilityUnsupported("the storage no longer joins uploads", capability="concatenate")
    sources = source_ids(final.session)
    parts = await services.database.read(rows.find_streams, sources)
    if any(session_id not in parts for session_id in sources):
        raise StorageNotFound("a partial upload of this one is gone")
    for part in parts.values():
        await storage.complete_part_stream(part.session.upload_key, part.session.id, state_of(part.session))
    keys = [parts[session_id].session.upload_key for session_id in sources]
    await storage.concatenate(final.session.upload_key, keys)
    await services.database.write(rows.note_joined, final.session.id)


def _fail(session: Session, services: Services, session_id: str, error: RindleError) -> None:
    rows.fail_stream(session, session_id, code=error.code, reason=error.message)


def _release_sources(session: Session, services: Services, session_id: str) -> None:
    """Abort the partial uploads of a joined one that no other unfinished upload joins; their workflows remove them."""
    final = rows.lock_stream(session, session_id).session
    for partial_id in sorted(set(source_ids(final))):
        if set(rows.open_finals(session, partial_id)) - {session_id}:
            continue
        found, first = rows.abort_stream(session, partial_id, reason=CONCATENATED)
        if first:
            outbox.wake_upload(session, services.settings, found.session, None, signal="cancel")


async def release_stream(storage: object, upload: MediaUploadSession) -> None:
    """Remove the bytes of an ended upload that are not an object; nothing is success.

    Raises:
        StorageError: something may be left; the call can be repeated.
    """
    if not isinstance(storage, PartStream):
        raise CapabilityUnsupported(
            "the storage of this upload takes no such uploads any more: its bytes cannot be removed",
            capability="tus_upload",
        )
    # To its end: nobody would know whether the store executes it later.
    await run_to_end(storage.abort_part_stream(upload.upload_key, upload.id, state_of(upload)))
