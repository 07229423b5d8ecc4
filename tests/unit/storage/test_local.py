"""What only a store on a disk can get wrong: paths, links, full disks, leftovers."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from rindle.db.models import new_id
from rindle.errors import (
    CODES,
    CapabilityUnsupported,
    InvalidArgument,
    InvalidKey,
    Misconfigured,
    StorageConflict,
    StorageError,
    StorageMisconfigured,
    StorageNotFound,
    StoragePermanent,
    StorageTransient,
    UploadRejected,
    UploadSuperseded,
)
from rindle.storage.disk import translate
from rindle.storage.grant import Grant
from rindle.storage.local import LocalStorage

SECRET = "s" * 32


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[LocalStorage]:
    storage = LocalStorage(tmp_path / "root")
    yield storage
    await storage.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"0123456789")
    return path


async def local_path(storage: LocalStorage, key: str) -> Path:
    """Return the path of an object's own file; it stays where it is."""
    async with storage.local_path(key) as path:
        return path


def tree(directory: Path) -> set[str]:
    """Return every file below ``directory``."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}


# --- paths (S4) ---------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150)
@given(
    key=st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(["..", ".", "", "a", "%2e%2e", "\\", "~", "C:", ".rindle", "\uff0e\uff0e", "b\x00"]),
            max_size=6,
        ).map("/".join),
        st.text("./\\%2eaA:~", max_size=20),
    )
)
async def test_no_key_reaches_outside_the_root(tmp_path: Path, key: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "file").write_bytes(b"precious")
    source = outside / "file"
    storage = LocalStorage(tmp_path / "outside" / ".." / "root", base_url="http://x", secrets=[SECRET], fsync=False)

    for call in (
        storage.store(key, source),
        storage.download(key, tmp_path / "copy"),
        storage.read_range(key, 0, 1),
        storage.head(key),
        local_path(storage, key),
        storage.url(key),
        storage.presigned_put(key, 60),
        storage.delete(key),
    ):
        try:
            await call
        except StorageError as error:
            assert str(tmp_path) not in str(error)
            assert error.code in CODES
    await storage.close()

    assert {path.split(os.sep)[0] for path in tree(tmp_path)} <= {"outside", "root", "copy"}
    assert tree(outside) == {"file"}
    assert source.read_bytes() == b"precious"


async def test_a_root_beside_is_not_the_root(tmp_path: Path, source: Path) -> None:
    (tmp_path / "root-evil").mkdir()
    storage = LocalStorage(tmp_path / "root")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "root-evil")

    with pytest.raises(InvalidKey):
        await storage.store("link/x", source)

    assert tree(tmp_path / "root-evil") == set()


@pytest.mark.parametrize("target", ["outside", "root/real"])
async def test_links_are_never_followed(storage: LocalStorage, tmp_path: Path, source: Path, target: str) -> None:
    await storage.store("real/x", source)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"secret")
    (storage.root / "dir").symlink_to(tmp_path / target)
    (storage.root / "file").symlink_to(tmp_path / target / "x")

    for key in ("dir/x", "file"):
        for call in (
            storage.store(key, source),
            storage.store(key, source, if_absent=True),
            storage.download(key, tmp_path / "copy"),
            storage.read_range(key, 0, 1),
            storage.delete(key),
            storage.head(key),
            local_path(storage, key),
            storage.open(key),
        ):
            with pytest.raises(InvalidKey):
                await call

    assert (tmp_path / "outside" / "x").read_bytes() == b"secret"
    assert [found.key for found in (await storage.list_keys("")).objects] == ["real/x"]


async def test_the_root_itself_may_be_a_link(tmp_path: Path, source: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "media").symlink_to(tmp_path / "disk")
    storage = LocalStorage(tmp_path / "media")

    await storage.store("a/b", source)

    assert (tmp_path / "disk" / "a" / "b").read_bytes() == b"0123456789"


async def test_directories_and_devices_are_no_objects(storage: LocalStorage, source: Path, tmp_path: Path) -> None:
    await storage.store("a/b/c", source)
    os.mkfifo(storage.root / "fifo")

    for key in ("a", "a/b", "fifo"):
        for call in (storage.head(key), storage.download(key, tmp_path / "copy"), storage.open(key)):
            with pytest.raises(StorageNotFound):
                await call
        assert (await storage.delete(key)).existed is False

    assert [found.key for found in (await storage.list_keys("")).objects] == ["a/b/c"]


async def test_a_key_below_or_above_another_object_is_refused_for_good(storage: LocalStorage, source: Path) -> None:
    await storage.store("a/b", source)

    with pytest.raises(StoragePermanent) as caught:
        await storage.store("a/b/c", source)
    assert caught.value.detail == {"reason": "not_a_directory"}
    with pytest.raises(StoragePermanent):
        await storage.store("a", source)
    with pytest.raises(StorageNotFound):
        await storage.head("a/b/c")

    assert tree(storage.root) == {"a/b"}


async def test_a_segment_longer_than_the_file_system_takes_is_an_invalid_key(
    storage: LocalStorage, source: Path
) -> None:
    for call in (storage.store("a/" + "x" * 300, source), storage.head("a/" + "x" * 300)):
        with pytest.raises(InvalidKey):
            await call


# --- writes -------------------------------------------------------------------------------------------------------


async def test_nothing_but_the_object_is_left(storage: LocalStorage, source: Path) -> None:
    await storage.store("a/b", source)
    with pytest.raises(StorageConflict):
        await storage.store("a/b", source, if_absent=True)
    await storage.store("a/c", source, if_absent=True)

    assert tree(storage.root) == {"a/b", "a/c"}
    assert os.stat(storage.root / "a" / "c").st_nlink == 1


async def test_files_are_not_for_everybody(storage: LocalStorage, source: Path) -> None:
    os.chmod(source, 0o777)
    await storage.store("a/b", source)

    assert stat.S_IMODE((storage.root / "a" / "b").stat().st_mode) & 0o137 == 0
    assert stat.S_IMODE((storage.root / "a").stat().st_mode) & 0o027 == 0


async def test_two_versions_of_one_size_have_two_etags(storage: LocalStorage, source: Path) -> None:
    etags = {(await storage.store("a/b", source)).etag for _ in range(50)}

    assert len(etags) == 50


async def test_the_etag_is_size_and_time(storage: LocalStorage, source: Path) -> None:
    stored = await storage.store("a/b", source)
    status = (storage.root / "a" / "b").stat()

    assert stored.etag == f"{status.st_size:x}-{status.st_mtime_ns:x}"


async def test_a_missing_source_is_an_invalid_argument(storage: LocalStorage, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await storage.store("a/b", tmp_path / "nothing")

    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "error", "reason"),
    [
        (errno.ENOSPC, StoragePermanent, "disk_full"),
        (errno.EDQUOT, StoragePermanent, "disk_full"),
        (errno.EROFS, StoragePermanent, "erofs"),
        (errno.EIO, StorageTransient, "eio"),
    ],
)
async def test_a_disk_that_fails_leaves_no_temporary_file(
    storage: LocalStorage,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error: type[StorageError],
    reason: str,
) -> None:
    def fail(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(error) as caught:
        await storage.store("a/b", source)

    assert caught.value.detail == {"reason": reason}
    assert caught.value.key == "a/b"
    assert tree(storage.root) == set()


async def test_a_full_scratch_disk_is_worth_another_try(
    storage: LocalStorage, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.store("a/b", source)
    scratch = tmp_path / "scratch"

    def fail(first: object, second: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", fail)

    with pytest.raises(StorageTransient) as caught:
        await storage.download("a/b", scratch / "copy")

    assert caught.value.detail == {"reason": "disk_full"}
    assert tree(scratch) == set()


@pytest.fixture
def another_disk(tmp_path: Path) -> Iterator[Path]:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=shared_memory) as directory:
        yield Path(directory)


async def test_a_temporary_directory_on_another_disk_is_refused(
    storage: LocalStorage, source: Path, another_disk: Path
) -> None:
    storage.root.mkdir()
    (storage.root / ".rindle").symlink_to(another_disk)

    for if_absent in (False, True):
        with pytest.raises(StoragePermanent) as caught:
            await storage.store("a/b", source, if_absent=if_absent)
        assert caught.value.detail == {"reason": "cross_device"}

    assert tree(another_disk) == set()
    with pytest.raises(StorageNotFound):
        await storage.head("a/b")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOENT, "storage_not_found"),
        (errno.ENOTDIR, "storage_not_found"),
        (errno.ENAMETOOLONG, "invalid_key"),
        (errno.ELOOP, "invalid_key"),
        (errno.EACCES, "storage_unauthorized"),
        (errno.EPERM, "storage_unauthorized"),
        (errno.EEXIST, "storage_conflict"),
        (errno.EAGAIN, "storage_transient"),
        (errno.EMFILE, "storage_transient"),
        (errno.ESTALE, "storage_transient"),
        (errno.EXDEV, "storage_permanent"),
        (errno.EISDIR, "storage_permanent"),
        (None, "storage_permanent"),
    ],
)
def test_errors_of_the_file_system_are_translated(code: int | None, expected: str) -> None:
    error = OSError("odd") if code is None else OSError(code, os.strerror(code), "/secret/place")

    translated = translate(error, "a/b")

    assert (translated.code, translated.key, translated.adapter) == (expected, "a/b", "local")
    assert "/secret" not in str(translated) + repr(translated) + str(translated.to_dict())


# --- deletes ------------------------------------------------------------------------------------------------------


async def test_deleting_prunes_empty_directories_only(storage: LocalStorage, source: Path) -> None:
    await storage.store("a/b/c/d", source)
    await storage.store("a/x", source)

    await storage.delete("a/b/c/d")

    assert sorted(path.name for path in storage.root.rglob("*") if path.is_dir()) == [".rindle", "a", "tmp"]
    await storage.delete("a/x")
    assert storage.root.is_dir()


async def test_pruning_never_takes_a_directory_from_a_writer(tmp_path: Path, source: Path) -> None:
    storage = LocalStorage(tmp_path / "root", fsync=False)

    async def come_and_go(name: str) -> None:
        for _ in range(60):
            await storage.store(f"a/b/c/{name}", source)
            await storage.delete(f"a/b/c/{name}")

    async def stay(name: str) -> None:
        for number in range(30):
            await storage.store(f"a/b/c/{name}-{number}", source)

    await asyncio.gather(*(come_and_go(f"n{number}") for number in range(6)), stay("stays"))

    kept = [found.key for found in (await storage.list_keys("")).objects]
    assert kept == sorted(f"a/b/c/stays-{number}" for number in range(30))
    await storage.close()


# --- request bodies -----------------------------------------------------------------------------------------------


class chunks:
    """A request body of some pieces, which needs no closing when it is left half-way; ``error`` ends it."""

    def __init__(self, *pieces: bytes, error: BaseException | None = None) -> None:
        self._pieces = iter(pieces)
        self._error = error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise self._error or StopAsyncIteration


def put(key: str, **facts: object) -> Grant:
    return Grant(method="PUT", key=key, expires_at=2**40, **facts)  # type: ignore[arg-type]


async def test_a_body_appears_when_it_is_complete(storage: LocalStorage) -> None:
    stored = await storage.receive(chunks(b"a" * 300_000, b"", b"b" * 300_000, b"c"), put("a/b", length=600_001))

    assert stored.size == 600_001
    assert (storage.root / "a" / "b").read_bytes() == b"a" * 300_000 + b"b" * 300_000 + b"c"
    assert (await storage.head("a/b")).etag == stored.etag


@pytest.mark.parametrize(
    ("pieces", "facts", "code"),
    [
        ([b"123456"], {"max_bytes": 5}, "max_bytes_exceeded"),
        ([b"1"] * 6, {"max_bytes": 5}, "max_bytes_exceeded"),
        ([b"123456"], {"length": 5}, "size_mismatch"),
        ([b"1234"], {"length": 5}, "size_mismatch"),
        ([], {"length": 5}, "size_mismatch"),
    ],
)
async def test_a_body_of_the_wrong_size_leaves_nothing(
    storage: LocalStorage, pieces: list[bytes], facts: dict[str, object], code: str
) -> None:
    with pytest.raises(UploadRejected) as caught:
        await storage.receive(chunks(*pieces), put("a/b", **facts))

    assert caught.value.code == code
    assert tree(storage.root) == set()


async def test_an_endless_body_is_cut_off(storage: LocalStorage) -> None:
    sent = 0

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal sent
        while True:
            sent += 65_536
            yield bytes(65_536)

    with pytest.raises(UploadRejected):
        async with aclosing(endless()) as body:
            await storage.receive(body, put("a/b", max_bytes=1_000_000))

    assert sent < 1_000_000 + 2 * 65_536
    assert tree(storage.root) == set()


async def test_a_body_that_breaks_off_leaves_nothing(storage: LocalStorage) -> None:
    with pytest.raises(ConnectionError):
        await storage.receive(chunks(b"x" * 500_000, error=ConnectionError()), put("a/b"))

    assert tree(storage.root) == set()


async def test_a_cancelled_body_leaves_nothing(storage: LocalStorage) -> None:
    reached = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 500_000
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(storage.receive(slow(), put("a/b")))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert tree(storage.root) == set()


async def test_a_taken_key_is_refused_before_the_body_is_read(storage: LocalStorage, source: Path) -> None:
    await storage.store("a/b", source)

    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    with pytest.raises(StorageConflict):
        await storage.receive(unread(), put("a/b", once=True))


async def test_of_many_bodies_for_one_key_one_is_kept(storage: LocalStorage) -> None:
    outcomes = await asyncio.gather(
        *(storage.receive(chunks(bytes([number]) * 1000), put("a/b", once=True)) for number in range(10)),
        return_exceptions=True,
    )

    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, StorageConflict | UploadSuperseded) for outcome in outcomes) == 9
    assert tree(storage.root) == {"a/b"}


# --- the rest -----------------------------------------------------------------------------------------------------


async def test_leftovers_are_swept_when_they_are_old(storage: LocalStorage, source: Path) -> None:
    assert await storage.sweep(3600) == 0
    await storage.store("a/b", source)
    for name, age in (("old", 7200), ("young", 60)):
        path = storage.root / ".rindle" / "tmp" / name
        path.write_bytes(b"x")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    os.utime(storage.root / "a" / "b", (0, 0))

    assert await storage.sweep(3600) == 1
    assert tree(storage.root) == {"a/b", ".rindle/tmp/young"}


async def test_bytes_of_uploads_are_swept_one_by_one_when_they_are_old_and_their_upload_has_ended(
    storage: LocalStorage,
) -> None:
    names = [new_id() for _ in range(3)]
    asked: list[Collection[str]] = []

    async def live(found: Collection[str]) -> Collection[str]:
        asked.append(set(found))
        return {names[0]}

    assert await storage.sweep_part_streams(3600, live) == 0
    for name, age in zip(names, (7200, 7200, 60), strict=True):
        path = storage.root / ".rindle" / "tus" / f"{name}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (path.stat().st_mtime - age,) * 2)

    assert await storage.sweep_part_streams(3600, live) == 1
    assert asked == [set(names[:2])]
    assert tree(storage.root) == {f".rindle/tus/{name}.part" for name in (names[0], names[2])}


async def test_making_a_storage_creates_nothing(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "root")

    await storage.ping()
    assert (await storage.list_keys("")).objects == ()
    assert (await storage.delete("a/b")).existed is False
    assert not storage.root.exists()


async def test_a_root_that_is_no_directory_is_reported(tmp_path: Path, source: Path) -> None:
    with pytest.raises(StorageMisconfigured):
        await LocalStorage(source).ping()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40)
@given(
    names=st.sets(
        st.lists(st.text("ab-.0z", min_size=1, max_size=3), min_size=1, max_size=3).map("/".join), max_size=12
    ),
    limit=st.integers(1, 5),
    prefix=st.sampled_from(["", "a", "a/", "b-", "zz"]),
)
async def test_pages_hold_every_key_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], limit: int, prefix: str
) -> None:
    storage = LocalStorage(tmp_path_factory.mktemp("root"), fsync=False)
    source = tmp_path_factory.mktemp("source") / "x"
    source.write_bytes(b"x")
    stored = set()
    for name in sorted(names):
        try:
            await storage.store(name, source)
            stored.add(name)
        except StorageError:
            pass  # "." and the like, or a key below another one

    found, after = [], None
    while True:
        page = await storage.list_keys(prefix, after=after, limit=limit)
        found += [one.key for one in page.objects]
        after = page.next_after
        if after is None:
            break
    await storage.close()

    assert found == sorted(name for name in stored if name.startswith(prefix))


def test_urls_need_a_base_and_good_secrets(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        LocalStorage(tmp_path, base_url="http://x")
    with pytest.raises(Misconfigured):
        LocalStorage(tmp_path, base_url="http://x", secrets=["short"])
    assert "signed_url" not in LocalStorage(tmp_path).capabilities()
    assert "signed_url" in LocalStorage(tmp_path, base_url="http://x", secrets=[SecretStr(SECRET)]).capabilities()


async def test_response_headers_and_expiry_do_not_fit_a_public_url(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path, public_base_url="https://cdn.example.com/p/")

    assert await storage.url("a/b c/ü.jpg", public=True) == "https://cdn.example.com/p/a/b%20c/%C3%BC.jpg"
    with pytest.raises(CapabilityUnsupported):
        await storage.url("a/b", public=True, content_disposition="attachment")
    with pytest.raises(InvalidArgument):
        await storage.url("a/b", public=True, expires_in=60)


def test_neither_path_nor_secret_shows_in_a_repr(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "media", base_url="http://x", secrets=[SECRET])

    assert repr(storage) == "LocalStorage('media')"
    assert SECRET not in str(vars(storage))
