"""Two web processes and any order of requests: what the server says of an upload is what it has, byte for byte.

One model, and the requests of both protocols.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from sqlalchemy import create_engine

from rindle.db.models import Base
from tests.integration.http.resumable.conftest import PARTIAL
from tests.integration.http.resumable.conftest import digest as digest_field
from tests.integration.http.site import CLOSED_PORT
from tests.patience import PATIENCE_SECONDS, POLL_SECONDS
from tests.servers import ending, free_port, has_ended
from tests.stage import REPOSITORY, Stage
from tests.tus import BYTES, checksum, session_of

#: More than all requests of one run send: an upload that is complete would wait for a worker.
LENGTH = 64 * 1024 * 1024
WHICH = some.sampled_from((0, 1))
#: Pieces that fit into one read of a server, and some that do not.
BODIES = some.integers(0, 300_000).map(lambda size: os.urandom(size))


class Wire(Protocol):
    """The requests of one protocol, and the statuses in which they differ.

    Attributes:
        mount: path of the mount.
        always: headers of every request.
        creation: headers of a creation that brings the first bytes.
        locked: status while another request has the upload.
        mismatching: status for bytes with another digest.
        algorithms: of digests.
    """

    mount: str
    always: dict[str, str]
    creation: dict[str, str]
    locked: int
    mismatching: int
    algorithms: tuple[str, ...]

    def append(self, offset: int) -> dict[str, str]:
        """Return the headers of an append."""

    def digest(self, content: bytes, algorithm: str) -> dict[str, str]:
        """Return the header by which an append says what the digest of its bytes is."""


class Tus:
    """tus 1.0.0."""

    mount = "/files/"
    always = {"Tus-Resumable": "1.0.0"}
    creation = {"Upload-Length": str(LENGTH), "Content-Type": BYTES}
    locked, mismatching = 423, 460
    algorithms = ("sha1", "sha256")

    def append(self, offset: int) -> dict[str, str]:
        return {"Upload-Offset": str(offset), "Content-Type": BYTES}

    def digest(self, content: bytes, algorithm: str) -> dict[str, str]:
        return {"Upload-Checksum": checksum(content, algorithm)}


class Draft:
    """Resumable Uploads for HTTP."""

    mount = "/resumable/"
    always: dict[str, str] = {}
    creation = {"Upload-Length": str(LENGTH), "Upload-Complete": "?0"}
    locked, mismatching = 503, 400
    algorithms = ("sha-256", "sha-512")

    def append(self, offset: int) -> dict[str, str]:
        return {"Upload-Offset": str(offset), "Upload-Complete": "?0", "Content-Type": PARTIAL}

    def digest(self, content: bytes, algorithm: str) -> dict[str, str]:
        return {"Content-Digest": digest_field(content, algorithm)}


class Webs:
    """The two processes, the directory of their objects, and the file of their rows."""

    def __init__(self, home: Path) -> None:
        self.media, self._home, self._database = home / "media", home, home / "stage.db"
        (home / "tmp").mkdir()
        engine = create_engine(f"sqlite:///{self._database}")
        Base.metadata.create_all(engine)
        engine.dispose()
        stage = Stage(home, f"sqlite+aiosqlite:///{self._database}", CLOSED_PORT, {})
        self._environment = {**os.environ, **stage.environment}
        self.ports = (free_port(), free_port())
        self._stack = ExitStack()
        self._processes = [self._started(port) for port in self.ports]

    def _started(self, port: int) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self._home / f"{port}.log").open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "tests.tus_site:app", "--port", str(port), "--no-access-log"],
            cwd=REPOSITORY,
            env=self._environment,
            stdout=log,
            stderr=log,
        )
        self._stack.enter_context(ending(process))
        return process

    def close(self) -> None:
        """End the processes."""
        self._stack.close()

    def port(self, which: int) -> int:
        """Return the port of a process when it serves."""
        while not _serves(self.ports[which]):
            log = self._home / f"{self.ports[which]}.log"
            assert not has_ended(self._processes[which]), log.read_text()[-2000:]
        return self.ports[which]

    def kill(self, which: int) -> None:
        """SIGKILL; another process takes its place."""
        self._processes[which].kill()
        self._processes[which].wait()
        self._processes[which] = self._started(self.ports[which])

    def holder(self, session_id: str) -> str | None:
        """Return the owner of the upload's lease."""
        with closing(sqlite3.connect(self._database)) as connection:
            query = "select lock_owner from media_upload_sessions where id = ?"
            [(owner,)] = connection.execute(query, (session_id.replace("-", ""),))
            return None if owner is None else str(owner)


@pytest.fixture(scope="module")
def webs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webs]:
    running = Webs(tmp_path_factory.mktemp("webs"))
    try:
        yield running
    finally:
        running.close()


def _serves(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).is_success
    except httpx.TransportError:
        return False


def machine_of(webs: Webs, wire: Wire) -> type[RuleBasedStateMachine]:
    """Return the model of one upload on these processes."""

    class Upload(RuleBasedStateMachine):
        """What was accepted so far is ``content``."""

        def __init__(self) -> None:
            super().__init__()
            self.client = httpx.Client(timeout=PATIENCE_SECONDS, trust_env=False)
            self.content = b""
            self.path = ""
            self.kills = 0

        def call(
            self, which: int, method: str, headers: dict[str, str] | None = None, body: bytes | None = None
        ) -> httpx.Response:
            url = f"http://127.0.0.1:{webs.port(which)}{self.path or wire.mount}"
            return self.client.request(method, url, headers={**wire.always, **(headers or {})}, content=body)

        def patch(self, which: int, offset: int, body: bytes, digest: dict[str, str] | None = None) -> httpx.Response:
            return self.call(which, "PATCH", {**wire.append(offset), **(digest or {})}, body)

        def offset(self, which: int) -> int:
            """Return the offset when no request holds the upload any more."""
            until = time.monotonic() + PATIENCE_SECONDS
            while (answer := self.call(which, "HEAD")).status_code == wire.locked:
                assert time.monotonic() < until
                time.sleep(POLL_SECONDS)
            assert answer.status_code == httpx.codes.NO_CONTENT
            assert answer.headers["upload-length"] == str(LENGTH)
            return int(answer.headers["upload-offset"])

        def send_a_part(self, which: int, body: bytes, lacking: int) -> socket.socket:
            """Announce more bytes than arrive, and return when the request has the upload."""
            headers = {
                "Host": "files.test",
                **wire.always,
                **wire.append(len(self.content)),
                "Content-Length": str(len(body) + lacking),
            }
            lines = (f"PATCH {self.path} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items()))
            session_id = session_of(self.path)
            connection = socket.create_connection(("127.0.0.1", webs.port(which)))
            before = webs.holder(session_id)
            connection.sendall("\r\n".join((*lines, "", "")).encode() + body)
            while webs.holder(session_id) in (None, before):  # otherwise the request may begin after the next look
                time.sleep(POLL_SECONDS)
            return connection

        def keep(self, which: int, body: bytes) -> None:
            """Take over what counts of a part of a body, by the other process."""
            offset = self.offset(1 - which)
            assert len(self.content) <= offset <= len(self.content) + len(body)
            self.content += body[: offset - len(self.content)]

        @initialize(which=WHICH, body=BODIES, kills=some.sampled_from((0, 0, 0, 1)))
        def create(self, which: int, body: bytes, kills: int) -> None:
            answer = self.call(which, "POST", wire.creation, body)
            assert (answer.status_code, answer.headers["upload-offset"]) == (201, str(len(body)))
            self.path, self.content, self.kills = answer.headers["location"], body, kills

        @rule(which=WHICH, body=BODIES)
        def append(self, which: int, body: bytes) -> None:
            answer = self.patch(which, len(self.content), body)
            assert answer.status_code == httpx.codes.NO_CONTENT
            self.content += body
            assert answer.headers["upload-offset"] == str(len(self.content))

        @rule(which=WHICH, body=BODIES, algorithm=some.sampled_from(wire.algorithms), is_right=some.booleans())
        def append_checked(self, which: int, body: bytes, algorithm: str, is_right: bool) -> None:
            digest = wire.digest(body if is_right else body + b"x", algorithm)
            answer = self.patch(which, len(self.content), body, digest)
            assert answer.status_code == (204 if is_right else wire.mismatching)
            self.content += body if is_right else b""

        @rule(which=WHICH, body=BODIES, distance=some.integers(1, 1000), sign=some.sampled_from((-1, 1)))
        def append_elsewhere(self, which: int, body: bytes, distance: int, sign: int) -> None:
            offset = max(0, len(self.content) + sign * distance)
            if offset != len(self.content):
                assert self.patch(which, offset, body).status_code == httpx.codes.CONFLICT

        @rule(which=WHICH, body=BODIES, lacking=some.integers(1, 100_000))
        def break_off(self, which: int, body: bytes, lacking: int) -> None:
            self.send_a_part(which, body, lacking).close()
            self.keep(which, body)

        @precondition(lambda self: self.kills > 0)
        @rule(which=WHICH, body=BODIES, lacking=some.integers(1, 100_000))
        def kill(self, which: int, body: bytes, lacking: int) -> None:
            self.kills -= 1
            with self.send_a_part(which, body, lacking):
                webs.kill(which)
            self.keep(which, body)

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


@pytest.mark.parametrize("wire", [Tus(), Draft()], ids=["tus", "draft"])
def test_any_order_of_requests_to_two_processes_keeps_every_byte(webs: Webs, wire: Wire) -> None:
    run_state_machine_as_test(
        machine_of(webs, wire),
        settings=settings(
            max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

    assert list((webs.media / ".rindle" / "tus").glob("*")) == []
