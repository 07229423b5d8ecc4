"""What the tests of the routers share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.http.site import CLOSED_PORT, Site, site


@pytest.fixture
async def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    monkeypatch.setenv("RINDLE_STRICT_EVENTS", "1")
    async with site(tmp_path) as made:
        yield made
