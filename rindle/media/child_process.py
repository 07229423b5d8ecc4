"""One confined child process: started in a group of its own, drained, timed, ended with all it has started, reaped.

Nothing here knows ffmpeg. The child has no stdin, an environment of four variables, and limits it cannot raise; it dies
with the worker (:mod:`rindle.media.confined`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rindle.cancellation import run_to_end
from rindle.media import confined

#: How much of the end of a child's stderr is kept, in bytes.
LAST_WORDS_BYTES = 64 << 10
#: Seconds between SIGTERM and SIGKILL.
TERM_SECONDS = 1.0
#: Seconds that the pipes of a dead group may stay open: only a process that left the group can hold them.
_PIPE_SECONDS = 1.0
#: Exit status of a program that is not there or cannot be run.
CANNOT_RUN = confined.CANNOT_RUN


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """What a child may use.

    Attributes:
        wall_seconds: by our clock, from start to exit.
        stall_seconds: longest silence on stdout.
        cpu_seconds: of all its threads together (RLIMIT_CPU).
        memory_bytes: address space (RLIMIT_AS).
        file_bytes: size of a file it writes (RLIMIT_FSIZE).
        nice: added to the worker's own niceness.
    """

    wall_seconds: float
    stall_seconds: float
    cpu_seconds: int
    memory_bytes: int
    file_bytes: int
    nice: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended.

    Attributes:
        status: exit status; the negative number of the signal that killed it.
        timed_out: it was ended by us, for its wall or stall limit.
        cpu_seconds: user and system time of the child and of the children it has waited for.
        last_words: the end of its stderr. May hold paths: for classifying, not for showing.
    """

    status: int
    timed_out: bool
    cpu_seconds: float
    last_words: bytes = field(repr=False)


async def run_child(
    command: Sequence[str],
    limits: ChildLimits,
    directory: Path,
    *,
    on_output: Callable[[bytes], None] = lambda data: None,
) -> Ended:
    """Run ``command`` to its end; when this returns or raises, nothing of its process group is left.

    Args:
        command: program (absolute) and arguments; never a shell.
        limits: what it may use.
        directory: its working directory, home and place for temporary files.
        on_output: gets what it writes to stdout, as it comes, on the event loop. What it raises ends the child and is
            raised from here.

    Raises:
        CancelledError: the caller was cancelled; the group got SIGTERM, SIGKILL a second later, and was reaped.
    """
    child = _Child(command, limits, directory, on_output)
    try:
        await child.watched(limits)
    finally:
        await run_to_end(child.end())
    if child.trouble.done():
        raise child.trouble.result()
    return Ended(child.exited.result(), child.timed_out, child.cpu_seconds, bytes(child.last_words))


class _Child:
    def __init__(
        self, command: Sequence[str], limits: ChildLimits, directory: Path, on_output: Callable[[bytes], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_output = on_output
        self.exited: asyncio.Future[int] = self._loop.create_future()
        #: Holds what ``on_output`` raised.
        self.trouble: asyncio.Future[Exception] = self._loop.create_future()
        self.timed_out = False
        self.cpu_seconds = 0.0
        self.last_words = bytearray()
        self._heard_at = self._loop.time()
        self._pipes: list[_Pipe] = []
        # In the loop's thread, whose death the kernel takes for the worker's (PR_SET_PDEATHSIG goes by thread).
        self._process = subprocess.Popen(  # noqa: S603 - the caller's argv, checked there; no shell
            [sys.executable, "-I", "-S", confined.__file__, *_numbers(limits), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env=_environment(directory),
            start_new_session=True,
        )
        threading.Thread(target=self._reap, name="rindle-reaper", daemon=True).start()

    async def watched(self, limits: ChildLimits) -> None:
        """Wait until the child exits, oversteps a limit, or ``on_output`` raises."""
        deadline = self._heard_at + limits.wall_seconds
        for stream, listener in ((self._process.stdout, self._heard), (self._process.stderr, self._complained)):
            _, pipe = await self._loop.connect_read_pipe(partial(_Pipe, listener), stream)
            self._pipes.append(pipe)
        while not (self.exited.done() or self.trouble.done()):
            left = min(deadline, self._heard_at + limits.stall_seconds) - self._loop.time()
            if left <= 0:
                self.timed_out = True
                return
            news: set[asyncio.Future[Any]] = {self.exited, self.trouble}
            await asyncio.wait(news, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    async def end(self) -> None:
        """End what still runs of the group and read what is left in the pipes."""
        try:
            if not self.exited.done():
                self._signal(signal.SIGTERM)
                await asyncio.wait({self.exited}, timeout=TERM_SECONDS)
            if not self.exited.done():
                self._signal(signal.SIGKILL)
                await asyncio.wait({self.exited})
            if self._pipes:
                await asyncio.wait({pipe.closed for pipe in self._pipes}, timeout=_PIPE_SECONDS)
        finally:
            if not self.exited.done():  # the loop is being closed and waits for nothing any more
                self._signal(signal.SIGKILL)
            for pipe in self._pipes:
                pipe.close()
            for stream in (self._process.stdout, self._process.stderr):
                if stream is not None:
                    stream.close()

    def _heard(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        if self.trouble.done():
            return
        try:
            self._on_output(data)
        except Exception as error:
            self.trouble.set_result(error)

    def _complained(self, data: bytes) -> None:
        self.last_words += data
        del self.last_words[:-LAST_WORDS_BYTES]

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _reap(self) -> None:
        """Wait in a separate thread, which works with every event loop and returns the CPU time."""
        pid = self._process.pid
        if sys.platform == "linux":
            # As long as the leader is not reaped, no other process can get its group's number.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            self._signal(signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
        else:
            _, status, usage = os.wait4(pid, 0)
            self._signal(signal.SIGKILL)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._exit)

    def _exit(self) -> None:
        self.exited.set_result(int(self._process.returncode))


class _Pipe(asyncio.Protocol):
    """Hands on what comes through a pipe, so that a child never waits for a reader."""

    def __init__(self, listener: Callable[[bytes], None]) -> None:
        self._listener = listener
        self._transport: asyncio.BaseTransport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._listener(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _numbers(limits: ChildLimits) -> list[str]:
    numbers = (os.getpid(), limits.cpu_seconds, limits.memory_bytes, limits.file_bytes, limits.nice)
    return [str(number) for number in numbers]


def _environment(directory: Path) -> dict[str, str]:
    """Return all that a child sees of ours; its home is the run directory, where no preset or configuration lies."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "HOME": str(directory),
        "TMPDIR": str(directory),
    }
