"""Whether database and Temporal answer: what the readiness of a worker and of a web process stands on.

Cheap enough for strangers to ask: whoever asks together, or within a second, shares one answer, and a question that got
no answer yet is not asked a second time beside itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from rindle.db.database import Database
from rindle.temporal_client import TemporalConnection

log = logging.getLogger(__name__)

#: Seconds an answer is good for: however many ask, each service is asked about once a second.
FRESH_SECONDS = 1.0
#: Seconds after which a service that has not answered counts as away. Probes commonly wait for 5 s or less.
LIMIT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Health:
    """Which services answered."""

    database: bool
    temporal: bool

    @property
    def is_ready(self) -> bool:
        """Whether all of them did."""
        return self.database and self.temporal

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of those that did not: ``database``, ``temporal``."""
        return tuple(name for name in ("database", "temporal") if not getattr(self, name))


class HealthCheck:
    """Asks database and Temporal whether they answer. One object per process, used on one event loop.

    Args:
        fresh_seconds: how long an answer is shared, 1 by default.
        limit_seconds: how long a service may take to answer, 3 by default.
    """

    def __init__(
        self,
        database: Database,
        temporal: TemporalConnection,
        *,
        fresh_seconds: float = FRESH_SECONDS,
        limit_seconds: float = LIMIT_SECONDS,
    ) -> None:
        self._database = _Question("database", lambda: database.read(_select_one), limit_seconds)
        self._temporal = _Question("temporal", temporal.healthy, limit_seconds)
        self._fresh_seconds = fresh_seconds
        self._looking: asyncio.Task[Health] | None = None
        self._found: Health | None = None
        self._found_at = 0.0

    async def health(self) -> Health:
        """Return which services answer now, or a moment ago; takes ``limit_seconds`` at most and never raises."""
        if self._found is not None and time.monotonic() - self._found_at < self._fresh_seconds:
            return self._found
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="rindle-health")
        # Whoever stops waiting must not take the answer from the others.
        return await asyncio.shield(self._looking)

    async def _look(self) -> Health:
        database, temporal = await asyncio.gather(self._database.answer(), self._temporal.answer())
        self._found, self._found_at = Health(database, temporal), time.monotonic()
        return self._found


class _Question:
    """A question to one service, asked anew only when the last one has ended.

    It is never cancelled: a driver may need its time to give a connection back, and a service that hangs should hold
    one question of ours, not one for each probe.
    """

    def __init__(self, name: str, ask: Callable[[], Awaitable[bool]], limit_seconds: float) -> None:
        self._name = name
        self._ask = ask
        self._limit_seconds = limit_seconds
        self._asking: asyncio.Task[bool] | None = None
        self._last = True

    async def answer(self) -> bool:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._asked(), name=f"rindle-health-{self._name}")
        await asyncio.wait({self._asking}, timeout=self._limit_seconds)
        is_there = self._asking.done() and not self._asking.cancelled() and self._asking.result()
        if is_there is not self._last:
            told = "answers again" if is_there else "does not answer"
            log.log(
                logging.INFO if is_there else logging.WARNING,
                "%s %s",
                self._name,
                told,
                extra={"action": "health", "service": self._name, "healthy": is_there},
            )
        self._last = is_there
        return is_there

    async def _asked(self) -> bool:
        try:
            return bool(await self._ask())
        except Exception as error:
            # Only the class: drivers put hosts and passwords into their messages.
            log.debug("health check failed", extra={"service": self._name, "error": type(error).__name__})
            return False


def _select_one(session: Session) -> bool:
    return bool(session.connection().exec_driver_sql("SELECT 1").scalar())
