"""How activities delete objects: to the end, and without ever taking an error for final."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from temporalio.exceptions import TemporalError

from rindle.cancellation import run_to_end
from rindle.errors import RindleError, describe
from rindle.protocols import Storage

log = logging.getLogger(__name__)

#: Writes the code and the reason of a failed deletion where operators find them.
Note = Callable[[str, str], Awaitable[object]]


async def delete_object(storage: Storage, key: str) -> None:
    """Delete ``key``; a request that was sent is awaited to its end, also when the caller is cancelled.

    Otherwise the store might execute the deletion after the activity has ended, and nobody would know how it ended.
    """
    await run_to_end(storage.delete(key))


@contextlib.asynccontextmanager
async def never_final(note: Note | None = None) -> AsyncIterator[None]:
    """Make every error of the block retryable, whatever the store says: a deletion is never given up.

    Missing permissions and a removed profile are repaired by an operator, and the next attempt continues.

    Args:
        note: records the cause; its own failure is logged and changes nothing.

    Raises:
        Exception: what the block raised; Rindle's own errors are retryable.
    """
    try:
        yield
    except (TemporalError, asyncio.CancelledError):
        raise
    except Exception as error:
        if note is not None:
            try:
                await note(*describe(error))
            except Exception as lost:
                log.warning("the cause of a failed deletion was not recorded", extra={"error": type(lost).__name__})
        if isinstance(error, RindleError):
            error.retryable = True
        raise
