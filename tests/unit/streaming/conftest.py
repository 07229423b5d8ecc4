"""A cinema: films that are pushed to a provider in memory, without Temporal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rindle.streaming.memory import InMemoryProvider
from tests.gallery import opened
from tests.unit.streaming.cinema import Cinema, make_profiles
from tests.unit.streaming.studio import Studio
from tests.unit.streaming.studio import make_profiles as make_talks


@pytest.fixture
def provider() -> InMemoryProvider:
    return InMemoryProvider()


@pytest.fixture
async def cinema(tmp_path: Path, provider: InMemoryProvider) -> AsyncIterator[Cinema]:
    async with opened(tmp_path, make_profiles, providers=[provider]) as gallery:
        yield Cinema(gallery, provider)


@pytest.fixture
async def studio(tmp_path: Path, provider: InMemoryProvider) -> AsyncIterator[Studio]:
    async with opened(tmp_path, make_talks, providers=[provider]) as gallery:
        yield Studio(gallery, provider)
