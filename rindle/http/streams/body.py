"""The body of a request of a resumable upload, read piece by piece.

It ends early when the client disconnects, when nothing arrives for a while, at the limit, and when another request
continues the upload; :attr:`RequestBody.ended` says which. What was read until then counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

from starlette.datastructures import Headers
from starlette.types import Receive

from rindle.cancellation import run_to_end
from rindle.errors import TusError
from rindle.threads import in_thread
from rindle.uploads.streams import too_large

#: Longest pause within a body in seconds; after it the client counts as disconnected.
IDLE_SECONDS = 60.0
#: What is read of a body after a refusal, so that the client sees the response instead of a reset connection.
DRAIN_BYTES, DRAIN_SECONDS = 4 * 1024**2, 2.0
#: Largest body with a checksum, which is kept on disk until the checksum is known to be right.
MAX_CHECKED_BYTES = 128 * 1024**2
#: Largest piece that is passed on.
PIECE_BYTES = 1024**2
# A length or offset of a request has at most as many digits as 2^63.
_MAX_DIGITS = 19
_MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Checksum:
    """The checksum of one body; ``algorithm`` as ``hashlib`` names it."""

    algorithm: str
    value: bytes


def whole_number(value: str | None) -> int | None:
    """Return a header of decimal digits as a number; ``None`` when it is missing or something else."""
    if value is None or not value.isascii() or not value.isdigit() or len(value) > _MAX_DIGITS:
        return None
    number = int(value)
    return number if number <= _MAX_INTEGER else None


class End(StrEnum):
    """How a body ended."""

    COMPLETE = "complete"
    DISCONNECTED = "disconnected"
    STALLED = "stalled"
    STOPPED = "stopped"
    OVERRAN = "overran"


class RequestBody:
    """The body of one request; see :class:`rindle.uploads.streams.IncomingBody`.

    Attributes:
        announced: ``Content-Length`` in bytes; ``None`` when the client sends none.
        ended: how the body ended; ``None`` while it has not.
    """

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self.announced = whole_number(headers.get("content-length"))
        self.is_announced = bool(self.announced) or "transfer-encoding" in headers
        self.ended: End | None = None
        self._waits_for_continue = headers.get("expect", "").lower() == "100-continue"
        self._max_bytes: int | None = None
        self._taken = 0
        self._is_stopped = False
        self._waiting: asyncio.Timeout | None = None

    @property
    def is_whole(self) -> bool:
        """Whether everything was received: also when the client disconnected after its last announced byte."""
        return self.ended is End.COMPLETE or (self.announced is not None and self._taken == self.announced)

    def limit_to(self, max_bytes: int) -> None:
        """Yield no more than ``max_bytes``."""
        if self.announced is not None and self.announced > max_bytes:
            raise too_large(max_bytes, self.announced)
        self._max_bytes = max_bytes

    def stop(self) -> None:
        """Yield nothing more; a read that waits ends at once."""
        self._is_stopped = True
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield pieces of at most 1 MiB until the body ends in one of the ways of :class:`End`."""
        while self.ended is None:
            piece = await self._next()
            if self._max_bytes is not None and self._taken + len(piece) > self._max_bytes:
                piece, self.ended = piece[: self._max_bytes - self._taken], End.OVERRAN
            self._taken += len(piece)
            for start in range(0, len(piece), PIECE_BYTES):
                yield piece if len(piece) <= PIECE_BYTES else piece[start : start + PIECE_BYTES]

    async def drain(self) -> None:
        """Read the rest of a body that was refused, up to a limit."""
        if self._waits_for_continue and self._taken == 0:
            return  # the client sends nothing before it is invited
        drained = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                if self.ended in (End.OVERRAN, End.STOPPED):
                    self.ended, self._is_stopped = None, False
                while self.ended is None and drained < DRAIN_BYTES:
                    drained += len(await self._next())

    async def _next(self) -> bytes:
        if self._is_stopped:
            self.ended = End.STOPPED
            return b""
        waiting = self._waiting = asyncio.timeout(IDLE_SECONDS)
        try:
            async with waiting:
                message = await self._receive()
        except TimeoutError:
            if not waiting.expired():
                raise
            self.ended = End.STOPPED if self._is_stopped else End.STALLED
            return b""
        finally:
            self._waiting = None
        if message["type"] == "http.disconnect":
            self.ended = End.DISCONNECTED
            return b""
        if not message.get("more_body", False):
            self.ended = End.COMPLETE
        body: bytes = message.get("body", b"")
        return body


class CheckedBody:
    """A body of which nothing counts unless all of it has the checksum that the client sent; see ``IncomingBody``.

    It is read when its upload is held: a request that is older than another one must not add anything after that.

    Args:
        body: the body; it has at most 128 MiB.
        checksum: what the client sent.
        scratch: directory of the temporary file that has the bytes until they are compared.
    """

    def __init__(self, body: RequestBody, checksum: Checksum, *, scratch: Path) -> None:
        self._body = body
        self._checksum = checksum
        self._scratch = scratch
        self._limit = MAX_CHECKED_BYTES
        #: Whether everything was received and has the checksum.
        self.is_whole = False

    def limit_to(self, max_bytes: int) -> None:
        """Yield no more than ``max_bytes``, and no more than 128 MiB."""
        self._limit = min(max_bytes, MAX_CHECKED_BYTES)
        self._body.limit_to(self._limit)

    def stop(self) -> None:
        """Yield nothing, or everything: a part of the bytes would not have the checksum."""
        self._body.stop()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the whole body; nothing of one that ends early.

        Raises:
            TusError: ``tus_checksum_mismatch``; ``tus_size_exceeded``, the body is over the limit.
        """
        digest = hashlib.new(self._checksum.algorithm, usedforsecurity=False)
        file = await in_thread(_temporary, self._scratch)

        def add(piece: bytes) -> None:
            digest.update(piece)
            file.write(piece)

        try:
            async with aclosing(self._body.chunks()) as chunks:
                async for piece in chunks:
                    await in_thread(add, piece)
            if self._body.ended is End.OVERRAN:
                raise too_large(self._limit)
            if not self._body.is_whole:
                return
            if not hmac.compare_digest(digest.digest(), self._checksum.value):
                raise TusError("the bytes do not have the checksum; send them again", code="tus_checksum_mismatch")
            self.is_whole = True
            await in_thread(file.seek, 0)
            while piece := await in_thread(file.read, PIECE_BYTES // 2):
                yield piece
        finally:
            await run_to_end(in_thread(file.close))


def _temporary(scratch: Path) -> IO[bytes]:
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    return tempfile.TemporaryFile(dir=scratch)
