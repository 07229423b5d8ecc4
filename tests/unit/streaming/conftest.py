"""A cinema: films that are pushed to a provider in memory, without Temporal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rindle.streaming.memory import InMemoryProvider
from tests.gallery import opened
from tests.unit.streaming.cinema import Cinema, make_profiles


@pytest.fixture
def provider() -> InMemoryProvider:
    return InMemoryProvider()


@pytest.fixture
async def cinema(tmp_path: Path, provider: InMemoryProvider) -> AsyncIterator[Cinema]:
    async with opened(tmp_path, make_profiles, providers=[provider]) as gallery:
        yield Cinema(gallery, provider)
