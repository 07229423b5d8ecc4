"""One request that appends: the bytes of its body go into the upload, and how it ended becomes an error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from rindle.cancellation import run_to_end
from rindle.errors import TusError, UploadStalled
from rindle.http.streams.body import IDLE_SECONDS, CheckedBody, End, RequestBody
from rindle.uploads.streams import OnOffset, Stream, StreamUploads, too_large


class Appending(Protocol):
    """A request of a protocol."""

    @property
    def body(self) -> RequestBody:
        """What it brings."""

    @property
    def uploads(self) -> StreamUploads:
        """The uploads of its mount."""


async def append(
    call: Appending,
    stream: Stream,
    body: RequestBody | CheckedBody | None = None,
    *,
    offset: int,
    declared_length: int | None = None,
    ends: bool = True,
    on_offset: OnOffset | None = None,
) -> Stream:
    """Append the body of ``call`` and return the upload with its new offset.

    A request that is cancelled stores what has arrived first.

    Args:
        body: the body of ``call`` with its checksum.
        declared_length, ends, on_offset: see :meth:`rindle.uploads.streams.StreamUploads.append`.

    Raises:
        TusError: as the uploads raise it; also after bytes were stored, when the body was too long or another request
            needed the upload.
        UploadStalled: nothing arrived for a while.
    """
    appending: Callable[[], Awaitable[Stream]] = lambda: call.uploads.append(  # noqa: E731
        stream,
        call.body if body is None else body,
        offset=offset,
        declared_length=declared_length,
        ends=ends,
        on_offset=on_offset,
    )
    found = await run_to_end(appending(), on_cancel=call.body.stop)
    match call.body.ended:
        case End.OVERRAN:
            raise too_large(found.session.last_known_offset)
        case End.STOPPED:
            raise TusError("another request continues this upload", code="tus_locked", retryable=True, retry_after=1)
        case End.STALLED:
            stalled = UploadStalled("no byte arrived for a while", detail={"limit_seconds": IDLE_SECONDS})
            stalled.http_status = 503  # clients give up after 408, and a line that was dead is why they are here
            raise stalled
    return found


@asynccontextmanager
async def kept_if_accepted(call: Appending, made: Stream) -> AsyncIterator[None]:
    """Abort a new upload when its creation refuses its first bytes: the client never learns where it is."""
    try:
        yield
    except TusError as error:
        if error.code in ("tus_size_exceeded", "tus_checksum_mismatch"):
            await call.uploads.terminate(made)
        raise
