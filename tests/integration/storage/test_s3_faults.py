"""S3Storage against a server that misbehaves on command (F6): every fault has its error, and nothing is left behind."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rindle.errors import (
    ObjectChanged,
    StorageConflict,
    StorageError,
    StorageMisconfigured,
    StorageNotFound,
    StoragePermanent,
    StorageTransient,
    StorageUnauthorized,
)
from rindle.storage.s3 import S3Storage, parts
from tests.patience import PATIENCE_SECONDS, until

pytestmark = pytest.mark.usefixtures("patient_transfers")


@dataclass
class Reply:
    """One scripted answer; ``promised`` bytes are announced, and a broken body ends early or hangs."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    promised: int | None = None
    hangs: bool = False


def error(status: int, code: str) -> Reply:
    return Reply(status, f"<Error><Code>{code}</Code><Message>canary</Message></Error>".encode())


class Server(ThreadingHTTPServer):
    """Answers with the replies of ``script`` in turn, the last one for ever; remembers what was asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        self.script: list[Reply | Callable[[str, str], Reply]] = []
        self.asked: list[tuple[str, str]] = []
        self.release = threading.Event()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    def reply_to(self, method: str, path: str) -> Reply:
        with self.lock:
            self.asked.append((method, path))
            reply = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return reply(method, path) if callable(reply) else reply

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        reply = self.server.reply_to(self.command, self.path)
        if reply.hangs and not reply.body:
            self.server.release.wait(PATIENCE_SECONDS)
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        length = len(reply.body) if reply.promised is None else reply.promised
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
            self.wfile.flush()
        if reply.hangs:
            self.server.release.wait(PATIENCE_SECONDS)
        if length != len(reply.body) and self.command != "HEAD":
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE_SECONDS)


def storage_on(server: Server, **options: Any) -> S3Storage:
    facts: dict[str, Any] = {
        "endpoint_url": f"http://127.0.0.1:{server.server_port}",
        "access_key_id": "AKIACANARY",
        "secret_access_key": "canary-secret",
        "connect_timeout": PATIENCE_SECONDS,
        "read_timeout": PATIENCE_SECONDS,
        "max_attempts": 1,
    }
    return S3Storage("media", **{**facts, **options})


@pytest.fixture
async def storage(server: Server) -> AsyncIterator[S3Storage]:
    storage = storage_on(server)
    yield storage
    server.release.set()
    await storage.close()


@pytest.fixture
async def hasty(server: Server) -> AsyncIterator[S3Storage]:
    """A storage that gives up on a server which says nothing for half a second."""
    storage = storage_on(server, read_timeout=0.5)
    yield storage
    server.release.set()
    await storage.close()


async def cancelled(call: asyncio.Task[Any], server: Server) -> None:
    """Cancel a call whose thread waits for the server, which hangs up when the thread has been told to stop."""
    call.cancel()
    await asyncio.sleep(0)
    server.release.set()
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"0123456789" * 100)
    return path


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*")}


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (error(503, "SlowDown"), StorageTransient),
        (error(500, "InternalError"), StorageTransient),
        (Reply(502), StorageTransient),
        (Reply(404), StorageNotFound),
        (error(404, "NoSuchKey"), StorageNotFound),
        (error(404, "NoSuchBucket"), StorageMisconfigured),
        (Reply(403), StorageUnauthorized),
        (error(403, "AccessDenied"), StorageUnauthorized),
        (error(403, "RequestTimeTooSkewed"), StorageUnauthorized),
        (error(400, "InvalidRequest"), StoragePermanent),
        (Reply(200, b"not xml at all", promised=400), StorageTransient),
    ],
)
async def test_each_refusal_has_its_error(
    server: Server, storage: S3Storage, tmp_path: Path, reply: Reply, expected: type[StorageError]
) -> None:
    server.script = [reply]

    with pytest.raises(expected) as caught:
        await storage.download("a/b/c", tmp_path / "copy")

    assert type(caught.value) is expected
    assert "canary" not in f"{caught.value} {caught.value!r} {caught.value.to_dict()}".lower()
    assert str(server.server_port) not in str(caught.value)
    assert files(tmp_path) == set()


async def test_a_head_is_read_by_its_status_alone(server: Server, storage: S3Storage) -> None:
    server.script = [Reply(404), Reply(403), Reply(503)]

    with pytest.raises(StorageNotFound):
        await storage.head("a/b/c")
    with pytest.raises(StorageUnauthorized) as caught:
        await storage.head("a/b/c")
    assert "s3:ListBucket" in (caught.value.action or "")
    with pytest.raises(StorageTransient):
        await storage.head("a/b/c")


async def test_ping_tells_a_missing_bucket_from_a_refusal(server: Server, storage: S3Storage) -> None:
    server.script = [Reply(404), Reply(403), Reply(200)]

    with pytest.raises(StorageMisconfigured):
        await storage.ping()
    with pytest.raises(StorageUnauthorized):
        await storage.ping()
    await storage.ping()


async def test_a_passing_fault_is_met_by_the_sdks_own_retry(server: Server) -> None:
    storage = storage_on(server, max_attempts=2)
    server.script = [error(503, "SlowDown"), Reply(200, headers={"ETag": '"abc"'})]

    assert (await storage.head("a/b/c")).etag == "abc"
    assert len(server.asked) == 2
    await storage.close()


async def test_a_skewed_clock_gets_one_new_client(server: Server, storage: S3Storage) -> None:
    server.script = [error(403, "RequestTimeTooSkewed"), Reply(206, b"x", headers={"ETag": '"abc"'})]

    assert await storage.read_range("a/b/c", 0, 1) == b"x"
    assert len(server.asked) == 2


async def test_deleting_what_is_absent_is_success(server: Server, storage: S3Storage) -> None:
    server.script = [Reply(204)]

    assert (await storage.delete("a/b/c")).existed is None


# --- no answer ----------------------------------------------------------------------------------------------------


async def test_a_server_that_does_not_answer_is_given_up_on(server: Server, hasty: S3Storage, source: Path) -> None:
    server.script = [Reply(hangs=True)]

    for call in (hasty.head("a/b/c"), hasty.store("a/b/c", source), hasty.read_range("a/b/c", 0, 1)):
        with pytest.raises(StorageTransient):
            await call


async def test_a_server_that_is_not_there_is_transient(server: Server, tmp_path: Path) -> None:
    storage = storage_on(server, endpoint_url="http://127.0.0.1:1")

    with pytest.raises(StorageTransient):
        await storage.head("a/b/c")
    await storage.close()


async def test_a_body_cut_short_leaves_no_file(server: Server, storage: S3Storage, tmp_path: Path) -> None:
    server.script = [Reply(200, b"x" * 1000, {"ETag": '"abc"'}, promised=500_000)]

    with pytest.raises(StorageTransient):
        await storage.download("a/b/c", tmp_path / "deep" / "copy")

    assert files(tmp_path) == {"deep"}


async def test_a_body_that_stalls_leaves_no_file(server: Server, hasty: S3Storage, tmp_path: Path) -> None:
    server.script = [Reply(200, b"x" * 1000, {"ETag": '"abc"'}, promised=500_000, hangs=True)]

    with pytest.raises(StorageTransient):
        await hasty.download("a/b/c", tmp_path / "copy")
    with pytest.raises(StorageTransient):
        await hasty.read_range("a/b/c", 0, 5000)

    assert files(tmp_path) == set()


async def test_a_cancelled_download_ends_and_leaves_no_file(server: Server, storage: S3Storage, tmp_path: Path) -> None:
    server.script = [Reply(200, b"x" * 1000, {"ETag": '"abc"'}, promised=500_000, hangs=True)]
    download = asyncio.create_task(storage.download("a/b/c", tmp_path / "copy"))
    await until(lambda: server.asked, what="the download to begin")

    await cancelled(download, server)

    assert files(tmp_path) == set()


# --- conditions ---------------------------------------------------------------------------------------------------


async def test_a_failed_condition_says_which(server: Server, storage: S3Storage, tmp_path: Path, source: Path) -> None:
    server.script = [error(412, "PreconditionFailed")]

    with pytest.raises(ObjectChanged):
        await storage.download("a/b/c", tmp_path / "copy", if_match="abc")
    with pytest.raises(StorageConflict) as caught:
        await storage.store("a/b/c", source, if_absent=True)
    assert not isinstance(caught.value, ObjectChanged)


async def test_a_weak_or_quoted_etag_is_normalised(server: Server, storage: S3Storage) -> None:
    server.script = [Reply(200, headers={"ETag": 'W/"abc"'}), Reply(200, headers={"ETag": '"abc-2"'})]

    assert [(await storage.head("a/b/c")).etag for _ in range(2)] == ["abc", "abc-2"]


# --- parts --------------------------------------------------------------------------------------------------------

MD5 = hashlib.md5(b"", usedforsecurity=False).hexdigest()
STARTED = Reply(200, b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
PART = Reply(200, headers={"ETag": f'"{MD5}"'})
WHOLE_ETAG = f"{hashlib.md5(bytes.fromhex(MD5) * 3, usedforsecurity=False).hexdigest()}-3"


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts for the 1000 bytes of ``source``."""
    monkeypatch.setattr(parts, "MULTIPART_BYTES", 500)
    monkeypatch.setattr(parts, "PART_BYTES", 400)


def by_step(completed: Reply, *, part: Reply = PART, head: Reply | None = None) -> Callable[[str, str], Reply]:
    """Answer each step of a multipart upload by what it is."""

    def reply(method: str, path: str) -> Reply:
        if method == "POST":
            return STARTED if "uploads" in path else completed
        if method == "HEAD":
            return head or Reply(404)
        return Reply(204) if method == "DELETE" else part

    return reply


@pytest.mark.usefixtures("small_parts")
async def test_a_large_file_goes_up_in_parts(server: Server, storage: S3Storage, source: Path) -> None:
    done = f'<CompleteMultipartUploadResult><ETag>"{WHOLE_ETAG}"</ETag></CompleteMultipartUploadResult>'
    server.script = [by_step(Reply(200, done.encode()))]

    stored = await storage.store("a/b/c", source)

    assert (stored.size, stored.etag) == (1000, WHOLE_ETAG)
    assert sorted(path.split("partNumber=")[1][0] for method, path in server.asked if method == "PUT") == list("123")


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("completed", "part", "expected"),
    [
        (error(200, "InternalError"), PART, StorageTransient),
        (error(503, "SlowDown"), PART, StorageTransient),
        (error(412, "PreconditionFailed"), PART, StorageConflict),
        (error(404, "NoSuchUpload"), PART, StorageNotFound),
        (Reply(200), error(503, "SlowDown"), StorageTransient),
        (Reply(200), error(403, "AccessDenied"), StorageUnauthorized),
    ],
)
async def test_a_failed_multipart_upload_is_given_up(
    server: Server, storage: S3Storage, source: Path, completed: Reply, part: Reply, expected: type[StorageError]
) -> None:
    server.script = [by_step(completed, part=part)]

    with pytest.raises(expected):
        await storage.store("a/b/c", source, if_absent=True)

    assert [method for method, _ in server.asked].count("DELETE") == 1


@pytest.mark.usefixtures("small_parts")
async def test_an_upload_completed_by_a_lost_answer_is_success(
    server: Server, storage: S3Storage, source: Path
) -> None:
    there = Reply(200, headers={"ETag": f'"{WHOLE_ETAG}"'}, promised=1000)
    server.script = [by_step(error(404, "NoSuchUpload"), head=there)]

    assert (await storage.store("a/b/c", source)).etag == WHOLE_ETAG


@pytest.mark.usefixtures("small_parts")
async def test_a_cancelled_multipart_upload_is_given_up(server: Server, storage: S3Storage, source: Path) -> None:
    server.script = [STARTED, Reply(hangs=True), Reply(hangs=True), Reply(hangs=True), Reply(204)]
    upload = asyncio.create_task(storage.store("a/b/c", source))
    await until(lambda: "PUT" in [method for method, _ in server.asked], what="a part to be sent")

    await cancelled(upload, server)

    assert server.asked[-1][0] == "DELETE"
