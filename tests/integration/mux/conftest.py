"""A client of the server that stands for Mux, films it can fetch, and a receiver of its webhooks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.integration.mux.client import Sdk
from tests.media.clips import Clips
from tests.servers.mux import FakeMux


@pytest.fixture
def sdk(mux: FakeMux) -> Iterator[Sdk]:
    """A client of the server."""
    client = Sdk(mux)
    yield client
    client.close()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves the files of a directory."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def film_url(clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Where a file can be fetched: ``film.mp4`` plays for two seconds, ``garbage.mp4`` is no film."""
    shelf = tmp_path_factory.mktemp("films")
    (shelf / "film.mp4").write_bytes(clips.film().read_bytes())
    (shelf / "garbage.mp4").write_bytes(b"not a film" * 1000)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=shelf)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield lambda name: f"http://127.0.0.1:{server.server_address[1]}/{name}"
        server.shutdown()
        thread.join()


@dataclass
class Receiver:
    """What arrived at an application's address for webhooks; ``answers`` come first, then 200."""

    url: str
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An application that is told of events."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            there.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(there.answers.pop(0) if there.answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        there = Receiver(f"http://127.0.0.1:{server.server_address[1]}/webhooks/rindle/mux")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield there
        server.shutdown()
        thread.join()
