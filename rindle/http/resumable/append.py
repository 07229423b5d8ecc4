"""``PATCH``: append at an offset. Source: the draft, Upload Append; RFC 9530 for ``Content-Digest``."""

from __future__ import annotations

from fastapi import Response

from rindle.errors import TusError
from rindle.http.resumable.call import Call
from rindle.http.resumable.messages import (
    PARTIAL_TYPE,
    InconsistentLength,
    Transfer,
    appended_headers,
    is_partial,
    read_append,
)
from rindle.http.streams.append import append
from rindle.http.streams.body import MAX_CHECKED_BYTES, CheckedBody, Checksum, End, RequestBody
from rindle.uploads.digests import hash_name
from rindle.uploads.streams import OPEN, Stream, require_offset, require_unsent


async def patch(call: Call) -> Response:
    """Append the content at ``Upload-Offset``; whatever has arrived is kept, also when the client disconnects.

    A completed upload takes nothing more. The request that would complete it again, without content, is answered again.

    Raises:
        InvalidArgument: a header is missing or wrong.
        InconsistentLength: the client indicates another length than before, or sends more bytes than it.
        TusError: ``tus_content_type_unsupported``, ``tus_offset_conflict``, ``tus_size_exceeded``, ``tus_locked``,
            ``tus_checksum_mismatch``, ``tus_upload_closed``.
    """
    stream = await call.stream()
    if not is_partial(call.request.headers.get("content-type")):
        raise TusError(f"send the bytes with Content-Type: {PARTIAL_TYPE}", code="tus_content_type_unsupported")
    offset, transfer = read_append(call.request.headers)
    if stream.session.state not in OPEN:
        require_offset(stream.session, offset)
        if not transfer.is_complete or call.body.is_announced:
            require_unsent(stream.session)
            raise TusError("this upload is complete and takes no more bytes", code="tus_upload_closed")
        return await call.answer(stream)
    found = await take(call, stream, transfer, offset=offset)
    if found.session.state not in OPEN:
        return await call.answer(found)
    limits = call.limits_of(found.session)
    headers = appended_headers(offset=found.session.last_known_offset, is_complete=False, found=limits)
    return Response(status_code=204, headers=headers)


async def take(call: Call, stream: Stream, transfer: Transfer, *, offset: int) -> Stream:
    """Bring the content of a request into an upload; returns it with its new offset.

    An upload whose client sends more bytes than its length is aborted, as the draft demands.

    Raises:
        InconsistentLength, TusError: as :func:`patch`.
    """
    declared = transfer.length(offset=offset, known=None)
    if declared is not None:
        call.uploads.check_size(declared)
    length = stream.session.upload_length if declared is None else declared
    room = max(0, (call.uploads.max_size if length is None else length) - offset)
    body: RequestBody | CheckedBody = call.body
    if transfer.content_digest is not None:
        digest = transfer.content_digest
        body = CheckedBody(call.body, Checksum(hash_name(digest.algorithm), digest.value), scratch=call.scratch)
    try:
        # The length is recorded before the content is read, also when the content then has another digest: the request
        # includes the fields (draft, Upload Append, Server Behavior: "MUST record the length"), and every later one
        # must indicate the same length (draft, Length).
        found = await append(
            call,
            stream,
            body,
            offset=offset,
            declared_length=declared,
            ends=transfer.is_complete,
            on_offset=call.inform_of_progress,
        )
    except TusError as error:
        if error.code == "tus_size_exceeded" and length is not None and _is_over(call.body, transfer, room):
            await call.uploads.terminate(stream)
            raise InconsistentLength from error
        raise
    if transfer.is_complete and call.body.is_whole and found.session.state in OPEN:
        if found.session.upload_length is not None:
            raise InconsistentLength
        return await call.uploads.end(found)
    return found


def _is_over(body: RequestBody, transfer: Transfer, room: int) -> bool:
    """Whether a content that was refused for its size is larger than what is left of the upload."""
    if body.announced is not None:
        return body.announced > room
    return body.ended is End.OVERRAN and (transfer.content_digest is None or room <= MAX_CHECKED_BYTES)
