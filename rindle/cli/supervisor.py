"""A process supervisor for one machine; ``rindle dev`` and the demonstration use it.

Every part runs in a process session of its own, so Ctrl-C reaches the supervisor alone and it decides the order in
which parts stop. A part that dies is restarted, with growing pauses. A part that runs but is unhealthy for too long is
stopped and restarted as well: its health is checked every few seconds. The running parts are recorded beside the data
with process ids and start times. A supervisor that was killed leaves its parts behind; the next one identifies them by
this record and ends them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rindle.errors import Misconfigured, SetupIncomplete

#: Pause in seconds before a dead part is restarted: the first one, doubled up to the longest.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
#: After a part has run for this many seconds, the next pause is the first one again.
HEALTHY_SECONDS = 10.0
#: Deaths of a part that was never ready after which the start has failed.
HOPELESS_DEATHS = 3
#: Seconds between two checks of the processes.
POLL_SECONDS = 0.1
#: Seconds a part may take to end before it is killed.
STOP_SECONDS = 15.0
#: Seconds a part may be unhealthy before it is restarted: longer than a machine under load delays an answer, shorter
#: than a person waits before looking for the cause.
UNHEALTHY_SECONDS = 30.0
#: The same limit for a process that has not been healthy yet because it is still starting.
START_SECONDS = 120.0
#: Seconds between two health checks of a part. A check is one request on the loopback interface.
HEALTH_PAUSE_SECONDS = 3.0
#: Longest interval that one poll adds to those limits. After a pause of the whole machine, such as a closed laptop, the
#: clock may have advanced by hours in which no part could answer.
_LONGEST_POLL_SECONDS = 1.0

Report = Callable[[str], object]


@dataclass(slots=True)
class _Part:
    """One program, how to run it, and its current process."""

    name: str
    argv: Callable[[], Sequence[str]]
    env: dict[str, str] = field(repr=False)  # holds the secret
    ready: Callable[[], bool] | None
    healthy: Callable[[], bool] | None
    stop_signal: signal.Signals
    stop_seconds: float
    hopeless_status: int | None = None
    listening: socket.socket | None = None
    process: subprocess.Popen[bytes] | None = None
    started: str | None = None
    born: float = 0.0
    deaths: int = 0
    was_ready: bool = False
    again_at: float = 0.0
    last_status: int | None = None
    #: The process whose health is checked, and the last one that was healthy.
    checked: subprocess.Popen[bytes] | None = None
    healthy_process: subprocess.Popen[bytes] | None = None
    #: For how long ``checked`` has not been healthy.
    unhealthy_seconds: float = 0.0
    #: When a part that was signalled to end is killed.
    kill_at: float | None = None
    #: Whether the part is started again when it has ended.
    restarts: bool = True

    @property
    def is_hopeless(self) -> bool:
        """Whether its first start ended with the status after which none is repeated."""
        return not self.was_ready and self.last_status is not None and self.last_status == self.hopeless_status


class Supervisor:
    """Start parts, restart dead and unhealthy ones, and stop them in reverse order of their start.

    Use it as ``with Supervisor(home) as supervisor:``; a thread watches the parts inside the block. Each part with a
    health check has one more thread, so that a slow check of one part delays no other.

    Args:
        home: directory of ``supervisor.json`` and the lock; created when missing.
        report: called with one line of text at a time, from any thread.
        output: file descriptor for the output of the parts; standard error when left out.
        unhealthy_seconds: how long a part may be unhealthy before it is restarted, 30 by default; 0 never restarts a
            running part. It should be longer than a health check takes.
    """

    def __init__(
        self,
        home: Path,
        *,
        report: Report = print,
        output: int | None = None,
        unhealthy_seconds: float = UNHEALTHY_SECONDS,
    ) -> None:
        self.home = home.resolve()
        self._report = report
        self._output = output
        self._unhealthy_seconds = unhealthy_seconds
        self._parts: dict[str, _Part] = {}
        self._guard = threading.RLock()
        self._ending = threading.Event()
        # Plain flags: a signal handler may interrupt code that holds an Event's lock.
        self._stop_requested = self._kill_at_once = False
        self._watcher = threading.Thread(target=self._watch, name="rindle-supervisor", daemon=True)
        self._lock = -1

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_lock()
        self._end_leftovers()
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- parts -----------------------------------------------------------------------------------------------------

    def start_part(
        self,
        name: str,
        argv: Sequence[str] | Callable[[], Sequence[str]],
        env: Mapping[str, str] | None = None,
        *,
        ready: Callable[[], bool] | None = None,
        healthy: Callable[[], bool] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_seconds: float = STOP_SECONDS,
        hopeless_status: int | None = None,
        listening: socket.socket | None = None,
    ) -> None:
        """Start a program and keep it running.

        Args:
            name: for :meth:`kill_part`, :meth:`wait_ready` and the reports.
            argv: the program and its arguments, or a function that returns them for each start.
            env: variables in addition to those of this process.
            ready: returns whether the part works, including the parts it depends on; without it every running part is
                ready. Only :meth:`wait_ready` calls it.
            healthy: returns whether this part itself works. It must not depend on other parts: a part is restarted when
                this is false for too long. Called every few seconds from a thread of its own after :meth:`wait_ready`
                has returned, never concurrently; it should return within a few seconds. An exception counts as
                unhealthy. Without it a running part is never restarted.
            stop_signal: signal that stops it; SIGKILL follows after ``stop_seconds``.
            hopeless_status: exit status with which the first start has failed at once: a repetition would end alike.
            listening: a socket that every process of the part inherits, under the same file descriptor. It stays open
                while the part is restarted and is closed by :meth:`stop`.
        """
        part = _Part(
            name,
            argv if callable(argv) else partial(list, argv),
            {**os.environ, **(env or {})},
            ready,
            healthy,
            stop_signal,
            stop_seconds,
            hopeless_status,
            listening,
        )
        with self._guard:
            self._parts[name] = part
            self._spawn(part)
        if healthy is not None and self._unhealthy_seconds > 0:
            threading.Thread(
                target=self._check_health, args=(part, healthy), name=f"rindle-health-{name}", daemon=True
            ).start()

    def kill_part(self, name: str, how: signal.Signals = signal.SIGKILL, *, restart: bool = True) -> int:
        """Signal a part, wait until that process is gone, and return its id.

        Args:
            restart: whether it is restarted like any dead part; otherwise it stays dead.

        Raises:
            SetupIncomplete: it is not running, or did not end within its time.
        """
        with self._guard:
            part = self._parts[name]
            process = part.process
            if process is None or process.poll() is not None:
                raise SetupIncomplete(f"the {name} is not running")
            part.restarts = restart
            process.send_signal(how)
        deadline = time.monotonic() + part.stop_seconds
        while part.process is process and process.poll() is None:
            if time.monotonic() > deadline:
                raise SetupIncomplete(f"the {name} did not end within {part.stop_seconds:.0f} s")
            self._pause()
        with self._guard:  # before the next poll: a dead part must not count as ready any more
            self._poll(part)
        return process.pid

    def pid(self, name: str) -> int | None:
        """Return the process id of a part, or ``None`` while it is down."""
        process = self._parts[name].process
        return None if process is None else process.pid

    def wait_ready(self, name: str, timeout_seconds: float = 90.0) -> None:
        """Wait until a part is ready.

        Raises:
            SetupIncomplete: it keeps dying, or is not ready in time.
            KeyboardInterrupt: :meth:`request_stop` was called meanwhile.
        """
        part = self._parts[name]
        deadline = time.monotonic() + timeout_seconds
        while True:
            process = part.process
            if process is not None and (part.ready is None or part.ready()) and process.poll() is None:
                with self._guard:
                    part.was_ready, part.healthy_process = True, process
                return
            if part.is_hopeless:
                raise SetupIncomplete(f"the {name} does not start; the lines above show the cause")
            if part.deaths >= HOPELESS_DEATHS and not part.was_ready:
                raise SetupIncomplete(
                    f"the {name} does not start: it ended {part.deaths} times, last with {_ending(part.last_status)}"
                )
            if time.monotonic() > deadline:
                raise SetupIncomplete(f"the {name} was not ready within {timeout_seconds:.0f} s")
            self._pause()

    def stop(self) -> None:
        """Stop every part in reverse order of their start, and forget them."""
        self._ending.set()
        if self._watcher.is_alive():
            self._watcher.join()
        with self._guard:
            for part in reversed([*self._parts.values()]):
                self._stop_part(part)
                if part.listening is not None:
                    part.listening.close()
            self._parts.clear()
            if self._lock >= 0:
                (self.home / "supervisor.json").unlink(missing_ok=True)
                os.close(self._lock)
                self._lock = -1

    def request_stop(self) -> None:
        """End :meth:`wait_for_stop_request`; a second request kills the parts. For signal handlers."""
        self._kill_at_once = self._stop_requested
        self._stop_requested = True

    def wait_for_stop_request(self) -> None:
        """Wait for :meth:`request_stop` while the parts are supervised."""
        while not self._stop_requested:
            time.sleep(POLL_SECONDS)

    # --- internals -------------------------------------------------------------------------------------------------

    def _spawn(self, part: _Part) -> None:
        output = sys.stderr.fileno() if self._output is None else self._output
        part.process = subprocess.Popen(  # noqa: S603 - the caller's own program
            part.argv(),
            env=part.env,
            pass_fds=() if part.listening is None else (part.listening.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        part.born, part.kill_at = time.monotonic(), None
        part.started = identity(part.process.pid)
        self._record()

    def _watch(self) -> None:
        polled_at = time.monotonic()
        while not self._ending.wait(POLL_SECONDS):
            with self._guard:
                now = time.monotonic()
                passed, polled_at = min(now - polled_at, _LONGEST_POLL_SECONDS), now
                for part in self._parts.values():
                    self._poll(part)
                    self._stop_if_unhealthy(part, passed)

    def _check_health(self, part: _Part, healthy: Callable[[], bool]) -> None:
        """Check a part's health repeatedly; :meth:`_stop_if_unhealthy` reads the results and waits for none."""
        # Several checks fit into the limit, even a short one.
        pause = min(HEALTH_PAUSE_SECONDS, self._unhealthy_seconds / 5)
        while not self._ending.wait(pause):
            with self._guard:
                process = part.process
                if process is None or not part.was_ready:
                    continue
                if part.checked is not process:
                    part.checked, part.unhealthy_seconds = process, 0.0
            try:
                is_healthy = healthy()
            except Exception:  # a failing check must not end the checks
                is_healthy = False
            if is_healthy:
                with self._guard:
                    part.healthy_process, part.unhealthy_seconds = process, 0.0

    def _stop_if_unhealthy(self, part: _Part, passed_seconds: float) -> None:
        """End a running part that has been unhealthy for too long, by its stop signal and then by SIGKILL.

        A process that was not checked yet is left alone: one that just started, or one whose predecessor's check still
        hangs.
        """
        process = part.process
        if process is None or part.checked is not process:
            return
        if part.kill_at is not None:
            if time.monotonic() >= part.kill_at:
                part.kill_at = math.inf
                self._report(f"killing the {part.name}")
                _end_group(process.pid)  # SIGKILL is the only signal that ends a suspended process
            return
        part.unhealthy_seconds += passed_seconds
        was_healthy = part.healthy_process is process
        limit = self._unhealthy_seconds if was_healthy else max(self._unhealthy_seconds, START_SECONDS)
        if part.unhealthy_seconds >= limit:
            problem = "has been unhealthy" if was_healthy else "has not become healthy"
            self._report(f"the {part.name} {problem} for {limit:g} s; restarting it")
            process.send_signal(part.stop_signal)
            part.kill_at = time.monotonic() + part.stop_seconds

    def _poll(self, part: _Part) -> None:
        if self._ending.is_set():
            return
        if part.process is None:
            if part.restarts and time.monotonic() >= part.again_at:
                self._spawn(part)
            return
        status = part.process.poll()
        if status is None:
            return
        _end_group(part.process.pid)
        if time.monotonic() - part.born > HEALTHY_SECONDS:
            part.deaths = 0
        pause = min(FIRST_PAUSE_SECONDS * 2**part.deaths, LONGEST_PAUSE_SECONDS)
        part.deaths += 1
        part.last_status, part.process, part.again_at = status, None, time.monotonic() + pause
        self._record()
        if part.is_hopeless:
            part.again_at = math.inf
            return
        plan = f"restarting it in {pause:g} s" if part.restarts else "it stays down"
        self._report(f"the {part.name} ended with {_ending(status)}; {plan}")

    def _stop_part(self, part: _Part) -> None:
        process, part.process = part.process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(part.stop_signal)
            deadline = time.monotonic() + part.stop_seconds
            while process.poll() is None and time.monotonic() < deadline and not self._kill_at_once:
                time.sleep(POLL_SECONDS / 2)
            if process.poll() is None:
                self._report(f"killing the {part.name}")
        _end_group(process.pid)
        process.wait()
        self._record()

    def _pause(self) -> None:
        time.sleep(POLL_SECONDS)
        if self._stop_requested:
            raise KeyboardInterrupt

    def _take_lock(self) -> None:
        handle = os.open(self.home / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise Misconfigured(
                "this RINDLE_HOME is in use by another supervisor. To fix: stop the other one, or set RINDLE_HOME"
            ) from None
        self._lock = handle

    def _record(self) -> None:
        """Record the running parts in ``supervisor.json``, atomically."""
        running = [part for part in self._parts.values() if part.process is not None]
        document = {
            "supervisor": {"pid": os.getpid(), "started": identity(os.getpid())},
            "parts": [
                {
                    "name": part.name,
                    "pid": part.process.pid,
                    "started": part.started,
                    "stop_signal": int(part.stop_signal),
                }
                for part in running
                if part.process is not None
            ],
        }
        fresh = self.home / "supervisor.json.new"
        fresh.write_text(json.dumps(document, indent=2))
        fresh.replace(self.home / "supervisor.json")

    def _end_leftovers(self) -> None:
        """End the parts that a killed supervisor left running, but no other process that has got one of their ids."""
        try:
            parts: list[dict[str, Any]] = json.loads((self.home / "supervisor.json").read_text())["parts"]
            recorded = [(str(p["name"]), int(p["pid"]), str(p["started"]), int(p["stop_signal"])) for p in parts]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return
        for name, pid, started, stop_signal in reversed(recorded):
            if pid <= 1 or identity(pid) != started:
                continue
            self._report(f"ending the {name} (process {pid}) that an earlier run left behind")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, stop_signal)
            deadline = time.monotonic() + STOP_SECONDS
            while identity(pid) == started and time.monotonic() < deadline:
                self._pause()
            if identity(pid) == started:
                _end_group(pid)


def identity(pid: int) -> str | None:
    """Return the start time of a process, which distinguishes it from later ones with its id; ``None`` when it is gone.

    Source: proc(5), fields ``state`` and ``starttime`` of ``/proc/<pid>/stat``; elsewhere ps(1).
    """
    if sys.platform == "linux":
        try:
            # The second field is the program's name in parentheses, and may hold spaces and parentheses itself.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        return None if fields[0] in ("Z", "X") else f"{boot}/{fields[19]}"
    printed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return printed.stdout.strip() or None


def _end_group(pid: int) -> None:
    """Kill the rest of a part's process group. Its id is not reused while a member lives."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _ending(status: int | None) -> str:
    if status is not None and status < 0:
        return signal.Signals(-status).name
    return f"status {status}"
