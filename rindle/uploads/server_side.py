"""Server-side uploads: the application passes the bytes, which are fully validated before anything is stored."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy.orm import Session

from rindle import outbox, telemetry
from rindle.cancellation import run_to_end
from rindle.crash_points import crash_point
from rindle.db import uploads as rows
from rindle.db.models import MediaAsset, utc_now
from rindle.db.transitions import move_asset, move_session
from rindle.errors import InvalidArgument, UploadRejected
from rindle.plugins import read_source, scan
from rindle.profile import Profile
from rindle.protocols import StoredObject
from rindle.security import check_declared, validate_upload
from rindle.services import Services
from rindle.states import AssetState, SessionState
from rindle.threads import in_thread
from rindle.uploads.sessions import new_upload

#: Bytes moved at a time, for every source: memory use stays constant.
CHUNK_BYTES = 1 << 20


async def upload(
    services: Services,
    profile: str | type[Profile],
    source: str | os.PathLike[str] | BinaryIO | AsyncIterator[bytes] | Any,
    *,
    filename: str,
    actor: str | None = None,
) -> MediaAsset:
    """Validate and store the bytes of ``source``; see ``Rindle.upload``."""
    chosen = services.profile(profile)
    storage = services.storage(chosen)
    policy = chosen.upload_policy()
    check_declared(policy, filename, None)
    spool = await in_thread(_spool_directory, services.settings.scratch)
    try:
        path = spool / "source"
        size, checksum = await _spool(source, path, chosen.name, policy.max_bytes)
        mime = await in_thread(validate_upload, path, filename, policy)
        if chosen.scanner is not None:
            timeout = services.settings.scanner_timeout_seconds
            await scan(chosen.scanner, path, asset=None, timeout_seconds=timeout)
        return await _store(services, chosen, storage, path, filename, actor, mime, size, checksum)
    finally:
        await run_to_end(in_thread(shutil.rmtree, spool, ignore_errors=True))


async def _store(
    services: Services,
    profile: type[Profile],
    storage: Any,
    path: Path,
    filename: str,
    actor: str | None,
    mime: str,
    size: int,
    checksum: str,
) -> MediaAsset:
    asset, session_row = new_upload(
        profile,
        filename=filename,
        actor=actor,
        strategy="server",
        ttl_seconds=services.settings.upload_session_ttl_seconds,
    )
    session_row.expected_size = size

    def begin(session: Session) -> rows.Upload:
        inserted = rows.insert_upload(session, asset, session_row)
        move_session(session, inserted.session, SessionState.UPLOADING)
        # Start the workflow first: if this process dies now, its timer expires the session and cleans up.
        outbox.wake_upload(session, services.settings, inserted.session, profile.name)
        return inserted

    inserted = await services.database.write(begin)
    crash_point("server_upload.begun")
    telemetry.emit("rindle.upload.start", {"profile": profile.name, "session_id": inserted.session.id})
    stored: StoredObject = await storage.store(inserted.asset.storage_key, path, content_type=mime, if_absent=False)
    crash_point("server_upload.stored")
    scanned = stored.etag if profile.scanner is not None else None

    def finish(session: Session) -> MediaAsset:
        found = rows.lock_upload(session, inserted.session.id)
        move_session(
            session,
            found.session,
            SessionState.COMPLETED,
            through=[SessionState.UPLOADED, SessionState.VERIFYING],
            last_known_offset=size,
            verified_at=utc_now(),
            verified_etag=stored.etag,
        )
        facts: dict[str, Any] = {
            "byte_size": size,
            "content_type": mime,
            "stored_etag": stored.etag,
            "scanned_etag": scanned,
            "checksum_sha256": checksum,
        }
        move_asset(session, found.asset, AssetState.ANALYZING, through=[AssetState.VALIDATING], **facts)
        outbox.wake_upload(session, services.settings, found.session, profile.name, signal="verified")
        return found.asset

    done = await services.database.write(finish)
    facts = {"profile": profile.name, "session_id": inserted.session.id, "asset_id": done.id}
    telemetry.emit("rindle.upload.stop", facts)
    return done


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
                    raise UploadRejected(
                        f"the upload is larger than profile {profile!r} allows (max_bytes={max_bytes})",
                        code="max_bytes_exceeded",
                        detail={"limit": max_bytes},
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
