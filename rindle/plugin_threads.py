"""The threads and the budget of one plug-in: foreign code that may block for ever.

A thread cannot be stopped. A call that exceeds its time limit therefore leaves its thread behind: the thread counts as
lost, and another one takes its place. The number of lost threads has a limit. Beyond it, calls of this plug-in are
refused at once, while other plug-ins go on. A lost thread that returns after all makes room again.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rindle.errors import PluginUnavailable

log = logging.getLogger(__name__)

#: Seconds after which a thread without work ends.
IDLE_SECONDS = 30.0

#: The result of a call, or the exception that it raised.
Outcome = tuple[Any, Exception | None]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a process one plug-in may use.

    Attributes:
        threads: calls that run in threads at once; further calls wait for a free thread.
        calls: calls at once, those that wait and those of coroutine functions included; further calls are refused.
        lost: threads whose call has exceeded its time limit; at this number all calls are refused.
    """

    threads: int
    calls: int
    lost: int


class Call:
    """One call in a thread."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.future: Future[Outcome] = Future()
        #: Whether the function has returned.
        self.has_ended = False
        #: Whether its time limit is exceeded, and another thread has its place.
        self.is_lost = False
        self._function = function
        self._context = contextvars.copy_context()  # trace and log context follow the call into the thread

    def run(self) -> Outcome:
        """Call the function in the current thread.

        An error is returned: futures change some exceptions. ``StopIteration`` never arrives, and
        ``concurrent.futures.CancelledError`` looks as if the caller had been cancelled.
        """
        try:
            return self._context.run(self._function), None
        except Exception as error:
            return None, error
        except BaseException as error:  # ``sys.exit()`` in a thread must not end the event loop
            return None, RuntimeError(f"{type(error).__name__} in a thread")


class PluginThreads:
    """The calls of one plug-in in this process; usable from any thread and several event loops.

    Threads are made when they are needed, end after ``IDLE_SECONDS`` without work, and never delay the end of the
    process.

    Args:
        kind: the kind of plug-in, for names and messages.
        name: the name of the plug-in, for messages.
    """

    def __init__(self, kind: str, name: str, limits: Limits) -> None:
        self.kind, self.name, self.limits = kind, name, limits
        #: Threads whose call has exceeded its time limit and has not returned.
        self.lost = 0
        self._calls = 0
        self._active = 0
        self._idle = 0
        self._made = 0
        self._waiting: deque[Call] = deque()
        self._work: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._lock = threading.Lock()

    @property
    def is_exhausted(self) -> bool:
        """Whether calls are refused because too many threads are lost."""
        return self.lost >= self.limits.lost

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a caller that waits for this plug-in inside the block.

        Raises:
            PluginUnavailable: too many threads are lost, or too many callers wait already.
        """
        with self._lock:
            if self.is_exhausted:
                raise self._refusal(f"{self.lost} of its calls have exceeded their time limit and never returned")
            if self._calls >= self.limits.calls:
                raise self._refusal(f"{self._calls} of its calls have not returned yet")
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1

    def start(self, function: Callable[[], Any]) -> Call:
        """Call ``function`` in a thread as soon as one is free."""
        call = Call(function)
        with self._lock:
            self._waiting.append(call)
            self._fill()
        return call

    def abandon(self, call: Call) -> None:
        """Give the place of ``call`` away: its time limit is exceeded. It does nothing to a call that has ended."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
                call.future.cancel()
                return
            if call.has_ended or call.is_lost:
                return
            call.is_lost = True
            self.lost += 1
            self._active -= 1
            facts = {"action": "plugin_thread_lost", "kind": self.kind, "plugin": self.name, "lost": self.lost}
            self._fill()
        log.warning("a call of a plug-in exceeded its time limit; its thread is lost until it returns", extra=facts)

    def _fill(self) -> None:
        """Give threads to waiting calls; holding the lock."""
        while self._waiting and self._active < self.limits.threads:
            call = self._waiting.popleft()
            if not call.future.set_running_or_notify_cancel():
                continue
            self._active += 1
            self._work.put(call)
            if self._idle:
                self._idle -= 1
                continue
            name = f"rindle-{self.kind}_{self._made}"
            self._made += 1
            threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                call = self._work.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._idle:  # else a call is on its way to this thread
                        self._idle -= 1
                        return
                continue
            outcome = call.run()
            with self._lock:
                call.has_ended = True
                if call.is_lost:
                    self.lost -= 1
                else:
                    self._active -= 1
                    self._idle += 1
                    self._fill()
            call.future.set_result(outcome)
            if call.is_lost:  # another thread has its place
                return
            del call, outcome  # not kept while this thread waits

    def _refusal(self, reason: str) -> PluginUnavailable:
        return PluginUnavailable(
            f"the plug-in {self.name} ({self.kind}) is not called: {reason}",
            detail={"kind": self.kind, "plugin": self.name, "lost": self.lost},
        )
