"""``python worker.py`` as an operator meets it: probes, metrics, logs, queues, stopping."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from rindle.bootstrap import WorkerProcess
from rindle.cli.temporal_server import find_temporal_cli
from rindle.errors import InvalidArgument
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import free_port
from tests.servers.temporal import StoppableTemporal
from tests.stage import Stage, staged, status_of

#: Seconds a probe may take on a loaded machine; the worker's own limits end at 5.
PROBE_SECONDS = 20.0


async def answers(url: str, status: int) -> None:
    """Wait until a probe is answered with ``status``: a worker that starved says for a moment that it hangs."""

    async def look() -> bool:
        return await status_of(url) == status

    await until(look, what=f"{url} to answer {status}")


async def test_a_worker_is_live_and_ready_says_so_and_ends_with_status_0(lite_stage: Stage) -> None:
    worker = await lite_stage.worker()
    await answers(f"{worker.health}/livez", 200)
    await answers(f"{worker.health}/readyz", 200)
    assert await status_of(f"{worker.health}/other") == 404
    assert await worker.stop() == 0


async def test_a_worker_without_temporal_is_live_but_not_ready_and_waits(
    tmp_path: Path, stoppable_temporal: StoppableTemporal
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, stoppable_temporal.target) as stage:
        await stoppable_temporal.stop()
        worker = await stage.worker(wait=False)
        await answers(f"{worker.health}/livez", 200)
        assert await status_of(f"{worker.health}/readyz") == 503
        await stoppable_temporal.start()
        await worker.ready()
        assert worker.process.returncode is None
        assert await worker.stop() == 0


async def test_a_worker_says_within_seconds_that_temporal_hangs_and_that_it_is_back(
    tmp_path: Path, stoppable_temporal: StoppableTemporal
) -> None:
    """A server that is suspended keeps its connections open, so nothing fails by itself."""
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, stoppable_temporal.target) as stage:
        worker = await stage.worker()
        async with httpx.AsyncClient(base_url=worker.health, timeout=PROBE_SECONDS) as probe:
            await stoppable_temporal.suspend()
            seen: list[tuple[int, str]] = []

            async def told() -> bool:
                answer = await probe.get("/readyz")  # each within its time: a probe that waits for ever tells nothing
                assert answer.headers["cache-control"] == "no-store"
                seen.append((answer.status_code, answer.text))  # a busy machine may lack the database for a moment too
                return seen[-1] == (503, "not ready: temporal\n")

            await until(told, what=lambda: f"the worker to lack Temporal alone; {seen[-1:]}")
            await answers(f"{worker.health}/livez", 200)  # restarting it would help nobody
            stoppable_temporal.resume()
        await worker.ready()
        assert worker.process.returncode is None


async def test_metrics_are_served_for_prometheus(lite_stage: Stage) -> None:
    address = f"127.0.0.1:{free_port()}"
    await lite_stage.worker(RINDLE_METRICS_ADDRESS=address)
    await lite_stage.ready()
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as scraper:
        text = (await scraper.get(f"http://{address}/metrics")).text
    assert "temporal_activity_execution_latency_seconds" in text
    assert "temporal_worker_task_slots_available" in text


async def test_logs_are_json_lines_without_secrets(lite_stage: Stage) -> None:
    worker = await lite_stage.worker()
    asset = await lite_stage.ready(body=b"\x00\x01" * 20, filename="secret-name.jpg")
    assert asset.state == "quarantined"
    await worker.stop()
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    actions = {line.get("action") for line in lines}
    assert {"worker_up", "worker_stopping"} <= actions
    # A warning of Temporal's own has its text in another place.
    condemned = next(line for line in lines if line.get("message") == "upload quarantined")
    assert (condemned["asset_id"], condemned["reason"]) == (asset.id, asset.error_code)
    assert "secret-name" not in worker.log.read_text()


async def test_an_unknown_queue_is_refused_with_the_known_ones(lite_stage: Stage) -> None:
    with pytest.raises(InvalidArgument, match=lite_stage.prefix):
        WorkerProcess(lite_stage.rindle, queues=["nonsense"])
    worker = await lite_stage.worker("--queues", "nonsense", wait=False)
    assert await worker.wait() == 1
    assert "unknown task queue nonsense" in worker.log.read_text()


async def test_a_versioned_worker_serves_once_its_version_is_current(lite_stage: Stage) -> None:
    deployment = {"RINDLE_DEPLOYMENT_NAME": lite_stage.prefix, "RINDLE_BUILD_ID": "b1"}
    await lite_stage.worker(**deployment)
    cli = find_temporal_cli()
    assert cli is not None

    async def made_current() -> bool:
        command = await asyncio.create_subprocess_exec(
            *(cli, "worker", "deployment", "set-current-version", "--deployment-name", lite_stage.prefix),
            *("--build-id", "b1", "--yes", "--address", lite_stage.environment["TEMPORAL_ADDRESS"]),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await command.wait() == 0

    await until(made_current, what="the version to be made current")
    asset = await lite_stage.ready()
    assert asset.state == "ready"
    client = await lite_stage.client()
    described = await client.get_workflow_handle(lite_stage.variants_workflow(asset.id)).describe()
    assert described.raw_description.workflow_execution_info.versioning_info.version.endswith("b1")
