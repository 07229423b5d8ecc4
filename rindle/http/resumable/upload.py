"""``HEAD``, ``GET``, ``DELETE``, ``OPTIONS``. Source: the draft, Offset Retrieval, Upload Cancellation and Limits."""

from __future__ import annotations

from fastapi import Response

from rindle.http.resumable.call import Call
from rindle.http.resumable.messages import options_headers, status_headers, whole_digest_headers
from rindle.uploads.digests import WholeDigest
from rindle.uploads.streams import OPEN


async def head(call: Call) -> Response:
    """Return the offset at which the upload continues; a request that still sends bytes of it is ended first.

    Raises:
        TusError: there is no such upload, it has ended, or ``tus_locked``.
    """
    upload = (await call.uploads.settled_offset(await call.stream())).session
    headers = status_headers(
        offset=upload.last_known_offset,
        is_complete=upload.state not in OPEN,
        length=upload.upload_length,
        found=call.limits_of(upload),
    )
    return Response(status_code=204, headers={**headers, **whole_digest_headers(WholeDigest.of(upload))})


async def delete(call: Call) -> Response:
    """Abort the upload and remove its bytes.

    Raises:
        TusError: there is no such upload, it has ended, or ``tus_locked``.
        UploadAlreadyCompleted: it is complete.
    """
    await call.uploads.terminate(await call.stream())
    return Response(status_code=204)


async def options(call: Call) -> Response:
    """Return the limits, by which a client learns that uploads can be continued."""
    return Response(status_code=204, headers=options_headers(call.limits))
