"""The leases of uploads that pass through the application: one request at a time appends to an upload.

A request that needs the lease of another one makes it yield: at once in the same process, within two seconds in
another one. The holder then stores and records what it has, and ends. A holder that does not yield loses the lease, and
what it stores afterwards is not recorded.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from rindle.cancellation import run_to_end
from rindle.db import streams as rows
from rindle.db.database import Database
from rindle.db.streams import Stream
from rindle.errors import TusError

log = logging.getLogger(__name__)

#: Seconds for which a lease is given; it is renewed while its holder works.
LEASE_SECONDS = 30.0
RENEW_SECONDS = 10.0
#: Seconds between two looks at the leases of this process: how soon a request of another process is noticed.
WATCH_SECONDS = 1.0
#: Seconds that a holder has to yield before it loses its lease; a process that was killed loses it after this time.
YIELD_SECONDS = 10.0
#: Longest wait for a lease, and the pause between two attempts to get it.
WAIT_SECONDS = 5.0
_RETRY_SECONDS = 0.25


class Lease:
    """The right to append to one upload.

    Attributes:
        known: the upload as it was before.
        stream: the upload as it was when the lease was given, and after each commit.
        is_wanted: whether another request needs the lease, or has it.
    """

    def __init__(self, known: Stream, stop: Callable[[], object]) -> None:
        self.known = known
        self.session_id = known.session.id
        self.owner = uuid.uuid4().hex
        self.stream: Stream | None = None
        self.is_wanted = False
        self.is_over = False
        self.released = asyncio.Event()
        self._stop = stop

    def yield_soon(self) -> None:
        """Stop reading; the holder then ends by itself."""
        if not self.is_wanted:
            self.is_wanted = True
            self._stop()


class Leases:
    """The leases that this process holds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: dict[str, Lease] = {}
        self._watching: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def hold(self, known: Stream, stop: Callable[[], object]) -> AsyncIterator[Lease]:
        """Hold the lease of an upload inside the block, after at most ``WAIT_SECONDS``.

        Args:
            known: the upload as it was read before.
            stop: called when another request needs the lease; the block should then end soon.

        Raises:
            TusError: ``tus_locked``, the present holder has not yielded in time.
            NotFound: no such upload.
        """
        lease, session_id = Lease(known, stop), known.session.id
        try:
            await run_to_end(self._take(lease))
            self._held[session_id] = lease
            self._watch()
            yield lease
        finally:
            if self._held.get(session_id) is lease:
                del self._held[session_id]
            lease.released.set()
            if lease.stream is not None and not lease.is_over:
                await run_to_end(self._database.write(rows.release_lease, session_id, lease.owner))
            await self._rest()

    async def make_free(self, known: Stream) -> Stream:
        """Return an upload when nobody appends to it; a holder has to yield.

        Raises:
            TusError: ``tus_locked``; NotFound: as :meth:`hold`.
        """
        async with self.hold(known, lambda: None) as lease:
            assert lease.stream is not None  # noqa: S101 - set by `hold`
            return lease.stream

    async def _take(self, lease: Lease) -> None:
        ends_at = time.monotonic() + WAIT_SECONDS
        while True:
            stream, is_taken = await self._database.write(
                rows.take_lease, lease.known, lease.owner, seconds=LEASE_SECONDS, yield_seconds=YIELD_SECONDS
            )
            if is_taken:
                lease.stream = stream
                return
            left = ends_at - time.monotonic()
            if left <= 0:
                raise TusError(
                    "another request sends bytes of this upload; try again in a moment",
                    code="tus_locked",
                    retryable=True,
                    retry_after=1,
                )
            holder = self._held.get(lease.session_id)
            if holder is None:
                await asyncio.sleep(min(_RETRY_SECONDS, left))
                continue
            holder.yield_soon()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_RETRY_SECONDS, left)):
                    await holder.released.wait()

    def _watch(self) -> None:
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._look(), name="rindle-leases")

    async def _rest(self) -> None:
        """End the task of :meth:`_watch` with the last lease, so that nothing queries the database afterwards."""
        watching = self._watching
        if watching is not None and not self._held:
            self._watching = None
            watching.cancel()
            await asyncio.wait([watching])

    async def _look(self) -> None:
        """Renew the leases of this process and notice who needs them, until there are none."""
        renewed_at = time.monotonic()
        while self._held:
            await asyncio.sleep(WATCH_SECONDS)
            held = dict(self._held)
            owners = {session_id: lease.owner for session_id, lease in held.items()}
            try:
                if time.monotonic() >= renewed_at + RENEW_SECONDS:
                    found = await self._database.write(rows.renew_leases, owners, seconds=LEASE_SECONDS)
                    renewed_at = time.monotonic()
                else:
                    found = await self._database.read(rows.leases_of, list(owners))
            except Exception as error:  # the database is away: the next commit fails by itself
                log.warning("leases of uploads were not renewed", extra={"error": type(error).__name__})
                continue
            for session_id, lease in held.items():
                owner, is_needed = found.get(session_id, (None, True))
                if is_needed or owner != lease.owner:
                    lease.yield_soon()
