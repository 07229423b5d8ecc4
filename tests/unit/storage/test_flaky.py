"""The faults FlakyStorage scripts are the ones that happen, and nothing else does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rindle.errors import StorageNotFound, StorageTransient
from rindle.storage.memory import MemoryStorage
from rindle.testing.flaky import ABILITY_OPERATIONS, OPERATIONS, FlakyStorage

LOST = StorageTransient("lost")


@pytest.fixture
def storage() -> FlakyStorage:
    return FlakyStorage(MemoryStorage())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"0123456789")
    return path


async def test_calls_fail_as_often_as_told(storage: FlakyStorage, source: Path) -> None:
    await storage.store("a/b", source)
    storage.fail("head", LOST, times=2)

    for _ in range(2):
        with pytest.raises(StorageTransient):
            await storage.head("a/b")

    assert (await storage.head("a/b")).size == 10
    assert storage.calls_for("head") == 3


async def test_a_lost_answer_has_done_its_work(storage: FlakyStorage, source: Path) -> None:
    storage.fail("store", LOST, after=True)

    with pytest.raises(StorageTransient):
        await storage.store("a/b", source)

    assert (await storage.inner.head("a/b")).size == 10


async def test_faults_happen_in_the_order_given(storage: FlakyStorage) -> None:
    storage.fail("ping", LOST)
    storage.fail("ping", StorageNotFound("gone"))

    with pytest.raises(StorageTransient):
        await storage.ping()
    with pytest.raises(StorageNotFound):
        await storage.ping()
    await storage.ping()


async def test_a_cut_transfer_leaves_nothing(storage: FlakyStorage, source: Path, tmp_path: Path) -> None:
    storage.cut("store", after_bytes=5)
    with pytest.raises(StorageTransient) as caught:
        await storage.store("a/b", source)
    with pytest.raises(StorageNotFound):
        await storage.head("a/b")
    assert caught.value.detail == {"reason": "cut", "moved": 5, "size": 10}

    await storage.store("a/b", source)
    storage.cut("download", after_bytes=9)
    with pytest.raises(StorageTransient):
        await storage.download("a/b", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


async def test_what_fits_before_the_cut_passes(storage: FlakyStorage, source: Path) -> None:
    await storage.store("a/b", source)
    storage.cut("read_range", after_bytes=4, times=2)

    assert await storage.read_range("a/b", 0, 4) == b"0123"
    with pytest.raises(StorageTransient):
        await storage.read_range("a/b", 0, 5)


async def test_a_hanging_call_waits_until_it_is_released(storage: FlakyStorage, source: Path) -> None:
    held = storage.hang("store")
    task = asyncio.create_task(storage.store("a/b", source))

    await held.reached.wait()
    with pytest.raises(StorageNotFound):
        await storage.head("a/b")
    held.release()

    assert (await task).size == 10


async def test_a_hanging_call_can_be_cancelled(storage: FlakyStorage) -> None:
    held = storage.hang("head")
    task = asyncio.create_task(storage.head("a/b"))
    await held.reached.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


def test_only_known_operations_can_be_broken(storage: FlakyStorage) -> None:
    with pytest.raises(ValueError, match="unknown operation"):
        storage.fail("explode", LOST)
    with pytest.raises(ValueError, match="unknown operation"):
        storage.cut("head", 1)


def test_every_call_of_the_protocol_can_be_broken() -> None:
    passed_on = {"capabilities", "close", "fail", "cut", "hang", "calls_for"}

    of_every_store = OPERATIONS - ABILITY_OPERATIONS
    assert {name for name in vars(FlakyStorage) if not name.startswith("_")} == of_every_store | passed_on
