from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pebble.pool.process import Acknowledgement, WorkerManager

from rindle.errors import ContentRejected, Misconfigured, ProbeFailed, ProcessTimeout, RenderFailed
from rindle.media.render_pool import RenderOrder, RenderPool, RenderResult
from rindle.recipes import ImageVariant
from tests.patience import PATIENCE_SECONDS, until

ENGINE = "tests.unit.media.scripted_engine"
ROOT = Path(__file__).parents[3]
ANY_PIXELS = 1_000
#: Limits of one order, in seconds, longer and longer: a busy machine may not have done what is quick within the first.
MOMENTS = (0.5, 4, 32)


@asynccontextmanager
async def running(workers: int = 2, **options: object) -> AsyncIterator[RenderPool]:
    pool = RenderPool(workers, engine=ENGINE, **options)
    pool.start()
    try:
        yield pool
    finally:
        await pool.close()


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[RenderPool]:
    async with running() as pool:
        yield pool


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"any")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def orders(out: Path, *names: str) -> list[RenderOrder]:
    return [RenderOrder(name, ImageVariant(mode="fit", width=1), out / f"{name}.jpg") for name in names]


def outcome(results: list[RenderResult]) -> dict[str, str]:
    return {result.name: result.error.code if result.error else "made" for result in results}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def pids(directory: Path) -> list[int]:
    return [int(path.name.split(".")[1]) for path in directory.glob("*.pid")]


def children_of_the_forkserver() -> set[int]:
    """Return the fork server of this process and its children; other processes that run tests have their own."""
    parents, servers = {}, set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if b"multiprocessing.forkserver" in (path / "cmdline").read_bytes() and alive(int(path.name)):
                servers.add(int(path.name))
        except (FileNotFoundError, ProcessLookupError):
            continue

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and is_ours(parents[pid]))

    return {pid for pid in servers if is_ours(pid)}


async def test_orders_come_back_in_order_with_their_files_and_nothing_else(
    pool: RenderPool, source: Path, out: Path
) -> None:
    results = await pool.render(source, "image/jpeg", orders(out, "ok_b", "refuse", "ok_a"), max_pixels=ANY_PIXELS)
    assert [result.name for result in results] == ["ok_b", "refuse", "ok_a"]
    assert outcome(results) == {"ok_b": "made", "refuse": "processor_capability_missing", "ok_a": "made"}
    assert results[1].error.detail == {"format": "jpeg"}
    assert results[0].path == out / "ok_b.jpg"
    assert sorted(path.name for path in out.iterdir()) == ["ok_a.jpg", "ok_b.jpg"]
    assert (out / "ok_a.jpg").read_bytes() == b"whole"


async def test_no_orders_need_no_child(source: Path) -> None:
    assert await RenderPool(1, engine=ENGINE).render(source, "image/jpeg", [], max_pixels=ANY_PIXELS) == []


async def test_a_crash_fails_only_the_culprit_and_the_pool_goes_on(pool: RenderPool, source: Path, out: Path) -> None:
    names = ("ok_1", "crash", "ok_2", "ok_3")
    results = await pool.render(source, "image/jpeg", orders(out, *names), max_pixels=ANY_PIXELS)
    assert outcome(results) == {"ok_1": "made", "crash": "render_failed", "ok_2": "made", "ok_3": "made"}
    assert results[1].error.detail == {"signal": "SIGSEGV"}
    assert results[1].error.retryable
    assert sorted(path.name for path in out.iterdir()) == ["ok_1.jpg", "ok_2.jpg", "ok_3.jpg"]
    again = await pool.render(source, "image/jpeg", orders(out, "ok_1"), max_pixels=ANY_PIXELS)
    assert outcome(again) == {"ok_1": "made"}


async def test_a_crash_is_noticed_although_the_message_of_the_child_is_read_late(
    source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = WorkerManager.receive
    dead = threading.Event()

    def read_late(manager: WorkerManager, timeout: float) -> Any:
        """Read the message of a child that crashes only when pebble has seen that it is dead."""
        message = read(manager, timeout)
        if isinstance(message, Acknowledgement) and list(tmp_path.glob("wait.*.pid")):
            assert dead.wait(PATIENCE_SECONDS)
        return message

    def inspect(manager: WorkerManager) -> tuple[Any, ...]:
        found = inspected(manager)
        if found:
            dead.set()
        return found

    inspected = WorkerManager.inspect_workers
    monkeypatch.setattr(WorkerManager, "receive", read_late)
    monkeypatch.setattr(WorkerManager, "inspect_workers", inspect)
    async with running(wall_seconds=PATIENCE_SECONDS) as pool:
        waiting = asyncio.create_task(pool.render(source, "image/jpeg", orders(out, "wait"), max_pixels=ANY_PIXELS))
        await until(lambda: list(tmp_path.glob("wait.*.pid")))
        with pytest.raises(ProbeFailed) as died:
            await pool.probe(tmp_path / "crash", "image/png", max_pixels=ANY_PIXELS)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert died.value.detail == {"signal": "SIGSEGV"}


async def test_a_pool_that_breaks_again_and_again_is_an_error_of_the_call(
    source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(*arguments: Any) -> Any:
        raise BrokenProcessPool

    async with running() as pool:
        monkeypatch.setattr(pool, "_result", breaks)
        with pytest.raises(ProbeFailed) as failed:
            await pool.probe(tmp_path / "ok", "image/png", max_pixels=ANY_PIXELS)
        results = await pool.render(source, "image/jpeg", orders(out, "ok_1", "ok_2"), max_pixels=ANY_PIXELS)
        with pytest.raises(RenderFailed):
            await pool.features()

    assert failed.value.retryable
    assert outcome(results) == {"ok_1": "render_failed", "ok_2": "render_failed"}


@pytest.mark.parametrize("hang", ["wait", "spin"])
async def test_a_hung_decoder_fails_only_the_culprit(source: Path, out: Path, hang: str) -> None:
    for moment in MOMENTS:
        async with running(wall_seconds=moment) as pool:
            results = await pool.render(source, "image/jpeg", orders(out, "ok", hang), max_pixels=ANY_PIXELS)
        if outcome(results)["ok"] == "made":
            break
    assert outcome(results) == {"ok": "made", hang: "process_timeout"}
    assert [path.name for path in out.iterdir()] == ["ok.jpg"]
    assert not [pid for pid in pids(source.parent) if alive(pid)]


@pytest.mark.parametrize("hang", ["wait", "spin"])
async def test_cancelling_kills_the_child_and_leaves_no_file(
    pool: RenderPool, source: Path, out: Path, hang: str
) -> None:
    rendering = asyncio.create_task(pool.render(source, "image/jpeg", orders(out, "ok", hang), max_pixels=ANY_PIXELS))
    await until(lambda: pids(source.parent))
    rendering.cancel()
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(asyncio.CancelledError):
            await rendering
    await until(lambda: not alive(pids(source.parent)[0]))  # its files are closed; the kernel removes its namespaces
    assert list(out.iterdir()) == []
    assert outcome(await pool.render(source, "image/jpeg", orders(out, "ok"), max_pixels=ANY_PIXELS)) == {"ok": "made"}


async def test_cancelling_the_retries_leaves_nothing_either(pool: RenderPool, source: Path, out: Path) -> None:
    rendering = asyncio.create_task(
        pool.render(source, "image/jpeg", orders(out, "crash", "wait"), max_pixels=ANY_PIXELS)
    )
    await until(lambda: list(source.parent.glob("wait.*.pid")))
    rendering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rendering
    await until(lambda: not [pid for pid in pids(source.parent) if alive(pid)])
    assert list(out.iterdir()) == []


async def test_a_waiting_render_can_be_cancelled_before_it_starts(source: Path, out: Path) -> None:
    async with running(1) as pool:
        first = asyncio.create_task(pool.render(source, "image/jpeg", orders(out, "wait"), max_pixels=ANY_PIXELS))
        await until(lambda: pids(source.parent))
        second = asyncio.create_task(pool.render(source, "image/jpeg", orders(out, "ok"), max_pixels=ANY_PIXELS))
        await asyncio.sleep(0)
        for task in (second, first):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert list(out.iterdir()) == []


async def test_an_exception_of_the_engine_rejects_the_file_once(pool: RenderPool, source: Path) -> None:
    """The child did not die, so the same bytes would raise the same again."""
    with pytest.raises(ContentRejected) as refused:
        await pool.probe(source.with_name("bug"), "image/jpeg", max_pixels=ANY_PIXELS)
    assert (refused.value.code, refused.value.retryable) == ("decoder_failed", False)
    assert refused.value.detail == {"reason": "_ForeignError in _act"}
    assert "passwd" not in str(refused.value.to_dict())


async def test_a_bug_of_the_engine_is_reported_without_its_words(pool: RenderPool, source: Path, out: Path) -> None:
    results = await pool.render(source, "image/jpeg", orders(out, "ok", "bug"), max_pixels=ANY_PIXELS)
    assert outcome(results) == {"ok": "render_failed", "bug": "render_failed"}
    assert "passwd" not in results[0].error.message
    assert list(out.iterdir()) == []


async def test_a_scratch_directory_that_is_gone_is_an_error_of_the_orders(
    pool: RenderPool, source: Path, tmp_path: Path
) -> None:
    results = await pool.render(source, "image/jpeg", orders(tmp_path / "gone", "ok"), max_pixels=ANY_PIXELS)
    assert outcome(results) == {"ok": "render_failed"}
    assert str(tmp_path) not in str(results[0].error.to_dict())


async def test_probe_errors_come_back_typed(pool: RenderPool, tmp_path: Path) -> None:
    with pytest.raises(ContentRejected) as condemned:
        await pool.probe(tmp_path / "refuse", "image/png", max_pixels=ANY_PIXELS)
    assert (condemned.value.code, condemned.value.detail) == ("max_pixels_exceeded", {"limit": ANY_PIXELS})
    with pytest.raises(ProbeFailed) as died:
        await pool.probe(tmp_path / "crash", "image/png", max_pixels=ANY_PIXELS)
    assert died.value.retryable
    assert died.value.detail == {"signal": "SIGSEGV"}


async def test_a_hung_probe_times_out(tmp_path: Path) -> None:
    found = None
    for moment in MOMENTS:
        # The limit of its processor time is so far away that only the clock can end it.
        async with running(1, wall_seconds=moment, cpu_share=1000) as pool:
            with pytest.raises(ProcessTimeout) as late:
                await pool.probe(tmp_path / "spin", "image/png", max_pixels=ANY_PIXELS)
            assert late.value.retryable
            with contextlib.suppress(ProcessTimeout):
                found = await pool.probe(tmp_path / "ok", "image/png", max_pixels=ANY_PIXELS)
                break
    assert found is not None and found.width == 1


async def test_cpu_time_that_was_used_up_is_no_reason_to_try_again(source: Path, out: Path, tmp_path: Path) -> None:
    async with running(1, wall_seconds=PATIENCE_SECONDS, cpu_share=1 / PATIENCE_SECONDS) as pool:
        results = await pool.render(source, "image/jpeg", orders(out, "spin"), max_pixels=ANY_PIXELS)
    spent = results[0].error
    assert (spent.code, spent.retryable, spent.detail) == (
        "process_timeout",
        False,
        {"part": "cpu_seconds", "limit": 1},
    )


async def test_a_probe_has_less_time_than_a_render(tmp_path: Path) -> None:
    async with running(1, wall_seconds=PATIENCE_SECONDS, probe_seconds=1, cpu_share=2) as pool:
        with pytest.raises(ProcessTimeout) as late:
            await pool.probe(tmp_path / "wait", "image/png", max_pixels=ANY_PIXELS)
    assert (late.value.retryable, late.value.detail) == (True, {"limit": 1})


async def test_a_cancelled_probe_frees_its_child(pool: RenderPool, tmp_path: Path) -> None:
    probing = asyncio.create_task(pool.probe(tmp_path / "spin", "image/png", max_pixels=ANY_PIXELS))
    await until(lambda: pids(tmp_path))
    probing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probing
    await until(lambda: not alive(pids(tmp_path)[0]))


async def test_children_run_under_their_limits_and_are_recycled(tmp_path: Path) -> None:
    async with running(1, memory_bytes=3 << 30, max_tasks=2) as pool:
        facts = await pool.features()
        assert facts.libvips == str((3 << 30, 0))
        seen = {(await pool.probe(tmp_path / "ok", None, max_pixels=ANY_PIXELS)).metadata["pid"] for _ in range(5)}
        assert len(seen) >= 3


async def test_a_file_counts_on_top_of_the_memory_limit_while_it_is_read(tmp_path: Path) -> None:
    source, size, limit = tmp_path / "ok", 5 << 30, 1 << 30
    source.touch()
    os.truncate(source, size)  # sparse: no disk is used
    async with running(1, memory_bytes=limit) as pool:
        facts = (await pool.probe(source, "image/png", max_pixels=ANY_PIXELS)).metadata
        assert (facts["address_space"], facts["memory"]) == (limit + size, limit)
        assert (await pool.features()).libvips == str((limit, 0))


async def test_a_pool_whose_idle_child_was_killed_is_replaced(tmp_path: Path) -> None:
    async with running(1) as pool:
        first = (await pool.features()).pyvips
        os.kill(int(first), signal.SIGKILL)
        await until(lambda: not alive(int(first)))
        for _ in range(20):  # whether pebble has noticed yet or not
            assert (await pool.probe(tmp_path / "ok", None, max_pixels=ANY_PIXELS)).metadata["pid"] != int(first)
        await until(lambda: pool._pool is not None and pool._pool.active)


async def test_closing_ends_running_work_and_every_child(source: Path, out: Path) -> None:
    before = children_of_the_forkserver()
    pool = RenderPool(2, engine=ENGINE)
    pool.start()
    rendering = asyncio.create_task(pool.render(source, "image/jpeg", orders(out, "wait"), max_pixels=ANY_PIXELS))
    await until(lambda: pids(source.parent))
    await pool.close()
    assert outcome(await rendering) == {"wait": "render_failed"}
    await until(lambda: len(children_of_the_forkserver() - before) <= 1)  # the server itself may have been started here
    assert not alive(pids(source.parent)[0])
    with pytest.raises(Misconfigured):
        await pool.features()


async def test_an_engine_that_cannot_be_loaded_is_named_at_the_start() -> None:
    pool = RenderPool(1, engine="tests.unit.media.no_such_engine")
    with pytest.raises(Misconfigured, match="no_such_engine"):
        pool.start()
    await pool.close()


def test_the_worker_never_loads_the_image_library() -> None:
    program = "import sys, rindle.media.render_pool; print('pyvips' in sys.modules, 'pi_heif' in sys.modules)"
    assert run(program).stdout.split() == ["False", "False"]


SCRIPT = """
from __future__ import annotations
import asyncio, sys
from pathlib import Path
from rindle.media.render_pool import RenderOrder, RenderPool
from rindle.recipes import ImageVariant
from tests.patience import PATIENCE_SECONDS

async def main() -> None:
    name, out, wall = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    pool = RenderPool(1, engine="tests.unit.media.scripted_engine", wall_seconds=wall)
    pool.start()
    order = RenderOrder(name, ImageVariant(mode="fit", width=1), out / "made.jpg")
    [made] = await pool.render(out / "source", "image/jpeg", [order], max_pixels=1000)
    await pool.close()
    print(made.path.name)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(SCRIPT)
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-c", *arguments] if len(arguments) == 1 else arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_worker_started_as_a_program_renders(script: Path, tmp_path: Path) -> None:
    assert run(str(script), "ok", str(tmp_path), "30").stdout.strip() == "made.jpg"


@pytest.fixture
def started(script: Path, tmp_path: Path) -> Iterator[Callable[[str, float], subprocess.Popen[bytes]]]:
    programs: list[subprocess.Popen[bytes]] = []

    def start(name: str, wall_seconds: float) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(script), name, str(tmp_path), str(wall_seconds)]
        programs.append(subprocess.Popen(command, cwd=ROOT, env=environment()))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()
        program.wait()


@pytest.mark.parametrize(
    ("hang", "wall_seconds"),
    [("wait", 100), ("spin", 1)],
    ids=["a child notices that its worker died", "a decoder in a loop is ended by its own alarm"],
)
async def test_a_killed_worker_leaves_no_child(
    started: Callable[[str, float], subprocess.Popen[bytes]], tmp_path: Path, hang: str, wall_seconds: float
) -> None:
    worker = started(hang, wall_seconds)
    await until(lambda: pids(tmp_path))
    worker.kill()
    worker.wait()
    await until(lambda: not alive(pids(tmp_path)[0]))
