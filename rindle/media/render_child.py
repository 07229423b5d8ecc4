"""What happens in a render child before and around a task: limits, signals, and an end when the worker ends.

Runs in child processes only. The engine is named by its module, so the worker never has to import libvips.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import math
import multiprocessing
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rindle.errors import ContentRejected, Misconfigured, RenderFailed, RindleError
from rindle.extras import missing_extra
from rindle.media import confined

log = logging.getLogger(__name__)

#: Seconds that the child's own alarm comes after the parent's limit: it only acts when the parent cannot.
ALARM_GRACE_SECONDS = 2
#: Why the kernel did not isolate this child, ``None`` when it did.
_isolation_problem: str | None = None


def enter(memory_bytes: int) -> None:
    """Prepare a fresh child, once: isolated, bounded memory, killable at once, never left behind.

    Args:
        memory_bytes: limit of the address space (RLIMIT_AS); a task's source file comes on top of it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; the worker decides
    # pebble's own handler waits until libvips returns to Python; the default action does not.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    global _isolation_problem
    _isolation_problem = confined.isolate()  # needs a process of one thread
    _lower(resource.RLIMIT_AS, memory_bytes)
    # Memory of the child's own, which a mapped file is not: it stays bounded while a task has more address space.
    _lower(resource.RLIMIT_DATA, memory_bytes)
    if sys.platform == "linux":
        confined.die_with_parent()  # here the forkserver
    threading.Thread(target=_end_with_the_worker, name="rindle-parent-watch", daemon=True).start()


def isolation_problem() -> str | None:
    """Return why this child has no namespaces of its own, ``None`` when it has."""
    return _isolation_problem


def call(
    engine: str,
    function: str,
    wall_seconds: float,
    cpu_seconds: float,
    busy: Path | None,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    """Run ``function`` of the module ``engine`` within its limits.

    Args:
        engine: module with the functions ``probe_image``, ``render_images``, ``features``, ``require_safe_libvips``.
        function: the one to call.
        wall_seconds: the parent's limit; the child's own alarm is a little later.
        cpu_seconds: CPU time of all threads; the kernel ends the child with SIGXCPU.
        busy: directory that stays locked (flock) while the task runs, so that the parent can detect when nothing writes
            into it any more.
        arguments: picklable arguments; the first, if there is any, is the file that will be read.
        options: picklable keyword arguments.

    Raises:
        RindleError: as the function raised it. Anything else becomes one of our errors, because the parent could not
            unpickle an exception of a library that it does not import: see :func:`_engine_error`.
    """
    try:
        with _alarmed(wall_seconds, cpu_seconds), _locked(busy), _room_for(*arguments[:1]):
            return getattr(_engine(engine), function)(*arguments, **options)
    except RindleError:
        raise
    except Exception as error:
        raise _engine_error(error, function) from None


def _engine_error(error: Exception, function: str) -> RindleError:
    """Return what an exception of an engine, which did not die, means: the content is the cause, if not the machine.

    The same bytes raise the same exception again, so nothing is retried but for a problem of the machine.
    """
    # Not the message: an error of a library may contain paths and content of the file.
    where = traceback.extract_tb(error.__traceback__)[-1]
    name = type(error).__name__
    log.error("render task failed: %s in %s, line %s", name, where.name, where.lineno, extra={"task": function})
    if isinstance(error, OSError | MemoryError):
        return RenderFailed(f"the image engine failed ({name})")
    if function == "probe_image":
        return ContentRejected(
            f"the image engine failed on the file ({name})",
            code="decoder_failed",
            detail={"reason": f"{name} in {where.name}"},
        )
    return RenderFailed(f"the image engine failed ({name})", retryable=False)


def _engine(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or "libvips"
        raise missing_extra(error) or Misconfigured(
            f"images cannot be processed: {missing} is missing", action="install pyvips with libvips 8.13 and pi-heif"
        ) from None


@contextmanager
def _alarmed(wall_seconds: float, cpu_seconds: float) -> Iterator[None]:
    """Let the kernel end this process when it runs for too long, even when the worker is gone and libvips hangs."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + cpu_seconds))
    signal.setitimer(signal.ITIMER_REAL, wall_seconds + ALARM_GRACE_SECONDS)
    try:
        yield
    finally:
        # Off before the answer is sent: a child killed while it holds the pool's pipe would block the others.
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _room_for(source: Path | None = None) -> Iterator[None]:
    """Widen the address space by the size of ``source``: libvips maps whole files, and aborts when it cannot."""
    usual, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = 0
    with suppress(OSError):  # a file that cannot be read is for the engine to complain about
        size = 0 if source is None else source.stat().st_size
    if usual != resource.RLIM_INFINITY:
        _lower(resource.RLIMIT_AS, usual + size)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (usual, hard))


@contextmanager
def _locked(directory: Path | None) -> Iterator[None]:
    if directory is None:
        yield
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _lower(limit: int, value: int) -> None:
    """Set a soft limit, never above the hard one that the machine's owner has set."""
    _, hard = resource.getrlimit(limit)
    soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (soft, hard))


def _end_with_the_worker() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)
