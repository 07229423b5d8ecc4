"""Activities of ``ProviderUploadWorkflow``: what becomes of a browser's upload to a streaming provider.

The upload is opened by the call of the application, because its address is a credential that must not pass through
Temporal. The asset that is made of it is polled by the activities of :mod:`rindle.activities.streaming`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from temporalio import activity

from rindle import messages
from rindle.db import direct_uploads as rows
from rindle.db import providers
from rindle.db.models import MediaProviderAsset, utc_now
from rindle.errors import ProviderNotFound, StreamingNotConfigured
from rindle.messages import ProviderPushInput, ProviderStatus
from rindle.protocols import DirectUploads
from rindle.providers import remove_from_provider
from rindle.services import Services
from rindle.states import OPEN_PROVIDER_STATES, ProviderState


class ProviderUploadActivities:
    """Activities of ``ProviderUploadWorkflow``."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._database = services.database

    def steps(self) -> list[Callable[..., Any]]:
        """Return the SQL activities, for the workflows' queue."""
        return [self.read_provider_upload]

    def calls(self) -> list[Callable[..., Any]]:
        """Return the activities that call providers, for their queue."""
        return [self.check_provider_upload, self.release_provider_upload]

    @activity.defn(name=messages.READ_PROVIDER_UPLOAD)
    async def read_provider_upload(self, order: ProviderPushInput) -> ProviderStatus:
        """Read how far the upload is, by its row."""
        return self._status(order, await self._read(order))

    @activity.defn(name=messages.CHECK_PROVIDER_UPLOAD)
    async def check_provider_upload(self, order: ProviderPushInput) -> ProviderStatus:
        """Query the provider for an upload whose time is over; before that nothing happens.

        A row that changes meanwhile is left as it is.

        Raises:
            ProviderSyncFailed, ProviderQuotaExceeded: the provider did not answer; retried if that can help.
            StreamingNotConfigured: the provider takes no direct uploads any more.
        """
        row = await self._read(order)
        status = self._status(order, row)
        if row is None or not status.awaits_upload or status.wait_seconds > 0:
            return status
        if row.provider_upload_id is None:
            await self._database.write(providers.give_up_as_seen, row, "timeout: the upload was never opened")
            return self._status(order, await self._read(order))
        provider = self._services.provider(order.provider)
        if not isinstance(provider, DirectUploads):
            raise StreamingNotConfigured(f"the streaming provider {order.provider!r} takes no direct uploads")
        try:
            found = await provider.get_direct_upload(row.provider_upload_id)
        except ProviderNotFound:
            await self._database.write(providers.give_up_as_seen, row, f"{order.provider} upload not found")
        else:
            await self._database.write(rows.apply_upload, order.asset_id, found)
        return self._status(order, await self._read(order))

    @activity.defn(name=messages.RELEASE_PROVIDER_UPLOAD)
    async def release_provider_upload(self, order: ProviderPushInput) -> ProviderStatus:
        """Cancel the upload of a row that is ``deleted`` at the provider, with the asset that was made of it.

        Raises:
            ProviderSyncFailed, ProviderQuotaExceeded: the provider has not done it; retried if that can help.
        """
        row = await self._read(order)
        if row is not None and self._status(order, row).needs_release:
            await remove_from_provider(self._services, row)
            row = await self._read(order)
        return self._status(order, row)

    async def _read(self, order: ProviderPushInput) -> MediaProviderAsset | None:
        return await self._database.read(providers.find, order.asset_id, order.profile, order.provider)

    def _status(self, order: ProviderPushInput, row: MediaProviderAsset | None) -> ProviderStatus:
        settings = self._services.settings
        if row is None:
            return ProviderStatus(asset_id=order.asset_id, outcome="skipped", reason="not_found")
        is_open = ProviderState(row.state) in OPEN_PROVIDER_STATES
        awaits = is_open and row.provider_asset_id is None
        due = rows.queried_at(row, grace_seconds=settings.provider_upload_grace_seconds)
        return ProviderStatus(
            asset_id=order.asset_id,
            state=row.state,
            outcome="" if is_open else row.state,
            poll_seconds=settings.provider_poll_seconds,
            awaits_upload=awaits,
            wait_seconds=max(0.0, (due - utc_now()).total_seconds()) if awaits else 0.0,
            needs_release=row.cleanup_pending,
        )
