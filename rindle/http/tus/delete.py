"""``DELETE``: terminate an upload. Source: tus 1.0.0, Termination."""

from __future__ import annotations

from fastapi import Response

from rindle.http.tus.call import TusCall, done


async def delete(call: TusCall) -> Response:
    """Abort the upload and remove its bytes.

    Raises:
        TusError: there is no such upload, it has ended, or ``tus_locked``.
        UploadAlreadyCompleted: it is complete.
    """
    await call.uploads.terminate(await call.stream())
    return done({})
