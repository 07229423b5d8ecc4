"""Bodies of uploads on their way into a store: one for each key, none that stalls for ever, a limit for all together.

A ticket is a bearer credential: its holder can open any number of connections with it. What they cost here is bounded:

- **One body for each key.** A new body replaces an earlier one, which ends with ``upload_superseded``. A client that
  sends again after its connection broke so never waits for the old connection. The order is that in which the requests
  arrived, also when hooks of the application answer in another one. A request that is refused replaces none.
- **An idle limit.** A body without a byte for so many seconds ends with ``upload_stalled``.
- **A limit on temporary bytes.** What all bodies have written and not published is counted; the body that exceeds the
  limit ends with ``temporary_space_full``.

All of it counts per process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager

from rindle.errors import TemporarySpaceFull, UploadStalled, UploadSuperseded

#: Seconds without a byte after which a body is given up.
DEFAULT_IDLE_SECONDS = 30.0
#: Bytes of all bodies under way together: four of the largest.
DEFAULT_TEMPORARY_BYTES = 20 * 1024**3


class Bodies:
    """The bodies under way in this process, usable from several threads and event loops.

    Args:
        idle_seconds: longest pause between two pieces of a body.
        max_temporary_bytes: largest sum of the bytes that bodies have written.
    """

    def __init__(self, idle_seconds: float, max_temporary_bytes: int) -> None:
        if idle_seconds <= 0:
            raise ValueError("the idle limit of a body must be more than 0 seconds")
        if max_temporary_bytes < 1:
            raise ValueError("the limit on temporary bytes must be at least 1")
        self._idle_seconds = idle_seconds
        self._max_bytes = max_temporary_bytes
        self._lock = threading.Lock()
        self._open: dict[str, list[Body]] = {}  # for each key in the order of arrival
        self._bytes = 0

    @contextmanager
    def open(self, key: str) -> Iterator[Body]:
        """Yield a body for ``key``; its bytes count until the block is left.

        It is newer than the bodies that were opened before it, and replaces them only when it begins.
        """
        body = Body(self, key, self._idle_seconds)
        with self._lock:
            self._open.setdefault(key, []).append(body)
        try:
            yield body
        finally:
            with self._lock:
                self._bytes -= body.written
                self._open[key].remove(body)
                if not self._open[key]:
                    del self._open[key]

    def supersede_earlier(self, body: Body) -> None:
        """End the bodies for the same key that were opened before ``body``."""
        with self._lock:
            bodies = self._open[body.key]
            for earlier in bodies[: bodies.index(body)]:
                earlier.supersede()

    def take(self, body: Body, size: int) -> None:
        """Count ``size`` more bytes of ``body``, before they are written.

        Raises:
            TemporarySpaceFull: together with all other bodies these are too many.
        """
        with self._lock:
            if self._bytes + size > self._max_bytes:
                raise TemporarySpaceFull(
                    "too many bytes of unfinished uploads are kept; send the file again later",
                    key=body.key,
                    adapter="local",
                    detail={"limit": self._max_bytes},
                )
            self._bytes += size
            body.written += size


class Body:
    """One body on its way; made by :meth:`Bodies.open`.

    Attributes:
        key: storage key it is for.
        written: its bytes so far.
    """

    def __init__(self, bodies: Bodies, key: str, idle_seconds: float) -> None:
        self.key = key
        self.written = 0
        self._bodies = bodies
        self._idle_seconds = idle_seconds
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Timeout | None = None
        self._is_superseded = False

    def begin(self) -> None:
        """Replace the bodies for the same key that were opened before this one.

        Raises:
            UploadSuperseded: a newer body has begun, even if it has ended by now.
        """
        self.check()
        self._bodies.supersede_earlier(self)

    def take(self, size: int) -> None:
        """Count ``size`` more bytes, before they are written; see :meth:`Bodies.take`."""
        self._bodies.take(self, size)

    async def pieces(self, source: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Yield what comes from ``source``, as long as it comes and nothing replaces this body.

        Raises:
            UploadStalled: nothing came within the idle limit.
            UploadSuperseded: a newer body is under way for the same key.
        """
        while True:
            self.check()
            try:
                async with asyncio.timeout(self._idle_seconds) as self._waiting:
                    piece = await anext(source)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if self._waiting is None or not self._waiting.expired():
                    raise  # the source's own
                self.check()
                raise UploadStalled(
                    "no bytes of this upload arrived for a while; send the file again",
                    detail={"limit_seconds": self._idle_seconds},
                ) from None
            finally:
                self._waiting = None
            yield piece

    def check(self) -> None:
        """Raise :class:`UploadSuperseded` when a newer body has replaced this one."""
        if self._is_superseded:
            raise UploadSuperseded("a newer request sends the bytes of this upload")

    def supersede(self) -> None:
        """End this body at its next piece, or at once while it waits for one; callable from any thread."""
        if self._is_superseded:
            return
        self._is_superseded = True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # its event loop has ended, and the body with it
            return

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(self._loop.time())
