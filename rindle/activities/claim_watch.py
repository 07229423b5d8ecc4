"""Stops builds whose rows are no longer theirs, within about a second.

Temporal delivers a cancellation only with the response to a heartbeat, and each heartbeat is a billed action. Every way
to cancel a build moves its rows first, so a worker reads the rows instead: one query a second for all of its builds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from rindle.activities.progress import ClaimLost
from rindle.db import variants as rows
from rindle.db.database import Database
from rindle.db.variants import Claim

log = logging.getLogger(__name__)

#: Pause between two queries, in seconds. Builds that take less time are never looked up.
WATCH_SECONDS = 1.0


class ClaimWatch:
    """Watches the claims of all running builds of a process; does nothing while there are none."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watched: dict[asyncio.Timeout, Sequence[Claim]] = {}
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watching(self, claims: Sequence[Claim]) -> AsyncIterator[None]:
        """Stop the block when the rows of all ``claims`` were cancelled, queued again or deleted.

        The block must not change the rows itself.

        Raises:
            ClaimLost: the block was stopped; its processes have ended.
        """
        try:
            async with asyncio.timeout(None) as scope:
                self._watched[scope] = claims
                if self._task is None:
                    self._task = asyncio.create_task(self._watch(), name="claim-watch")
                try:
                    yield
                finally:
                    del self._watched[scope]
                    if not self._watched and self._task is not None:
                        self._task.cancel()
                        self._task = None
        except TimeoutError:
            if scope.expired():
                raise ClaimLost from None
            raise

    async def _watch(self) -> None:
        has_failed = False
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            watched = dict(self._watched)
            claimed = [claim for claims in watched.values() for claim in claims]
            try:
                kept = await self._database.read(rows.still_claimed, claimed)
            except Exception as error:  # builds continue without a database
                if not has_failed:
                    log.warning("the rows of builds cannot be read", extra={"error": type(error).__name__})
                has_failed = True
                continue
            has_failed = False
            for scope, claims in watched.items():
                if scope in self._watched and not any(claim.variant_id in kept for claim in claims):
                    scope.reschedule(asyncio.get_running_loop().time())
