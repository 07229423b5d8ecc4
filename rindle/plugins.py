"""The one way in which foreign code is called: scanners, probes, analyzers, processors, authorizers and request hooks.

A coroutine function is awaited on the event loop. Everything else runs in a thread, so that code which blocks holds up
nobody but its own caller; an awaitable that it returns is then awaited on the loop. Each kind has threads of its own,
one time limit and one translation of what goes wrong. The contracts of the plug-ins themselves are in
:mod:`rindle.protocols`; stores are not called from here, since all their verbs are coroutines.
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

#: Threads of one kind of foreign code; further calls wait for a free one.
THREADS = 32
#: Seconds a profile's own probe or analyzer may take for one file.
FILE_SECONDS = 600.0
#: Seconds an authorizer or a request hook may take for one answer: somebody waits for the page.
ANSWER_SECONDS = 30.0
#: Longest time in seconds for which a cancelled build waits for a processor's thread to notice and end.
GRACE_SECONDS = 5.0


class Kind(StrEnum):
    """The kinds of foreign code; each has threads of its own, so that long calls of one do not delay another."""

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
        ScannerUnavailable: it raised something else, returned something else, or did not answer in time; retryable.
    """
    try:
        answer = await call(Kind.SCAN, scanner.scan, path, asset=asset, timeout_seconds=timeout_seconds)
    except Quarantine:
        raise
    except Exception as error:
        log.warning("scanner failed", extra={"action": "scanner_failed", "error": type(error).__name__})
        raise ScannerUnavailable(
            "the scanner did not give a verdict; the upload is not accepted until it does",
            detail={"error": type(error).__name__},
        ) from error
    if answer is not None:
        # A scanner that returns False or a report instead of raising must not be taken for "clean".
        raise ScannerUnavailable(
            "the scanner returned a value: return None for clean and raise Quarantine to condemn",
            detail={"error": "answer", "found": type(answer).__name__},
        )


async def probe(probe: Probe, path: Path, *, timeout_seconds: float | None = FILE_SECONDS) -> ProbeResult:
    """Return the technical facts of the file at ``path``.

    What the probe raises is passed on: ``ContentRejected`` rejects the file, anything else is an outage to its caller.

    Args:
        timeout_seconds: ``None`` for the bundled probes, which have limits of their own and wait for their turn.

    Raises:
        TimeoutError: the probe did not answer in time.
    """
    found: ProbeResult = await call(Kind.PROBE, probe.probe, path, timeout_seconds=timeout_seconds)
    return found


async def analyze(analyzer: Analyzer, path: Path, facts: ProbeResult, *, asset_id: str) -> dict[str, Any] | None:
    """Return the further metadata of a file, or ``None`` when the analyzer failed, which stops nothing.

    A failure is logged by its class name. An answer that is no JSON document is one, and so is none in time.
    """
    try:
        found = dict(await call(Kind.ANALYZE, analyzer.analyze, path, facts, timeout_seconds=FILE_SECONDS))
        json.dumps(found, allow_nan=False)  # otherwise the database would refuse the whole promotion
    except Exception as error:
        log.warning("analyzer failed", extra={"asset_id": asset_id, "error": type(error).__name__})
        return None
    return found


async def process(
    processor: Processor, source: Path, spec: VariantSpec, dest: Path, *, progress: Callable[[int], None]
) -> None:
    """Let ``processor`` write one variant to ``dest``.

    Its ``cancelled`` turns true when the caller is cancelled. A thread then gets ``GRACE_SECONDS`` to end, so that
    normally nothing writes to ``dest`` any more afterwards. The time limit is that of the activity around it.

    Raises:
        RindleError: what the processor raised.
        Unexpected: it raised something else, which is logged; retryable.
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
    """Return when ``actor`` may do ``action``; ``None`` lets everybody, and anything but a clear yes is a no.

    Args:
        authorizer: the application's; ``None`` when there is none, which costs nothing.
        actor: whatever the application calls its users; handed over as it is.
        action: ``deliver``, ``read``, ``operate`` or ``upload.*``.
        subject: a ``DeliverySubject``, ``UploadSubject`` or ``AssetSubject``.

    Raises:
        Unauthorized: denied. What the authorizer raised itself keeps its code; answering ``False`` denies, and so does
            any other exception and no answer in time, which is logged by its class name only.
    """
    if authorizer is None:
        return
    try:
        answer = await call(
            Kind.AUTHORIZE, authorizer.authorize, actor, action, subject, timeout_seconds=ANSWER_SECONDS
        )
    except Unauthorized:
        raise
    except Exception as error:  # fail closed: an authorizer that is broken must not open the door
        log.error("authorizer failed, access denied", extra={"action": action, "error": type(error).__name__})
        # Without its cause: a traceback of the denial must not tell what the authorizer's exception said.
        raise Unauthorized from None
    # None is the plain return that allows; every false value beside it denies, so that ``return user.is_admin`` works.
    if answer is not None and not answer:
        raise Unauthorized


async def call_hook(hook: Callable[..., Any], *args: Any) -> Any:
    """Return the answer of a web application's hook, such as ``actor_from_request``; what it raises is passed on.

    Raises:
        TimeoutError: no answer in time.
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

    A call that is cancelled, or takes too long, leaves its thread to end by itself.

    Args:
        timeout_seconds: longest time the call may take, waiting for a thread included; ``None`` for no limit.
        on_cancel: called when the caller is cancelled; its thread is then waited for, ``GRACE_SECONDS`` at most.

    Raises:
        TimeoutError: the time is over.
        Exception: what the function raised.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            if _is_coroutine_function(function):
                return await function(*args, **kwargs)
            answer = await _in_thread(kind, partial(function, *args, **kwargs), on_cancel)
            return await answer if inspect.isawaitable(answer) else answer
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        raise


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Whether calling ``function`` runs nothing yet; an object may have a coroutine function as its ``__call__``."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


async def _in_thread(kind: Kind, function: Callable[[], Any], on_cancel: Callable[[], object] | None) -> Any:
    # Trace and log context follow the call into the thread.
    future = _threads(kind).submit(contextvars.copy_context().run, _outcome, function)
    ending = asyncio.wrap_future(future)
    if on_cancel is None:
        answer, error = await ending
    else:

        def end_early() -> None:
            on_cancel()
            future.cancel()  # only one that waits for a thread can be cancelled

        answer, error = await run_to_end(ending, limit_seconds=GRACE_SECONDS, on_cancel=end_early)
    if error is None:
        return answer
    try:
        raise error
    finally:
        del error  # its traceback refers to this frame


def _outcome(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Call ``function`` in its thread; an error is returned.

    Futures change some errors on the way: ``StopIteration`` never arrives, and ``concurrent.futures.CancelledError``
    looks as if the caller had been cancelled.
    """
    try:
        return function(), None
    except Exception as error:
        return None, error


_pools: dict[Kind, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def _threads(kind: Kind) -> ThreadPoolExecutor:
    """Return the threads of a kind; they belong to the process, and each is made when first needed."""
    with _pools_lock:
        if kind not in _pools:
            _pools[kind] = ThreadPoolExecutor(THREADS, thread_name_prefix=f"rindle-{kind}")
        return _pools[kind]
