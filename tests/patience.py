"""How tests wait and for how long, and what keeps a busy machine from being taken for a broken program."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

#: Longest wait for anything. It only ends a test that hangs: no test is quicker for a shorter one, and none may depend
#: on how much of it is used. Above it is pytest's limit for a whole test (``pyproject.toml``).
PATIENCE_SECONDS = 240.0
PATIENCE_MS = 1000 * PATIENCE_SECONDS
#: Longest wait for a video that is built, or for its progress: minutes of CPU, where other programs compute too.
VIDEO_PATIENCE_SECONDS = 3 * PATIENCE_SECONDS
VIDEO_PATIENCE_MS = 1000 * VIDEO_PATIENCE_SECONDS

#: Pause between two looks.
POLL_SECONDS = 0.05

_LIMIT = "_deadlock_timeout_seconds"


def widen_deadlock_detector() -> None:
    """Let the workers and replayers of this process wait for a starved workflow task.

    The SDK fails a task that has not yielded for two seconds (TMPRL1101), which production keeps. Its debug mode would
    do more than switch that off: it runs workflows on the event loop and lifts a restriction of the sandbox. So the
    limit alone is replaced, in every process that imports ``tests.application``: the tests' own and their workers'.

    Raises:
        RuntimeError: the SDK decides in another way by now.
    """
    from temporalio.worker import _workflow  # slow to load, and many only want the number above

    if _LIMIT not in _workflow._WorkflowWorker.__init__.__code__.co_names:
        raise RuntimeError(f"temporalio's workflow worker no longer has {_LIMIT}")
    setattr(_workflow._WorkflowWorker, _LIMIT, property(lambda worker: PATIENCE_SECONDS, lambda worker, given: None))


async def until(
    look: Callable[[], T | Awaitable[T]],
    *,
    what: str | Callable[[], str] = "",
    timeout_seconds: float = PATIENCE_SECONDS,
) -> T:
    """Return the first true answer of ``look``; the one way a test on a loop waits.

    Args:
        look: a plain function or a coroutine function.
        what: what is waited for, or a function that tells it when the wait has failed; default: the name of ``look``.
        timeout_seconds: longest wait.

    Raises:
        AssertionError: no answer was true in time; the message has the last one.
    """
    answer: Any = None
    try:
        async with asyncio.timeout(timeout_seconds):
            while True:
                found = look()
                answer = await found if inspect.isawaitable(found) else found
                if answer:
                    return answer
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise _waited(look, what, timeout_seconds, answer) from None


def until_blocking(
    look: Callable[[], T], *, what: str | Callable[[], str] = "", timeout_seconds: float = PATIENCE_SECONDS
) -> T:
    """Do the same in a test without a loop, whose thread may be blocked."""
    deadline = time.monotonic() + timeout_seconds
    while not (answer := look()):
        if time.monotonic() >= deadline:
            raise _waited(look, what, timeout_seconds, answer)
        time.sleep(POLL_SECONDS)
    return answer


def _waited(
    look: Callable[[], object], what: str | Callable[[], str], timeout_seconds: float, answer: object
) -> AssertionError:
    told = what if isinstance(what, str) else what()
    name = getattr(look, "__qualname__", repr(look))
    return AssertionError(f"waited {timeout_seconds:.0f} s for {told or name}; last seen: {answer!r}")
