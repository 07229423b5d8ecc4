"""A tus client that costs next to nothing: the kernel sends the file (``sendfile``), so that the server is measured."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

_HEADERS = {"Tus-Resumable": "1.0.0"}
_BYTES = "application/offset+octet-stream"
#: Longest silence of a server in seconds.
_TIMEOUT_SECONDS = 600.0


class TusConnection:
    """One connection to a tus server.

    Args:
        url: where uploads are created.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._creation_path = parts.path
        self._http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS)

    def create(self, length: int) -> str:
        """Create an upload of ``length`` bytes and return its path."""
        answer = self._call("POST", self._creation_path, {"Upload-Length": str(length), "Content-Length": "0"}, 201)
        return urlsplit(answer["Location"]).path

    def patch(self, path: str, offset: int, source: IO[bytes], count: int) -> None:
        """Append ``count`` bytes at ``offset``: the file ``source``, over and over."""
        headers = {**_HEADERS, "Upload-Offset": str(offset), "Content-Type": _BYTES}
        answer = self._send("PATCH", path, headers, source, count, 204)
        if answer["Upload-Offset"] != str(offset + count):
            raise RuntimeError(f"PATCH to {offset + count} was answered with offset {answer['Upload-Offset']}")

    def post(self, path: str, source: IO[bytes], count: int) -> None:
        """Send ``count`` bytes in a plain POST: the file ``source``, over and over."""
        self._send("POST", path, {}, source, count, 200)

    def head(self, path: str) -> int:
        """Return the offset of an upload."""
        return int(self._call("HEAD", path, {}, 200, 204)["Upload-Offset"])

    def delete(self, path: str) -> None:
        """Terminate an upload."""
        self._call("DELETE", path, {}, 204)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _send(
        self, method: str, path: str, headers: dict[str, str], source: IO[bytes], count: int, expected: int
    ) -> http.client.HTTPMessage:
        self._http.putrequest(method, path)
        for name, value in {**headers, "Content-Length": str(count)}.items():
            self._http.putheader(name, value)
        self._http.endheaders()
        size, left = os.fstat(source.fileno()).st_size, count
        while left > 0:
            left -= self._http.sock.sendfile(source, 0, min(size, left))
        return self._answer(method, expected)

    def _call(self, method: str, path: str, headers: dict[str, str], *expected: int) -> http.client.HTTPMessage:
        self._http.request(method, path, headers={**_HEADERS, **headers})
        return self._answer(method, *expected)

    def _answer(self, method: str, *expected: int) -> http.client.HTTPMessage:
        answer = self._http.getresponse()
        body = answer.read()
        if answer.status not in expected:
            raise RuntimeError(f"{method} was answered {answer.status}: {body[:200]!r}")
        return answer.headers


@contextmanager
def connected(url: str) -> Iterator[TusConnection]:
    """Yield a connection that is closed with the block."""
    connection = TusConnection(url)
    try:
        yield connection
    finally:
        connection.close()


def make_source(directory: Path, size: int = 64 << 20) -> Path:
    """Write a file of ``size`` random bytes and return it; large uploads send it repeatedly."""
    path = directory / "source.bin"
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    return path
