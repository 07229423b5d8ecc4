"""Activities of an upload other than its promotion: verify, expire, release."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from temporalio import activity

from rindle import messages
from rindle.activities.deletion import delete_object, never_final
from rindle.activities.liveness import heartbeating
from rindle.activities.status import UploadStatusReader
from rindle.crash_points import crash_point
from rindle.db import streams
from rindle.db import uploads as rows
from rindle.db.models import MediaUploadSession, utc_now
from rindle.db.uploads import Upload
from rindle.errors import NotFound, RindleError, StorageObjectMissing, StorageTransient, describe
from rindle.messages import UploadInput, UploadStatus, UploadStep
from rindle.services import Services
from rindle.states import ENDED_BADLY

#: Does a step for a session.
Step = Callable[[str], Awaitable[None]]
#: Removes what the store keeps of an upload beside its object.
Release = Callable[[MediaUploadSession], Awaitable[None]]
#: Verifies a session and returns it; the same code the application calls.
Verify = Callable[[str], Awaitable[Upload]]


class UploadActivities:
    """Activities of ``UploadWorkflow`` until the bytes are verified, and after an upload that ended without them.

    Each one begins by reading the rows and may run repeatedly.

    Args:
        services: the application's collaborators.
        verify: the verification flow.
        assemble: makes the object of an upload that passed through the application.
        release: removes what the store keeps of an ended upload beside its object.
    """

    def __init__(self, services: Services, *, verify: Verify, assemble: Step, release: Release) -> None:
        self._services = services
        self._database = services.database
        self._status = UploadStatusReader(services)
        self._verify = verify
        self._assemble = assemble
        self._release = release

    def all(self) -> list[Callable[..., Any]]:
        """Return the activities to register."""
        return [
            *(self.read_upload, self.verify_upload, self.assemble_upload),
            *(self.expire_upload, self.release_upload, self.abort_upload),
        ]

    @activity.defn(name=messages.READ_UPLOAD)
    async def read_upload(self, order: UploadInput) -> UploadStatus:
        """Return the next step of an upload, from its rows."""
        return await self._status.read(order.session_id)

    @activity.defn(name=messages.VERIFY_UPLOAD)
    async def verify_upload(self, order: UploadInput) -> UploadStatus:
        """Check whether the object exists, and complete the session if it does.

        A missing object and an ended upload are results (the latter with its reason in ``failure``), so that the
        workflow continues from the rows. Only retryable errors are raised.
        """
        try:
            await self._verify(order.session_id)
        except StorageObjectMissing:
            return await self._status.read(order.session_id)
        except RindleError as error:
            if error.retryable:
                raise
            status = await self._status.read(order.session_id)
            code, reason = describe(error)
            return status.model_copy(update={"failure": messages.Failure(code=code, message=reason)})
        return await self._status.read(order.session_id)

    @activity.defn(name=messages.ASSEMBLE_UPLOAD)
    async def assemble_upload(self, order: UploadInput) -> UploadStatus:
        """Make the object of an upload whose bytes have all arrived, and verify it.

        A refused upload and lost bytes are results. Only errors that a retry can fix are raised.
        """
        crash_point("upload.assemble.before")
        try:
            async with heartbeating():
                await self._assemble(order.session_id)
        except StorageObjectMissing as error:
            raise StorageTransient("the object that was just made is not there yet") from error
        except RindleError as error:
            if error.retryable or (await self._status.read(order.session_id)).step is UploadStep.ASSEMBLE:
                error.retryable = True  # a permission, a full disk or a missing profile is repaired by an operator
                raise
        crash_point("upload.assembled")
        return await self._status.read(order.session_id)

    @activity.defn(name=messages.EXPIRE_UPLOAD)
    async def expire_upload(self, order: UploadInput) -> UploadStatus:
        """Expire the session if its row is past ``expires_at``."""
        with contextlib.suppress(NotFound):  # purged meanwhile
            if await self._database.read(streams.find_partial, order.session_id) is not None:
                await self._database.write(streams.expire_stream, order.session_id)
            else:
                await self._database.write(rows.expire_upload, order.session_id)
        return await self._status.read(order.session_id)

    @activity.defn(name=messages.RELEASE_UPLOAD)
    async def release_upload(self, order: UploadInput) -> UploadStatus:
        """Delete the object and the parts of an ended upload; nothing to delete is success.

        Raises:
            RindleError: it could not be deleted; the row has the cause, and no cause is final.
        """

        async def note(code: str, reason: str) -> None:
            await self._database.write(rows.note_not_released, order.session_id, code)

        async with heartbeating(), never_final(note):
            found = await self._database.read(streams.find_stream, order.session_id)
            if found is None:
                return UploadStatus(step=UploadStep.DONE, outcome="gone")
            if found.session.state in ENDED_BADLY:
                crash_point("upload.release.before")
                began_at = utc_now()
                await self._release(found.session)  # before the object, which a part could still complete
                storage = self._services.storage_of(found.session.upload_key, found.asset)
                await delete_object(storage, found.session.upload_key)
                crash_point("upload.release.deleted")
                await self._database.write(rows.note_released, order.session_id, began_at=began_at)
        return await self._status.read(order.session_id)

    @activity.defn(name=messages.ABORT_UPLOAD)
    async def abort_upload(self, order: UploadInput) -> UploadStatus:
        """Abort the session unless its bytes are verified, as ``cancel_upload`` does.

        It serves Request Cancellation of the workflow. That may also come from a purge, which leaves nothing to do.
        """
        status = await self._status.read(order.session_id)
        if status.step is UploadStep.DONE:
            return status
        with contextlib.suppress(NotFound):  # purged meanwhile
            if await self._database.read(streams.find_partial, order.session_id) is not None:
                await self._database.write(streams.abort_stream, order.session_id)
            else:
                await self._database.write(rows.abort_upload, order.session_id)
        crash_point("upload.aborted")
        return await self._status.read(order.session_id)
