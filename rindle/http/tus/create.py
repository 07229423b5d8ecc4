"""``POST``: create an upload, also with its first bytes, as a part of another one, or from such parts.

Source: tus 1.0.0, Creation, Creation With Upload and Concatenation.
"""

from __future__ import annotations

from fastapi import Response

from rindle.errors import InvalidArgument
from rindle.http.streams.append import append, kept_if_accepted
from rindle.http.streams.body import CheckedBody
from rindle.http.tus.call import TusCall, expiry
from rindle.http.tus.headers import (
    Metadata,
    Source,
    read_checksum,
    read_concat,
    read_length,
    read_metadata,
    require_bytes_type,
)
from rindle.http.tus.patch import ASSEMBLY_SECONDS
from rindle.uploads.sessions import UploadRequest
from rindle.uploads.streams import Stream

#: Longest wait in seconds for the join of a final upload.
JOIN_SECONDS = 30.0


async def create(call: TusCall) -> Response:
    """Create the upload that the headers describe.

    Raises:
        InvalidArgument: a header is wrong.
        TusError: ``tus_size_exceeded``, ``tus_content_type_unsupported``, and those of the bytes in the body.
        Unauthorized: the authorizer denies.
        UploadRejected: the profile does not allow the extension.
    """
    partial, sources = read_concat(call.header("upload-concat"))
    if (partial or sources) and not call.uploads.can_concatenate:
        raise InvalidArgument("this storage does not join uploads", detail={"option": "Upload-Concat"})
    metadata = read_metadata(call.header("upload-metadata"))
    if sources:
        return await _join(call, sources, metadata)
    length = read_length(call.header("upload-length"), call.header("upload-defer-length"))
    has_bytes = call.body.is_announced or call.header("content-type") is not None
    if has_bytes and (call.body.announced or call.header("content-type")):
        require_bytes_type(call.header("content-type"))
    checksum = read_checksum(call.header("upload-checksum"))
    if length is not None:
        call.uploads.check_size(length)
    call.actor = await call.access.actor(call.request)
    await call.access.allow_creation(call.actor, call.uploads.profile.name, metadata.filename, length)
    body = call.body if checksum is None else CheckedBody(call.body, checksum, scratch=call.scratch)
    if has_bytes:
        body.limit_to(call.uploads.max_size if length is None else length)
    creating = call.uploads.create_partial if partial else call.uploads.create
    made = await creating(_request(call, metadata), length=length, metadata=metadata.header)
    offset: dict[str, str] = {}
    if has_bytes:
        async with kept_if_accepted(call, made):
            made = await append(call, made, body, offset=0)
        offset = {"Upload-Offset": str(made.session.last_known_offset)}
    made = await call.uploads.settled(made, timeout_seconds=ASSEMBLY_SECONDS)
    return _created(call, made, offset)


async def _join(call: TusCall, sources: list[Source], metadata: Metadata) -> Response:
    if call.header("upload-length") is not None or call.header("upload-defer-length") is not None:
        raise InvalidArgument("a final upload has no Upload-Length of its own", detail={"option": "Upload-Length"})
    if call.body.announced:
        raise InvalidArgument("a final upload has no bytes of its own", detail={"option": "Content-Length"})
    call.actor = await call.access.actor(call.request)
    found = await call.uploads.sources_of([source.token for source in sources])
    profile = call.uploads.profile.name
    size = sum(stream.session.last_known_offset for stream in found)
    await call.access.allow_creation(call.actor, profile, metadata.filename, size)
    for stream in {stream.session.id: stream for stream in found}.values():
        await call.access.allow_resuming(call.actor, profile, stream, call.method)
    pairs = [(stream, source.prefix) for stream, source in zip(found, sources, strict=True)]
    made = await call.uploads.concatenate(_request(call, metadata), pairs, metadata=metadata.header)
    return _created(call, await call.uploads.settled(made, timeout_seconds=JOIN_SECONDS), {})


def _request(call: TusCall, metadata: Metadata) -> UploadRequest:
    return UploadRequest(
        filename=metadata.filename or "unknown", content_type=metadata.content_type, actor=call.actor_name
    )


def _created(call: TusCall, made: Stream, offset: dict[str, str]) -> Response:
    headers = {"Location": call.location(made.session), **expiry(made.session), **offset}
    return Response(status_code=201, headers=headers)
