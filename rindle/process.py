"""The current process: its cores, its platform and its exit.

The SDK's runtime can abort while the interpreter shuts down, after all work has succeeded, and so turn success into
exit code 134 or 139. Every program of Rindle therefore ends through :func:`leave`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn

log = logging.getLogger(__name__)

#: Exit codes a POSIX process can report; ``os._exit`` would silently reduce others to their lowest byte.
EXIT_CODES = range(256)
#: Variables of platforms that may stop the process between two requests, with the platform's name.
_EPHEMERAL: Mapping[str, str] = {
    "LAMBDA_TASK_ROOT": "AWS Lambda",
    "AWS_LAMBDA_FUNCTION_NAME": "AWS Lambda",
    "VERCEL": "Vercel",
    "VERCEL_ENV": "Vercel",
    "NOW_REGION": "Vercel",
}


def ephemeral_runtime(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the name of a platform that may stop this process at any time, or ``None``.

    Args:
        environ: environment variables; those of this process by default. Empty values count as absent.

    Source: AWS Lambda "Defined runtime environment variables"; Vercel "System environment variables".
    """
    environment = os.environ if environ is None else environ
    return next((name for variable, name in _EPHEMERAL.items() if environment.get(variable)), None)


def usable_cores() -> int:
    """Return how many processor cores this process may use: fewer than there are where it is pinned to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def leave(code: int, *closers: Callable[[], object]) -> NoReturn:
    """End this process now with ``code``: close everything, flush, and skip the interpreter's own shutdown.

    Neither ``atexit`` functions, ``finally`` blocks of callers nor other threads run afterwards, so coroutines and
    pools must have been closed before or be among ``closers``. Child processes are not waited for.

    Args:
        code: exit status, 0 to 255; anything else becomes 1, so that a failure such as 256 is never reported as 0.
        closers: called in order, without arguments. One that raises is logged and does not stop the others.
    """
    for close in closers:
        try:
            close()
        except Exception:
            log.exception("process.closer_failed")
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        # A closed pipe (``| head``) or a stream closed by its owner must not keep the process.
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code if code in EXIT_CODES else 1)
