"""Server-side uploads: the application passes the bytes, which are fully validated before anything is stored."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from sqlalchemy.orm import Session

from rindle import outbox, run_directories, telemetry
from rindle.arguments import MAX_FILENAME_CHARS, actor_text, check_text
from rindle.cancellation import run_to_end
from rindle.capabilities import capabilities_of
from rindle.crash_points import crash_point
from rindle.db import uploads as rows
from rindle.db.models import MediaAsset, utc_now
from rindle.db.transitions import move_asset, move_session
from rindle.db.uploads import Upload
from rindle.errors import InvalidArgument, NotFound, StorageConflict, UploadRejected
from rindle.plugins import read_source, scan
from rindle.profile import Profile
from rindle.protocols import ServedAs, Storage, StoredObject
from rindle.rejections import rejected
from rindle.security import validate_upload
from rindle.services import Services
from rindle.states import ENDED_BADLY, ENDED_SESSIONS, AssetState, SessionState
from rindle.threads import in_thread
from rindle.uploads.sessions import (
    UploadRequest,
    ended_error,
    insert_once,
    known_upload,
    requested_upload,
)

#: Bytes moved at a time, for every source: memory use stays constant.
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _File:
    """The validated file on disk."""

    path: Path
    mime: str
    size: int
    checksum: str


async def upload(
    services: Services,
    profile: str | type[Profile],
    source: str | os.PathLike[str] | BinaryIO | AsyncIterator[bytes] | Any,
    *,
    filename: str,
    actor: str | UUID | None = None,
    idempotency_key: str | None = None,
) -> MediaAsset:
    """Validate and store the bytes of ``source``; see ``Rindle.upload``."""
    check_text("filename", filename, max_chars=MAX_FILENAME_CHARS)
    named = actor_text("actor", actor)
    _check_path(source)
    chosen = services.profile(profile)
    policy = chosen.upload_policy()
    request = UploadRequest(filename=filename, actor=named, idempotency_key=idempotency_key)
    new = requested_upload(services.settings, chosen, request, strategy="server")
    known = await known_upload(services, new)
    if known is not None and known.session.state == SessionState.COMPLETED:
        return known.asset
    spool = await in_thread(_spool_directory, services.settings.scratch)
    try:
        with run_directories.held(spool):
            path = spool / "source"
            size, checksum = await _spool(source, path, chosen.name, policy.max_bytes)
            mime = await in_thread(validate_upload, path, filename, policy)
            if chosen.scanner is not None:
                timeout = services.settings.scanner_timeout_seconds
                await scan(chosen.scanner, path, asset=None, timeout_seconds=timeout)
            return await _store(services, chosen, new, _File(path, mime, size, checksum))
    finally:
        await run_to_end(in_thread(shutil.rmtree, spool, ignore_errors=True))


def _check_path(source: Any) -> None:
    """Refuse a path that no file can have. A file's name may have surrogates: those of bytes that are not UTF-8."""
    try:
        is_possible = not isinstance(source, str | os.PathLike) or b"\0" not in os.fsencode(source)
    except UnicodeEncodeError:
        is_possible = False
    if not is_possible:
        raise InvalidArgument("source is not the path of a file", detail={"option": "source"})


async def _store(services: Services, profile: type[Profile], new: Upload, file: _File) -> MediaAsset:
    new.session.expected_size = file.size
    new_session_id = new.session.id

    def begin(session: Session, copy: Upload) -> Upload:
        inserted = rows.insert_upload(session, copy.asset, copy.session)
        move_session(session, inserted.session, SessionState.UPLOADING)
        # Start the workflow first: if this process dies now, its timer expires the session and cleans up.
        outbox.wake_upload(session, services.settings, inserted.session, profile.name)
        return inserted

    opened = await insert_once(services, new, begin)
    if opened.session.state in ENDED_SESSIONS:
        return _outcome(opened)
    crash_point("server_upload.begun")
    facts = {"profile": profile.name, "session_id": opened.session.id}
    if opened.session.id == new_session_id:
        telemetry.emit("rindle.upload.start", facts)
    storage = services.storage(profile)
    stored = await _put(storage, opened, file)
    crash_point("server_upload.stored")

    def finish(session: Session) -> tuple[Upload, bool]:
        found = rows.lock_upload(session, opened.session.id)
        if found.session.state in ENDED_SESSIONS:
            return found, False
        if found.asset.state == AssetState.DELETED:
            raise rows.no_such_upload()
        _complete(session, found, file, stored, profile)
        outbox.wake_upload(session, services.settings, found.session, profile.name, signal="verified")
        return found, True

    try:
        done, first = await services.database.write(finish)
    except NotFound:  # purged meanwhile, perhaps before there was an object to delete
        await run_to_end(storage.delete(opened.session.upload_key))
        raise
    if done.session.state in ENDED_BADLY or done.asset.state == AssetState.DELETED:
        # Cancelled, expired or purged meanwhile; its release, or the purge, may have come before the object.
        await run_to_end(storage.delete(opened.session.upload_key))
    if first:
        telemetry.emit("rindle.upload.stop", {**facts, "asset_id": done.asset.id})
    return _outcome(done)


def _outcome(ended: Upload) -> MediaAsset:
    """Return the asset of a completed upload, which another call with the same key may have completed.

    Raises:
        RindleError: the session ended otherwise.
    """
    if ended.session.state == SessionState.COMPLETED:
        return ended.asset
    raise ended_error(ended.session)


def _complete(session: Session, found: Upload, file: _File, stored: StoredObject, profile: type[Profile]) -> None:
    move_session(
        session,
        found.session,
        SessionState.COMPLETED,
        through=[SessionState.UPLOADED, SessionState.VERIFYING],
        last_known_offset=file.size,
        verified_at=utc_now(),
        verified_etag=stored.etag,
    )
    facts: dict[str, Any] = {
        "byte_size": file.size,
        **rows.file_columns(found.asset, profile, file.mime),
        "stored_etag": stored.etag,
        "scanned_etag": stored.etag if profile.scanner is not None else None,
        "checksum_sha256": file.checksum,
    }
    move_asset(session, found.asset, AssetState.ANALYZING, through=[AssetState.VALIDATING], **facts)


async def _put(storage: Storage, opened: Upload, file: _File) -> StoredObject:
    """Store the file of an upload once, also when several calls with one idempotency key do it."""
    key = opened.session.upload_key
    is_keyed = opened.session.idempotency_key is not None
    # Without exclusive writes concurrent calls with one key may both write, which is harmless for equal bytes.
    exclusive = is_keyed and "write_once" in capabilities_of(storage)
    served = ServedAs.of(file.mime)
    try:
        return await storage.store(
            key,
            file.path,
            content_type=served.content_type,
            content_disposition=served.content_disposition,
            if_absent=exclusive,
        )
    except StorageConflict:
        return await _stored_before(storage, key, file)


async def _stored_before(storage: Storage, key: str, file: _File) -> StoredObject:
    """Return the object that another call with the same key has stored.

    Raises:
        InvalidArgument: it holds other bytes.
    """
    head = await storage.head(key)
    if head.size == file.size:
        copy = await storage.download(key, file.path.with_name("stored"), max_bytes=file.size, if_match=head.etag)
        if await in_thread(_digest_of, copy) == file.checksum:
            return StoredObject(key, head.size, head.etag)
    raise InvalidArgument(
        "this idempotency key belongs to an upload of another file; use a new key",
        detail={"option": "idempotency_key"},
    )


def _digest_of(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _spool_directory(scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Path(tempfile.mkdtemp(prefix="upload-", dir=scratch))


async def _spool(source: Any, path: Path, profile: str, max_bytes: int | None) -> tuple[int, str]:
    """Copy the source to ``path``; returns its size and SHA-256. Stops at one byte over the limit."""
    digest = hashlib.sha256()
    size = 0
    target = await in_thread(path.open, "wb")
    try:
        async with aclosing(_chunks(source)) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if max_bytes is not None and size > max_bytes:
                    raise rejected(
                        UploadRejected,
                        "max_bytes_exceeded",
                        f"the upload is larger than profile {profile!r} allows (max_bytes={max_bytes})",
                        limit=max_bytes,
                    )
                await in_thread(_append, target, digest, chunk)
    finally:
        await run_to_end(in_thread(target.close))
    return size, digest.hexdigest()


def _append(target: BinaryIO, digest: Any, chunk: bytes) -> None:
    digest.update(chunk)
    target.write(chunk)


async def _chunks(source: Any) -> AsyncGenerator[bytes, None]:
    if isinstance(source, str | os.PathLike):
        opened = await read_source(Path(source).open, "rb")
        try:
            async with aclosing(_read_all(opened)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            await run_to_end(in_thread(opened.close))
    elif hasattr(source, "__aiter__"):
        async for piece in source:
            for start in range(0, len(piece), CHUNK_BYTES):
                yield bytes(piece[start : start + CHUNK_BYTES])
    elif hasattr(source, "read"):
        async with aclosing(_read_all(source)) as chunks:
            async for chunk in chunks:
                yield chunk
    else:
        raise InvalidArgument(
            f"source is a {type(source).__name__}; pass a path, a binary file object, an UploadFile or an async "
            "iterator of bytes",
            detail={"option": "source"},
        )


async def _read_all(source: Any) -> AsyncGenerator[bytes, None]:
    """Read a file object or an UploadFile (whose ``read`` is a coroutine) piece by piece."""
    is_async = asyncio.iscoroutinefunction(source.read)
    while True:
        chunk = await source.read(CHUNK_BYTES) if is_async else await read_source(source.read, CHUNK_BYTES)
        if not chunk:
            return
        if not isinstance(chunk, bytes):
            raise InvalidArgument("source yields strings; open it in binary mode", detail={"option": "source"})
        yield chunk
