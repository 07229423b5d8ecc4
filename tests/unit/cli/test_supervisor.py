"""Keeping programs alive: restarts of dead and of unhealthy ones, the order of the end, and cleaning up after a
supervisor that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from rindle.cli.supervisor import POLL_SECONDS, Supervisor, identity
from rindle.errors import Misconfigured, SetupIncomplete
from tests.patience import PATIENCE_SECONDS, until_blocking

#: Writes its process id, then lives and shows its pulse until it is told to end; says so when it does.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
name, home = sys.argv[1], Path(sys.argv[2])
def end(number, frame):
    with (home / "ends").open("a") as ends:
        ends.write(f"{name} {signal.Signals(number).name}\\n")
    sys.exit(0)
if "deaf" not in sys.argv:
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(home / f"{name}.pid").write_text(str(os.getpid()))
beats = 0
while True:
    beats += 1
    (home / f"{name}.pulse").write_text(str(beats))
    time.sleep(0.02)
"""


def command(name: str, home: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, name, str(home), *more]


def gone(pid: int) -> bool:
    return identity(pid) is None


class Checks:
    """A health check that answers as it is told, and knows how often it was asked and whether twice at once."""

    def __init__(self, answer: Callable[[int], bool]) -> None:
        self._answer = answer
        self.count = self.under_way = self.most_at_once = 0

    def __call__(self) -> bool:
        self.count += 1
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        try:
            return self._answer(self.count)
        finally:
            self.under_way -= 1

    def wait(self, more: int) -> None:
        """Wait until it has been asked ``more`` times from now on."""
        wanted = self.count + more
        until_blocking(lambda: self.count >= wanted, what=f"{more} more checks")


def pulse_of(name: str, home: Path) -> Callable[[], bool]:
    """Return a health check that wants to see a part move between two looks."""
    seen: set[str] = set()

    def moves() -> bool:
        beat = (home / f"{name}.pulse").read_text()
        is_new = beat != "" and beat not in seen
        seen.add(beat)
        return is_new

    return moves


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, reports: list[str]) -> Iterator[Supervisor]:
    """A supervisor whose parts are ended with the test."""
    with Supervisor(tmp_path / "home", report=reports.append) as running:
        yield running


@pytest.fixture
def watching(
    tmp_path: Path, reports: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[float], Supervisor]]:
    """Start a supervisor that gives unhealthy parts so many seconds."""
    # The limits here are short: a pause of this process adds no more to them than any other poll.
    monkeypatch.setattr("rindle.cli.supervisor._LONGEST_POLL_SECONDS", POLL_SECONDS)
    with ExitStack() as stack:

        def begin(unhealthy_seconds: float) -> Supervisor:
            home = tmp_path / "home"
            return stack.enter_context(Supervisor(home, report=reports.append, unhealthy_seconds=unhealthy_seconds))

        yield begin


def start(supervisor: Supervisor, name: str, home: Path, *more: str, **options: object) -> None:
    note = home / f"{name}.pid"
    note.unlink(missing_ok=True)
    supervisor.start_part(name, command(name, home, *more), ready=note.exists, **options)  # type: ignore[arg-type]
    supervisor.wait_ready(name)


def test_a_part_that_is_killed_comes_back_as_another_process(
    supervisor: Supervisor, tmp_path: Path, reports: list[str]
) -> None:
    start(supervisor, "worker", tmp_path)
    (tmp_path / "worker.pid").unlink()

    killed = supervisor.kill_part("worker")

    assert gone(killed)
    supervisor.wait_ready("worker")
    assert supervisor.pid("worker") not in (None, killed)
    assert "the worker ended with SIGKILL; restarting it in 0.5 s" in reports


def test_a_part_that_is_killed_for_good_stays_dead_until_it_is_started(
    supervisor: Supervisor, tmp_path: Path, reports: list[str]
) -> None:
    start(supervisor, "worker", tmp_path)
    start(supervisor, "web", tmp_path)

    killed = supervisor.kill_part("worker", restart=False)

    # Another part that died later is back: the pause of the first one would have passed before.
    (tmp_path / "web.pid").unlink()
    supervisor.kill_part("web")
    supervisor.wait_ready("web")
    assert gone(killed)
    assert supervisor.pid("worker") is None
    assert "the worker ended with SIGKILL; it stays down" in reports

    start(supervisor, "worker", tmp_path)

    assert supervisor.pid("worker") not in (None, killed)


def test_a_part_that_stays_unhealthy_is_told_to_end_and_the_new_one_gets_time_to_start(
    watching: Callable[[float], Supervisor], tmp_path: Path, reports: list[str]
) -> None:
    supervisor = watching(0.5)
    well = tmp_path / "well"
    well.touch()
    checks = Checks(lambda _: well.exists())
    start(supervisor, "worker", tmp_path, healthy=checks)
    checks.wait(2)
    first = supervisor.pid("worker")

    well.unlink()

    until_blocking(lambda: supervisor.pid("worker") not in (None, first), what="another process")
    second = supervisor.pid("worker")
    checks.wait(20)  # four times the limit: a start may take longer than that
    assert supervisor.pid("worker") == second
    assert (tmp_path / "ends").read_text().splitlines() == ["worker SIGTERM"]
    assert reports == [
        "the worker has been unhealthy for 0.5 s; restarting it",
        "the worker ended with status 0; restarting it in 0.5 s",
    ]
    well.touch()  # it begins to work, and from then on the limit holds again
    checks.wait(2)
    well.unlink()
    until_blocking(lambda: supervisor.pid("worker") not in (None, second), what="a third process")


def test_an_unhealthy_part_that_does_not_listen_is_killed(
    watching: Callable[[float], Supervisor], tmp_path: Path, reports: list[str]
) -> None:
    supervisor = watching(0.5)
    start(supervisor, "worker", tmp_path, "deaf", healthy=lambda: False, stop_seconds=0.2)

    until_blocking(lambda: len(reports) >= 3, what="the end of the part")

    assert reports[1:3] == ["killing the worker", "the worker ended with SIGKILL; restarting it in 0.5 s"]


def test_a_suspended_part_is_replaced_and_its_neighbour_is_not(
    watching: Callable[[float], Supervisor], tmp_path: Path, reports: list[str]
) -> None:
    supervisor = watching(10)
    for name in ("temporal", "worker"):
        start(supervisor, name, tmp_path, healthy=pulse_of(name, tmp_path), stop_seconds=0.2)
    suspended, neighbour = supervisor.pid("temporal"), supervisor.pid("worker")
    assert suspended is not None
    checks = Checks(lambda _: True)
    start(supervisor, "web", tmp_path, healthy=checks)
    checks.wait(1)  # so the others were asked, too

    os.kill(suspended, signal.SIGSTOP)

    until_blocking(lambda: supervisor.pid("temporal") not in (None, suspended), what="another process")
    assert gone(suspended)
    assert supervisor.pid("worker") == neighbour
    assert [report for report in reports if "temporal" not in report] == []


def test_a_part_that_recovers_in_time_is_left_alone(
    watching: Callable[[float], Supervisor], tmp_path: Path, reports: list[str]
) -> None:
    supervisor = watching(2)

    def sometimes(count: int) -> bool:
        if count % 3 == 1:
            raise RuntimeError("a check that breaks is an answer, too")
        return count % 3 == 0

    checks = Checks(sometimes)
    start(supervisor, "worker", tmp_path, healthy=checks)

    checks.wait(9)  # unhealthy for longer than the limit, but never so at one time

    assert reports == []


def test_health_is_not_asked_before_a_part_was_ready(
    watching: Callable[[float], Supervisor], tmp_path: Path, reports: list[str]
) -> None:
    supervisor = watching(0.5)
    checks = Checks(lambda _: True)
    asked_at_ready: list[int] = []

    def ready() -> bool:
        asked_at_ready.append(checks.count)
        return len(asked_at_ready) == 20

    supervisor.start_part("worker", command("worker", tmp_path), ready=ready, healthy=checks)
    supervisor.wait_ready("worker")

    assert set(asked_at_ready) == {0}
    checks.wait(1)
    assert reports == []


def test_a_check_that_hangs_delays_no_other_part_and_is_not_asked_twice_at_once(
    watching: Callable[[float], Supervisor], tmp_path: Path, reports: list[str]
) -> None:
    supervisor = watching(0.5)
    release = threading.Event()
    hanging = Checks(lambda _: release.wait(PATIENCE_SECONDS))
    try:
        start(supervisor, "worker", tmp_path)
        start(supervisor, "temporal", tmp_path, healthy=hanging)
        hangs = supervisor.pid("temporal")
        until_blocking(lambda: hanging.under_way, what="the check to hang")

        killed = supervisor.kill_part("worker")

        until_blocking(lambda: supervisor.pid("worker") not in (None, killed), what="the other part to be back")
        # No answer is none: the part is replaced. The new process is not judged by the old one's check.
        until_blocking(lambda: supervisor.pid("temporal") not in (None, hangs), what="another process")
        assert (hanging.count, hanging.most_at_once) == (1, 1)
    finally:
        release.set()
    hanging.wait(5)
    assert hanging.most_at_once == 1
    assert len([report for report in reports if "unhealthy" in report]) == 1


def test_a_pause_of_the_whole_machine_condemns_nobody(
    watching: Callable[[float], Supervisor], tmp_path: Path, reports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hours: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600 * len(hours), sleep=time.sleep)
    monkeypatch.setattr("rindle.cli.supervisor.time", clock)
    supervisor = watching(5)

    def after_a_pause(count: int) -> bool:
        if count % 3 == 2:
            hours.append(1)  # nobody could answer meanwhile
            return False
        return True

    checks = Checks(after_a_pause)
    start(supervisor, "worker", tmp_path, healthy=checks)

    checks.wait(4)

    assert hours
    assert reports == []


def test_without_a_limit_a_part_that_runs_is_left_alone(
    watching: Callable[[float], Supervisor], tmp_path: Path, reports: list[str]
) -> None:
    supervisor = watching(0)
    start(supervisor, "worker", tmp_path, healthy=lambda: pytest.fail("it was asked"))

    supervisor.kill_part("worker")  # what is dead is still started again
    supervisor.wait_ready("worker")

    assert [report for report in reports if "healthy" in report] == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rindle-health-worker")]


def test_the_last_part_started_is_the_first_to_end_each_by_its_own_signal(tmp_path: Path) -> None:
    with Supervisor(tmp_path / "home") as supervisor:
        start(supervisor, "temporal", tmp_path, stop_signal=signal.SIGINT)
        start(supervisor, "worker", tmp_path)
        start(supervisor, "web", tmp_path)
        pids = [supervisor.pid(name) for name in ("temporal", "worker", "web")]

    assert (tmp_path / "ends").read_text().splitlines() == ["web SIGTERM", "worker SIGTERM", "temporal SIGINT"]
    assert all(pid is not None and gone(pid) for pid in pids)
    assert not (tmp_path / "home" / "supervisor.json").exists()


def test_a_part_that_does_not_listen_is_killed_in_the_end(tmp_path: Path) -> None:
    with Supervisor(tmp_path / "home") as supervisor:
        start(supervisor, "worker", tmp_path, "deaf", stop_seconds=0.2)
        pid = supervisor.pid("worker")

    assert pid is not None
    assert gone(pid)


def test_asking_twice_does_not_wait_for_a_part_that_does_not_listen(tmp_path: Path) -> None:
    with Supervisor(tmp_path / "home") as supervisor:
        start(supervisor, "worker", tmp_path, "deaf", stop_seconds=10 * PATIENCE_SECONDS)
        supervisor.request_stop()
        supervisor.start_part("web", [sys.executable, "-c", "import time; time.sleep(60)"], ready=lambda: False)
        with pytest.raises(KeyboardInterrupt):
            supervisor.wait_ready("web")
        supervisor.request_stop()


def test_a_part_that_keeps_dying_is_given_up_on_with_its_status(supervisor: Supervisor) -> None:
    supervisor.start_part("web", [sys.executable, "-c", "raise SystemExit(7)"], ready=lambda: False)

    with pytest.raises(SetupIncomplete, match="ended 3 times, last with status 7"):
        supervisor.wait_ready("web")


def test_a_part_whose_first_start_is_hopeless_is_started_once(tmp_path: Path) -> None:
    lines: list[str] = []
    program = "open('starts', 'a').write('1'); raise SystemExit(78)"
    with Supervisor(tmp_path / "home", report=lines.append) as supervisor:
        supervisor.start_part(
            "web", [sys.executable, "-c", program.replace("starts", str(tmp_path / "starts"))], hopeless_status=78,
            ready=lambda: False,
        )  # fmt: skip

        with pytest.raises(SetupIncomplete, match="the web does not start; the lines above show the cause"):
            supervisor.wait_ready("web")

    assert ((tmp_path / "starts").read_text(), lines) == ("1", [])


def test_what_a_part_left_running_ends_with_it(supervisor: Supervisor, tmp_path: Path) -> None:
    child = (
        "import subprocess, sys, time; from pathlib import Path\n"
        "made = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"Path({str(tmp_path / 'child')!r}).write_text(str(made.pid)); time.sleep(60)"
    )
    supervisor.start_part("worker", [sys.executable, "-c", child], ready=(tmp_path / "child").exists)
    supervisor.wait_ready("worker")
    until_blocking(lambda: (tmp_path / "child").read_text(), what="the child's id")
    left = int((tmp_path / "child").read_text())

    supervisor.kill_part("worker")

    until_blocking(lambda: gone(left), what="the child to be gone")


def test_two_supervisors_do_not_share_a_home(supervisor: Supervisor) -> None:
    with pytest.raises(Misconfigured, match="in use"), Supervisor(supervisor.home):
        pass


def test_parts_of_a_killed_supervisor_are_ended_by_the_next_one_and_strangers_are_not(
    tmp_path: Path, reports: list[str]
) -> None:
    home = tmp_path / "home"
    program = (
        "import sys, time; from pathlib import Path; from rindle.cli.supervisor import Supervisor\n"
        f"s = Supervisor(Path({str(home)!r})).__enter__()\n"
        f"s.start_part('worker', {command('worker', tmp_path)!r})\n"
        "time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).resolve().parents[3])
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        try:
            until_blocking(
                lambda: (tmp_path / "worker.pid").exists() and (tmp_path / "worker.pid").read_text(), what="the part"
            )
            left = int((tmp_path / "worker.pid").read_text())
            record = home / "supervisor.json"
            until_blocking(lambda: record.exists() and str(left) in record.read_text(), what="the record")
            first.send_signal(signal.SIGKILL)
            first.wait()
            assert not gone(left)
            # The stranger has an id that the record names, but was not started when the record says.
            recorded = json.loads(record.read_text())
            recorded["parts"].append({**recorded["parts"][0], "name": "web", "pid": stranger.pid})
            record.write_text(json.dumps(recorded))

            with Supervisor(home, report=reports.append):
                assert gone(left)
                assert stranger.poll() is None

            assert reports == [f"ending the worker (process {left}) that an earlier run left behind"]
        finally:
            stranger.kill()
            if first.poll() is None:
                first.kill()
                first.wait()


@pytest.mark.parametrize("record", ["", "{", "[]", '{"parts": 3}', '{"parts": [{"pid": "x"}]}'])
def test_a_damaged_record_stops_nothing(tmp_path: Path, record: str) -> None:
    (tmp_path / "supervisor.json").write_text(record)

    with Supervisor(tmp_path):
        pass


def test_a_process_is_told_from_a_later_one_with_the_same_id() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        mine = identity(process.pid)
        assert mine is not None
        assert mine == identity(process.pid)
        assert mine != identity(os.getpid())
        process.kill()
        until_blocking(
            lambda: identity(process.pid) is None, what="a dead process that nobody has waited for to count as gone"
        )
