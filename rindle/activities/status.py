"""The status of an upload and its next step: the result of every activity of ``UploadWorkflow``.

Nothing is changed here. The steps themselves are in ``uploads`` and ``promotion``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rindle.db import streams
from rindle.db import uploads as rows
from rindle.db import variants as variant_rows
from rindle.db.models import MediaAsset, MediaUploadSession, utc_now
from rindle.db.promotion import gave_up
from rindle.messages import GroupStart, UploadStatus, UploadStep
from rindle.services import Services
from rindle.states import DELIVERABLE, ENDED_BADLY, IN_PROMOTION, AssetState, SessionState
from rindle.workflows import ids

#: States in which bytes may still come.
_WAITING = (SessionState.INITIALIZED, SessionState.SIGNED, SessionState.RESUMING, SessionState.UPLOADING)
#: Shortest pause in seconds before a workflow reads the rows again.
_MIN_WAIT_SECONDS = 0.05
#: Seconds between two looks at a partial upload that has expired while a final upload still needs it.
_NEEDED_SECONDS = 60.0


class UploadStatusReader:
    """Reads the status of uploads for the workflow."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._database = services.database

    async def read(self, session_id: str) -> UploadStatus:
        """Return the next step of an upload, from its rows."""
        found = await self._database.read(rows.find_upload, session_id)
        if found is None:
            partial = await self._database.read(streams.find_partial, session_id)
            return UploadStatus(step=UploadStep.DONE, outcome="gone") if partial is None else _of_partial(partial)
        upload, asset = found.session, found.asset
        facts: dict[str, Any] = {"asset_id": asset.id, "profile": asset.profile}
        if asset.state == AssetState.DELETED:  # its purge deletes the objects, also once more after the last ticket
            return UploadStatus(step=UploadStep.DONE, outcome=asset.state, **facts)
        if upload.state == SessionState.COMPLETED:
            return await self._of_asset(asset, facts)
        facts["outcome"] = upload.state
        if upload.state in ENDED_BADLY:
            return _of_ended(upload, facts, self._services.settings.late_put_seconds)
        if upload.state == SessionState.UPLOADED:
            passed_through = upload.resumable_protocol in streams.STREAMED
            return UploadStatus(step=UploadStep.ASSEMBLE if passed_through else UploadStep.VERIFY, **facts)
        wait_seconds, poll = self._wait(upload)
        return UploadStatus(step=UploadStep.WAIT, wait_seconds=wait_seconds, poll=poll, **facts)

    async def read_after_failure(self, session_id: str) -> UploadStatus:
        """Return the status after a failed promotion, which is not repeated."""
        found = await self._database.read(rows.find_upload, session_id)
        if found is None:
            return UploadStatus(step=UploadStep.DONE, outcome="gone")
        facts: dict[str, Any] = {"asset_id": found.asset.id, "profile": found.asset.profile}
        if found.session.state in _WAITING:
            wait_seconds, poll = self._wait(found.session)
            return UploadStatus(
                step=UploadStep.WAIT, wait_seconds=wait_seconds, poll=poll, outcome=found.session.state, **facts
            )
        if found.session.state in ENDED_BADLY:
            # Either the release failed, or the promotion of a session that has ended meanwhile.
            return UploadStatus(step=UploadStep.DONE, outcome=found.session.state, **facts)
        return UploadStatus(step=UploadStep.DONE, outcome="failed", **facts)

    def group_starts(self, asset: MediaAsset, groups: Sequence[str]) -> tuple[GroupStart, ...]:
        """Return the builds to start for ``groups``, in the order of the profile."""
        settings = self._services.settings
        return tuple(
            GroupStart(
                workflow_id=ids.variants_id(asset.id, group, prefix=settings.workflow_id_prefix),
                group=group,
                task_queue=settings.queue_of(group),
            )
            for group in self._services.profile(asset.profile).build_order(groups)
        )

    async def _of_asset(self, asset: MediaAsset, facts: dict[str, Any]) -> UploadStatus:
        facts["outcome"] = asset.state
        if asset.state in IN_PROMOTION:
            if gave_up(asset):
                return UploadStatus(step=UploadStep.DONE, **{**facts, "outcome": "failed"})
            return UploadStatus(step=UploadStep.PROMOTE, **facts)
        groups: tuple[GroupStart, ...] = ()
        if AssetState(asset.state) in DELIVERABLE:
            names = await self._database.read(variant_rows.open_groups, asset.id)
            groups = self.group_starts(asset, names)
        return UploadStatus(step=UploadStep.DONE, groups=groups, **facts)

    def _wait(self, upload: MediaUploadSession) -> tuple[float, bool]:
        """Return how long to wait, and whether the timer verifies the object."""
        remaining = max(_MIN_WAIT_SECONDS, rows.live_seconds(upload))
        settings = self._services.settings
        if upload.multipart_parts:  # its completion was requested: finish it if the caller does not
            return min(remaining, settings.auto_verify_grace_seconds), True
        if not upload.auto_verify or upload.url_expires_at is None:
            return remaining, False
        now = utc_now()
        if (now - upload.url_expires_at).total_seconds() > settings.auto_verify_grace_seconds:
            return remaining, False
        # Doubling pauses, derived from the row's age so that no attempt counter has to be kept.
        age = max(settings.auto_verify_initial_seconds, (now - upload.inserted_at).total_seconds())
        return min(remaining, age, settings.auto_verify_max_seconds), True


def _of_partial(upload: MediaUploadSession) -> UploadStatus:
    """A partial upload waits to be joined, until it expires; it is released when it has ended."""
    if upload.state in ENDED_BADLY:
        step = UploadStep.RELEASE if upload.backing_released_at is None else UploadStep.DONE
        return UploadStatus(step=step, outcome=upload.state)
    remaining = rows.live_seconds(upload)
    wait_seconds = _NEEDED_SECONDS if remaining <= 0 else max(_MIN_WAIT_SECONDS, remaining)
    return UploadStatus(step=UploadStep.WAIT, wait_seconds=wait_seconds, outcome=upload.state)


def _of_ended(upload: MediaUploadSession, facts: dict[str, Any], late_put_seconds: float) -> UploadStatus:
    """An ended upload is released now, and once more when no PUT with a signed URL can end any more."""
    released, until = upload.backing_released_at, upload.url_expires_at
    if released is None:
        return UploadStatus(step=UploadStep.RELEASE, **facts)
    if rows.late_put_wait(until, late_put_seconds, since=released) <= 0:
        return UploadStatus(step=UploadStep.DONE, **facts)
    remaining = rows.late_put_wait(until, late_put_seconds)
    if remaining <= 0:
        return UploadStatus(step=UploadStep.RELEASE, **facts)
    return UploadStatus(step=UploadStep.WAIT, wait_seconds=remaining + _MIN_WAIT_SECONDS, **facts)
