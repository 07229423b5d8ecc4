"""Live events: what 200 open streams cost one web process, and how long an event takes from commit to client."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from benchmarks import machine
from benchmarks.report import Figure, Sample
from benchmarks.stack import running_database
from rindle import Settings
from tests.live import Newsroom, Running, Stream, following, make, newsroom, routes
from tests.servers import ending, free_port

ROOT = Path(__file__).resolve().parent.parent
STREAMS, EVENTS_EACH = 200, 10
#: Transactions at once while the streams are fed: a busy fleet, not a flood.
WRITERS = 4
#: Events whose way is measured, and the pause before each. Where the server looks every half second the pauses differ
#: by more than that, or all events would wait equally long.
POSTGRES_EVENTS, POSTGRES_PAUSE_SECONDS = 300, (0.02, 0.08)
SQLITE_EVENTS, SQLITE_PAUSE_SECONDS = 60, (0.5, 1.2)


def create_app() -> FastAPI:
    """Return the web application; uvicorn's ``--factory`` calls it."""
    return routes(make(os.environ["LIVE_DATABASE_URL"], **_defaults()), allow_anonymous=True)


def _defaults() -> dict[str, Any]:
    """Return the pauses that applications have, which tests shorten."""
    return {name: Settings.model_fields[name].default for name in ("event_poll_seconds", "event_idle_poll_seconds")}


async def measure() -> list[Figure]:
    """Measure the streams on Postgres, and the way of an event on both databases."""
    with tempfile.TemporaryDirectory(prefix="rindle-bench-") as directory, running_database() as server:
        home = Path(directory)
        figures = await _streams(home, server.new_database())
        for name, url, count, pause in (
            ("Postgres", server.new_database(), POSTGRES_EVENTS, POSTGRES_PAUSE_SECONDS),
            ("SQLite", f"sqlite+aiosqlite:///{home / 'live.db'}", SQLITE_EVENTS, SQLITE_PAUSE_SECONDS),
        ):
            figures += _latencies(name, await _ways(home, url, count, pause))
    return figures


@asynccontextmanager
async def _web(url: str) -> AsyncIterator[tuple[str, int]]:
    """Run the web process and yield its address and process id."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.live:create_app"]
    with (
        subprocess.Popen(  # noqa: ASYNC220 - the same start as every other server of a benchmark
            [*command, "--host", "127.0.0.1", "--port", str(port), "--no-access-log", "--log-level", "warning"],
            env={**os.environ, "LIVE_DATABASE_URL": url},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
        ) as process,
        ending(process),
    ):
        address = f"http://127.0.0.1:{port}"
        # It connects again, each time later, until the server is there.
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=8), timeout=30) as client:
            (await client.get(f"{address}/openapi.json")).raise_for_status()
        yield address, process.pid


async def _streams(home: Path, url: str) -> list[Figure]:
    """Follow as many assets as there are streams and let each of them progress."""
    async with newsroom(home, url) as news, _web(url) as (address, pid), AsyncExitStack() as opened:
        assets = [await news.running() for _ in range(STREAMS)]
        limits = httpx.Limits(max_connections=None)
        client = await opened.enter_async_context(httpx.AsyncClient(timeout=None, limits=limits))
        async with following(address, ("asset", assets[0].id), client=client):
            pass  # what is imported and pooled once is not a stream's
        memory = machine.resident_mib(pid)
        streams = [
            await opened.enter_async_context(following(address, ("asset", asset.id), client=client)) for asset in assets
        ]
        grown = (machine.resident_mib(pid) - memory) * 1024 / STREAMS
        listening = await news.listening()
        cpu, began = machine.own_cpu_seconds([pid]), time.perf_counter()
        reading = [asyncio.create_task(_read(stream)) for stream in streams]
        await _feed(news, assets)
        received = await asyncio.gather(*reading)
        seconds, cpu = time.perf_counter() - began, machine.own_cpu_seconds([pid]) - cpu
        lost = sum(set(range(1, EVENTS_EACH + 1)) != set(numbers) for numbers in received)
        disordered = sum(sorted(numbers) != numbers for numbers in received)
    count = STREAMS * EVENTS_EACH
    note = f"{count} events of {STREAMS} assets in {seconds:.0f} s, {WRITERS} writers beside it"
    return [
        Figure(
            f"connections that listen, {STREAMS} streams",
            Sample.of([listening]),
            "",
            "1",
            listening == 1,
            note="Postgres",
        ),
        Figure(
            f"streams of {STREAMS} with a gap or out of order",
            Sample.of([lost + disordered]),
            "",
            "0",
            lost + disordered == 0,
            note=note,
        ),
        Figure("memory of the web process per open stream", Sample.of([grown]), "KiB"),
        Figure("CPU of the web process per event sent", Sample.of([cpu * 1000 / count]), "ms"),
    ]


async def _feed(news: Newsroom, assets: Sequence[Running]) -> None:
    async def write(mine: Sequence[Running]) -> None:
        for percent in range(1, EVENTS_EACH + 1):
            for asset in mine:
                await news.progressed(asset, percent)

    await asyncio.gather(*(write(assets[number::WRITERS]) for number in range(WRITERS)))


async def _read(stream: Stream) -> list[int]:
    return [block.data["progress"] for block in await stream.events(EVENTS_EACH)]


async def _ways(home: Path, url: str, count: int, pause: tuple[float, float]) -> list[float]:
    """Return the seconds from the end of each commit until the client has the event."""
    async with newsroom(home, url) as news, _web(url) as (address, _):
        asset = await news.running()
        async with following(address, ("asset", asset.id)) as stream:
            taken = []
            for number in range(count):
                await asyncio.sleep(random.uniform(*pause))
                arriving = asyncio.create_task(_arrival(stream))
                await news.progressed(asset, number % 99 + 1)
                committed = time.perf_counter()
                # The client may get the event before the writer's commit returns.
                taken.append(max(0.0, await arriving - committed))
    return taken


async def _arrival(stream: Stream) -> float:
    await stream.events(1)
    return time.perf_counter()


def _latencies(name: str, taken: Sequence[float]) -> list[Figure]:
    milliseconds = [1000 * seconds for seconds in taken]
    note = "LISTEN/NOTIFY" if name == "Postgres" else "the web process looks every half second"
    return [
        Figure(f"commit to client, median, {name}", Sample.of([statistics.median(milliseconds)]), "ms", note=note),
        Figure(
            f"commit to client, 99th percentile, {name}",
            Sample.of([statistics.quantiles(milliseconds, n=100)[-1]]),
            "ms",
            note=f"{len(taken)} events one after the other",
        ),
    ]
