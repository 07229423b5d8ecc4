"""``PATCH``: append bytes at an offset. Source: tus 1.0.0, PATCH and Checksum."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Response

from rindle.cancellation import run_to_end
from rindle.errors import TusError, UploadStalled
from rindle.http.tus.body import IDLE_SECONDS, CheckedBody, End, RequestBody, checked
from rindle.http.tus.call import TusCall, done, expiry
from rindle.http.tus.headers import read_checksum, read_declared_length, read_offset, require_bytes_type
from rindle.uploads.tus import Stream, require_offset, require_unsent, too_large

#: Longest wait in seconds for the workflow after the last byte. The response is the same: the bytes are stored.
ASSEMBLY_SECONDS = 10.0


async def patch(call: TusCall) -> Response:
    """Append the body at ``Upload-Offset``; whatever has arrived is kept, also when the client disconnects.

    Raises:
        InvalidArgument: a header is wrong.
        TusError: ``tus_content_type_unsupported``, ``tus_offset_conflict``, ``tus_size_exceeded``, ``tus_locked``,
            ``tus_checksum_mismatch``, ``tus_upload_closed``.
    """
    stream = await call.stream()
    require_unsent(stream.session)
    require_bytes_type(call.header("content-type"))
    offset = read_offset(call.header("upload-offset"))
    declared = read_declared_length(call.header("upload-length"))
    checksum = read_checksum(call.header("upload-checksum"))
    if checksum is None:
        found = await append(call, stream, call.body, offset=offset, declared_length=declared)
    else:
        require_offset(stream.session, offset)
        max_bytes = (stream.session.upload_length or declared or call.uploads.max_size) - offset
        async with checked(call.body, checksum, max_bytes=max(0, max_bytes), scratch=call.scratch) as body:
            found = await append(call, stream, body, offset=offset, declared_length=declared)
    found = await call.uploads.settled(found, timeout_seconds=ASSEMBLY_SECONDS)
    return done({"Upload-Offset": str(found.session.last_known_offset), **expiry(found.session)})


async def append(
    call: TusCall,
    stream: Stream,
    body: RequestBody | CheckedBody,
    *,
    offset: int,
    declared_length: int | None = None,
) -> Stream:
    """Append ``body`` and return the upload with its new offset.

    A request that is cancelled stores what has arrived first.

    Raises:
        TusError: see :func:`patch`; also after bytes were stored, when the body was too long or another request needed
            the upload.
        UploadStalled: nothing arrived for a while.
    """
    appending: Callable[[], Awaitable[Stream]] = lambda: call.uploads.append(  # noqa: E731
        stream, body, offset=offset, declared_length=declared_length
    )
    found = await run_to_end(appending(), on_cancel=call.body.stop)
    match call.body.ended:
        case End.OVERRAN:
            raise too_large(found.session.last_known_offset)
        case End.STOPPED:
            raise TusError("another request continues this upload", code="tus_locked", retryable=True, retry_after=1)
        case End.STALLED:
            stalled = UploadStalled("no byte arrived for a while", detail={"limit_seconds": IDLE_SECONDS})
            stalled.http_status = 503  # clients give up after 408, and a line that was dead is why they are here
            raise stalled
    return found
