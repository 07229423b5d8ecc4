"""Calls of plug-ins: scanners, probes, analyzers, processors, authorizers and request hooks.

A coroutine function is awaited on the event loop. Any other function runs in a thread, so that blocking code delays
only its own caller; an awaitable that it returns is then awaited on the loop. Each kind has its own time limit and
translation of errors. Each plug-in has its own threads and budget, so that one that never returns does not stop others.
The contracts of the plug-ins are in :mod:`rindle.protocols`. Stores are not called here: all their methods are
coroutines.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import threading
import weakref
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from rindle.cancellation import run_to_end
from rindle.db.models import MediaAsset
from rindle.errors import PluginUnavailable, RindleError, ScannerUnavailable, SourceTimeout, Unauthorized, Unexpected
from rindle.plugin_threads import Limits, PluginThreads
from rindle.protocols import Analyzer, Authorizer, Probe, ProbeResult, Processor, Quarantine, Scanner
from rindle.recipes import VariantSpec

log = logging.getLogger(__name__)

#: Lost threads of all plug-ins of one kind at which no new plug-in of the kind is called.
MOST_LOST = 256
#: Timeout in seconds of a profile's own probe or analyzer for one file.
FILE_SECONDS = 600.0
#: Timeout in seconds of one call of an authorizer or a request hook: a user waits for the response.
ANSWER_SECONDS = 30.0
#: Timeout in seconds of one read of 1 MiB from the file that an application uploads.
READ_SECONDS = 60.0
#: Longest time in seconds that a cancelled build waits for the end of a processor's thread.
GRACE_SECONDS = 5.0


class Kind(StrEnum):
    """The kinds of plug-ins; each plug-in has a budget per kind, so that one that hangs does not stop another."""

    SCAN = "scan"
    PROBE = "probe"
    ANALYZE = "analyze"
    PROCESS = "process"
    AUTHORIZE = "authorize"
    REQUEST = "request"
    SOURCE = "source"


#: A worker runs 100 activities at once, so that a plug-in that hangs leaves most of them to the others.
_IN_WORKERS = Limits(threads=16, calls=32, lost=16)
#: A request waits for its response only, so many may wait.
_IN_REQUESTS = Limits(threads=32, calls=1_000, lost=32)
#: The budget of one plug-in in a process, by kind.
LIMITS: dict[Kind, Limits] = {
    **dict.fromkeys((Kind.SCAN, Kind.PROBE, Kind.ANALYZE, Kind.PROCESS), _IN_WORKERS),
    **dict.fromkeys((Kind.AUTHORIZE, Kind.REQUEST, Kind.SOURCE), _IN_REQUESTS),
}


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
        PluginUnavailable: the hook did not return in time, or its budget is used up.
    """
    try:
        return await call(Kind.REQUEST, hook, *args, timeout_seconds=ANSWER_SECONDS)
    except TimeoutError as error:
        raise PluginUnavailable(
            f"a hook of the routes did not return within {ANSWER_SECONDS:g} s", detail={"kind": Kind.REQUEST.value}
        ) from error


async def read_source(function: Callable[..., Any], *args: Any) -> Any:
    """Return the result of a method of the file that an application uploads; its exceptions are passed on.

    All files have one budget together.

    Raises:
        SourceTimeout: the method did not return in time.
    """
    try:
        return await call(Kind.SOURCE, partial(_upload_source, function), *args, timeout_seconds=READ_SECONDS)
    except TimeoutError as error:
        raise SourceTimeout(
            f"the source of the upload did not return within {READ_SECONDS:g} s", detail={"limit": READ_SECONDS}
        ) from error


def _upload_source(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


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

    The thread of a call that is cancelled or times out continues until the function returns. After the time limit it
    counts as lost, and another thread takes its place.

    Args:
        timeout_seconds: longest time the call may take, waiting for a thread included; ``None`` for no limit.
        on_cancel: called when the caller is cancelled; its thread is then waited for, ``GRACE_SECONDS`` at most.

    Raises:
        TimeoutError: the time limit is exceeded.
        PluginUnavailable: the budget of this plug-in is used up.
        Exception: raised by the function.
    """
    is_coroutine = _is_coroutine_function(function)
    if is_coroutine and timeout_seconds is None and on_cancel is None:  # the library's own: it has limits of its own
        return await function(*args, **kwargs)
    threads = _threads_of(kind, function)
    try:
        async with asyncio.timeout(timeout_seconds) as limit:
            with threads.counted():
                if is_coroutine:
                    return await function(*args, **kwargs)
                result = await _in_thread(threads, partial(function, *args, **kwargs), limit.when(), on_cancel)
                return await result if inspect.isawaitable(result) else result
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        raise


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Whether calling ``function`` returns a coroutine; an object may have a coroutine function as its ``__call__``."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


async def _in_thread(
    threads: PluginThreads,
    function: Callable[[], Any],
    ends_at: float | None,
    on_cancel: Callable[[], object] | None,
) -> Any:
    loop = asyncio.get_running_loop()
    running = threads.start(function)
    ending = asyncio.wrap_future(running.future)
    # Not when its caller gives up: clients that disconnect must not use up the lost threads of an authorizer.
    abandoning = None if ends_at is None else loop.call_at(ends_at, threads.abandon, running)
    try:
        if on_cancel is None:
            result, error = await ending
        else:

            def end_early() -> None:
                on_cancel()
                running.future.cancel()  # has an effect only while it waits for a thread

            result, error = await run_to_end(ending, limit_seconds=GRACE_SECONDS, on_cancel=end_early)
    finally:
        if abandoning is None or loop.time() >= abandoning.when():
            threads.abandon(running)
        if abandoning is not None and running.future.done():
            abandoning.cancel()
    if error is None:
        return result
    try:
        raise error
    finally:
        del error  # break the cycle: its traceback refers to this frame


# --- budgets ------------------------------------------------------------------------------------------------------


_budgets: dict[tuple[Kind, int], PluginThreads] = {}
_budgets_lock = threading.Lock()
#: Plug-ins that cannot be referred to weakly: they are kept, so that their ids stay their own.
_kept: dict[int, object] = {}


def lost_threads() -> list[str]:
    """Return a sentence for each plug-in of this process with lost threads; see ``PluginThreads``."""
    budgets = _budgets.copy().values()  # a copy: the garbage collector may remove some at any moment
    return [
        f"{each.kind} {each.name}: {each.lost} calls have exceeded their time limit and never returned"
        + ("; further calls are refused" if each.is_exhausted else "")
        for each in budgets
        if each.lost
    ]


def _threads_of(kind: Kind, function: Callable[..., Any]) -> PluginThreads:
    """Return the threads and the budget of the plug-in that ``function`` belongs to.

    Raises:
        PluginUnavailable: ``MOST_LOST`` threads of this kind are lost: an application that makes a plug-in for each
            call has a new budget each time.
    """
    plugin = function.func if isinstance(function, partial) else function
    plugin = getattr(plugin, "__self__", plugin)
    key = (kind, id(plugin))
    with _budgets_lock:
        if key not in _budgets:
            lost = sum(each.lost for (known, _), each in _budgets.copy().items() if known is kind)
            if lost >= MOST_LOST:
                raise PluginUnavailable(
                    f"no further plug-in of the kind {kind} is called: {lost} threads are lost", detail={"lost": lost}
                )
            named = plugin if isinstance(plugin, type) or hasattr(plugin, "__qualname__") else type(plugin)
            _budgets[key] = PluginThreads(kind, named.__qualname__, LIMITS[kind])
            try:
                weakref.finalize(plugin, _budgets.pop, key, None).atexit = False
            except TypeError:
                _kept[id(plugin)] = plugin
        return _budgets[key]
