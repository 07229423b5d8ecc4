"""The progress of a build: how it reaches its row and the subscribers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from rindle.cancellation import cancel_and_wait
from rindle.db import variants as rows
from rindle.db.database import Database
from rindle.db.variants import Claim

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Smallest distance between two progress events of a variant, in seconds and in percentage points.
MIN_STEP_SECONDS = 1.0
MIN_STEP_POINTS = 5


class ClaimLost(Exception):
    """The row belongs to another build now, so that the result is no longer needed."""


class Progress:
    """The highest progress that a build has reported, 0 to 99; 100 comes with the stored object."""

    def __init__(self) -> None:
        self.percent = 0

    @property
    def step(self) -> int:
        """The progress in whole steps of five points, for heartbeats."""
        return self.percent - self.percent % MIN_STEP_POINTS

    def rise(self, percent: int) -> None:
        """Report progress; callable from any thread."""
        self.percent = max(self.percent, min(99, int(percent)))


async def run_reporting_progress(database: Database, claim: Claim, progress: Progress, build: Awaitable[T]) -> T:
    """Await ``build`` and meanwhile write ``progress`` to the claim's row, which notifies subscribers.

    Raises:
        ClaimLost: the row was cancelled or queued again; the build was stopped and its processes have ended.
    """
    building = asyncio.ensure_future(build)
    reporting = asyncio.create_task(_write_progress(database, claim, progress), name="progress")
    try:
        await asyncio.wait((building, reporting), return_when=asyncio.FIRST_COMPLETED)
        if not building.done():
            raise ClaimLost
        return building.result()
    finally:
        await cancel_and_wait(building, reporting)


async def _write_progress(database: Database, claim: Claim, progress: Progress) -> None:
    """Write progress events until the row belongs to another build."""
    written = 0
    while True:
        await asyncio.sleep(MIN_STEP_SECONDS)
        percent = progress.percent
        if percent < written + MIN_STEP_POINTS:
            continue
        try:
            if not await database.write(rows.record_progress, claim.variant_id, claim.generation, percent):
                return
        except Exception as error:  # a lost event is harmless, and the build continues without a database
            log.warning("progress not recorded", extra={"error": type(error).__name__})
        written = percent
