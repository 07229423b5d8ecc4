"""A loopback HTTP server that answers what a test scripts, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request; header names in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """One answer. With ``breaks_after`` the server reads that many bytes of the body and closes the connection."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    breaks_after: int | None = None


class ScriptedServer:
    """The address, the requests so far, and the answers to come, in their order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked: list[Asked] = []
        self.replies: deque[Reply] = deque()

    def script(self, *replies: Reply) -> None:
        """Add the next answers."""
        self.replies.extend(replies)


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """Run a server until the block is left."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            reply = server.replies.popleft() if server.replies else Reply(418)
            length = int(self.headers.get("content-length", 0))
            body = self.rfile.read(length if reply.breaks_after is None else min(length, reply.breaks_after))
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.asked.append(
                Asked(self.command, parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), headers, body)
            )
            self.close_connection = reply.breaks_after is not None
            if self.close_connection:
                return
            self.send_response_only(reply.status)
            if "Date" not in reply.headers:
                self.send_header("Date", self.date_time_string())
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _answer

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server = ScriptedServer(f"http://127.0.0.1:{listening.server_address[1]}")
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
