"""The contract of streaming providers against those that are shipped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import pytest

from rindle.protocols import ProviderAsset, StreamingProvider, WebhookKind
from rindle.streaming.memory import InMemoryProvider
from rindle.testing.streaming_contract import StreamingProviderContract


class TestInMemoryProvider(StreamingProviderContract):
    @pytest.fixture
    def provider(self) -> InMemoryProvider:
        return InMemoryProvider()

    @pytest.fixture
    def source_url(self) -> str:
        return "https://source.invalid/film.mp4"

    async def finish(self, provider: StreamingProvider, asset_id: str) -> None:
        assert isinstance(provider, InMemoryProvider)
        provider.finish(asset_id)

    def webhook(self, asset: ProviderAsset, secret: str, now: datetime) -> tuple[bytes, Mapping[str, str]]:
        return InMemoryProvider().webhook(WebhookKind.READY, secret, asset=asset, now=now)
