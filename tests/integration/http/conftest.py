"""What the tests of the routers share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.http.site import CLOSED_PORT, Site, site
from tests.live import Newsroom, news_site, newsroom


@pytest.fixture
async def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    monkeypatch.setenv("RINDLE_STRICT_EVENTS", "1")
    async with site(tmp_path) as made:
        yield made


@pytest.fixture
async def live_news(tmp_path: Path) -> AsyncIterator[tuple[Newsroom, str]]:
    async with news_site(tmp_path) as opened:
        yield opened


@pytest.fixture
async def news(tmp_path: Path) -> AsyncIterator[Newsroom]:
    async with newsroom(tmp_path, f"sqlite+aiosqlite:///{tmp_path / 'news.db'}") as opened:
        yield opened
