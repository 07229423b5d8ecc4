"""``HEAD``: how far an upload is. Source: tus 1.0.0, HEAD."""

from __future__ import annotations

from fastapi import Response

from rindle.http.tus.call import TusCall, done, expiry
from rindle.states import SessionState
from rindle.uploads.tus import FINAL


async def head(call: TusCall) -> Response:
    """Return the offset at which the upload continues; a request that still sends bytes of it is ended first.

    Raises:
        TusError: there is no such upload, it has ended, or ``tus_locked``.
    """
    upload = (await call.uploads.settled_offset(await call.stream())).session
    headers = {**expiry(upload)}
    if upload.concat_role != FINAL or upload.state in (SessionState.COMPLETED, SessionState.FAILED):
        headers["Upload-Offset"] = str(upload.last_known_offset)
    if upload.upload_length is None:
        headers["Upload-Defer-Length"] = "1"
    else:
        headers["Upload-Length"] = str(upload.upload_length)
    if upload.upload_metadata:
        headers["Upload-Metadata"] = upload.upload_metadata
    concat = call.concat(upload)
    if concat is not None:
        headers["Upload-Concat"] = concat
    return done(headers)
