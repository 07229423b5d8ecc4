"""Streams that arrive in several requests, and objects that are joined: on disk and on MinIO."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol

import pytest

from rindle.db.models import new_id
from rindle.errors import StorageNotFound, StorageTransient, TusTailMissing
from rindle.protocols import Checkpoint, PartStreamState
from rindle.storage import part_files
from rindle.storage.local import LocalStorage
from rindle.storage.s3 import S3Storage, streams
from tests.patience import PATIENCE_SECONDS, until
from tests.servers.minio import MinioServer

MIB = 1024 * 1024
PART = 5 * MIB
BODY = os.urandom(2 * PART + 70_000)
ON_MINIO = pytest.param("s3", marks=pytest.mark.external)


class Store(Protocol):
    """A store with the abilities, and a look at what it keeps beside its objects."""

    storage: Any

    async def left(self) -> list[str]: ...


class OnDisk:
    def __init__(self, directory: Path) -> None:
        self.storage = LocalStorage(directory, fsync=False)
        self._streams = directory / ".rindle" / "tus"

    async def left(self) -> list[str]:
        return sorted(path.name for path in self._streams.glob("*"))


class OnMinio:
    def __init__(self, server: MinioServer, bucket: str, **options: Any) -> None:
        self.bucket = bucket
        self.storage = S3Storage(
            bucket,
            access_key_id=server.access_key,
            secret_access_key=server.secret_key,
            key_prefix="pre/fix",
            endpoint_url=server.endpoint_url,
            **options,
        )
        self.server = server

    async def left(self) -> list[str]:
        """Return the tails and the unfinished uploads."""
        with self.server.client() as client:
            found = client.list_objects_v2(Bucket=self.bucket, Prefix="pre/fix/.rindle/").get("Contents", ())
            tails = [one["Key"].rpartition("/")[2] for one in found]
            for key in ("media/a/whole", "media/a/one", "media/a/two"):
                uploads = client.list_multipart_uploads(Bucket=self.bucket, Prefix=f"pre/fix/{key}")
                tails += [one["Key"] for one in uploads.get("Uploads", ())]
        return sorted(tails)


@pytest.fixture
def bucket(minio: MinioServer) -> str:
    return minio.new_bucket()


@pytest.fixture(params=["local", ON_MINIO])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    monkeypatch.setattr(streams, "PART_BYTES", PART)
    monkeypatch.setattr(part_files, "CHECKPOINT_BYTES", PART)
    if request.param == "local":
        found: OnDisk | OnMinio = OnDisk(tmp_path / "objects")
    else:
        found = OnMinio(request.getfixturevalue("minio"), request.getfixturevalue("bucket"))
    yield found
    await found.storage.close()


class Recorded:
    """A row that keeps the newest state."""

    def __init__(self, storage: Any, length: int | None = len(BODY)) -> None:
        self.state = PartStreamState(part_size=storage.part_size_for(length or 3 * PART))
        self.length = length
        self.name = new_id()
        self.ends: list[bool] = []

    async def checkpoint(self, state: PartStreamState, *, is_last: bool = False) -> None:
        assert state.offset >= self.state.offset
        self.state = state
        self.ends.append(is_last)


async def pieces(body: bytes, *, failing: bool = False, size: int = MIB) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
    if failing:
        raise ConnectionResetError


async def append(
    store: Store, row: Recorded, body: bytes, *, failing: bool = False, checkpoint: Checkpoint | None = None
) -> None:
    async with aclosing(pieces(body, failing=failing)) as chunks:
        await store.storage.append_part_stream(
            "media/a/whole", row.name, chunks, row.state, length=row.length, checkpoint=checkpoint or row.checkpoint
        )


async def digest_of(store: Store, tmp_path: Path, key: str = "media/a/whole") -> str:
    path = await store.storage.download(key, tmp_path / "downloaded")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def joined(*bodies: bytes) -> str:
    return hashlib.sha256(b"".join(bodies)).hexdigest()


CUTS = {
    "once": (),
    "in the first part": (1, 100_000),
    "at the end of a part": (PART, 2 * PART),
    "around the end of a part": (PART - 1, PART, PART + 1),
    "in the last part": (2 * PART + 1, len(BODY) - 1),
}


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS.keys())
async def test_a_stream_that_breaks_off_is_continued(store: Store, tmp_path: Path, cuts: Iterable[int]) -> None:
    row = Recorded(store.storage)
    for end in cuts:
        with pytest.raises(ConnectionResetError):
            await append(store, row, BODY[row.state.offset : end], failing=True)
        assert row.state.offset == end
    await append(store, row, BODY[row.state.offset :])
    assert row.state.offset == len(BODY)
    assert row.ends[-1]
    with pytest.raises(StorageNotFound):
        await store.storage.head("media/a/whole")

    for _ in range(2):  # the second call finds the object that the first has made
        made = await store.storage.complete_part_stream("media/a/whole", row.name, row.state)
        assert made.size == len(BODY)

    assert await digest_of(store, tmp_path) == joined(BODY)
    assert await store.left() == []


async def test_an_object_that_is_made_several_times_at_once_is_one(store: Store) -> None:
    row = Recorded(store.storage)
    await append(store, row, BODY)
    complete = store.storage.complete_part_stream

    made = await asyncio.gather(*(complete("media/a/whole", row.name, row.state) for _ in range(4)))

    assert {one.etag for one in made} == {(await store.storage.head("media/a/whole")).etag}
    assert await store.left() == []


async def test_the_last_byte_is_recorded_once_at_the_end(store: Store) -> None:
    row = Recorded(store.storage, length=2 * PART)

    await append(store, row, BODY[: 2 * PART])

    assert row.state.offset == 2 * PART
    assert row.ends.count(True) == 1
    assert row.ends[-1]


async def test_a_length_that_is_known_late_ends_the_stream_without_a_byte(store: Store, tmp_path: Path) -> None:
    row = Recorded(store.storage, length=None)
    await append(store, row, BODY[:100])
    row.length = 100

    await append(store, row, b"")
    await store.storage.complete_part_stream("media/a/whole", row.name, row.state)

    assert await digest_of(store, tmp_path) == joined(BODY[:100])
    assert await store.left() == []


async def test_an_empty_stream_becomes_an_empty_object(store: Store, tmp_path: Path) -> None:
    row = Recorded(store.storage, length=0)

    await append(store, row, b"")
    made = await store.storage.complete_part_stream("media/a/whole", row.name, row.state)

    assert made.size == 0
    assert await digest_of(store, tmp_path) == joined(b"")


@pytest.mark.parametrize("size", [0, 100, PART + 100])
async def test_an_aborted_stream_leaves_nothing(store: Store, size: int) -> None:
    row = Recorded(store.storage)
    await append(store, row, BODY[:size])

    for _ in range(2):
        await store.storage.abort_part_stream("media/a/whole", row.name, row.state)

    assert await store.left() == []


async def test_what_was_not_recorded_is_not_kept(store: Store, tmp_path: Path) -> None:
    row = Recorded(store.storage)
    await append(store, row, BODY[:PART])

    async def refuse(state: PartStreamState, *, is_last: bool = False) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await append(store, row, bytes(2 * PART), checkpoint=refuse)
    await append(store, row, BODY[PART:])
    await store.storage.complete_part_stream("media/a/whole", row.name, row.state)

    assert await digest_of(store, tmp_path) == joined(BODY)
    assert await store.left() == []


async def test_bytes_arrive_while_those_before_are_recorded(store: Store, tmp_path: Path) -> None:
    row, later = Recorded(store.storage), asyncio.Event()

    async def body() -> AsyncGenerator[bytes, None]:
        async for piece in pieces(BODY[: PART + MIB]):
            yield piece
        later.set()
        async for piece in pieces(BODY[PART + MIB :]):
            yield piece

    async def checkpoint(state: PartStreamState, *, is_last: bool = False) -> None:
        await asyncio.wait_for(later.wait(), PATIENCE_SECONDS)
        await row.checkpoint(state, is_last=is_last)

    async with aclosing(body()) as chunks:
        await store.storage.append_part_stream(
            "media/a/whole", row.name, chunks, row.state, length=len(BODY), checkpoint=checkpoint
        )
    await store.storage.complete_part_stream("media/a/whole", row.name, row.state)

    assert await digest_of(store, tmp_path) == joined(BODY)
    assert (row.ends.count(True), row.ends[-1]) == (1, True)


async def test_a_record_that_fails_ends_a_stream_that_goes_on(store: Store) -> None:
    row = Recorded(store.storage, length=None)

    async def endless() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x" * 100_000
            await asyncio.sleep(0)

    async def refuse(state: PartStreamState, *, is_last: bool = False) -> None:
        raise TimeoutError

    async with aclosing(endless()) as chunks:
        with pytest.raises(TimeoutError):
            await store.storage.append_part_stream(
                "media/a/whole", row.name, chunks, row.state, length=None, checkpoint=refuse
            )


async def test_what_is_being_recorded_when_a_request_is_cancelled_is_kept(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "GRACE_SECONDS", PATIENCE_SECONDS)
    row, begun, later = Recorded(store.storage), asyncio.Event(), asyncio.Event()

    async def stalled() -> AsyncGenerator[bytes, None]:
        async for piece in pieces(BODY[: PART + MIB]):
            yield piece
        await asyncio.Event().wait()

    async def checkpoint(state: PartStreamState, *, is_last: bool = False) -> None:
        begun.set()
        await later.wait()
        await row.checkpoint(state, is_last=is_last)

    request = asyncio.create_task(
        store.storage.append_part_stream(
            "media/a/whole", row.name, stalled(), row.state, length=len(BODY), checkpoint=checkpoint
        )
    )
    await begun.wait()
    request.cancel()
    await asyncio.sleep(0)
    later.set()
    with pytest.raises(asyncio.CancelledError):
        await request

    assert row.state.offset == PART
    await append(store, row, BODY[PART:])
    await store.storage.complete_part_stream("media/a/whole", row.name, row.state)
    assert await digest_of(store, tmp_path) == joined(BODY)
    assert await store.left() == []


async def test_a_client_that_pauses_has_nothing_in_memory(tmp_path: Path) -> None:
    on_disk = OnDisk(tmp_path / "objects")
    row = Recorded(on_disk.storage)
    file = tmp_path / "objects" / ".rindle" / "tus" / f"{row.name}.part"

    async def is_written() -> bool:
        return file.exists() and file.read_bytes() == b"hello"

    async def pausing() -> AsyncGenerator[bytes, None]:
        yield b"hello"
        await until(is_written, what="the bytes to be written")

    async with aclosing(pausing()) as chunks:
        await on_disk.storage.append_part_stream(
            "media/a/whole", row.name, chunks, row.state, length=len(BODY), checkpoint=row.checkpoint
        )
    await on_disk.storage.close()

    assert row.state.offset == 5


async def test_a_process_that_stood_still_writes_into_no_file_that_others_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has lost its lease meanwhile, but not its open file. Another adapter stands for another process."""
    monkeypatch.setattr(part_files, "COMPLETION_SECONDS", 0.0)
    still, other = OnDisk(tmp_path), OnDisk(tmp_path)
    row, stands, moves = Recorded(still.storage, length=10), asyncio.Event(), asyncio.Event()
    await append(still, row, b"hello")

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"WORLD" * part_files.BUFFER_BYTES  # written at once
        yield b"WORLD" * part_files.BUFFER_BYTES  # taken when the first is written
        stands.set()
        await moves.wait()
        yield b"LATE" * part_files.BUFFER_BYTES

    async def refused(state: PartStreamState, *, is_last: bool = False) -> None:
        raise ConnectionAbortedError("the lease belongs to another request")

    frozen = asyncio.create_task(
        still.storage.append_part_stream(
            "media/a/whole", row.name, chunks(), row.state, length=None, checkpoint=refused
        )
    )
    await stands.wait()

    with pytest.raises(StorageTransient):
        await append(other, row, b"world")
    with pytest.raises(StorageTransient):
        await other.storage.complete_part_stream("media/a/whole", row.name, row.state)
    moves.set()
    with pytest.raises(ConnectionAbortedError):
        await frozen

    assert row.state.offset == 5
    await append(other, row, b"world")
    await other.storage.complete_part_stream("media/a/whole", row.name, row.state)
    assert await digest_of(other, tmp_path) == joined(b"helloworld")
    for store in (still, other):
        await store.storage.close()


async def test_lost_bytes_are_never_replaced_by_nothing(store: Store) -> None:
    row = Recorded(store.storage)
    await append(store, row, BODY[:100])
    await store.storage.abort_part_stream("media/a/whole", row.name, row.state)

    with pytest.raises((StorageNotFound, TusTailMissing)):
        await append(store, row, BODY[100:])

    assert row.state.offset == 100


SIZES = {
    "small": (100, 200),
    "large": (PART, PART + 1, 7),
    "small and large": (3, PART + 1, 0, 7),
    "empty": (0, 0),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
async def test_objects_are_joined_in_their_order(store: Store, tmp_path: Path, sizes: tuple[int, ...]) -> None:
    bodies = {f"media/a/{number}": os.urandom(size) for number, size in enumerate(sizes)}
    for key, body in bodies.items():
        source = tmp_path / "source"
        source.write_bytes(body)
        await store.storage.store(key, source)
    keys = [*bodies, next(iter(bodies))]

    made = await store.storage.concatenate("media/a/whole", keys)

    assert made.size == sum(len(bodies[key]) for key in keys)
    assert await digest_of(store, tmp_path) == joined(*(bodies[key] for key in keys))
    assert all([(await store.storage.head(key)).size == len(body) for key, body in bodies.items()])


async def test_a_join_that_is_repeated_leaves_the_object_alone(store: Store, tmp_path: Path) -> None:
    """A worker that was given up may still join when another one has made the object, which is verified by then."""
    source = tmp_path / "source"
    source.write_bytes(BODY)
    await store.storage.store("media/a/one", source)
    first = await store.storage.concatenate("media/a/whole", ["media/a/one", "media/a/one"])
    before = await store.storage.head("media/a/whole")

    assert await store.storage.concatenate("media/a/whole", ["media/a/one", "media/a/one"]) == first

    assert await store.storage.head("media/a/whole") == before
    assert await store.left() == []


async def test_a_join_without_its_source_leaves_nothing(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"abc")
    await store.storage.store("media/a/one", source)

    with pytest.raises(StorageNotFound):
        await store.storage.concatenate("media/a/whole", ["media/a/one", "media/a/two"])

    with pytest.raises(StorageNotFound):
        await store.storage.head("media/a/whole")
    assert await store.left() == []


@pytest.mark.external
async def test_a_store_that_wants_parts_of_one_size_gets_them(
    minio: MinioServer, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PART_BYTES", PART)
    found = OnMinio(minio, bucket, uniform_parts=True)
    source = tmp_path / "source"
    source.write_bytes(BODY)
    await found.storage.store("media/a/one", source)

    await found.storage.concatenate("media/a/whole", ["media/a/one", "media/a/one"])

    with minio.client() as client:
        whole = client.head_object(Bucket=bucket, Key="pre/fix/media/a/whole")
        parts = [
            client.head_object(Bucket=bucket, Key="pre/fix/media/a/whole", PartNumber=number)["ContentLength"]
            for number in range(1, int(whole["ETag"].strip('"').rpartition("-")[2]) + 1)
        ]
    assert parts == [PART] * (2 * len(BODY) // PART) + [2 * len(BODY) % PART]
    assert await digest_of(found, tmp_path) == joined(BODY, BODY)
    await found.storage.close()
