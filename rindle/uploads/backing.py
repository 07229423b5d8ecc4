"""What a store holds for an upload that has ended without its object, and how it is removed: one function per lane.

The workflow of an upload, the purge of its asset and the sweeps call it. All of it can be repeated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from rindle.cancellation import run_to_end
from rindle.db.models import MediaUploadSession
from rindle.db.streams import find_stream
from rindle.protocols import Storage
from rindle.services import Services
from rindle.uploads import assembly, multipart, resumable
from rindle.uploads.sessions import lane_of

#: Removes what a store keeps of a session beside its object; nothing to remove is success.
Release = Callable[[Services, Storage, MediaUploadSession], Awaitable[None]]


async def release(services: Services, upload: MediaUploadSession) -> None:
    """Remove what the store keeps of an ended upload beside its object, which the caller deletes after it.

    Raises:
        StorageError: something may be left; the call can be repeated.
    """
    if lane_of(upload) not in RELEASES:
        return
    found = await services.database.read(find_stream, upload.id)  # with the parts that have arrived since
    if found is not None:
        storage = services.storage_of(found.session.upload_key, found.asset)
        await RELEASES[lane_of(found.session)](services, storage, found.session)


async def remove(services: Services, storage: Storage, upload: MediaUploadSession) -> int:
    """Remove everything that the store holds for an ended session; returns the number of deleted objects.

    Stores that do not say whether an object existed (S3) count as if it had.

    Raises:
        StorageError: something may be left; the call can be repeated.
    """
    lane = lane_of(upload)
    if lane in RELEASES:  # before the object, which the store could still make of what is left
        await RELEASES[lane](services, storage, upload)
    # To its end although the sweep is cancelled: nobody would know whether the store executes it later.
    result = await run_to_end(storage.delete(upload.upload_key))
    return int(result.existed is not False)


async def _release_parts(services: Services, storage: Storage, upload: MediaUploadSession) -> None:
    await multipart.release_parts(storage, upload)


async def _release_stream(services: Services, storage: Storage, upload: MediaUploadSession) -> None:
    await assembly.release_stream(storage, upload)


#: The lanes that keep more than one object, and how that is removed.
RELEASES: Mapping[str, Release] = {
    "multipart": _release_parts,
    "tus": _release_stream,
    "ietf": _release_stream,
    "gcs": resumable.cancel_session,
}
