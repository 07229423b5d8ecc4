"""A FastAPI application on a real port, and a client that may break the rules of HTTP."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from tests.patience import PATIENCE_SECONDS


@contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    """Yield a listening loopback socket and its address: the URL is known before the application is made."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        yield listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def serving(app: FastAPI, listener: socket.socket) -> Iterator[None]:
    """Serve ``app`` in a thread with a loop of its own until the block is left; early clients wait in the backlog."""
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_config=None, lifespan="off", timeout_graceful_shutdown=5, timeout_keep_alive=int(PATIENCE_SECONDS)
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)


async def send_raw(method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> int | None:
    """Send exactly these headers and bytes and return the status of the answer; ``None`` when there is none.

    ``Content-Length`` may announce more than is sent: then the connection stays open and silent after ``body``.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", *(f"{k}: {v}" for k, v in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()
        line = await asyncio.wait_for(reader.readline(), PATIENCE_SECONDS)
        return int(line.split()[1]) if line else None
    finally:
        writer.close()
