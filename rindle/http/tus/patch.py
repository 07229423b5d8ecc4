"""``PATCH``: append bytes at an offset. Source: tus 1.0.0, PATCH and Checksum."""

from __future__ import annotations

from fastapi import Response

from rindle.http.streams.append import append
from rindle.http.streams.body import CheckedBody
from rindle.http.tus.call import TusCall, done, expiry
from rindle.http.tus.headers import read_checksum, read_declared_length, read_offset, require_bytes_type
from rindle.uploads.streams import require_unsent

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
    body = call.body if checksum is None else CheckedBody(call.body, checksum, scratch=call.scratch)
    found = await append(call, stream, body, offset=offset, declared_length=declared)
    found = await call.uploads.settled(found, timeout_seconds=ASSEMBLY_SECONDS)
    return done({"Upload-Offset": str(found.session.last_known_offset), **expiry(found.session)})
