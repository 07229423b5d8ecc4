"""Requests that wait until the workflow has verified their uploads: one look at the database serves them all."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import suppress

from rindle.db import streams as rows
from rindle.db.database import Database

log = logging.getLogger(__name__)

#: First and longest pause between two looks in seconds; a new request begins with the first again.
_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.05, 0.5


class Settling:
    """The uploads for which requests of this process wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._looking: asyncio.Task[None] | None = None
        self._pause = _LOOK_SECONDS

    async def wait(self, session_id: str, timeout_seconds: float) -> None:
        """Return when the workflow has verified or refused an upload, after ``timeout_seconds`` at the latest."""
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[session_id].add(settled)
        self._pause = _LOOK_SECONDS
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="rindle-settling")
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await settled
        finally:
            self._waiting[session_id].discard(settled)
            if not self._waiting[session_id]:
                del self._waiting[session_id]
            await self._rest()

    async def _rest(self) -> None:
        """End the looks with the last request, so that nothing queries the database afterwards."""
        looking = self._looking
        if looking is not None and not self._waiting:
            self._looking = None
            looking.cancel()
            await asyncio.wait([looking])

    async def _look(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_LOOK_SECONDS)
            waiting = list(self._waiting)
            try:
                still = await self._database.read(rows.assembling_of, waiting)
            except Exception as error:  # the database is away: the requests end with their time
                log.warning("uploads were not looked at", extra={"error": type(error).__name__})
                continue
            for session_id in set(waiting) - still:
                for settled in self._waiting.get(session_id, ()):
                    if not settled.done():
                        settled.set_result(None)
