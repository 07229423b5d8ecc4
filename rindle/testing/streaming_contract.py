"""The requirements of every streaming provider, as tests to inherit.

A few lines test a provider (pytest with pytest-asyncio)::

    class TestMyProvider(StreamingProviderContract):
        @pytest.fixture
        def provider(self):
            return MyProvider(...)

        @pytest.fixture
        def source_url(self):
            return "https://example.com/video.mp4"

        async def finish(self, provider, asset_id):
            ...  # let the provider finish the asset

        def webhook(self, asset, secret, now):
            ...  # the body and the headers of a webhook that reports the asset as ready

The assets that a test creates are deleted by it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from rindle.errors import ProviderNotFound, ProviderWebhookInvalid
from rindle.protocols import (
    STREAMING_CAPABILITIES,
    DirectUploads,
    ProviderAsset,
    StreamingProvider,
    WebhookKind,
)

SECRET = "a secret of the contract"  # noqa: S105 - of this suite alone
TOLERANCE_SECONDS = 300


class StreamingProviderContract:
    """Inherit this and provide the fixtures ``provider`` and ``source_url``."""

    @pytest.fixture
    def provider(self) -> StreamingProvider:
        """Return the provider."""
        raise NotImplementedError("override the fixture `provider`")

    @pytest.fixture
    def source_url(self) -> str:
        """Return the address of a short video that the provider can fetch."""
        raise NotImplementedError("override the fixture `source_url`")

    async def finish(self, provider: StreamingProvider, asset_id: str) -> None:
        """Return when the asset is ready at the provider."""
        raise NotImplementedError("override `finish`")

    def webhook(self, asset: ProviderAsset, secret: str, now: datetime) -> tuple[bytes, Mapping[str, str]]:
        """Return a signed webhook that reports ``asset`` as ready."""
        raise NotImplementedError("override `webhook`")

    async def created(self, provider: StreamingProvider, source_url: str) -> ProviderAsset:
        """Create an asset with a passthrough of its own."""
        return await provider.create_asset(source_url, policy="signed", passthrough=uuid.uuid4().hex)

    def test_its_name_and_capabilities_are_known(self, provider: StreamingProvider) -> None:
        """The name is stored in rows; abilities and capabilities agree."""
        assert provider.name.isidentifier() and provider.name == provider.name.lower() and len(provider.name) <= 63
        assert provider.capabilities() <= STREAMING_CAPABILITIES
        assert isinstance(provider, DirectUploads) == ("direct_creator_upload" in provider.capabilities())

    async def test_an_asset_becomes_ready_and_is_found_by_its_passthrough(
        self, provider: StreamingProvider, source_url: str
    ) -> None:
        """Its id stays the same, and ready ones can be played."""
        began = datetime.now(UTC) - timedelta(seconds=60)
        made = await self.created(provider, source_url)
        try:
            assert made.id and made.passthrough and made.state in ("processing", "ready")
            found = await provider.find_by_passthrough(made.passthrough, since=began)
            assert found is not None and found.id == made.id
            assert await provider.find_by_passthrough(uuid.uuid4().hex, since=began) is None
            await self.finish(provider, made.id)
            ready = await provider.get_asset(made.id)
            assert (ready.id, ready.state) == (made.id, "ready")
            assert ready.playback_ids and all(isinstance(one, str) for one in ready.playback_ids)
            assert made.id not in repr(ready) and made.passthrough not in repr(ready)
        finally:
            await provider.delete_asset(made.id)

    async def test_deleting_is_idempotent(self, provider: StreamingProvider, source_url: str) -> None:
        """An asset that is gone cannot be read, and can be deleted again."""
        made = await self.created(provider, source_url)
        await provider.delete_asset(made.id)
        await provider.delete_asset(made.id)
        with pytest.raises(ProviderNotFound):
            await provider.get_asset(made.id)

    async def test_signed_playback_expires_and_public_playback_does_not(self, provider: StreamingProvider) -> None:
        """The expiry is explicit, and the address is not shown."""
        for policy in ("signed", "public"):
            if f"{policy}_playback" not in provider.capabilities():
                continue
            before = datetime.now(UTC)
            grant = await provider.playback_url("playback1", policy=policy, expires_in=90)
            assert grant.url.startswith(("https://", "http://")) and "playback1" in grant.url
            assert grant.url not in repr(grant)
            if policy == "public":
                assert grant.expires_at is None
            else:
                assert grant.expires_at is not None
                assert timedelta(seconds=88) <= grant.expires_at - before <= timedelta(seconds=120)

    async def test_a_webhook_is_verified_over_its_bytes(self, provider: StreamingProvider, source_url: str) -> None:
        """Any secret verifies, header names have any case, and it reports the asset."""
        made = await self.created(provider, source_url)
        now = datetime.now(UTC)
        try:
            await self.finish(provider, made.id)
            body, headers = self.webhook(await provider.get_asset(made.id), SECRET, now)
        finally:
            await provider.delete_asset(made.id)

        def verify(raw: bytes, named: Mapping[str, str], secrets: list[str], seconds: float = 0) -> int:
            moment = now + timedelta(seconds=seconds)
            return provider.verify_webhook(
                raw, named, secrets, now=moment, tolerance_seconds=TOLERANCE_SECONDS
            ).secret_index

        found = provider.verify_webhook(body, headers, [SECRET], now=now, tolerance_seconds=TOLERANCE_SECONDS)
        assert found.event is not None
        assert (found.event.kind, found.event.provider_asset_id) == (WebhookKind.READY, made.id)
        assert found.event.passthrough == made.passthrough and found.event.id
        assert verify(body, {name.upper(): value for name, value in headers.items()}, ["other", SECRET]) == 1
        refused: tuple[tuple[bytes, Mapping[str, str], list[str], float], ...] = (
            (body + b" ", headers, [SECRET], 0),
            (body, {}, [SECRET], 0),
            (body, headers, ["other"], 0),
            (body, headers, [], 0),
            (body, headers, [SECRET], TOLERANCE_SECONDS + 2),
            (body, headers, [SECRET], -TOLERANCE_SECONDS - 2),
        )
        messages = set()
        for raw, named, secrets, seconds in refused:
            with pytest.raises(ProviderWebhookInvalid) as caught:
                verify(raw, named, secrets, seconds)
            messages.add(caught.value.message)
        assert len(messages) == 1, "the refusals must not differ"

    async def test_a_direct_upload_can_be_read_and_cancelled_twice(self, provider: StreamingProvider) -> None:
        """Only for providers with the ability; its address is not shown."""
        if not isinstance(provider, DirectUploads):
            return
        upload = await provider.create_direct_upload(
            cors_origin="https://app.example.com", timeout_seconds=3600, policy="signed", passthrough=uuid.uuid4().hex
        )
        assert upload.url and upload.url not in repr(upload) and upload.id not in repr(upload)
        assert (await provider.get_direct_upload(upload.id)).status == "waiting"
        await provider.cancel_direct_upload(upload.id)
        await provider.cancel_direct_upload(upload.id)
        assert (await provider.get_direct_upload(upload.id)).status == "cancelled"
        with pytest.raises(ProviderNotFound):
            await provider.get_direct_upload(uuid.uuid4().hex)
