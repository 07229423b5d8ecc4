"""tus to the local disk, beside tusd on the same disk: how fast, what a status probe costs, and 500 uploads at once.

Every measured upload is one byte longer than what is sent of it, so that the figure is that of PATCH alone: neither
side verifies anything. The servers run at the same time and take turns; each is one process.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import crowd, machine
from benchmarks.peers import tusd
from benchmarks.report import Figure, Sample, left_out
from benchmarks.stack import Stack, running_stack
from benchmarks.tus_client import TusConnection, connected, make_source
from tests.servers import Unavailable, free_port

SIZE_BYTES = 1 << 30
CHUNK_BYTES = 16 << 20
ROUNDS = 3
#: Status probes of one round.
PROBES = 200
#: How much faster than tusd a PATCH has to be.
FASTER = 2.0


@dataclass(frozen=True)
class Contender:
    """A running server.

    Attributes:
        name: as the table names it.
        url: where uploads are created; of the bare handler where bytes are sent.
        pid: its process.
        is_ours: whether Rindle runs in it.
        note: for the reader.
    """

    name: str
    url: str
    pid: int
    is_ours: bool = True
    note: str = ""


async def measure() -> list[Figure]:
    """Measure everything with one set of servers."""
    figures: list[Figure] = []
    async with running_stack(relay=False) as stack:
        with ExitStack() as servers:
            ours = _start_ours(stack, servers)
            try:
                peers = [_start_tusd(stack, servers)]
            except Unavailable as error:
                peers, missing = [], [left_out("tusd", error)]
            else:
                missing = []
            source = await asyncio.to_thread(make_source, stack.home)
            await machine.wait_for_quiet()
            figures += await asyncio.to_thread(_patches, ours, peers, source)
            figures += await asyncio.to_thread(_probes, ours[:1] + ours[-1:], peers)
            figures += missing
        with stack.worker(), stack.web() as web:
            figures += await crowd.measure(stack, web)
    return figures


def _start_ours(stack: Stack, servers: ExitStack) -> list[Contender]:
    kinds: tuple[tuple[str, str, dict[str, str], str], ...] = (
        ("granian", "granian", {}, "synced to the disk every 64 MiB and at the end"),
        ("granian, fsync=False", "granian", {"BENCH_FSYNC": "0"}, "what tusd does: nothing waits for the disk"),
        ("uvicorn", "uvicorn", {}, "synced to the disk every 64 MiB and at the end"),
    )
    found = []
    for name, server, settings, note in kinds:
        port = free_port()
        pid = servers.enter_context(stack.web(server, port=port, **settings))
        found.append(Contender(name, f"http://127.0.0.1:{port}/tus/archive/", pid, note=note))
    return found


def _start_tusd(stack: Stack, servers: ExitStack) -> Contender:
    server = servers.enter_context(tusd.running_tusd(stack.home / "tusd"))
    return Contender("tusd", server.url, server.pid, is_ours=False, note=f"tusd {server.version}; nothing is synced")


# --- throughput --------------------------------------------------------------------------------------------------


def _patches(ours: list[Contender], peers: list[Contender], source: Path) -> list[Figure]:
    bare = [
        Contender(f"a bare ASGI handler, {one.name}", one.url.replace("/tus/archive/", "/bare"), one.pid, is_ours=False)
        for one in ours
        if "fsync" not in one.name
    ]
    ways: dict[str, Callable[[Contender], float]] = {
        "one PATCH of 1 GiB": functools.partial(_upload, source, SIZE_BYTES),
        "1 GiB in PATCHes of 16 MiB": functools.partial(_upload, source, CHUNK_BYTES),
    }
    figures = []
    for what, upload in ways.items():
        rates: dict[str, list[float]] = {}
        used: dict[str, list[float]] = {}
        for number in range(ROUNDS + 1):
            for one in [*ours, *peers]:
                before = machine.cpu_seconds([one.pid])
                rate = SIZE_BYTES / upload(one) / 2**20
                if number:  # the first round warms up
                    rates.setdefault(one.name, []).append(rate)
                    used.setdefault(one.name, []).append(machine.cpu_seconds([one.pid]) - before)
        for one in [*ours, *peers]:
            noted = replace(one, note=f"{Sample.of(used[one.name])} s of processor time; {one.note}")
            figures.append(_patch_figure(what, noted, rates, peers))
    for one in bare:
        before = machine.cpu_seconds([one.pid])
        values = [SIZE_BYTES / _bare(source, one) / 2**20 for _ in range(ROUNDS)]
        cost = (machine.cpu_seconds([one.pid]) - before) / ROUNDS
        note = f"{cost:.2f} s of processor time; writes the body of one request into a file, and nothing else"
        figures.append(Figure(f"1 GiB to {one.name}", Sample.of(values), "MiB/s", is_peer=True, note=note))
    return figures


def _patch_figure(what: str, one: Contender, rates: dict[str, list[float]], peers: list[Contender]) -> Figure:
    sample = Sample.of(rates[one.name])
    if not one.is_ours or not peers or "uvicorn" in one.name:
        return Figure(f"{what}: {one.name}", sample, "MiB/s", is_peer=not one.is_ours, note=one.note)
    times = sample.median / Sample.of(rates[peers[0].name]).median
    return Figure(
        f"{what}: {one.name}",
        sample,
        "MiB/s",
        f"{FASTER:g} times tusd",
        times >= FASTER,
        note=f"{times:.2f} times tusd; {one.note}",
    )


def _upload(source: Path, chunk_bytes: int, one: Contender) -> float:
    """Send 1 GiB of an upload in pieces and return the seconds that its PATCHes took."""
    with connected(one.url) as connection, source.open("rb") as file:
        path = connection.create(SIZE_BYTES + 1)
        began = time.perf_counter()
        for offset in range(0, SIZE_BYTES, chunk_bytes):
            connection.patch(path, offset, file, chunk_bytes)
        took = time.perf_counter() - began
        connection.delete(path)
    return took


def _bare(source: Path, one: Contender) -> float:
    with connected(one.url) as connection, source.open("rb") as file:
        began = time.perf_counter()
        connection.post(urlsplit(one.url).path, file, SIZE_BYTES)
        return time.perf_counter() - began


# --- status probes -----------------------------------------------------------------------------------------------


def _probes(ours: list[Contender], peers: list[Contender]) -> list[Figure]:
    figures = []
    for one in [*ours, *peers]:
        with connected(one.url) as connection:
            path = connection.create(SIZE_BYTES)
            times = [_probe(connection, path) for _ in range(PROBES)]
            used = machine.cpu_seconds([one.pid])
            for _ in range(PROBES):
                connection.head(path)
            used = machine.cpu_seconds([one.pid]) - used
            connection.delete(path)
        note = f"{used / PROBES * 1000:.1f} ms of processor time; {PROBES} HEAD requests one after the other"
        if one.is_ours:
            note += "; token, row in Postgres"
        figures.append(
            Figure(f"status probe: {one.name}", _percentiles(times), "ms", is_peer=not one.is_ours, note=note)
        )
    return figures


def _probe(connection: TusConnection, path: str) -> float:
    began = time.perf_counter()
    connection.head(path)
    return (time.perf_counter() - began) * 1000


def _percentiles(times: list[float]) -> Sample:
    """Return the median, with the range of the middle nine tenths: single outliers are others' work."""
    ordered = sorted(times)
    return Sample(ordered[len(ordered) // 2], ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20], 2)
