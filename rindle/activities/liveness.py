"""Heartbeats, cancellation and scratch space of activities."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from temporalio import activity

#: Seconds between heartbeats: the worker's throttle lets each through, so that a cancel is heard within a second.
BEAT_SECONDS = 1.0


@contextlib.asynccontextmanager
async def heartbeating() -> AsyncIterator[None]:
    """Beat once a second while the block runs, from a task of its own that no blocking read can starve."""
    task = asyncio.create_task(_beat(), name="heartbeat")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _beat() -> None:
    while True:
        await asyncio.sleep(BEAT_SECONDS)  # sub-second work never beats
        activity.heartbeat()


@contextlib.asynccontextmanager
async def scratch_directory(root: Path) -> AsyncIterator[Path]:
    """Yield a private empty directory (mode 0700) below ``root`` that is gone afterwards, also on cancel."""
    directory = root / uuid.uuid4().hex
    await asyncio.to_thread(os.makedirs, directory, 0o700)
    try:
        yield directory
    finally:
        # Not in a thread: after a cancel the loop may have no time left to wait for one.
        shutil.rmtree(directory, ignore_errors=True)
