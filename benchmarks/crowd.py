"""500 tus uploads at once on one web process: all bodies are open, half sent, at the same moment."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks import machine
from benchmarks.report import Figure, Sample
from benchmarks.stack import Stack
from benchmarks.tus_client import connected
from tests.servers import Unavailable

UPLOADS = 500
SIZE_BYTES = 4 << 20
#: Growth of the web process per open upload: gathered bytes, a write that is under way, and a connection's buffers.
BUDGET_MIB_EACH = 1
#: Status probes while all bodies are half sent.
PROBES = 20
#: Clients that arrive per second: creation and the beginning of a PATCH are transactions, which wait for one another.
ARRIVALS_PER_SECOND = 25
#: A connection and a file for each upload, on the side of the server.
_OPEN_FILES = 4 * UPLOADS
_PIECE_BYTES = 64 * 1024
#: What a client sends while others arrive, and how often.
_TRICKLE_BYTES, _TRICKLE_SECONDS = 1024, 10.0


@dataclass
class Crowd:
    """The clients of one measurement, and what they have in common."""

    host: str
    port: int
    path: str
    body: bytes
    half_sent: asyncio.Barrier
    go_on: asyncio.Event

    async def upload(self, number: int) -> int:
        """Arrive as client ``number`` and send one file, half of it after :attr:`go_on`; returns its offset then."""
        await asyncio.sleep(number / ARRIVALS_PER_SECOND)
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            created = await self._request(reader, writer, "POST", self.path, {"Upload-Length": str(len(self.body))})
            location = urlsplit(created["location"]).path
            self._begin(
                writer,
                "PATCH",
                location,
                {
                    "Upload-Offset": "0",
                    "Content-Type": "application/offset+octet-stream",
                    "Content-Length": str(len(self.body)),
                },
            )
            half = len(self.body) // 2
            await self._send(writer, self.body[:half])
            waiting = asyncio.ensure_future(self._all_half_sent())
            while not waiting.done():  # a body that pauses for long counts as broken off
                await self._send(writer, self.body[half : half + _TRICKLE_BYTES])
                half += _TRICKLE_BYTES
                await asyncio.wait([waiting], timeout=_TRICKLE_SECONDS)
            await self._send(writer, self.body[half:])
            return int((await _answer(reader))["upload-offset"])
        finally:
            writer.close()

    async def _all_half_sent(self) -> None:
        await self.half_sent.wait()
        await self.go_on.wait()

    async def _request(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        path: str,
        headers: dict[str, str],
    ) -> dict[str, str]:
        self._begin(writer, method, path, {**headers, "Content-Length": "0"})
        await writer.drain()
        return await _answer(reader)

    def _begin(self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str]) -> None:
        lines = {"Host": f"{self.host}:{self.port}", "Tus-Resumable": "1.0.0", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, body: bytes) -> None:
        for start in range(0, len(body), _PIECE_BYTES):
            writer.write(body[start : start + _PIECE_BYTES])
            await writer.drain()


async def _answer(reader: asyncio.StreamReader) -> dict[str, str]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status, *lines = head.split("\r\n")
    if not status.startswith(("HTTP/1.1 201", "HTTP/1.1 204")):
        body = await reader.read(500)
        raise RuntimeError(f"a request of the crowd was answered {status}: {body!r}")
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


async def measure(stack: Stack, web: int) -> list[Figure]:
    """Send 500 files of 4 MiB at once and take them to ready."""
    allow_open_files()
    where = urlsplit(stack.base_url)
    url = f"http://{where.hostname}:{where.port}/tus/archive/"
    body = os.urandom(SIZE_BYTES)
    at = str(where.hostname), int(where.port or 0), "/tus/archive/", body
    for count in (20, UPLOADS):  # a small crowd first: what is imported and pooled once is not growth
        crowd = Crowd(*at, half_sent=asyncio.Barrier(count + 1), go_on=asyncio.Event())
        began, used = time.perf_counter(), machine.cpu_seconds([web])
        with machine.watching(web=web) as watch:
            sending = [asyncio.create_task(crowd.upload(number)) for number in range(count)]
            await _arrived(crowd.half_sent, sending)
            probes = await asyncio.to_thread(_probes, url)
            crowd.go_on.set()
            offsets = await asyncio.gather(*sending)
        seconds, used = time.perf_counter() - began, machine.cpu_seconds([web]) - used
    whole = offsets.count(SIZE_BYTES)
    note = f"{SIZE_BYTES >> 20} MiB each; {ARRIVALS_PER_SECOND} arrive per second; all answered in {seconds:.0f} s"
    return [
        Figure(
            f"whole uploads of {UPLOADS} at once", Sample.of([whole]), "", f"{UPLOADS}", whole == UPLOADS, note=note
        ),
        Figure(
            f"growth of the web process: {UPLOADS} uploads at once",
            Sample.of([watch.growth("web")]),
            "MiB",
            f"under {BUDGET_MIB_EACH} MiB per upload",
            watch.growth("web") < BUDGET_MIB_EACH * UPLOADS,
            note=f"from {watch.before['web']:.0f} MiB; uvicorn",
        ),
        Figure(
            "processor time of the web process per upload",
            Sample.of([used / UPLOADS * 1000]),
            "ms",
            note="creation, one PATCH of 4 MiB, and the wait for its verification",
        ),
        Figure(
            f"status probe while {UPLOADS} bodies are open",
            Sample.of(probes),
            "ms",
            note=f"{PROBES} HEAD requests one after the other",
        ),
    ]


async def _arrived(half_sent: asyncio.Barrier, sending: list[asyncio.Task[int]]) -> None:
    """Wait until all bodies are half sent; a client that fails ends the wait."""
    arriving = asyncio.ensure_future(half_sent.wait())
    await asyncio.wait([arriving, *sending], return_when=asyncio.FIRST_COMPLETED)
    for one in sending:
        if one.done():
            one.result()
    await arriving


def _probes(url: str) -> list[float]:
    times = []
    with connected(url) as connection:
        path = connection.create(SIZE_BYTES)
        for _ in range(PROBES):
            began = time.perf_counter()
            connection.head(path)
            times.append((time.perf_counter() - began) * 1000)
        connection.delete(path)
    return times


def allow_open_files() -> None:
    """Let this process open enough files and connections.

    Raises:
        Unavailable: the machine does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _OPEN_FILES:
        raise Unavailable(f"{_OPEN_FILES} open files are needed (ulimit -n)")
    if soft != resource.RLIM_INFINITY and soft < _OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, hard))
