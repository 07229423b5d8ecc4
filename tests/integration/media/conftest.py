"""What the tests of the image engine share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rindle.media.render_pool import RenderPool


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[RenderPool]:
    """A pool with one child process, for the tests of one module."""
    pool = RenderPool(1)
    pool.start()
    yield pool
    await pool.close()
