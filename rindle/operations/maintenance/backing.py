"""What a store holds for an upload that has ended, and how it is removed: one function per lane."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from rindle.cancellation import run_to_end
from rindle.db.models import MediaUploadSession
from rindle.protocols import Storage
from rindle.settings import Settings
from rindle.uploads import multipart, resumable

#: Removes what a store holds for a session, and returns how many objects that were; nothing to remove is success.
Release = Callable[[Storage, MediaUploadSession], Awaitable[int]]


def lane_of(upload: MediaUploadSession) -> str:
    """Return the lane of a session: its strategy; ``tus`` or ``gcs`` for the protocols of the strategy ``resumable``.

    tus sessions are resumable, too, but their bytes are kept in another way.
    """
    if upload.upload_strategy == "resumable":
        return upload.resumable_protocol or "gcs"
    return upload.upload_strategy


async def release(settings: Settings, storage: Storage, upload: MediaUploadSession) -> int:
    """Remove what the store holds for an ended session; returns the number of deleted objects.

    Stores that do not say whether an object existed (S3) count as if it had.

    Raises:
        StorageError: something may be left; the call can be repeated.
    """
    # Before the object, which the store could still make of the session.
    await resumable.cancel_session(settings, storage, upload)
    return await RELEASES.get(lane_of(upload), _delete_object)(storage, upload)


async def _delete_object(storage: Storage, upload: MediaUploadSession) -> int:
    # To its end although the sweep is cancelled: nobody would know whether the store executes it later.
    result = await run_to_end(storage.delete(upload.upload_key))
    return int(result.existed is not False)


async def _delete_parts(storage: Storage, upload: MediaUploadSession) -> int:
    await multipart.release_parts(storage, upload)  # before the object, which a part could still complete
    return await _delete_object(storage, upload)


#: How each lane is released; an upload of any other one is a single object.
RELEASES: Mapping[str, Release] = {
    "presigned_put": _delete_object,
    "server": _delete_object,
    "multipart": _delete_parts,
    "gcs": _delete_object,
}
