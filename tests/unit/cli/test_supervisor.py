"""Keeping programs alive: restarts, the order of the end, and cleaning up after a supervisor that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rindle.cli.supervisor import Supervisor, identity
from rindle.errors import Misconfigured, SetupIncomplete

#: Writes its process id, then lives until it is told to end; says so when it does.
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
while True:
    time.sleep(0.02)
"""
PATIENCE_SECONDS = 30.0


def until(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not look():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)


def command(name: str, home: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, name, str(home), *more]


def gone(pid: int) -> bool:
    return identity(pid) is None


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, reports: list[str]) -> Iterator[Supervisor]:
    """A supervisor whose parts are ended with the test."""
    with Supervisor(tmp_path / "home", report=reports.append) as running:
        yield running


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
    assert "the worker ended with SIGKILL; starting it again in 0.5 s" in reports


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
        supervisor.ask_to_stop()
        supervisor.start_part("web", [sys.executable, "-c", "import time; time.sleep(60)"], ready=lambda: False)
        with pytest.raises(KeyboardInterrupt):
            supervisor.wait_ready("web")
        supervisor.ask_to_stop()


def test_a_part_that_keeps_dying_is_given_up_on_with_its_status(supervisor: Supervisor) -> None:
    supervisor.start_part("web", [sys.executable, "-c", "raise SystemExit(7)"], ready=lambda: False)

    with pytest.raises(SetupIncomplete, match="ended 3 times, last with status 7"):
        supervisor.wait_ready("web")


def test_what_a_part_left_running_ends_with_it(supervisor: Supervisor, tmp_path: Path) -> None:
    child = (
        "import subprocess, sys, time; from pathlib import Path\n"
        "made = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"Path({str(tmp_path / 'child')!r}).write_text(str(made.pid)); time.sleep(60)"
    )
    supervisor.start_part("worker", [sys.executable, "-c", child], ready=(tmp_path / "child").exists)
    supervisor.wait_ready("worker")
    until(lambda: (tmp_path / "child").read_text(), "the child's id")
    left = int((tmp_path / "child").read_text())

    supervisor.kill_part("worker")

    until(lambda: gone(left), "the child to be gone")


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
            until(lambda: (tmp_path / "worker.pid").exists() and (tmp_path / "worker.pid").read_text(), "the part")
            left = int((tmp_path / "worker.pid").read_text())
            until(lambda: str(left) in (home / "supervisor.json").read_text(), "the record")
            first.send_signal(signal.SIGKILL)
            first.wait()
            assert not gone(left)
            # The stranger has an id that the record names, but was not started when the record says.
            record = json.loads((home / "supervisor.json").read_text())
            record["parts"].append({**record["parts"][0], "name": "web", "pid": stranger.pid})
            (home / "supervisor.json").write_text(json.dumps(record))

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
        until(lambda: identity(process.pid) is None, "a dead process that nobody has waited for to count as gone")
