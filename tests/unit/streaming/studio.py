"""Creators who upload to the provider in memory: an application whose profile takes direct uploads."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaOutbox, Profile
from rindle.activities.provider_uploads import ProviderUploadActivities
from rindle.db import direct_uploads as rows
from rindle.db.models import MediaProviderAsset
from rindle.presets import Web
from rindle.protocols import ProviderAsset, ProviderUpload, Storage, WebhookKind
from rindle.uploads.to_provider import DirectUpload
from rindle.webhooks import ingest_webhook
from tests.unit.streaming.cinema import SECRET, Cinema, streaming

ORIGIN = "https://cohort.example"


def make_profiles(store: Storage) -> list[type[Profile]]:
    class Talk(Web):
        name = "talk"
        storage = store
        allow_extensions = (".mp4", ".mov")
        delivery = {"streaming": streaming(ingest_mode="direct_creator_upload")}

    class Pushed(Web):
        name = "pushed"
        storage = store
        delivery = {"streaming": streaming()}

    class Plain(Web):
        name = "plain"
        storage = store

    return [Talk, Pushed, Plain]


class Studio(Cinema):
    """What a creator, the provider and a worker do with uploads."""

    @property
    def uploads(self) -> ProviderUploadActivities:
        return ProviderUploadActivities(self.rindle.services)

    async def opened(self, **options: Any) -> DirectUpload:
        return await self.rindle.create_direct_upload("talk", cors_origin=ORIGIN, **options)

    async def asset_of(self, upload: DirectUpload) -> MediaAsset:
        return await self.rindle.asset(upload.asset_id)

    async def row_of(self, upload: DirectUpload) -> MediaProviderAsset:
        found = await self.rindle.database.read(rows.find, upload.asset_id)
        assert found is not None
        return found

    async def at_provider(self, upload: DirectUpload) -> ProviderUpload:
        return self.provider.uploads[(await self.row_of(upload)).provider_upload_id or ""]

    async def sent(self, upload: DirectUpload) -> ProviderAsset:
        """Send the bytes: the provider makes an asset of them."""
        made = self.provider.receive((await self.at_provider(upload)).id)
        assert made is not None
        return made

    async def told(self, kind: WebhookKind, upload: DirectUpload, made: ProviderAsset | None, **options: Any) -> bool:
        """Let the application receive a webhook about the upload, or about the asset that was made of it."""
        upload_id = (await self.row_of(upload)).provider_upload_id if kind.startswith("upload_") else None
        body, headers = self.provider.webhook(kind, SECRET, asset=made, upload_id=upload_id, **options)
        return await ingest_webhook(self.rindle.services, "memory", body, headers, [SECRET])

    async def applied(self, upload: DirectUpload) -> None:
        """Apply all webhooks, as the workflow does."""
        await self.apply(await self.asset_of(upload))

    async def gone(self, asset_id: str) -> None:
        """Delete the rows, as the purge does at its end."""
        await self.rindle.database.write(
            lambda session: session.execute(delete(MediaAsset).where(MediaAsset.id == asset_id))
        )

    async def wakings(self) -> list[MediaOutbox]:
        """Return the rows that start or signal workflows of uploads."""
        return [row for row in await self.rindle.database.read(_outbox) if "provider-upload" in row.workflow_id]

    async def purges(self) -> list[MediaOutbox]:
        """Return the rows that request purges."""
        return [row for row in await self.rindle.database.read(_outbox) if "purge" in row.workflow_id]


def _outbox(session: Session) -> list[MediaOutbox]:
    return list(session.scalars(select(MediaOutbox).order_by(MediaOutbox.id)))
