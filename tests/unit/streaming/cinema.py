"""Films of several profiles, the activities that push them, and the webhooks that report them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaOutbox, Profile, Rindle
from rindle.activities.streaming import StreamingActivities
from rindle.db import providers as rows
from rindle.db.models import MediaProviderAsset
from rindle.db.transitions import lock_asset
from rindle.errors import Unauthorized
from rindle.messages import ProviderEvents, ProviderPushInput, ProviderStatus
from rindle.presets import Web
from rindle.profile import StreamingPolicy
from rindle.protocols import DeliverySubject, Storage, WebhookKind
from rindle.streaming.memory import InMemoryProvider
from rindle.webhooks import ingest_webhook
from tests.gallery import Gallery

SECRET = "the secret of the webhooks"
FACTS = {"kind": "video", "content_type": "video/mp4", "has_video_track": True, "duration_ms": 90_000}


class Members:
    """Lets nobody but members play."""

    def authorize(self, actor: Any, action: str, subject: DeliverySubject) -> None:
        if actor != "member":
            raise Unauthorized("members only")


def streaming(**options: Any) -> dict[str, Any]:
    """Declare streaming through the provider in memory."""
    return {
        "provider": "memory",
        "playback_policy": "signed",
        "ingest_mode": "server_push",
        "source_variant": "web_720p",
        **options,
    }


def make_profiles(store: Storage) -> list[type[Profile]]:
    class Film(Web):
        name = "film"
        storage = store
        delivery = {"streaming": streaming()}

    class Premiere(Web):
        name = "premiere"
        storage = store
        delivery = {"streaming": streaming(playback_ttl_seconds=7_200), "authorizer": Members()}

    class Trailer(Web):
        name = "trailer"
        storage = store
        delivery = {"streaming": streaming(playback_policy="public"), "public": True}

    class Plain(Web):
        name = "plain"
        storage = store

    return [Film, Premiere, Trailer, Plain]


class Cinema:
    """One application and what a test does with it."""

    def __init__(self, gallery: Gallery, provider: InMemoryProvider) -> None:
        self.gallery = gallery
        self.provider = provider
        self.activities = StreamingActivities(self.rindle.services)

    @property
    def rindle(self) -> Rindle:
        return self.gallery.rindle

    def profile(self, name: str = "film") -> type[Profile]:
        return self.rindle.profiles.get(name)

    def policy(self, name: str = "film") -> StreamingPolicy:
        found = self.profile(name).delivery_policy().streaming
        assert found is not None
        return found

    async def film(self, name: str = "film") -> MediaAsset:
        """Return an asset whose variants are built."""
        return await self.gallery.ready(self.profile(name), facts=FACTS)

    def order(self, asset: MediaAsset) -> ProviderPushInput:
        return ProviderPushInput(asset_id=asset.id, profile=asset.profile, provider="memory")

    async def push(self, asset: MediaAsset) -> ProviderStatus:
        """Run the activities of the workflow up to the creation."""
        status = await self.activities.ensure_provider_row(self.order(asset))
        return await self.activities.create_provider_asset(self.order(asset)) if status.needs_create else status

    async def pushed(self, name: str = "film", *, state: str = "ready") -> MediaAsset:
        """Return a film that the provider has in a state."""
        asset = await self.film(name)
        await self.push(asset)
        row = await self.row(asset)
        if state != "processing":
            assert row.provider_asset_id is not None
            self.provider.finish(row.provider_asset_id, state=state, error="no video" if state == "errored" else None)
            await self.activities.poll_provider_asset(self.order(asset))
        assert (await self.row(asset)).state == state
        return asset

    async def row(self, asset: MediaAsset) -> MediaProviderAsset:
        found = await self.rindle.database.read(rows.find, asset.id, asset.profile, "memory")
        assert found is not None
        return found

    async def change(self, asset: MediaAsset, **values: Any) -> None:
        """Change the row as a deploy or a clock would."""

        def change(session: Session) -> None:
            lock_asset(session, asset.id)
            row = rows.find(session, asset.id, asset.profile, "memory")
            for name, value in values.items():
                setattr(row, name, value)

        await self.rindle.database.write(change)

    # -- webhooks -------------------------------------------------------------------------------------------------

    async def received(self, kind: WebhookKind, asset: MediaAsset, **options: Any) -> bool:
        """Let the application receive a webhook about the film."""
        row = await self.row(asset)
        at_provider = self.provider.assets[row.provider_asset_id or ""]
        body, headers = self.provider.webhook(kind, SECRET, asset=at_provider, **options)
        return await ingest_webhook(self.rindle.services, "memory", body, headers, [SECRET])

    async def outbox(self) -> list[MediaOutbox]:
        """Return the webhooks of the outbox."""
        return await self.rindle.database.read(
            lambda session: list(
                session.scalars(
                    select(MediaOutbox).where(MediaOutbox.kind == "provider_webhook").order_by(MediaOutbox.id)
                )
            )
        )

    async def apply(self, asset: MediaAsset, *outbox_ids: int) -> None:
        """Run the activity that applies webhooks, all of the outbox by default."""
        chosen = outbox_ids or tuple(row.id for row in await self.outbox())
        await self.activities.apply_provider_events(ProviderEvents(push=self.order(asset), outbox_ids=chosen))

    async def events(self, asset: MediaAsset) -> list[str]:
        """Return the types of the film's provider events."""
        return [
            event.type
            for event in await self.rindle.timeline(asset.id)
            if event.type.startswith(("provider_", "orphan"))
        ]
