"""Health of database, Temporal and threads, for the readiness of workers and web processes.

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
from rindle.plugins import lost_threads
from rindle.temporal_client import TemporalConnection
from rindle.threads import in_thread

log = logging.getLogger(__name__)

#: Seconds for which a result is shared: each service is checked at most about once a second.
FRESH_SECONDS = 1.0
#: Seconds after which a service that does not answer counts as unreachable. Probes commonly wait for 5 s or less.
LIMIT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Health:
    """What answered.

    Attributes:
        threads: whether a call passes through the library's own threads and back to the event loop.
        warnings: sentences about what does not work although the process can still serve: plug-ins whose calls never
            returned, and the event loop's default threads, which resolve host names.
    """

    database: bool
    temporal: bool
    threads: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether all of them answered; warnings do not count."""
        return not self.missing

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of what did not answer: ``database``, ``temporal``, ``threads``."""
        return tuple(name for name in ("database", "temporal", "threads") if not getattr(self, name))


class HealthCheck:
    """Check whether database, Temporal and threads answer. One object per process, used on one event loop.

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
        self._temporal = _ServiceCheck("temporal", temporal.healthy, limit_seconds, place=lambda: temporal.label)
        self._threads = _ServiceCheck("threads", lambda: in_thread(bool, 1), limit_seconds)
        self._default_threads = _ServiceCheck("default threads", _pass_default_threads, limit_seconds)
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
        checks = (self._database, self._temporal, self._threads, self._default_threads)
        database, temporal, threads, default_threads = await asyncio.gather(*(check.is_healthy() for check in checks))
        warnings = lost_threads()
        if not default_threads:
            warnings.append("the default threads of the event loop are all in use: no host name is resolved")
        self._found, self._found_at = Health(database, temporal, threads, tuple(warnings)), time.monotonic()
        return self._found


class _ServiceCheck:
    """The check of one service, repeated only after the last one has ended.

    It is never cancelled: a driver may need time to return a connection, and a service that hangs should block one
    check, not one for each probe.
    """

    def __init__(
        self,
        name: str,
        check: Callable[[], Awaitable[bool]],
        limit_seconds: float,
        place: Callable[[], str] | None = None,
    ) -> None:
        self._name = name
        #: Where the service is, for logs only: responses to probes are public.
        self._place = place
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
                self._name if self._place is None else f"{self._name} ({self._place()})",
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


async def _pass_default_threads() -> bool:
    return await asyncio.get_running_loop().run_in_executor(None, bool, 1)


def select_one(session: Session) -> bool:
    """Return true when the database answers."""
    return bool(session.connection().exec_driver_sql("SELECT 1").scalar())
