"""Checks of the lanes for large files, with ``live``: whether the credentials of a storage allow all that they call.

Each check goes through the life of a small upload, also through what only happens after a break or at its end. What it
leaves out of permissions would otherwise be noticed weeks later, by uploads that are never released.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from rindle.cancellation import run_to_end
from rindle.errors import RindleError
from rindle.operations.checks.report import Planned, Result, Subject
from rindle.operations.checks.storage import status_of
from rindle.protocols import MultipartUploads, PartStream, PartStreamState, Storage

#: Declared part size; the one part that is sent is the last, which may be smaller.
_PART_BYTES: Final = 5 * 1024**2
_SIZE_BYTES: Final = 32
_FIX = "give the credentials the permissions that the page Storage lists; a proxy before the store must pass {needs}"


class _Trial:
    """One upload of a check, and the step at which it is."""

    def __init__(self) -> None:
        self.key = f"rindle-doctor/{uuid.uuid4()}"
        self.content = os.urandom(_SIZE_BYTES)
        self.step = "begin"

    def failed(self, how: str, needs: str) -> Result:
        return Result("error", f"{self.step}: {how}", _FIX.format(needs=needs), {"step": self.step})


def planned(subject: Subject) -> list[Planned]:
    """Return the checks of every storage that has such a lane."""
    checks = []
    for name, storage in subject.services.storages.items():
        if isinstance(storage, MultipartUploads):
            one = _multipart(storage, storage)
            checks.append(Planned(f"storage.{name}.multipart", "storage", one, leaves_process=True, patience=4))
        if isinstance(storage, PartStream):
            one = _tus(storage, storage)
            checks.append(Planned(f"storage.{name}.tus", "storage", one, leaves_process=True, patience=4))
    return checks


def _multipart(storage: Storage, uploads: MultipartUploads) -> Callable[[Subject], Awaitable[Result]]:
    async def check(subject: Subject) -> Result:
        trial = _Trial()
        try:
            return await _send_in_parts(subject, uploads, trial)
        except RindleError as error:
            return trial.failed(f"failed ({error.code})", "PUT, GET, POST and DELETE with a query")
        finally:
            await run_to_end(_forget_parts(storage, uploads, trial.key))

    return check


async def _send_in_parts(subject: Subject, uploads: MultipartUploads, trial: _Trial) -> Result:
    key, needs = trial.key, "PUT, GET, POST and DELETE with a query"
    trial.step = "begin an upload"
    upload_id = (await uploads.initiate_multipart_upload(key, _PART_BYTES)).upload_id
    trial.step = "sign a part"
    grant = await uploads.presigned_upload_part(key, upload_id, 1, 60, content_length=_SIZE_BYTES)
    if urlsplit(grant.url).scheme in ("http", "https"):
        trial.step = "send a part to its signed URL"
        status = await status_of(subject, grant.url, method="PUT", body=trial.content, headers=grant.headers)
        if status != 200:
            return trial.failed(f"status {status}" if status else "no response", "PUT with a query and its headers")
        trial.step = "list the parts"
        parts = await uploads.list_parts(key, upload_id)
        if [(part.part_number, part.size) for part in parts] != [(1, _SIZE_BYTES)]:
            return trial.failed("the part that was sent is not listed", needs)
        trial.step = "complete the upload"
        await uploads.complete_multipart_upload(key, upload_id, parts)
    trial.step = "list unfinished uploads"
    left = (await uploads.initiate_multipart_upload(key, _PART_BYTES)).upload_id
    if left not in await uploads.list_multipart_uploads(key):
        return trial.failed("an upload that was begun is not listed", needs)
    trial.step = "abort an upload"
    await uploads.abort_multipart_upload(key, left)
    if left in await uploads.list_multipart_uploads(key):
        return trial.failed("an upload that was aborted is still listed", needs)
    return Result("ok", "uploads in parts can be begun, continued, completed, listed and aborted")


def _tus(storage: Storage, streams: PartStream) -> Callable[[Subject], Awaitable[Result]]:
    async def check(subject: Subject) -> Result:
        trial, name = _Trial(), f"doctor-{uuid.uuid4()}"
        new = PartStreamState(part_size=streams.part_size_for(_SIZE_BYTES))
        recorded = [new]

        async def record(state: PartStreamState, *, is_last: bool = False) -> None:
            recorded.append(state)

        async def append(content: bytes) -> None:
            await streams.append_part_stream(
                trial.key, name, _once(content), recorded[-1], length=_SIZE_BYTES, checkpoint=record
            )

        try:
            trial.step = "keep the bytes of a request that broke off"
            await append(trial.content[: _SIZE_BYTES // 2])
            trial.step = "continue after them"
            await append(trial.content[_SIZE_BYTES // 2 :])
            trial.step = "make the object"
            await streams.complete_part_stream(trial.key, name, recorded[-1])
            if await storage.read_range(trial.key, 0, _SIZE_BYTES) != trial.content:
                return trial.failed("the object is not what was sent", "bodies unchanged")
            recorded.append(new)
            trial.step = "begin another upload"
            await append(trial.content[: _SIZE_BYTES // 2])
            trial.step = "remove it unfinished"
            await streams.abort_part_stream(trial.key, name, recorded[-1])
            return Result("ok", "uploads through the application can be continued, completed and removed")
        except RindleError as error:
            return trial.failed(f"failed ({error.code})", "PUT, GET, POST and DELETE")
        finally:
            await run_to_end(_forget_stream(storage, streams, trial.key, name, recorded[-1]))

    return check


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _forget_parts(storage: Storage, uploads: MultipartUploads, key: str) -> None:
    with contextlib.suppress(RindleError):
        await storage.delete(key)
    with contextlib.suppress(RindleError):
        for upload_id in await uploads.list_multipart_uploads(key):
            await uploads.abort_multipart_upload(key, upload_id)


async def _forget_stream(storage: Storage, streams: PartStream, key: str, name: str, state: PartStreamState) -> None:
    with contextlib.suppress(RindleError):
        await storage.delete(key)
    with contextlib.suppress(RindleError):
        await streams.abort_part_stream(key, name, state)
