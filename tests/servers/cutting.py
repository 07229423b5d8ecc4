"""A TCP proxy on loopback that breaks connections in the middle, and sends each one to another process."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from itertools import cycle


class CuttingProxy:
    """Forwards every connection to the next of ``target_ports``, and breaks it after a random number of bytes.

    Args:
        fewest, most: bounds of the number of bytes of the client after which a connection is broken.
        seed: of the numbers.
    """

    def __init__(self, target_ports: Sequence[int], *, fewest: int, most: int, seed: int = 1) -> None:
        self._targets = cycle(target_ports)
        self._bounds = (fewest, most)
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._forwarding: set[asyncio.Task[None]] = set()
        self.port = 0
        #: Connections that were broken.
        self.cuts = 0

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *failure: object) -> None:
        if self._server is not None:
            self._server.close()
        forwarding = tuple(self._forwarding)  # clients may keep their connections
        for task in forwarding:
            task.cancel()
        await asyncio.gather(*forwarding, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._forwarding.add(task)
        try:
            await self._forward_until_cut(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._forwarding.discard(task)

    async def _forward_until_cut(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", next(self._targets))
        except OSError:
            writer.transport.abort()
            return
        answering = asyncio.ensure_future(self._answer(there_reader, writer))
        left = self._random.randint(*self._bounds)
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(65_536):
                    there_writer.write(data[:left])
                    await there_writer.drain()
                    left -= len(data)
                    if left <= 0:
                        self.cuts += 1
                        writer.transport.abort()
                        break
        finally:
            there_writer.close()  # an end, not a reset: what was forwarded arrives
        await answering

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()
