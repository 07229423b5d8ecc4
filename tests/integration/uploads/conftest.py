"""A bucket that fails on command, and clients that send parts to a stage's bucket."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from temporalio.service import RPCError, RPCStatusCode

from rindle import MediaUploadSession
from rindle.db.models import utc_now
from rindle.db.transitions import set_fields
from rindle.protocols import MultipartUpload, MultipartUploads, Part
from rindle.storage.s3 import S3Storage
from rindle.testing.flaky import FlakyStorage
from tests.application import storage
from tests.patience import PATIENCE_SECONDS, until
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, staged
from tests.workflows.fleet import dispatched

MIB = 1024 * 1024
#: The smallest size of a part, for quick tests.
PART_BYTES = 5 * MIB


class FlakyBucket(FlakyStorage):
    """A bucket that fails on command and remembers the keys of all uploads that it was asked to begin."""

    def __init__(self, inner: S3Storage) -> None:
        super().__init__(inner)
        self.begun: list[str] = []

    async def initiate_multipart_upload(
        self, key: str, part_size: int, *, content_type: str | None = None
    ) -> MultipartUpload:
        self.begun.append(key)
        inner = self.inner
        assert isinstance(inner, S3Storage)
        return await self._play(
            "initiate_multipart_upload",
            lambda: inner.initiate_multipart_upload(key, part_size, content_type=content_type),
        )


@pytest.fixture
async def flaky_s3_stage(
    tmp_path: Path, temporal_server: TemporalServer, bucket_environment: dict[str, str]
) -> AsyncIterator[Stage]:
    """The application on SQLite, with a bucket that fails on command; its members run in this process."""
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    store = flaky_bucket(bucket_environment)
    async with staged(tmp_path, url, temporal_server.target, bucket_environment, store=store) as ready:
        yield ready


def flaky_bucket(environment: dict[str, str]) -> FlakyBucket:
    """Return the bucket of an application inside the double."""
    bucket = storage(environment)
    assert isinstance(bucket, S3Storage)
    return FlakyBucket(bucket)


def store_of(stage: Stage) -> S3Storage:
    """Return the bucket of a stage, past any double around it."""
    storage = getattr(stage.storage, "inner", stage.storage)
    assert isinstance(storage, S3Storage)
    return storage


def large_photo(path: Path) -> bytes:
    """Return a JPEG of noise that has two parts, a little over 5 MiB, and less than 8 MB."""
    Image.frombytes("RGB", (2500, 1900), os.urandom(2500 * 1900 * 3)).save(path, "JPEG", quality=95)
    body = path.read_bytes()
    assert PART_BYTES < len(body) < 8_000_000
    return body


def cut(body: bytes, part_size: int = PART_BYTES) -> list[bytes]:
    """Return the parts of a file."""
    return [body[start : start + part_size] for start in range(0, len(body), part_size)]


async def send_part(stage: Stage, session_id: str, number: int, piece: bytes) -> Part:
    """Sign one part and PUT it as a browser does."""
    grant = (await stage.rindle.sign_multipart_part(session_id, number)).presigned
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as browser:
        answer = await browser.put(grant.url, content=piece, headers=dict(grant.headers))
    assert answer.status_code == 200, answer.text
    return Part(number, answer.headers["etag"].strip('"'), len(piece))


async def send_all(stage: Stage, session_id: str, pieces: Sequence[bytes]) -> list[Part]:
    """Send every part of a file, in its order."""
    return [await send_part(stage, session_id, number, piece) for number, piece in enumerate(pieces, 1)]


async def open_uploads(stage: Stage, *session_ids: str) -> list[str]:
    """Return the uploads that the store still has for the keys of the sessions."""
    storage = store_of(stage)
    assert isinstance(storage, MultipartUploads)
    found: list[str] = []
    for session_id in session_ids:
        found += await storage.list_multipart_uploads((await stage.session(session_id)).upload_key)
    return found


async def everything_unfinished(stage: Stage) -> list[str]:
    """Return the uploads of all keys that were ever begun and that the store still has."""
    found: list[str] = []
    for key in {*double_of(stage).begun}:  # MinIO lists uploads by their exact key only
        found += await store_of(stage).list_multipart_uploads(key)
    return found


async def change(stage: Stage, session_id: str, **values: Any) -> None:
    """Write columns of a session, as if time had passed."""
    await stage.rindle.database.write(
        lambda session: set_fields(session, session.get_one(MediaUploadSession, session_id), **values)
    )


async def let_expire(stage: Stage, session_id: str, *, in_seconds: float = 0) -> None:
    """Set the clock of a session: its row says that it expires then."""
    await change(stage, session_id, expires_at=utc_now() + timedelta(seconds=in_seconds))


async def wake(stage: Stage, *session_ids: str) -> None:
    """Have the workflows of sessions read their rows, once all are started; one that has ended has read them."""
    await dispatched(stage)
    client = await stage.client()
    for session_id in session_ids:
        try:
            await client.get_workflow_handle(stage.upload_workflow(session_id)).signal("touch")
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise


async def released(stage: Stage, session_id: str) -> None:
    """Wait until the store has nothing of an ended session any more."""

    async def look() -> bool:
        return (await stage.session(session_id)).backing_released_at is not None

    await until(look, what=f"session {session_id} to be released")


def double_of(stage: Stage) -> FlakyBucket:
    """Return the store that fails on command."""
    assert isinstance(stage.storage, FlakyBucket)
    return stage.storage
