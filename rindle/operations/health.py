"""Health of database and Temporal, for the readiness of workers and web processes.

Cheap enough for public probes: probes that arrive together, or within a second, share one result, and a check that is
still pending is not started a second time.
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

#: Seconds for which a result is shared: each service is checked at most about once a second.
FRESH_SECONDS = 1.0
#: Seconds after which a service that does not answer counts as unreachable. Probes commonly wait for 5 s or less.
LIMIT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Health:
    """The services that answered."""

    database: bool
    temporal: bool

    @property
    def is_ready(self) -> bool:
        """Whether all of them answered."""
        return self.database and self.temporal

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the services that did not answer: ``database``, ``temporal``."""
        return tuple(name for name in ("database", "temporal") if not getattr(self, name))


class HealthCheck:
    """Check whether database and Temporal answer. One object per process, used on one event loop.

    Args:
        fresh_seconds: how long a result is shared, 1 by default.
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
        self._database = _ServiceCheck("database", lambda: database.read(select_one), limit_seconds)
        self._temporal = _ServiceCheck("temporal", temporal.healthy, limit_seconds)
        self._fresh_seconds = fresh_seconds
        self._pending: asyncio.Task[Health] | None = None
        self._found: Health | None = None
        self._found_at = 0.0

    async def health(self) -> Health:
        """Return which services answer now, or a moment ago; takes ``limit_seconds`` at most and never raises."""
        if self._found is not None and time.monotonic() - self._found_at < self._fresh_seconds:
            return self._found
        if self._pending is None or self._pending.done():
            self._pending = asyncio.create_task(self._check(), name="rindle-health")
        # A caller that is cancelled must not cancel the check of the others.
        return await asyncio.shield(self._pending)

    async def _check(self) -> Health:
        database, temporal = await asyncio.gather(self._database.is_healthy(), self._temporal.is_healthy())
        self._found, self._found_at = Health(database, temporal), time.monotonic()
        return self._found


class _ServiceCheck:
    """The check of one service, repeated only after the last one has ended.

    It is never cancelled: a driver may need time to return a connection, and a service that hangs should block one
    check, not one for each probe.
    """

    def __init__(self, name: str, check: Callable[[], Awaitable[bool]], limit_seconds: float) -> None:
        self._name = name
        self._check = check
        self._limit_seconds = limit_seconds
        self._pending: asyncio.Task[bool] | None = None
        self._last = True

    async def is_healthy(self) -> bool:
        if self._pending is None or self._pending.done():
            self._pending = asyncio.create_task(self._run(), name=f"rindle-health-{self._name}")
        await asyncio.wait({self._pending}, timeout=self._limit_seconds)
        is_healthy = self._pending.done() and not self._pending.cancelled() and self._pending.result()
        if is_healthy is not self._last:
            change = "answers again" if is_healthy else "does not answer"
            log.log(
                logging.INFO if is_healthy else logging.WARNING,
                "%s %s",
                self._name,
                change,
                extra={"action": "health", "service": self._name, "healthy": is_healthy},
            )
        self._last = is_healthy
        return is_healthy

    async def _run(self) -> bool:
        try:
            return bool(await self._check())
        except Exception as error:
            # Only the class: drivers put hosts and passwords into their messages.
            log.debug("health check failed", extra={"service": self._name, "error": type(error).__name__})
            return False


def select_one(session: Session) -> bool:
    """Return true when the database answers."""
    return bool(session.connection().exec_driver_sql("SELECT 1").scalar())
