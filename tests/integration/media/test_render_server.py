"""What a decoder that somebody has taken over finds around itself: no secret, no network, no application."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rindle.media import confined
from rindle.media.render_pool import RenderPool
from rindle.media.render_server import KEPT_VARIABLES, environment
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ENGINE = "tests.integration.media.engine_that_looks_around"
ROOT = Path(__file__).parents[3]
#: Value of every secret in these tests.
CANARY = "canary-b1946ac92492d2347c6235b4d2611184"
SECRETS = ("RINDLE_SECRETS", "RINDLE_DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "ANY_OTHER_NAME")


def kernel_isolates() -> bool:
    """Try it in a process of its own, which stays isolated."""
    program = "from rindle.media.confined import isolate; import sys; sys.exit(isolate() is not None)"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@pytest.fixture(scope="module")
def isolating() -> None:
    if not kernel_isolates():
        pytest.skip("this kernel denies user namespaces")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
async def seen(port: int, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    """What a child of a worker full of secrets sees."""
    path = tmp_path_factory.mktemp("around") / "worker"
    path.write_text(f"{os.getpid()} {port}")
    with pytest.MonkeyPatch.context() as patch:
        for name in SECRETS:
            patch.setenv(name, CANARY)
        pool = RenderPool(1, engine=ENGINE)
        pool.start()
        try:
            facts = dict((await pool.probe(path, "image/png", max_pixels=1)).metadata)
            facts["initial_environ"] = Path(f"/proc/{facts['pid']}/environ").read_bytes()
            facts["server_environ"] = Path(f"/proc/{parent_of(facts['pid'])}/environ").read_bytes()
            yield facts
        finally:
            await pool.close()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_no_secret_is_in_the_environment_of_a_child(seen: dict[str, Any]) -> None:
    assert CANARY not in seen["environ"].values()
    assert CANARY.encode() not in seen["initial_environ"]  # what the kernel keeps of the start of a program
    assert CANARY.encode() not in seen["server_environ"]


def test_a_child_has_nothing_of_the_application(seen: dict[str, Any]) -> None:
    assert seen["main"] is None
    assert seen["arguments"] == ["-c"]


def test_a_child_gains_no_privileges_and_opens_few_files(seen: dict[str, Any]) -> None:
    assert seen["no_new_privileges"] == "1"
    assert seen["open_files"] == (confined.MAX_OPEN_FILES, confined.MAX_OPEN_FILES)
    assert seen["core"] == (0, 0)


@pytest.mark.usefixtures("isolating")
def test_the_kernel_keeps_a_child_from_the_worker_and_the_network(seen: dict[str, Any], port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS).close()  # it is there
    assert seen["loopback"] == "OSError"  # network is unreachable
    assert (seen["worker_environ"], seen["worker_memory"]) == ("PermissionError", "PermissionError")
    assert seen["capabilities"] == {0}


def test_variables_that_programs_need_stay() -> None:
    kept = dict.fromkeys(KEPT_VARIABLES, "value")
    assert environment({**kept, "RINDLE_SECRETS": CANARY, "PATHOLOGY": CANARY}) == kept


#: Runs a program beside modules of these names and texts; returns the words that it prints.
Run = Callable[..., list[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(program: str, **modules: str) -> list[str]:
        for name, text in {"program": program, **modules}.items():
            (tmp_path / f"{name}.py").write_text(text)
        return subprocess.run(
            [sys.executable, tmp_path / "program.py"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        ).stdout.split()

    return run


def test_the_forkserver_of_the_application_is_another_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "from sending import send_secret\n"
        "import multiprocessing, os\n"
        "from rindle.media.render_server import CleanContext\n"
        "if __name__ == '__main__':\n"
        "    ours, theirs = CleanContext('os'), multiprocessing.get_context('forkserver')\n"
        "    for context in (ours, theirs, ours):\n"
        "        reader, writer = context.Pipe(duplex=False)\n"
        "        child = context.Process(target=send_secret, args=(writer,))\n"
        "        child.start(); print(reader.recv()); child.join()\n"
    )
    module = "import os\ndef send_secret(writer):\n    writer.send(os.environ.get('RINDLE_SECRETS'))\n"
    monkeypatch.setenv("RINDLE_SECRETS", CANARY)
    assert run(program, sending=module) == ["None", CANARY, "None"]


def test_a_program_without_a_main_guard_can_start_children(run: Run) -> None:
    program = (
        "import asyncio\n"
        "from rindle.media.render_pool import RenderPool\n"
        "print('imported')\n"
        "pool = RenderPool(1, engine='tests.unit.media.scripted_engine')\n"
        "pool.start()\n"
        "asyncio.run(pool.close())\n"
    )
    assert run(program) == ["imported"]
