"""A TCP proxy on loopback that a test cuts, restores or slows down: what an outage or a throttled store looks like."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from tests.servers import free_port


class Proxy:
    """Forwards connections to ``target_port`` until :meth:`cut`; ``port`` is where clients connect.

    No other process gets the port while nobody listens on it.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._forwarding: set[asyncio.Task[None]] = set()
        self.port = free_port()
        self._slow: dict[bytes, float] = {}
        #: Requests that are held back at this moment.
        self.delayed = 0

    def delay(self, beginning: bytes, seconds: float) -> None:
        """Hold back every request that begins so, as a throttled server would; the client gets its answer later."""
        self._slow[beginning] = seconds

    async def __aenter__(self) -> Proxy:
        await self.restore()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.cut()

    async def restore(self) -> None:
        """Accept connections (again)."""
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)

    async def cut(self) -> None:
        """Drop every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._open):
            writer.transport.abort()
        # Also those that are about to connect, which would otherwise outlive the test.
        forwarding = tuple(self._forwarding)
        for task in forwarding:
            task.cancel()
        await asyncio.gather(*forwarding, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._server is None:  # accepted a moment before the cut
            writer.transport.abort()
            return
        opened = {writer}
        self._open.add(writer)
        self._forwarding.add(task)
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            opened.add(there_writer)
            self._open.add(there_writer)
            await asyncio.gather(self._pump(reader, there_writer, self._slow), self._pump(there_reader, writer, {}))
        except (OSError, asyncio.CancelledError):
            for one in opened:
                one.transport.abort()
        finally:
            self._open -= opened
            self._forwarding.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, slow: Mapping[bytes, float]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                for beginning, seconds in slow.items():
                    if data.startswith(beginning):
                        self.delayed += 1
                        try:
                            await asyncio.sleep(seconds)
                        finally:
                            self.delayed -= 1
                writer.write(data)
                await writer.drain()
        writer.close()
