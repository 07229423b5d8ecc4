"""Heartbeats, cancellation and scratch space of activities."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from temporalio import activity

from rindle.cancellation import cancel_and_wait
from rindle.process import is_queued
from rindle.threads import in_thread

#: Seconds between heartbeats: the worker's throttle passes each one, so that a cancel arrives within a second.
BEAT_SECONDS = 1.0
#: Largest part of the heartbeat timeout between two heartbeats of queued work, which has nothing to cancel yet.
_PATIENCE = 1 / 3
#: Age after which a scratch directory belongs to a process that is gone.
STALE_SECONDS = 14_400.0


@contextlib.asynccontextmanager
async def heartbeating(details: Callable[[], dict[str, int]] | None = None) -> AsyncIterator[None]:
    """Send a heartbeat every second while the block runs, from its own task.

    While the block waits for a render child it beats only as often as it must: every beat is a write of the
    server, and a hundred images may wait. ``details`` is called at every beat; the Temporal UI shows its result beside
    the pending activity.
    """
    task = asyncio.create_task(_beat(details, asyncio.current_task()), name="heartbeat")
    try:
        yield
    finally:
        await cancel_and_wait(task)


async def _beat(details: Callable[[], dict[str, int]] | None, work: asyncio.Task[Any] | None) -> None:
    timeout = activity.info().heartbeat_timeout
    patience = 0.0 if timeout is None else timeout.total_seconds() * _PATIENCE
    last = time.monotonic()
    while True:
        await asyncio.sleep(BEAT_SECONDS)  # sub-second work never beats
        now = time.monotonic()
        if is_queued(work) and now + BEAT_SECONDS < last + patience:
            continue
        last = now
        activity.heartbeat(*([] if details is None else [details()]))


@contextlib.asynccontextmanager
async def scratch_directory(root: Path) -> AsyncIterator[Path]:
    """Yield a private empty directory (mode 0700) below ``root`` that is gone afterwards, also on cancel."""
    directory = root / uuid.uuid4().hex
    await in_thread(os.makedirs, directory, 0o700)
    try:
        yield directory
    finally:
        # Not in a thread: after a cancel the loop may have no time left to wait for one.
        shutil.rmtree(directory, ignore_errors=True)


def sweep_scratch(root: Path, *, older_than_seconds: float = STALE_SECONDS) -> int:
    """Remove what killed processes left below ``root``; returns how many directories went.

    Only real directories directly below it whose last change is older than any activity may run; links are never
    followed.
    """
    if not root.is_dir():
        return 0
    limit = time.time() - older_than_seconds
    stale = [
        entry.path
        for entry in os.scandir(root)
        if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < limit
    ]
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)
    return len(stale)
