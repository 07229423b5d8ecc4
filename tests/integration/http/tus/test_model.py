"""Two web processes and any order of requests: what the server says of an upload is what it has, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import create_engine

from rindle.db.models import Base
from tests.integration.http.site import CLOSED_PORT
from tests.patience import PATIENCE_SECONDS, POLL_SECONDS
from tests.servers import ending, free_port, has_ended
from tests.stage import REPOSITORY, Stage
from tests.tus import BYTES, session_of

#: More than all requests of one run send: an upload that is complete would wait for a worker.
LENGTH = 64 * 1024 * 1024
WHICH = some.sampled_from((0, 1))
#: Pieces that fit into one read of a server, and some that do not.
BODIES = some.integers(0, 300_000).map(lambda size: os.urandom(size))


@dataclass(frozen=True)
class Webs:
    """The two processes, the directory of their objects, and the file of their rows."""

    ports: tuple[int, ...]
    media: Path
    database: Path

    def is_held(self, session_id: str) -> bool:
        """Whether a request has the upload."""
        with closing(sqlite3.connect(self.database)) as connection:
            query = "select lock_owner is not null from media_upload_sessions where id = ?"
            [(is_held,)] = connection.execute(query, (session_id.replace("-", ""),))
            return bool(is_held)


@pytest.fixture(scope="module")
def webs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webs]:
    home = tmp_path_factory.mktemp("webs")
    (home / "tmp").mkdir()
    database = home / "stage.db"
    engine = create_engine(f"sqlite:///{database}")
    Base.metadata.create_all(engine)
    engine.dispose()
    environment = Stage(home, f"sqlite+aiosqlite:///{database}", CLOSED_PORT, {}).environment
    ports = (free_port(), free_port())
    with ExitStack() as stack:
        for port in ports:
            log = stack.enter_context((home / f"{port}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "tests.tus_site:app", "--port", str(port), "--no-access-log"],
                cwd=REPOSITORY,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
            stack.enter_context(ending(process))
            while not _serves(port):
                assert not has_ended(process), Path(log.name).read_text()[-2000:]
        yield Webs(ports, home / "media", database)


def _serves(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).is_success
    except httpx.TransportError:
        return False


def machine_of(webs: Webs) -> type[RuleBasedStateMachine]:
    """Return the model of one upload on these processes."""

    class Upload(RuleBasedStateMachine):
        """What was accepted so far is ``content``."""

        def __init__(self) -> None:
            super().__init__()
            self.client = httpx.Client(timeout=PATIENCE_SECONDS, trust_env=False)
            self.content = b""
            self.path = ""

        def call(self, which: int, method: str, body: bytes | None = None, **headers: str) -> httpx.Response:
            named = {"Tus-Resumable": "1.0.0", **{name.replace("_", "-"): text for name, text in headers.items()}}
            url = f"http://127.0.0.1:{webs.ports[which]}{self.path or '/files/'}"
            return self.client.request(method, url, headers=named, content=body)

        def patch(self, which: int, offset: int, body: bytes, **headers: str) -> httpx.Response:
            return self.call(which, "PATCH", body, upload_offset=str(offset), content_type=BYTES, **headers)

        def offset(self, which: int) -> int:
            """Return the offset when no request holds the upload any more."""
            until = time.monotonic() + PATIENCE_SECONDS
            while (answer := self.call(which, "HEAD")).status_code == httpx.codes.LOCKED:
                assert time.monotonic() < until
                time.sleep(POLL_SECONDS)
            assert answer.status_code == httpx.codes.NO_CONTENT
            return int(answer.headers["upload-offset"])

        @initialize(which=WHICH, body=BODIES)
        def create(self, which: int, body: bytes) -> None:
            answer = self.call(which, "POST", body, upload_length=str(LENGTH), content_type=BYTES)
            assert (answer.status_code, answer.headers["upload-offset"]) == (201, str(len(body)))
            self.path, self.content = answer.headers["location"], body

        @rule(which=WHICH, body=BODIES)
        def append(self, which: int, body: bytes) -> None:
            answer = self.patch(which, len(self.content), body)
            assert answer.status_code == httpx.codes.NO_CONTENT
            self.content += body
            assert answer.headers["upload-offset"] == str(len(self.content))

        @rule(which=WHICH, body=BODIES, algorithm=some.sampled_from(("sha1", "sha256")), is_right=some.booleans())
        def append_checked(self, which: int, body: bytes, algorithm: str, is_right: bool) -> None:
            digest = hashlib.new(algorithm, body if is_right else body + b"x").digest()
            header = f"{algorithm} {base64.b64encode(digest).decode()}"
            answer = self.patch(which, len(self.content), body, upload_checksum=header)
            assert answer.status_code == (204 if is_right else 460)
            self.content += body if is_right else b""

        @rule(which=WHICH, body=BODIES, distance=some.integers(1, 1000), sign=some.sampled_from((-1, 1)))
        def append_elsewhere(self, which: int, body: bytes, distance: int, sign: int) -> None:
            offset = max(0, len(self.content) + sign * distance)
            if offset != len(self.content):
                assert self.patch(which, offset, body).status_code == httpx.codes.CONFLICT

        @rule(which=WHICH, body=BODIES, lacking=some.integers(1, 100_000))
        def break_off(self, which: int, body: bytes, lacking: int) -> None:
            """Announce more bytes than arrive; the other process then says how many count."""
            lines = (
                f"PATCH {self.path} HTTP/1.1",
                "Host: files.test",
                "Tus-Resumable: 1.0.0",
                f"Upload-Offset: {len(self.content)}",
                f"Content-Type: {BYTES}",
                f"Content-Length: {len(body) + lacking}",
            )
            with socket.create_connection(("127.0.0.1", webs.ports[which])) as connection:
                connection.sendall("\r\n".join((*lines, "", "")).encode() + body)
                while not webs.is_held(session_of(self.path)):  # otherwise the request may begin after the next look
                    time.sleep(POLL_SECONDS)
            offset = self.offset(1 - which)
            assert len(self.content) <= offset <= len(self.content) + len(body)
            self.content += body[: offset - len(self.content)]

        @rule(which=WHICH)
        def look(self, which: int) -> None:
            assert self.offset(which) == len(self.content)

        def teardown(self) -> None:
            """Compare what is stored."""
            try:
                if self.path:
                    assert self.offset(0) == len(self.content)
                    stored = (webs.media / ".rindle" / "tus" / f"{session_of(self.path)}.part").read_bytes()
                    found = hashlib.sha256(stored[: len(self.content)]).hexdigest()
                    assert found == hashlib.sha256(self.content).hexdigest()
                    assert self.call(1, "DELETE").status_code == httpx.codes.NO_CONTENT
            finally:
                self.client.close()

    return Upload


def test_any_order_of_requests_to_two_processes_keeps_every_byte(webs: Webs) -> None:
    run_state_machine_as_test(
        machine_of(webs),
        settings=settings(
            max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

    assert list((webs.media / ".rindle" / "tus").glob("*")) == []
