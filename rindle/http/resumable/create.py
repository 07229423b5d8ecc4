"""``POST``: create an upload, with all its bytes, the first ones or none. Source: the draft, Upload Creation."""

from __future__ import annotations

from fastapi import Response

from rindle.arguments import MAX_FILENAME_CHARS, MAX_TEXT_CHARS
from rindle.errors import InvalidArgument, TusError
from rindle.http.resumable.append import take
from rindle.http.resumable.call import Call
from rindle.http.resumable.fields import read_filename
from rindle.http.resumable.messages import created_headers, interim_created, read_creation
from rindle.http.streams.append import kept_if_accepted
from rindle.text import storable
from rindle.uploads.sessions import UploadRequest
from rindle.uploads.streams import OPEN


async def create(call: Call) -> Response:
    """Create the upload that the headers describe, and append the content.

    The response to the whole file has status 200, that to its beginning 201 with the path of the upload.

    Raises:
        InvalidArgument: ``Upload-Complete`` is missing, or a digest cannot be read.
        InconsistentLength: the lengths that the client indicates differ.
        TusError: ``tus_size_exceeded``, ``tus_checksum_mismatch``; ``tus_content_type_unsupported`` for a content
            coding.
        Unauthorized: the authorizer denies.
        UploadRejected: the profile does not allow the extension.
    """
    headers = call.request.headers
    transfer = read_creation(headers)
    if transfer is None:
        raise InvalidArgument(
            "Upload-Complete must be ?1 with the whole file, or ?0 to send it later",
            detail={"option": "Upload-Complete"},
        )
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise TusError("send the file without a Content-Encoding", code="tus_content_type_unsupported")
    length = transfer.length(offset=0, known=None)
    if length is not None:
        call.uploads.check_size(length)
    filename = read_filename(headers.get("content-disposition"))
    call.actor = await call.access.actor(call.request)
    await call.access.allow_creation(call.actor, call.uploads.profile.name, filename, length)
    made = await call.uploads.create(
        _request(call, filename, headers.get("content-type")),
        length=length,
        metadata=None if transfer.whole_digest is None else transfer.whole_digest.column,
    )
    location, limits = call.location(made.session), call.limits_of(made.session)
    await call.inform(interim_created(location, limits))
    async with kept_if_accepted(call, made):
        found = await take(call, made, transfer, offset=0)
    if found.session.state not in OPEN:
        return await call.answer(found)
    found_limits = call.limits_of(found.session)
    offset = {"Upload-Offset": str(found.session.last_known_offset)}
    return Response(status_code=201, headers={**created_headers(location, found_limits), **offset})


def _request(call: Call, filename: str | None, content_type: str | None) -> UploadRequest:
    name = "unknown" if filename is None else storable(filename)[-MAX_FILENAME_CHARS:]
    declared = None if content_type is None else storable(content_type)[:MAX_TEXT_CHARS]
    return UploadRequest(filename=name, content_type=declared, actor=call.actor_name)
