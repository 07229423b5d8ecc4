"""What was measured on, how busy it was, and what processes cost."""

from __future__ import annotations

import asyncio
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from rindle.process import usable_cores

#: Share of all cores that others may use while a measurement starts.
QUIET_SHARE = 0.15
#: Longest wait for a quiet machine, in seconds; then the measurement runs anyway and notes it.
QUIET_WAIT_SECONDS = 120.0

_PACKAGES = (
    "temporalio",
    "sqlalchemy",
    "psycopg",
    "pyvips",
    "pyvips-binary",
    "pillow",
    "celery",
    "redis",
    "granian",
    "uvicorn",
    "boto3",
)


def description() -> dict[str, Any]:
    """Return what a reader needs to interpret the numbers: processor, cores, memory, system, versions."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": versions,
    }


def cores() -> int:
    """Return the cores this process may use."""
    return usable_cores()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


async def wait_for_quiet() -> float:
    """Wait until others use little of the machine; returns the share of all cores in use when it was given up."""
    deadline = time.monotonic() + QUIET_WAIT_SECONDS
    while True:
        share = float(await asyncio.to_thread(psutil.cpu_percent, 1.0)) / 100
        if share <= QUIET_SHARE or time.monotonic() > deadline:
            return share
        print(f"  the machine is busy ({share:.0%}); waiting", file=sys.stderr, flush=True)
        await asyncio.sleep(4)


def family(pids: Iterable[int]) -> list[psutil.Process]:
    """Return the processes and everything below them."""
    found = {}
    for pid in pids:
        try:
            parent = psutil.Process(pid)
            for process in (parent, *parent.children(recursive=True)):
                found[process.pid] = process
        except psutil.NoSuchProcess:
            continue
    return list(found.values())


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU seconds of processes, what is below them, and their children that have ended."""
    total = 0.0
    for process in family(pids):
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return total


def own_cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU seconds of the processes themselves, without what they have started."""
    used = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(times.user + times.system for times in used))


def busy_seconds() -> float:
    """Return the CPU seconds that the whole machine has spent on anything."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


#: Name under which a meter reports what everybody else on the machine has spent.
OTHERS = "everybody else on the machine"


class CpuMeter:
    """CPU that named parts of a system spend from the moment this is made, and what everybody else does meanwhile.

    Args:
        parts: for each name a function that returns the CPU seconds spent so far.
    """

    def __init__(self, parts: Mapping[str, Callable[[], float]]) -> None:
        self._parts = parts
        self._busy = busy_seconds()
        self._before = {name: read() for name, read in parts.items()}

    def per_asset(self, count: int) -> dict[str, float]:
        """Return the CPU milliseconds spent per asset since then, by name."""
        spent = {name: read() - self._before[name] for name, read in self._parts.items()}
        spent[OTHERS] = max(0.0, busy_seconds() - self._busy - sum(spent.values()))
        return {name: seconds * 1000 / count for name, seconds in spent.items()}


def children_named(name: str) -> list[int]:
    """Return the processes of that name which this one has started."""
    return [child.pid for child in psutil.Process().children() if child.name() == name]


def resident_mib(pid: int) -> float:
    """Return the resident memory of one process in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


@dataclass
class MemoryWatch:
    """Highest resident memory of named processes while a block runs, beside what it was at the start; in MiB."""

    pids: dict[str, int]
    before: dict[str, float] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)

    def growth(self, name: str) -> float:
        """Return by how much a process grew at most, in MiB."""
        return self.peak[name] - self.before[name]

    def look(self) -> None:
        """Take one sample."""
        for name, pid in self.pids.items():
            found = resident_mib(pid)
            self.before.setdefault(name, found)
            self.peak[name] = max(found, self.peak.get(name, 0.0))

    async def watch(self) -> None:
        """Take samples, 20 a second, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(0.05)


@contextmanager
def watching(**pids: int) -> Iterator[MemoryWatch]:
    """Watch the memory of processes while the block runs on this event loop."""
    watch = MemoryWatch(pids)
    watch.look()
    task = asyncio.get_running_loop().create_task(watch.watch())
    try:
        yield watch
    finally:
        watch.look()
        task.cancel()
