"""Streams that arrive in several requests, and objects that are joined: what the contract of stores does not cover."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from copy import copy
from pathlib import Path
from typing import Any, Protocol

import pytest

from rindle.errors import StorageNotFound, StorageTransient
from rindle.protocols import PartStreamState
from rindle.storage import part_files
from rindle.storage.local import LocalStorage
from rindle.storage.s3 import S3Storage, streams
from rindle.testing.storage_abilities import RecordedStream
from tests.patience import PATIENCE_SECONDS, until
from tests.servers.minio import MinioServer

MIB = 1024 * 1024
PART = 5 * MIB
WHOLE = "media/a/whole"
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
    monkeypatch.setattr(part_files, "CHECKPOINT_BYTES", MIB)
    if request.param == "local":
        found: OnDisk | OnMinio = OnDisk(tmp_path / "objects")
    else:
        found = OnMinio(request.getfixturevalue("minio"), request.getfixturevalue("bucket"))
    yield found
    await found.storage.close()


async def digest_of(store: Store, tmp_path: Path, key: str = WHOLE) -> str:
    path = await store.storage.download(key, tmp_path / "downloaded")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def joined(*bodies: bytes) -> str:
    return hashlib.sha256(b"".join(bodies)).hexdigest()


async def refused(state: PartStreamState, *, is_last: bool = False) -> None:
    """Record nothing, because the lease belongs to another request."""
    raise ConnectionAbortedError


async def test_bytes_arrive_while_those_before_are_recorded(store: Store, tmp_path: Path) -> None:
    stream, later = RecordedStream(store.storage, WHOLE), asyncio.Event()
    stream.length = len(stream.body)

    async def chunks() -> AsyncGenerator[bytes, None]:
        async for piece in stream.pieces(0, stream.part + 100):
            yield piece
        later.set()
        async for piece in stream.pieces(stream.part + 100):
            yield piece

    async def checkpoint(state: PartStreamState, *, is_last: bool = False) -> None:
        await asyncio.wait_for(later.wait(), PATIENCE_SECONDS)
        await stream.checkpoint(state, is_last=is_last)

    await stream.append(chunks(), checkpoint=checkpoint)
    await stream.complete()

    assert await digest_of(store, tmp_path) == joined(stream.body)
    assert (stream.ends.count(True), stream.ends[-1]) == (1, True)


async def test_a_record_that_fails_ends_a_stream_that_goes_on(store: Store) -> None:
    stream = RecordedStream(store.storage, WHOLE)

    async def endless() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x" * 100_000
            await asyncio.sleep(0)

    with pytest.raises(ConnectionAbortedError):
        await stream.append(endless(), checkpoint=refused)


async def test_what_is_being_recorded_when_a_request_is_cancelled_is_kept(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "GRACE_SECONDS", PATIENCE_SECONDS)
    stream, begun, later = RecordedStream(store.storage, WHOLE), asyncio.Event(), asyncio.Event()
    stream.length = len(stream.body)

    async def stalled() -> AsyncGenerator[bytes, None]:
        async for piece in stream.pieces(0, stream.part + 100):
            yield piece
        await asyncio.Event().wait()

    async def checkpoint(state: PartStreamState, *, is_last: bool = False) -> None:
        begun.set()
        await later.wait()
        await stream.checkpoint(state, is_last=is_last)

    request = asyncio.create_task(stream.append(stalled(), checkpoint=checkpoint))
    await begun.wait()
    request.cancel()
    await asyncio.sleep(0)
    later.set()
    with pytest.raises(asyncio.CancelledError):
        await request

    assert stream.state.offset == stream.part
    await stream.go_on()
    await stream.complete()
    assert await digest_of(store, tmp_path) == joined(stream.body)
    assert await store.left() == []


async def test_a_client_that_pauses_has_nothing_in_memory(tmp_path: Path) -> None:
    on_disk = OnDisk(tmp_path / "objects")
    stream = RecordedStream(on_disk.storage, WHOLE)
    file = tmp_path / "objects" / ".rindle" / "tus" / f"{stream.name}.part"

    async def is_written() -> bool:
        return file.exists() and file.read_bytes() == b"hello"

    async def pausing() -> AsyncGenerator[bytes, None]:
        yield b"hello"
        await until(is_written, what="the bytes to be written")

    await stream.append(pausing())
    await on_disk.storage.close()

    assert stream.state.offset == 5


async def test_a_process_that_stood_still_writes_into_no_file_that_others_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has lost its lease meanwhile, but not its open file. Another adapter stands for another process."""
    monkeypatch.setattr(part_files, "COMPLETION_SECONDS", 0.0)
    still, other = OnDisk(tmp_path), OnDisk(tmp_path)
    stream, stands, moves = RecordedStream(still.storage, WHOLE), asyncio.Event(), asyncio.Event()
    await stream.go_on(5)

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"WORLD" * part_files.BUFFER_BYTES  # written at once
        yield b"WORLD" * part_files.BUFFER_BYTES  # taken when the first is written
        stands.set()
        await moves.wait()
        yield b"LATE" * part_files.BUFFER_BYTES

    frozen = asyncio.create_task(stream.append(chunks(), checkpoint=refused))
    await stands.wait()

    stream.storage, stream.length = other.storage, 10
    with pytest.raises(StorageTransient):
        await stream.go_on(10)
    with pytest.raises(StorageTransient):
        await stream.complete()
    moves.set()
    with pytest.raises(ConnectionAbortedError):
        await frozen

    assert stream.state.offset == 5
    await stream.go_on(10)
    await stream.complete()
    assert await digest_of(other, tmp_path) == joined(stream.body[:10])
    for store in (still, other):
        await store.storage.close()


async def test_a_process_that_stood_still_before_it_opened_the_file_cuts_nothing_off(tmp_path: Path) -> None:
    """Its state is older than what another process has recorded meanwhile."""
    store = OnDisk(tmp_path)
    stream = RecordedStream(store.storage, WHOLE, length=20)
    await stream.go_on(5)
    late = copy(stream)
    await stream.go_on(10)

    with pytest.raises(ConnectionAbortedError):
        await late.append(late.pieces(5, 8), checkpoint=refused)

    await stream.go_on(20)
    await stream.complete()
    assert await digest_of(store, tmp_path) == joined(stream.body[:20])
    await store.storage.close()


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

    made = await store.storage.concatenate(WHOLE, keys)

    assert made.size == sum(len(bodies[key]) for key in keys)
    assert await digest_of(store, tmp_path) == joined(*(bodies[key] for key in keys))
    assert all([(await store.storage.head(key)).size == len(body) for key, body in bodies.items()])


async def test_a_join_that_is_repeated_leaves_the_object_alone(store: Store, tmp_path: Path) -> None:
    """A worker that was given up may still join when another one has made the object, which is verified by then."""
    source = tmp_path / "source"
    source.write_bytes(BODY)
    await store.storage.store("media/a/one", source)
    first = await store.storage.concatenate(WHOLE, ["media/a/one", "media/a/one"])
    before = await store.storage.head(WHOLE)

    assert await store.storage.concatenate(WHOLE, ["media/a/one", "media/a/one"]) == first

    assert await store.storage.head(WHOLE) == before
    assert await store.left() == []


async def test_a_join_without_its_source_leaves_nothing(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"abc")
    await store.storage.store("media/a/one", source)

    with pytest.raises(StorageNotFound):
        await store.storage.concatenate(WHOLE, ["media/a/one", "media/a/two"])

    with pytest.raises(StorageNotFound):
        await store.storage.head(WHOLE)
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

    await found.storage.concatenate(WHOLE, ["media/a/one", "media/a/one"])

    with minio.client() as client:
        whole = client.head_object(Bucket=bucket, Key="pre/fix/media/a/whole")
        parts = [
            client.head_object(Bucket=bucket, Key="pre/fix/media/a/whole", PartNumber=number)["ContentLength"]
            for number in range(1, int(whole["ETag"].strip('"').rpartition("-")[2]) + 1)
        ]
    assert parts == [PART] * (2 * len(BODY) // PART) + [2 * len(BODY) % PART]
    assert await digest_of(found, tmp_path) == joined(BODY, BODY)
    await found.storage.close()
