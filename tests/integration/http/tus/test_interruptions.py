"""What becomes of the bytes of requests that end early, or that meet another request for the same upload."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from rindle import MediaUploadSession
from rindle.db import streams as rows
from rindle.db.models import utc_now
from rindle.http.tus import tus_router
from rindle.storage.local import LocalStorage
from rindle.uploads import backing
from tests.integration.http.tus.conftest import Mount
from tests.patience import PATIENCE_SECONDS, until
from tests.tus import BYTES, SECRET, TusClient, assembled, checksum, session_of


class Sender:
    """A PATCH whose body a test sends piece by piece."""

    def __init__(self, app: FastAPI, url: str, offset: int, length: int = 10, **headers: str) -> None:
        self._messages: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.status: int | None = None
        sent = {
            "tus-resumable": "1.0.0",
            "upload-offset": str(offset),
            "content-type": BYTES,
            "content-length": str(length - offset),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "PATCH",
            "scheme": "http",
            "path": url,
            "raw_path": url.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": ("127.0.0.1", 1),
            "server": ("files.test", 80),
        }
        self.task = asyncio.ensure_future(app(scope, self._messages.get, self._note))

    async def _note(self, message: MutableMapping[str, Any]) -> None:
        self.status = message.get("status", self.status)

    def send(self, body: bytes, *, more: bool = True) -> None:
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def disconnect(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def taken(self) -> None:
        """Wait until everything that was sent is read."""

        async def empty() -> bool:
            return self._messages.empty()

        await until(empty, what="the body to be read")


@asynccontextmanager
async def sending(mount: Mount, url: str, body: bytes, **headers: str) -> AsyncIterator[Sender]:
    """Send some bytes of a body of ten, and leave the request open."""
    sender = Sender(mount.app, url, 0, **headers)
    sender.send(body)

    async def is_held() -> bool:
        return (await mount.row(url)).lock_owner is not None

    await until(is_held, what="the request to have the upload")
    await sender.taken()
    yield sender
    sender.task.cancel()
    await asyncio.wait([sender.task])


@asynccontextmanager
async def other_process(mount: Mount) -> AsyncIterator[TusClient]:
    """Yield a client of another router on the same rows: it knows nothing of the requests of the first one."""
    app = FastAPI()
    app.mount("/files", tus_router(mount.rindle, profile="plain", secrets=[SECRET], allow_anonymous=True))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://files.test") as client:
        yield TusClient(mount.rindle, client)


async def set_session(mount: Mount, url: str, **values: object) -> None:
    """Write columns of an upload, as if it had come to that."""

    def write(session: Session) -> None:
        session.execute(update(MediaUploadSession).where(MediaUploadSession.id == session_of(url)).values(**values))

    await mount.rindle.database.write(write)


async def test_bytes_before_a_disconnection_are_kept(mount: Mount) -> None:
    url = await mount.create(10)
    async with sending(mount, url, b"hello") as sender:
        sender.disconnect()
        await sender.task

    row = await mount.row(url)
    assert (row.state, row.last_known_offset, row.lock_owner) == ("uploading", 5, None)
    assert (await mount.patch(url, 5, b"world")).status_code == 204
    assert (mount.media / (await mount.assembled(url)).upload_key).read_bytes() == b"helloworld"


async def test_bytes_before_the_end_of_a_server_are_kept(mount: Mount) -> None:
    url = await mount.create(10)
    async with sending(mount, url, b"hello") as sender:
        sender.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sender.task

    assert await mount.offset(url) == 5


async def test_a_silent_client_counts_as_disconnected(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    url = await mount.create(10)
    monkeypatch.setattr("rindle.http.streams.body.IDLE_SECONDS", 0.05)
    sender = Sender(mount.app, url, 0)
    sender.send(b"hello")
    await sender.task

    assert sender.status == 503
    assert await mount.offset(url) == 5


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["same process", "other process"])
async def test_a_newer_request_ends_an_older_one_whose_bytes_count(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, is_elsewhere: bool
) -> None:
    monkeypatch.setattr("rindle.uploads.leases.WATCH_SECONDS", 0.02)
    url = await mount.create(10)
    async with other_process(mount) as other, sending(mount, url, b"hello") as sender:
        newcomer: TusClient = other if is_elsewhere else mount
        assert await newcomer.offset(url) == 5
        await sender.task
        assert sender.status == 423

        assert (await newcomer.patch(url, 5, b"world")).status_code == 204

    assert (mount.media / (await mount.assembled(url)).upload_key).read_bytes() == b"helloworld"


async def test_an_older_request_with_a_checksum_adds_nothing_after_a_newer_one(mount: Mount) -> None:
    url = await mount.create(10)
    async with sending(mount, url, b"hello", upload_checksum=checksum(b"helloworld")) as sender:
        assert await mount.offset(url) == 0
        sender.send(b"world", more=False)
        await sender.task
        assert sender.status == 423

    assert await mount.offset(url) == 0
    assert (await mount.patch(url, 0, b"helloworld", upload_checksum=checksum(b"helloworld"))).status_code == 204


async def test_two_patches_at_one_offset_do_not_both_count(mount: Mount) -> None:
    url = await mount.create(10)
    async with sending(mount, url, b"hello") as sender:
        answer = await mount.patch(url, 0, b"WORLD")
        await sender.task

    assert (answer.status_code, sender.status) == (409, 423)
    assert answer.json()["error"]["detail"] == {"server": 5, "client": 0}
    await mount.patch(url, 5, b"world")
    assert (mount.media / (await mount.assembled(url)).upload_key).read_bytes() == b"helloworld"


async def test_a_holder_that_does_not_yield_is_waited_for_and_then_loses_the_upload(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await mount.create(10, b"hello")
    known = rows.Stream(await mount.row(url), None)
    taken = await mount.rindle.database.write(
        rows.take_lease, known, "a dead process", seconds=30.0, yield_seconds=10.0
    )
    assert taken[1]
    monkeypatch.setattr("rindle.uploads.leases.WAIT_SECONDS", 0.0)

    answer = await mount.call("HEAD", url)
    assert (answer.status_code, answer.headers["retry-after"]) == (423, "1")
    row = await mount.row(url)
    assert row.lock_yield
    assert row.lock_expires_at is not None
    assert row.lock_expires_at <= utc_now() + timedelta(seconds=10)
    await set_session(mount, url, lock_expires_at=utc_now())

    assert await mount.offset(url) == 5


async def test_a_holder_that_lost_the_upload_records_nothing(mount: Mount) -> None:
    url = await mount.create(10)
    async with sending(mount, url, b"hello") as sender:
        await set_session(mount, url, lock_owner="somebody else", lock_expires_at=utc_now() + timedelta(minutes=1))
        sender.send(b"world", more=False)
        await sender.task
        assert sender.status == 423

    row = await mount.row(url)
    assert (row.last_known_offset, row.lock_owner) == (0, "somebody else")


@pytest.mark.parametrize("is_moved", [False, True], ids=["complete", "moved to its object"])
async def test_a_holder_that_stood_still_leaves_an_upload_alone_that_another_one_completed(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, is_moved: bool
) -> None:
    url = await mount.create(10, b"hello")
    append, stands, moves = LocalStorage.append_part_stream, asyncio.Event(), asyncio.Event()

    async def stand_still(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        stands.set()
        await moves.wait()
        return await append(*args, **kwargs)

    monkeypatch.setattr(LocalStorage, "append_part_stream", stand_still)
    frozen = asyncio.create_task(mount.patch(url, 5, b"WORLD"))
    await stands.wait()
    await set_session(mount, url, lock_expires_at=utc_now())
    assert (await mount.patch(url, 5, b"world")).status_code == 204
    [file] = (mount.media / ".rindle" / "tus").iterdir()
    if is_moved:
        file = file.rename(mount.media / "moved")
    moves.set()

    assert (await frozen).status_code == 423
    row = await mount.row(url)
    assert (row.state, row.last_known_offset) == ("uploaded", 10)
    assert file.read_bytes() == b"helloworld"


async def test_an_upload_is_terminated_while_bytes_arrive(mount: Mount) -> None:
    url = await mount.create(10)
    async with sending(mount, url, b"hello") as sender:
        assert (await mount.call("DELETE", url)).status_code == 204
        await sender.task
        assert sender.status == 423

    assert mount.files() == set()
    assert (await mount.row(url)).state == "aborted"
    assert (await mount.patch(url, 5, b"world")).status_code == 410


async def test_an_upload_that_is_cancelled_while_bytes_arrive_leaves_none(mount: Mount) -> None:
    url = await mount.create(10)
    async with sending(mount, url, b"hello") as sender:
        row = await mount.row(url)
        await mount.rindle.cancel_upload(row.id)
        await backing.release(mount.rindle.services, row)  # what its workflow does
        sender.send(b"world", more=False)
        await sender.task
        assert sender.status == 410

    assert mount.files() == set()
    row = await mount.row(url)
    assert (row.state, row.last_known_offset) == ("aborted", 0)


async def test_bytes_that_may_be_on_their_way_to_the_object_are_left_to_the_workflow(mount: Mount) -> None:
    url = await mount.create(3, b"abc")

    assert (await mount.call("DELETE", url)).status_code == 204
    row = await mount.row(url)
    assert (row.state, row.backing_released_at) == ("aborted", None)
    await mount.assembled(url)  # too late: the object is not made
    assert not (mount.media / row.upload_key).exists()
    await backing.release(mount.rindle.services, row)

    assert mount.files() == set()


async def test_a_partial_upload_is_kept_while_another_one_is_made_of_it(mount: Mount) -> None:
    part = await mount.create(3, b"abc", upload_concat="partial")
    made = await mount.call("POST", upload_concat=f"final;{part}")
    assert made.status_code == 201

    assert (await mount.call("DELETE", part)).status_code == 423
    await set_session(mount, part, expires_at=utc_now())
    assert not (await mount.rindle.database.write(rows.expire_stream, session_of(part)))[1]

    row = await mount.assembled(made.headers["location"])
    assert (mount.media / row.upload_key).read_bytes() == b"abc"
    assert (await mount.row(part)).state == "aborted"


async def test_lost_bytes_end_the_upload(mount: Mount) -> None:
    url = await mount.create(10, b"hello")
    [name] = mount.files()
    (mount.media / ".rindle" / "tus" / name).write_bytes(b"he")

    answer = await mount.patch(url, 5, b"world")

    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "tus_session_expired")
    row = await mount.row(url)
    assert (row.state, row.error_code) == ("failed", "storage_not_found")
    assert (await mount.call("HEAD", url)).status_code == 410


async def test_bytes_beyond_the_recorded_offset_are_dropped(mount: Mount) -> None:
    url = await mount.create(10, b"hello")
    [name] = mount.files()
    with (mount.media / ".rindle" / "tus" / name).open("ab") as file:
        file.write(b"of a process that was killed")

    await mount.patch(url, 5, b"world")

    assert (mount.media / (await mount.assembled(url)).upload_key).read_bytes() == b"helloworld"


async def test_an_upload_whose_last_request_did_not_end_is_completed_by_the_next_look(mount: Mount) -> None:
    url = await mount.create(None, b"hello")
    await set_session(mount, url, upload_length=5)

    assert await mount.offset(url) == 5

    assert (await mount.row(url)).state == "uploaded"
    assert (mount.media / (await mount.assembled(url)).upload_key).read_bytes() == b"hello"


async def test_an_upload_ends_with_its_expiry(mount: Mount) -> None:
    url = await mount.create(10, b"hello")
    await set_session(mount, url, expires_at=utc_now())

    assert [(await mount.call(method, url)).status_code for method in ("HEAD", "DELETE")] == [410, 410]
    assert (await mount.patch(url, 5, b"world")).status_code == 410


async def test_bytes_extend_an_upload_to_seven_days_at_most(mount: Mount) -> None:
    url = await mount.create(10, b"hello")
    before = await mount.row(url)
    await set_session(mount, url, expires_at=utc_now() + timedelta(seconds=PATIENCE_SECONDS))
    assert (await mount.patch(url, 5, b"w")).status_code == 204
    assert (await mount.row(url)).expires_at >= before.expires_at

    await set_session(mount, url, inserted_at=before.inserted_at - timedelta(days=6, hours=23))
    await set_session(mount, url, expires_at=utc_now() + timedelta(seconds=PATIENCE_SECONDS))
    assert (await mount.patch(url, 6, b"o")).status_code == 204

    left = (await mount.row(url)).expires_at - utc_now()
    assert timedelta(minutes=50) < left <= timedelta(hours=1)


async def test_a_database_that_fails_at_the_commit_loses_nothing(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    url = await mount.create(10, b"he")
    commit_state, fails = rows.commit_state, True

    def failing(*args: Any, **kwargs: Any) -> Any:
        if fails:
            raise OperationalError("update", None, ConnectionError("the database is away"))
        return commit_state(*args, **kwargs)

    monkeypatch.setattr(rows, "commit_state", failing)
    answer = await mount.patch(url, 2, b"llo")
    assert answer.status_code == 503
    fails = False

    assert await mount.offset(url) == 2
    assert (await mount.patch(url, 2, b"lloworld")).status_code == 204
    assert (mount.media / (await mount.assembled(url)).upload_key).read_bytes() == b"helloworld"


async def test_a_store_that_fails_is_told_from_a_broken_upload(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    url = await mount.create(10, b"hello")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("rindle.storage.part_files.os.writev", fail)
        answer = await mount.patch(url, 5, b"world")
    assert answer.status_code >= 500
    assert (await mount.row(url)).state == "uploading"

    assert await mount.offset(url) == 5
    assert (await mount.patch(url, 5, b"world")).status_code == 204
    assert (mount.media / (await mount.assembled(url)).upload_key).read_bytes() == b"helloworld"


async def test_sources_that_a_lost_worker_did_not_release_are_released_by_the_next(mount: Mount) -> None:
    part = await mount.create(3, b"abc", upload_concat="partial")
    made = await mount.call("POST", upload_concat=f"final;{part}")
    row = await mount.assembled(made.headers["location"])
    await set_session(mount, part, state="uploaded", failure_reason=None)

    await assembled(mount.rindle.services, row.id)

    source = await mount.row(part)
    assert (source.state, source.failure_reason) == ("aborted", "concatenated")
