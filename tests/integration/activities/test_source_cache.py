from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from rindle.activities.source_cache import SourceCache
from rindle.errors import ObjectChanged, StorageNotFound, StorageTransient
from rindle.protocols import ObjectHead, Storage
from rindle.storage.local import LocalStorage
from rindle.storage.memory import MemoryStorage
from tests.patience import PATIENCE_SECONDS, until

ROOT = Path(__file__).parents[3]
KEY = "photos/018f/original.jpg"
BODY = b"0123456789" * 1000


class CountingStorage(MemoryStorage):
    """Memory storage that counts its downloads and can be told to hold them, spoil them or fail them."""

    def __init__(self) -> None:
        super().__init__()
        self.downloads = 0
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.cut_to: int | None = None
        self.failures: list[Exception] = []

    async def download(
        self, key: str, dest: Path, *, max_bytes: int | None = None, if_match: str | None = None
    ) -> Path:
        self.downloads += 1
        dest.parent.mkdir(parents=True, exist_ok=True)
        dest.with_name("draft of the adapter").write_bytes(b"half")
        self.started.set()
        await self.go_on.wait()
        if self.failures:
            raise self.failures.pop(0)
        await super().download(key, dest, max_bytes=max_bytes, if_match=if_match)
        if self.cut_to is not None:
            os.truncate(dest, self.cut_to)
        return dest


@pytest.fixture
def storage() -> CountingStorage:
    return CountingStorage()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
async def cache(directory: Path) -> AsyncIterator[SourceCache]:
    cache = SourceCache(directory)
    yield cache
    await cache.close()


#: Stores an object: its ETag.
Put = Callable[..., Awaitable[str]]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    async def put(storage: Storage, key: str = KEY, body: bytes = BODY) -> str:
        path = tmp_path / "upload"
        path.write_bytes(body)
        return (await storage.store(key, path)).etag

    return put


def leftovers(directory: Path) -> list[str]:
    """Everything in the cache besides locks."""
    return [path.name for path in directory.iterdir() if path.suffix != ".lock"] if directory.is_dir() else []


async def test_one_download_serves_every_reader(
    storage: CountingStorage, cache: SourceCache, put: Put, directory: Path
) -> None:
    etag = await put(storage)
    storage.go_on.clear()

    async def read() -> bytes:
        async with cache.open_local(storage, "main", KEY, etag, len(BODY)) as path:
            return path.read_bytes()

    readers = [asyncio.create_task(read()) for _ in range(20)]
    await storage.started.wait()
    storage.go_on.set()
    assert await asyncio.gather(*readers) == [BODY] * 20
    assert await read() == BODY
    assert storage.downloads == 1
    assert len(leftovers(directory)) == 1


async def test_readers_of_one_moment_all_read_at_once(storage: CountingStorage, cache: SourceCache, put: Put) -> None:
    etag = await put(storage)
    together = asyncio.Barrier(20)

    async def read() -> None:
        async with cache.open_local(storage, "main", KEY, etag, len(BODY)):
            await together.wait()  # nobody gives the entry back before the last one has it

    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(read() for _ in range(20)))
    assert storage.downloads == 1


async def test_entries_are_read_only_and_private(
    storage: CountingStorage, cache: SourceCache, put: Put, directory: Path
) -> None:
    async with cache.open_local(storage, "main", KEY, await put(storage), len(BODY)) as path:
        assert path.stat().st_mode & 0o777 == 0o400
        assert directory.stat().st_mode & 0o777 == 0o700
        assert KEY.rpartition("/")[2] not in path.name


async def test_another_etag_key_or_storage_is_another_entry(
    storage: CountingStorage, cache: SourceCache, put: Put
) -> None:
    first = await put(storage)
    async with cache.open_local(storage, "main", KEY, first, len(BODY)) as path:
        assert path.read_bytes() == BODY
    second = await put(storage, body=b"replaced")
    async with cache.open_local(storage, "main", KEY, second, 8) as path:
        assert path.read_bytes() == b"replaced"
    async with cache.open_local(storage, "other", KEY, second, 8):
        pass
    other = await put(storage, "photos/018f/other.jpg", b"neighbour")
    async with cache.open_local(storage, "main", "photos/018f/other.jpg", other, 9) as path:
        assert path.read_bytes() == b"neighbour"
    assert storage.downloads == 4


async def test_without_an_etag_the_store_is_asked_for_one(
    storage: CountingStorage, cache: SourceCache, put: Put
) -> None:
    await put(storage)
    async with cache.open_local(storage, "main", KEY, None, len(BODY)):
        pass
    await put(storage, body=b"x" * len(BODY))
    async with cache.open_local(storage, "main", KEY, None, len(BODY)) as path:
        assert path.read_bytes() == b"x" * len(BODY)
    assert storage.downloads == 2


async def test_a_replaced_object_is_refused(
    storage: CountingStorage, cache: SourceCache, put: Put, directory: Path
) -> None:
    etag = await put(storage)
    await put(storage, body=b"another")
    with pytest.raises(ObjectChanged):
        async with cache.open_local(storage, "main", KEY, etag, len(BODY)):
            pytest.fail("opened")
    assert leftovers(directory) == []


@pytest.mark.parametrize("size", [len(BODY) - 1, len(BODY) + 1])
async def test_an_object_of_another_size_is_another_object(
    storage: CountingStorage, cache: SourceCache, put: Put, directory: Path, size: int
) -> None:
    etag = await put(storage)
    with pytest.raises(ObjectChanged):
        async with cache.open_local(storage, "main", KEY, etag, size):
            pytest.fail("opened")
    assert leftovers(directory) == []


async def test_a_short_transfer_is_tried_again_by_the_caller(
    storage: CountingStorage, cache: SourceCache, put: Put, directory: Path
) -> None:
    etag = await put(storage)
    storage.cut_to = 10
    with pytest.raises(StorageTransient) as short:
        async with cache.open_local(storage, "main", KEY, etag, len(BODY)):
            pytest.fail("opened")
    assert short.value.retryable
    assert leftovers(directory) == []
    storage.cut_to = None
    async with cache.open_local(storage, "main", KEY, etag, len(BODY)) as path:
        assert path.read_bytes() == BODY


async def test_a_missing_object_is_reported_as_missing(
    storage: CountingStorage, cache: SourceCache, directory: Path
) -> None:
    with pytest.raises(StorageNotFound):
        async with cache.open_local(storage, "main", KEY, "etag", 10):
            pytest.fail("opened")
    assert leftovers(directory) == []


async def test_a_spoiled_entry_is_fetched_again(storage: CountingStorage, cache: SourceCache, put: Put) -> None:
    etag = await put(storage)
    async with cache.open_local(storage, "main", KEY, etag, len(BODY)) as path:
        pass
    path.chmod(0o600)
    os.truncate(path, 5)
    async with cache.open_local(storage, "main", KEY, etag, len(BODY)) as path:
        assert path.read_bytes() == BODY
    assert storage.downloads == 2


async def test_a_cancelled_download_leaves_nothing_and_lets_the_next_one_in(
    storage: CountingStorage, cache: SourceCache, put: Put, directory: Path
) -> None:
    etag = await put(storage)
    storage.go_on.clear()

    async def read() -> bytes:
        async with cache.open_local(storage, "main", KEY, etag, len(BODY)) as path:
            return path.read_bytes()

    first, second = asyncio.create_task(read()), asyncio.create_task(read())
    await storage.started.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    storage.go_on.set()
    assert await second == BODY
    assert len(leftovers(directory)) == 1


async def test_the_least_recently_used_goes_first_and_nothing_that_is_in_use(
    storage: CountingStorage, directory: Path, put: Put
) -> None:
    cache = SourceCache(directory, max_bytes=25_000)
    etags = {name: await put(storage, name) for name in ("a", "b", "c")}
    paths = {}
    for age, name in enumerate("ab"):
        async with cache.open_local(storage, "main", name, etags[name], len(BODY)) as paths[name]:
            pass
        os.utime(paths[name], (time.time() - 100 + age,) * 2)
    async with cache.open_local(storage, "main", "a", etags["a"], len(BODY)):  # used again: now b is the oldest
        pass
    async with cache.open_local(storage, "main", "c", etags["c"], len(BODY)) as paths["c"]:
        assert paths["a"].exists()
        assert not paths["b"].exists()
        assert await cache.trim(room_bytes=25_000) == len(BODY)
        assert not paths["a"].exists()
        assert paths["c"].exists()
    assert await cache.trim(room_bytes=25_000) == len(BODY)
    assert list(directory.iterdir()) == []
    await cache.close()


async def test_entries_end_with_their_age(
    storage: CountingStorage, cache: SourceCache, put: Put, directory: Path
) -> None:
    async with cache.open_local(storage, "main", KEY, await put(storage), len(BODY)) as path:
        pass
    assert await cache.trim() == 0
    os.utime(path, (time.time() - 3601,) * 2)
    assert await cache.trim() == len(BODY)
    assert list(directory.iterdir()) == []


async def test_trimming_a_cache_that_was_never_used_is_harmless(cache: SourceCache) -> None:
    assert await cache.trim() == 0
    assert await cache.evict("main", KEY) == 0


async def test_a_purge_evicts_every_version_and_nothing_else(
    storage: CountingStorage, cache: SourceCache, put: Put
) -> None:
    first = await put(storage)
    async with cache.open_local(storage, "main", KEY, first, len(BODY)) as old:
        pass
    second = await put(storage, body=b"replaced")
    neighbour = await put(storage, KEY + "2")
    async with (
        cache.open_local(storage, "main", KEY, second, 8) as new,
        cache.open_local(storage, "main", KEY + "2", neighbour, len(BODY)) as other,
    ):
        with new.open("rb") as reading:
            assert await cache.evict("main", KEY) == 2
            assert reading.read() == b"replaced"  # a reader keeps what it has open
        assert not old.exists()
        assert not new.exists()
        assert other.exists()


def disk_full() -> StorageTransient:
    error = StorageTransient("the download could not be written")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


async def test_a_full_disk_throws_out_the_unused_first(storage: CountingStorage, cache: SourceCache, put: Put) -> None:
    async with cache.open_local(storage, "main", "old", await put(storage, "old"), len(BODY)) as old:
        pass
    etag = await put(storage)
    storage.failures = [disk_full()]
    async with cache.open_local(storage, "main", KEY, etag, len(BODY)) as path:
        assert path.read_bytes() == BODY
        assert not old.exists()


async def test_a_disk_that_stays_full_is_retryable(
    storage: CountingStorage, cache: SourceCache, put: Put, directory: Path
) -> None:
    etag = await put(storage)
    storage.failures = [disk_full(), OSError(errno.ENOSPC, "No space left on device")]
    with pytest.raises(StorageTransient) as full:
        async with cache.open_local(storage, "main", KEY, etag, len(BODY)):
            pytest.fail("opened")
    assert full.value.detail == {"required_bytes": len(BODY)}
    assert leftovers(directory) == []


async def test_local_storage_lends_its_own_file(tmp_path: Path, cache: SourceCache, put: Put, directory: Path) -> None:
    storage = LocalStorage(tmp_path / "objects")
    etag = await put(storage)
    async with cache.open_local(storage, "main", KEY, etag, len(BODY)) as path:
        assert path.is_relative_to(tmp_path / "objects")
        assert path.read_bytes() == BODY
    assert leftovers(directory) == []
    with pytest.raises(ObjectChanged):
        async with cache.open_local(storage, "main", KEY, etag, len(BODY) - 1):
            pytest.fail("opened")
    await storage.close()


# --- several processes -------------------------------------------------------------------------------------------


class FileStorage(Storage):
    """One object in a file, shared by processes; every download adds a line to a log beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def head(self, key: str) -> ObjectHead:
        return ObjectHead(len(BODY), None, "etag", None)

    async def download(
        self, key: str, dest: Path, *, max_bytes: int | None = None, if_match: str | None = None
    ) -> Path:
        write(dest, BODY[:10])
        with self._path.with_suffix(".log").open("a") as log:
            log.write(f"{os.getpid()}\n")
        await until(self._path.with_suffix(".go").exists)
        write(dest, BODY)
        return dest


def write(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


async def read_in_a_process(directory: Path, original: Path) -> None:
    """Open the original, report it by a file, and hold it until the test ends the process."""
    original.with_name(f"ready.{os.getpid()}").touch()
    async with SourceCache(directory).open_local(FileStorage(original), "main", KEY, "etag", len(BODY)) as path:
        assert path.read_bytes() == BODY
        original.with_name(f"opened.{os.getpid()}").touch()
        await until(original.with_suffix(".stop").exists)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return tmp_path / "original"


@pytest.fixture
def process(directory: Path, original: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    program = (
        "import asyncio, sys; from pathlib import Path; from tests.integration.activities.test_source_cache import *; "
        "asyncio.run(read_in_a_process(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", program, str(directory), str(original)]
        started.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


async def test_processes_of_one_host_download_once(
    process: Callable[[], subprocess.Popen[bytes]], original: Path, directory: Path
) -> None:
    processes = [process(), process(), process()]
    await until(lambda: len(list(original.parent.glob("ready.*"))) == 3)
    await until(lambda: original.with_suffix(".log").exists())
    original.with_suffix(".go").touch()
    await until(lambda: len(list(original.parent.glob("opened.*"))) == 3)
    original.with_suffix(".stop").touch()
    assert [one.wait(PATIENCE_SECONDS) for one in processes] == [0, 0, 0]
    assert len(original.with_suffix(".log").read_text().split()) == 1
    assert len(leftovers(directory)) == 1


async def test_what_another_process_reads_stays_until_that_process_is_gone(
    process: Callable[[], subprocess.Popen[bytes]], original: Path, directory: Path, cache: SourceCache
) -> None:
    original.with_suffix(".go").touch()
    reader = process()
    await until(lambda: list(original.parent.glob("opened.*")))
    assert await cache.trim(room_bytes=1 << 40) == 0
    reader.kill()
    reader.wait()
    assert await cache.trim(room_bytes=1 << 40) == len(BODY)
    assert list(directory.iterdir()) == []


async def test_a_process_killed_while_downloading_blocks_nobody_and_its_rest_is_swept(
    process: Callable[[], subprocess.Popen[bytes]], original: Path, directory: Path, cache: SourceCache
) -> None:
    downloader = process()
    await until(lambda: original.with_suffix(".log").exists())
    os.kill(downloader.pid, signal.SIGKILL)
    downloader.wait()
    original.with_suffix(".go").touch()
    async with cache.open_local(FileStorage(original), "main", KEY, "etag", len(BODY)) as path:
        assert path.read_bytes() == BODY
        assert len(leftovers(directory)) == 1
