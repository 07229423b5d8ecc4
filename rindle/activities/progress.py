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

#: Between two of a variant's progress events there are at least so many seconds and so many points.
TELL_SECONDS = 1.0
TELL_POINTS = 5


class ClaimLost(Exception):
    """The row belongs to somebody else by now: what is being built is no longer wanted."""


class Progress:
    """The furthest point a build has reported, 0 to 99: it never falls, and 100 comes with the stored object."""

    def __init__(self) -> None:
        self.percent = 0

    def rise(self, percent: int) -> None:
        """Note how far the build has come; callable from any thread."""
        self.percent = max(self.percent, min(99, int(percent)))


async def run_reporting_progress(database: Database, claim: Claim, progress: Progress, build: Awaitable[T]) -> T:
    """Await ``build`` and meanwhile write ``progress`` to the claim's row, which notifies subscribers.

    Raises:
        ClaimLost: the row was cancelled or queued again; the build was stopped and its processes are gone.
    """
    building = asyncio.ensure_future(build)
    telling = asyncio.create_task(_write_progress(database, claim, progress), name="progress")
    try:
        await asyncio.wait((building, telling), return_when=asyncio.FIRST_COMPLETED)
        if not building.done():
            raise ClaimLost
        return building.result()
    finally:
        await cancel_and_wait(building, telling)


async def _write_progress(database: Database, claim: Claim, progress: Progress) -> None:
    """Write progress events until the row is no longer ours."""
    told = 0
    while True:
        await asyncio.sleep(TELL_SECONDS)
        percent = progress.percent
        if percent < told + TELL_POINTS:
            continue
        try:
            if not await database.write(rows.record_progress, claim.variant_id, claim.generation, percent):
                return
        except Exception as error:  # losing one is harmless, and the build goes on without a database
            log.warning("progress not recorded", extra={"error": type(error).__name__})
        told = percent
