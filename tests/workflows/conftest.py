"""Every history that a test of this directory makes is replayed when the test is over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.stage import Stage
from tests.workflows.fleet import replay_all


@pytest.fixture
async def stage(stage: Stage) -> AsyncIterator[Stage]:
    """The stage on both databases; see ``tests/conftest.py``."""
    yield stage
    await replay_all(stage)


@pytest.fixture
async def lite_stage(lite_stage: Stage) -> AsyncIterator[Stage]:
    """The stage on SQLite alone; see ``tests/conftest.py``."""
    yield lite_stage
    await replay_all(lite_stage)
