"""Keeping a few programs alive on one machine: what ``rindle dev`` and the demonstration stand on.

Every part runs in a process session of its own, so Ctrl-C reaches the supervisor alone and it decides the order of the
end. A part that dies is started again, with growing pauses. So is a part that runs but does not work: it is asked for
its health all the time, and ended when it does not answer for too long. What runs is recorded beside the data with
process ids and start times; a supervisor that was killed leaves its parts behind, and the next one ends those that are
really ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rindle.errors import Misconfigured, SetupIncomplete

#: Pause in seconds before a dead part is started again: the first, doubled up to the longest.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
#: A part that has run for so many seconds counts as healthy: the next pause is the first again.
HEALTHY_SECONDS = 10.0
#: Deaths before a part was ready once after which it is not going to be.
HOPELESS_DEATHS = 3
#: Seconds between two looks at the parts.
LOOK_SECONDS = 0.1
#: Seconds a part gets to end before it is killed.
STOP_SECONDS = 15.0
#: Seconds a part may run without being healthy before it is ended and started again: longer than a machine under load
#: delays an answer, shorter than a person waits before looking for the cause.
UNHEALTHY_SECONDS = 30.0
#: The same for a process that has not been healthy yet, because it is still starting.
START_SECONDS = 120.0
#: Seconds between two questions for a part's health. A question is one request on the loopback interface.
HEALTH_PAUSE_SECONDS = 3.0
#: Most that one look counts towards those limits. After a pause of the whole machine, such as a closed laptop, the
#: clock may have gone on by hours in which nobody could answer.
_LONGEST_LOOK_SECONDS = 1.0

Report = Callable[[str], object]


@dataclass(slots=True)
class _Part:
    """One program and how it is to be run."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(repr=False)  # holds the secret
    ready: Callable[[], bool] | None
    healthy: Callable[[], bool] | None
    stop_signal: signal.Signals
    stop_seconds: float
    process: subprocess.Popen[bytes] | None = None
    started: str | None = None
    born: float = 0.0
    deaths: int = 0
    was_ready: bool = False
    again_at: float = 0.0
    last_status: int | None = None
    #: The process whose health is asked for, and the last one that was healthy.
    asked: subprocess.Popen[bytes] | None = None
    answered: subprocess.Popen[bytes] | None = None
    #: For how long ``asked`` has not been healthy.
    unhealthy_seconds: float = 0.0
    #: When a part that was told to end is killed.
    kill_at: float | None = None


class Supervisor:
    """Starts parts, restarts dead and unhealthy ones, and stops them in reverse order of their start.

    Use it as ``with Supervisor(home) as supervisor:``; a thread watches the parts inside the block. Each part with a
    health check has one more thread, so that a slow answer of one part delays nothing else.

    Args:
        home: directory of ``supervisor.json`` and the lock; made when missing.
        report: called with one line of text at a time, from any thread.
        output: file descriptor for what the parts print; standard error when left out.
        unhealthy_seconds: how long a part may be unhealthy before it is ended and started again, 30 by default; with 0
            a part that runs is left alone. It should be longer than a health check takes.
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
        # Plain flags: an Event's lock may be held by the very code that a signal handler interrupts.
        self._stop_asked = self._hurry = False
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
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        ready: Callable[[], bool] | None = None,
        healthy: Callable[[], bool] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        """Start a program and keep it running.

        Args:
            name: for :meth:`kill_part`, :meth:`wait_ready` and the reports.
            argv: the program and its arguments.
            env: variables beside those of this process.
            ready: says whether it works, also with the help of other parts; without it running is being ready. Asked
                by :meth:`wait_ready` only.
            healthy: says whether this part itself works. It must not depend on other parts: a part is restarted when
                this is not true for long. Asked every few seconds from a thread of its own once :meth:`wait_ready` has
                returned, never twice at once; it should answer within a few seconds. What it raises counts as
                unhealthy. Without it a part that runs is left alone.
            stop_signal: what asks it to end; SIGKILL follows after ``stop_seconds``.
        """
        part = _Part(name, list(argv), {**os.environ, **(env or {})}, ready, healthy, stop_signal, stop_seconds)
        with self._guard:
            self._parts[name] = part
            self._spawn(part)
        if healthy is not None and self._unhealthy_seconds > 0:
            threading.Thread(target=self._ask, args=(part, healthy), name=f"rindle-health-{name}", daemon=True).start()

    def kill_part(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        """Signal a part, wait until that process is gone, and return its id; it is started again like any dead part.

        Raises:
            SetupIncomplete: it is not running, or did not end within its time.
        """
        with self._guard:
            part = self._parts[name]
            process = part.process
            if process is None or process.poll() is not None:
                raise SetupIncomplete(f"the {name} is not running")
            process.send_signal(how)
        deadline = time.monotonic() + part.stop_seconds
        while part.process is process and process.poll() is None:
            if time.monotonic() > deadline:
                raise SetupIncomplete(f"the {name} did not end within {part.stop_seconds:.0f} s")
            self._pause()
        with self._guard:  # the next look may take a moment: what is dead must not count as ready any more
            self._look_at(part)
        return process.pid

    def pid(self, name: str) -> int | None:
        """Return the process id of a part, or ``None`` while it is down."""
        process = self._parts[name].process
        return None if process is None else process.pid

    def wait_ready(self, name: str, timeout_seconds: float = 90.0) -> None:
        """Wait until a part works.

        Raises:
            SetupIncomplete: it keeps dying, or does not answer in time.
            KeyboardInterrupt: :meth:`ask_to_stop` was called meanwhile.
        """
        part = self._parts[name]
        deadline = time.monotonic() + timeout_seconds
        while True:
            process = part.process
            if process is not None and (part.ready is None or part.ready()) and process.poll() is None:
                with self._guard:
                    part.was_ready, part.answered = True, process
                return
            if part.deaths >= HOPELESS_DEATHS and not part.was_ready:
                raise SetupIncomplete(
                    f"the {name} does not start: it ended {part.deaths} times, last with {_ending(part.last_status)}"
                )
            if time.monotonic() > deadline:
                raise SetupIncomplete(f"the {name} was not ready within {timeout_seconds:.0f} s")
            self._pause()

    def stop(self) -> None:
        """Stop every part, the last started first, and forget them."""
        self._ending.set()
        if self._watcher.is_alive():
            self._watcher.join()
        with self._guard:
            for part in reversed([*self._parts.values()]):
                self._stop_part(part)
            self._parts.clear()
            if self._lock >= 0:
                (self.home / "supervisor.json").unlink(missing_ok=True)
                os.close(self._lock)
                self._lock = -1

    def ask_to_stop(self) -> None:
        """Make whoever waits for this supervisor stop it; asked twice, parts are killed. For signal handlers."""
        self._hurry = self._stop_asked
        self._stop_asked = True

    def wait_until_asked(self) -> None:
        """Wait for :meth:`ask_to_stop` while the parts are looked after."""
        while not self._stop_asked:
            time.sleep(LOOK_SECONDS)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _spawn(self, part: _Part) -> None:
        output = sys.stderr.fileno() if self._output is None else self._output
        part.process = subprocess.Popen(  # noqa: S603 - the caller's own program
            part.argv,
            env=part.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        part.born, part.kill_at = time.monotonic(), None
        part.started = identity(part.process.pid)
        self._record()

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._ending.wait(LOOK_SECONDS):
            with self._guard:
                now = time.monotonic()
                passed, looked = min(now - looked, _LONGEST_LOOK_SECONDS), now
                for part in self._parts.values():
                    self._look_at(part)
                    self._judge(part, passed)

    def _ask(self, part: _Part, healthy: Callable[[], bool]) -> None:
        """Ask for a part's health again and again; :meth:`_judge` reads the answers and waits for none."""
        # Several times within the limit, also where that is short.
        pause = min(HEALTH_PAUSE_SECONDS, self._unhealthy_seconds / 5)
        while not self._ending.wait(pause):
            with self._guard:
                process = part.process
                if process is None or not part.was_ready:
                    continue
                if part.asked is not process:
                    part.asked, part.unhealthy_seconds = process, 0.0
            try:
                is_healthy = healthy()
            except Exception:  # a check that breaks must not end the checks
                is_healthy = False
            if is_healthy:
                with self._guard:
                    part.answered, part.unhealthy_seconds = process, 0.0

    def _judge(self, part: _Part, passed_seconds: float) -> None:
        """End a part that runs and has been unhealthy for too long, by its stop signal and then by SIGKILL.

        A process nobody has asked yet is not judged: neither one that just began, nor one whose predecessor's check
        still hangs.
        """
        process = part.process
        if process is None or part.asked is not process:
            return
        if part.kill_at is not None:
            if time.monotonic() >= part.kill_at:
                part.kill_at = math.inf
                self._report(f"killing the {part.name}")
                _end_group(process.pid)  # also reaches what is suspended, which no other signal does
            return
        part.unhealthy_seconds += passed_seconds
        has_worked = part.answered is process
        limit = self._unhealthy_seconds if has_worked else max(self._unhealthy_seconds, START_SECONDS)
        if part.unhealthy_seconds >= limit:
            told = "stopped working" if has_worked else "has not begun to work"
            self._report(f"the {part.name} runs, but {told}: not healthy for {limit:g} s; ending it to start it again")
            process.send_signal(part.stop_signal)
            part.kill_at = time.monotonic() + part.stop_seconds

    def _look_at(self, part: _Part) -> None:
        if self._ending.is_set():
            return
        if part.process is None:
            if time.monotonic() >= part.again_at:
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
        self._report(f"the {part.name} ended with {_ending(status)}; starting it again in {pause:g} s")

    def _stop_part(self, part: _Part) -> None:
        process, part.process = part.process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(part.stop_signal)
            deadline = time.monotonic() + part.stop_seconds
            while process.poll() is None and time.monotonic() < deadline and not self._hurry:
                time.sleep(LOOK_SECONDS / 2)
            if process.poll() is None:
                self._report(f"killing the {part.name}")
        _end_group(process.pid)
        process.wait()
        self._record()

    def _pause(self) -> None:
        time.sleep(LOOK_SECONDS)
        if self._stop_asked:
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
        """Write down what runs, whole or not at all."""
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
        """End what a killed supervisor left running; processes that only share an id with it are left alone."""
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
    """Return what tells a process from a later one with the same id: when it started; ``None`` when it is gone.

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
    told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return told.stdout.strip() or None


def _end_group(pid: int) -> None:
    """Kill what is left of a part's session. Its number is not given to others while a member lives."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _ending(status: int | None) -> str:
    if status is not None and status < 0:
        return signal.Signals(-status).name
    return f"status {status}"
