"""Calls of plug-ins: scanners, probes, analyzers, processors, authorizers and request hooks.

A coroutine function is awaited on the event loop. Any other function runs in a thread, so that blocking code delays
only its own caller; an awaitable that it returns is then awaited on the loop. Each kind has its own threads, time limit
and translation of errors. The contracts of the plug-ins are in :mod:`rindle.protocols`. Stores are not called here: all
their methods are coroutines.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from rindle.cancellation import run_to_end
from rindle.db.models import MediaAsset
from rindle.errors import RindleError, ScannerUnavailable, Unauthorized, Unexpected
from rindle.protocols import Analyzer, Authorizer, Probe, ProbeResult, Processor, Quarantine, Scanner
from rindle.recipes import VariantSpec

log = logging.getLogger(__name__)

#: Threads of one kind of plug-in; further calls wait for a free one.
THREADS = 32
#: Timeout in seconds of a profile's own probe or analyzer for one file.
FILE_SECONDS = 600.0
#: Timeout in seconds of one call of an authorizer or a request hook: a user waits for the response.
ANSWER_SECONDS = 30.0
#: Longest time in seconds that a cancelled build waits for the end of a processor's thread.
GRACE_SECONDS = 5.0


class Kind(StrEnum):
    """The kinds of plug-ins; each has its own threads, so that long calls of one kind do not delay another."""

    SCAN = "scan"
    PROBE = "probe"
    ANALYZE = "analyze"
    PROCESS = "process"
    AUTHORIZE = "authorize"
    REQUEST = "request"


async def scan(scanner: Scanner, path: Path, *, asset: MediaAsset | None, timeout_seconds: float) -> None:
    """Return when ``scanner`` finds the file at ``path`` clean; fails closed.

    Raises:
        Quarantine: the scanner rejects the file.
        ScannerUnavailable: it raised another exception, returned a value, or did not answer in time; retryable.
    """
    try:
        result = await call(Kind.SCAN, scanner.scan, path, asset=asset, timeout_seconds=timeout_seconds)
    except Quarantine:
        raise
    except Exception as error:
        log.warning("scanner failed", extra={"action": "scanner_failed", "error": type(error).__name__})
        raise ScannerUnavailable(
            "the scanner failed; the upload is accepted only after a successful scan",
            detail={"error": type(error).__name__},
        ) from error
    if result is not None:
        # A scanner that returns False or a report instead of raising must not count as "clean".
        raise ScannerUnavailable(
            "the scanner returned a value; it must return None for a clean file and raise Quarantine to reject one",
            detail={"error": "answer", "found": type(result).__name__},
        )


async def probe(probe: Probe, path: Path, *, timeout_seconds: float | None = FILE_SECONDS) -> ProbeResult:
    """Return the technical facts of the file at ``path``.

    Exceptions of the probe are passed on: ``ContentRejected`` rejects the file, the caller retries after any other.

    Args:
        timeout_seconds: ``None`` for the bundled probes, which have their own limits and queue.

    Raises:
        TimeoutError: the probe did not answer in time.
    """
    found: ProbeResult = await call(Kind.PROBE, probe.probe, path, timeout_seconds=timeout_seconds)
    return found


async def analyze(analyzer: Analyzer, path: Path, facts: ProbeResult, *, asset_id: str) -> dict[str, Any] | None:
    """Return the further metadata of a file, or ``None`` when the analyzer failed; a failure does not stop promotion.

    A failure is an exception, a result that is not a JSON document, or a timeout; its class name is logged.
    """
    try:
        found = dict(await call(Kind.ANALYZE, analyzer.analyze, path, facts, timeout_seconds=FILE_SECONDS))
        json.dumps(found, allow_nan=False)  # the database refuses other values, and the promotion with them
    except Exception as error:
        log.warning("analyzer failed", extra={"asset_id": asset_id, "error": type(error).__name__})
        return None
    return found


async def process(
    processor: Processor, source: Path, spec: VariantSpec, dest: Path, *, progress: Callable[[int], None]
) -> None:
    """Call ``processor`` to write one variant to ``dest``.

    Its ``cancelled`` returns true when the caller is cancelled. A thread then has ``GRACE_SECONDS`` to end, so that
    normally nothing writes to ``dest`` afterwards. The time limit is that of the surrounding activity.

    Raises:
        RindleError: raised by the processor.
        Unexpected: the processor raised another exception, which is logged; retryable.
    """
    stop = threading.Event()
    callbacks: dict[str, Any] = {"progress": progress, "cancelled": stop.is_set}
    try:
        await call(Kind.PROCESS, processor.process, source, spec, dest, on_cancel=stop.set, **callbacks)
    except RindleError:
        raise
    except Exception as error:
        log.exception("processor failed", extra={"error": type(error).__name__})
        raise Unexpected(f"the processor failed with {type(error).__name__}") from error


async def authorize(authorizer: Authorizer | None, actor: Any, action: str, subject: Any) -> None:
    """Return when ``actor`` may do ``action``; anything but a clear permission denies.

    Args:
        authorizer: the application's; ``None`` allows everything.
        actor: the application's own object, passed unchanged.
        action: ``deliver``, ``read``, ``operate`` or ``upload.*``.
        subject: a ``DeliverySubject``, ``UploadSubject`` or ``AssetSubject``.

    Raises:
        Unauthorized: denied. An ``Unauthorized`` of the authorizer keeps its code. The return value ``False`` denies.
            Other exceptions and a timeout deny as well, and are logged by their class name only.
    """
    if authorizer is None:
        return
    try:
        result = await call(
            Kind.AUTHORIZE, authorizer.authorize, actor, action, subject, timeout_seconds=ANSWER_SECONDS
        )
    except Unauthorized:
        raise
    except Exception as error:  # fail closed: a broken authorizer must not grant access
        log.error("authorizer failed, access denied", extra={"action": action, "error": type(error).__name__})
        # Without its cause: a traceback of the denial must not show the text of the authorizer's exception.
        raise Unauthorized from None
    # None is a plain return, which allows; every other false value denies, so that ``return user.is_admin`` works.
    if result is not None and not result:
        raise Unauthorized


async def call_hook(hook: Callable[..., Any], *args: Any) -> Any:
    """Return the result of a web application's hook, such as ``actor_from_request``; its exceptions are passed on.

    Raises:
        TimeoutError: the hook did not return in time.
    """
    return await call(Kind.REQUEST, hook, *args, timeout_seconds=ANSWER_SECONDS)


async def call(
    kind: Kind,
    function: Callable[..., Any],
    /,
    *args: Any,
    timeout_seconds: float | None = None,
    on_cancel: Callable[[], object] | None = None,
    **kwargs: Any,
) -> Any:
    """Return ``function(*args, **kwargs)``: awaited on the loop when it is a coroutine function, else in a thread.

    The thread of a call that is cancelled or times out continues until the function returns.

    Args:
        timeout_seconds: longest time the call may take, waiting for a thread included; ``None`` for no limit.
        on_cancel: called when the caller is cancelled; its thread is then waited for, ``GRACE_SECONDS`` at most.

    Raises:
        TimeoutError: the time limit is exceeded.
        Exception: raised by the function.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            if _is_coroutine_function(function):
                return await function(*args, **kwargs)
            result = await _in_thread(kind, partial(function, *args, **kwargs), on_cancel)
            return await result if inspect.isawaitable(result) else result
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        raise


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Whether calling ``function`` returns a coroutine; an object may have a coroutine function as its ``__call__``."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


async def _in_thread(kind: Kind, function: Callable[[], Any], on_cancel: Callable[[], object] | None) -> Any:
    # The thread gets the trace and log context of the call.
    future = _threads(kind).submit(contextvars.copy_context().run, _outcome, function)
    ending = asyncio.wrap_future(future)
    if on_cancel is None:
        result, error = await ending
    else:

        def end_early() -> None:
            on_cancel()
            future.cancel()  # has an effect only while it waits for a thread

        result, error = await run_to_end(ending, limit_seconds=GRACE_SECONDS, on_cancel=end_early)
    if error is None:
        return result
    try:
        raise error
    finally:
        del error  # break the cycle: its traceback refers to this frame


def _outcome(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Call ``function`` in its thread; an error is returned.

    Futures change some exceptions: ``StopIteration`` never arrives, and ``concurrent.futures.CancelledError`` looks as
    if the caller had been cancelled.
    """
    try:
        return function(), None
    except Exception as error:
        return None, error


_pools: dict[Kind, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def _threads(kind: Kind) -> ThreadPoolExecutor:
    """Return the threads of a kind; they belong to the process and are created on first use."""
    with _pools_lock:
        if kind not in _pools:
            _pools[kind] = ThreadPoolExecutor(THREADS, thread_name_prefix=f"rindle-{kind}")
        return _pools[kind]
