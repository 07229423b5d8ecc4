"""What the holder of upload tickets can cost a local store: connections, bodies that stall, bytes on disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI

from rindle import plugins
from rindle.http.local import IsGone, local_router
from rindle.protocols import Presigned
from rindle.storage.local import MAX_PUT_BYTES, LocalStorage
from tests.contract.serving import listening, send_raw, serving
from tests.patience import PATIENCE_SECONDS, until

SECRET = "a secret of the tests, long enough to sign with"
MIB = 1024 * 1024
#: What the store writes at a time: after each so many bytes, all that were counted are on disk.
PIECE = 256 * 1024
CONNECTIONS = 60


@dataclass
class Sender:
    """A connection that has sent the beginning of a body."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, body: bytes) -> None:
        self.writer.write(body)
        await self.writer.drain()

    async def status(self) -> int:
        line = await asyncio.wait_for(self.reader.readline(), PATIENCE_SECONDS)
        return int(line.split()[1])

    def close(self) -> None:
        self.writer.close()


@pytest.fixture
def opened() -> Iterator[list[Sender]]:
    """All connections of a test, which are closed after it."""
    senders: list[Sender] = []
    yield senders
    for sender in senders:
        sender.close()


async def begin(grant: Presigned, size: int, first: bytes) -> Sender:
    """Announce a body of ``size`` bytes and send the first of them."""
    parts = urlsplit(grant.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    sender = Sender(reader, writer)
    head = f"PUT {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {size}\r\n\r\n"
    await sender.send(head.encode() + first)
    return sender


def temporary(storage: LocalStorage) -> list[int]:
    """Return the sizes of the files being written."""
    found = []
    for path in (storage.root / ".rindle" / "tmp").glob("*"):
        try:
            found.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return found


async def written(storage: LocalStorage, size: int) -> None:
    """Wait until so many bytes are on disk."""
    await until(lambda: sum(temporary(storage)) == size, what=f"{size} bytes to be written")


@asynccontextmanager
async def served(root: Path, *, is_gone: IsGone | None = None, **options: Any) -> AsyncIterator[LocalStorage]:
    """Serve a store whose idle limit, unless it is given, is longer than any pause of a busy machine."""
    options = {"body_idle_seconds": PATIENCE_SECONDS, **options}
    with listening() as (listener, address):
        storage = LocalStorage(root, base_url=address, secrets=[SECRET], **options)
        app = FastAPI()
        app.include_router(local_router(storage, is_gone=is_gone))
        with serving(app, listener):
            yield storage


async def test_sixty_connections_with_one_ticket_keep_one_body(tmp_path: Path, opened: list[Sender]) -> None:
    piece = b"x" * MIB
    async with served(tmp_path) as storage:
        grant = await storage.presigned_put("avatars/1/a", 600, max_bytes=8 * MIB)
        opened += [await begin(grant, 2 * MIB, piece) for _ in range(CONNECTIONS)]

        statuses = await asyncio.gather(*(sender.status() for sender in opened[:-1]))

        assert set(statuses) == {409}
        await until(lambda: len(temporary(storage)) == 1, what="one body to be left")
        assert sum(temporary(storage)) <= MIB
        await opened[-1].send(piece)
        assert await opened[-1].status() == 200
        assert (await storage.head("avatars/1/a")).size == 2 * MIB
        assert temporary(storage) == []


class Hook:
    """Says for each request whether its asset was deleted; the first call waits until it is released."""

    def __init__(self) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        self.calls = 0
        #: Number of the call that is told of a deleted asset.
        self.refused = 0

    def __call__(self, key: str) -> bool:
        self.calls += 1
        number = self.calls
        if number == 1:
            self.reached.set()
            assert self.released.wait(PATIENCE_SECONDS)
        return number == self.refused


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    """A hook that may answer as late as a test likes."""
    monkeypatch.setattr(plugins, "ANSWER_SECONDS", PATIENCE_SECONDS)
    made = Hook()
    yield made
    made.released.set()


async def test_an_older_request_whose_hook_answers_later_ends_no_newer_body(
    tmp_path: Path, opened: list[Sender], hook: Hook
) -> None:
    async with served(tmp_path, is_gone=hook) as storage:
        grant = await storage.presigned_put("avatars/1/a", 600)
        opened.append(await begin(grant, 5, b"older"))
        assert await asyncio.to_thread(hook.reached.wait, PATIENCE_SECONDS)
        opened.append(await begin(grant, 5, b"new"))
        await until(lambda: len(temporary(storage)) == 1, what="the newer body to begin")

        hook.released.set()

        assert await opened[0].status() == 409
        await opened[1].send(b"er")
        assert await opened[1].status() == 200
        assert await storage.read_range("avatars/1/a", 0, 10) == b"newer"


async def test_an_older_request_whose_hook_answers_later_replaces_no_newer_object(
    tmp_path: Path, opened: list[Sender], hook: Hook
) -> None:
    async with served(tmp_path, is_gone=hook) as storage:
        grant = await storage.presigned_put("avatars/1/a", 600, write_once=False)
        opened.append(await begin(grant, 5, b"older"))
        assert await asyncio.to_thread(hook.reached.wait, PATIENCE_SECONDS)
        opened.append(await begin(grant, 5, b"newer"))
        assert await opened[1].status() == 200

        hook.released.set()

        assert await opened[0].status() == 409
        assert await storage.read_range("avatars/1/a", 0, 10) == b"newer"


async def test_a_request_that_a_hook_refuses_ends_no_body(tmp_path: Path, opened: list[Sender], hook: Hook) -> None:
    hook.refused = 2
    hook.released.set()
    async with served(tmp_path, is_gone=hook) as storage:
        grant = await storage.presigned_put("avatars/1/a", 600)
        opened.append(await begin(grant, 5, b"fi"))
        await until(lambda: len(temporary(storage)) == 1, what="the body to begin")

        opened.append(await begin(grant, 5, b"other"))

        assert await opened[1].status() == 403
        await opened[0].send(b"rst")
        assert await opened[0].status() == 200
        assert await storage.read_range("avatars/1/a", 0, 10) == b"first"


async def test_bodies_of_other_tickets_go_on(tmp_path: Path, opened: list[Sender]) -> None:
    async with served(tmp_path) as storage:
        grants = [await storage.presigned_put(f"avatars/{number}/a", 600) for number in range(4)]
        opened += [await begin(grant, 6, b"one") for grant in grants]
        for sender in opened:
            await sender.send(b"two")

        assert [await sender.status() for sender in opened] == [200] * 4


async def test_a_body_that_stalls_is_given_up(tmp_path: Path, opened: list[Sender]) -> None:
    async with served(tmp_path, body_idle_seconds=0.3) as storage:
        opened.append(await begin(await storage.presigned_put("avatars/1/a", 600), 8 * MIB, b"x" * MIB))

        assert await opened[0].status() == 408
        await until(lambda: temporary(storage) == [], what="the stalled body to be removed")


async def test_unfinished_bodies_share_a_limit(tmp_path: Path, opened: list[Sender]) -> None:
    async with served(tmp_path, max_temporary_bytes=2 * MIB) as storage:
        first, second = [await storage.presigned_put(f"avatars/{number}/a", 600) for number in range(2)]
        opened.append(await begin(first, 2 * MIB, b""))
        for sent in range(PIECE, MIB + MIB // 2 + 1, PIECE):
            await opened[0].send(b"x" * PIECE)
            await written(storage, sent)

        opened.append(await begin(second, MIB, b"y" * MIB))

        assert await opened[1].status() == 507
        await until(lambda: len(temporary(storage)) == 1, what="the refused body to be removed")
        await opened[0].send(b"x" * (MIB // 2))
        assert await opened[0].status() == 200
        opened.append(await begin(second, MIB, b"y" * MIB))  # there is room now
        assert await opened[2].status() == 200


async def test_no_body_is_larger_than_one_put_of_s3(tmp_path: Path) -> None:
    async with served(tmp_path) as storage:
        for grant in (
            await storage.presigned_put("avatars/1/a", 600),
            await storage.presigned_put("avatars/1/a", 600, max_bytes=MAX_PUT_BYTES + 1),
        ):
            assert await send_raw("PUT", grant.url, {"Content-Length": str(MAX_PUT_BYTES + 1)}) == 413


@pytest.mark.parametrize("value", ["bytes 0-4/10", "bytes */10", "rubbish"])
async def test_a_part_is_not_stored_as_the_whole(tmp_path: Path, value: str) -> None:
    async with served(tmp_path) as storage:
        grant = await storage.presigned_put("avatars/1/a", 600)

        status = await send_raw("PUT", grant.url, {"Content-Length": "5", "Content-Range": value}, b"hello")

        assert status == 400
        assert (await storage.list_keys("")).objects == ()
