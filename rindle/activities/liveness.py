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

from temporalio import activity

from rindle import run_directories
from rindle.cancellation import cancel_and_wait
from rindle.threads import in_thread

#: Part of the heartbeat timeout after which a heartbeat is sent although nothing has changed.
PATIENCE = 1 / 3
#: Seconds between two looks at whether the details have changed.
LOOK_SECONDS = 1.0


@contextlib.asynccontextmanager
async def heartbeating(details: Callable[[], dict[str, int]] | None = None) -> AsyncIterator[None]:
    """Send heartbeats from a task of their own while the block runs: at a third of the timeout, or when details change.

    Every heartbeat is a write of the server and a billed action. A build does not need them to be cancelled: it watches
    its rows (:mod:`rindle.activities.claim_watch`). ``details`` is called once a second; the Temporal UI shows its last
    result beside the pending activity.
    """
    task = asyncio.create_task(_beat(details), name="heartbeat")
    try:
        yield
    finally:
        await cancel_and_wait(task)


async def _beat(details: Callable[[], dict[str, int]] | None) -> None:
    timeout = activity.info().heartbeat_timeout
    if timeout is None:
        return
    patience = timeout.total_seconds() * PATIENCE
    pause = patience if details is None else min(LOOK_SECONDS, patience)
    sent, reported = time.monotonic(), None if details is None else details()
    while True:
        await asyncio.sleep(pause)  # short work never beats
        now, found = time.monotonic(), None if details is None else details()
        if found == reported and now + pause / 2 < sent + patience:
            continue
        sent, reported = now, found
        activity.heartbeat(*([] if found is None else [found]))


@contextlib.asynccontextmanager
async def scratch_directory(root: Path) -> AsyncIterator[Path]:
    """Yield a private empty directory (mode 0700) below ``root`` that is gone afterwards, also on cancel."""
    directory = root / uuid.uuid4().hex
    await in_thread(os.makedirs, directory, 0o700)
    try:
        with run_directories.held(directory):
            yield directory
    finally:
        # Not in a thread: after a cancel the loop may have no time left to wait for one.
        shutil.rmtree(directory, ignore_errors=True)
