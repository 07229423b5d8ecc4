"""What passes through ``checked``, and what it translates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rindle.errors import StorageAdapterException, StorageNotFound
from rindle.protocols import ObjectHead, Storage
from rindle.protocols.checked_storage import checked


class Odd(Storage):
    """A third party's store."""

    bucket = "mine"

    def capabilities(self) -> frozenset[str]:
        raise RuntimeError("no capabilities")

    async def head(self, key: str) -> ObjectHead:
        if key == "absent":
            raise StorageNotFound("nothing there")
        raise KeyError("https://signed?secret")

    @asynccontextmanager
    async def local_path(self, key: str, *, if_match: str | None = None) -> AsyncIterator[Path | None]:
        if key == "broken":
            raise ConnectionError("https://signed?secret")
        yield Path(key)


async def test_exceptions_of_an_adapter_are_translated_without_their_text() -> None:
    for step in (checked(Odd()).head("x"), checked(Odd()).local_path("broken").__aenter__()):
        with pytest.raises(StorageAdapterException) as failed:
            await step
        assert failed.value.retryable
        assert "secret" not in f"{failed.value} {failed.value.detail}"


async def test_everything_else_is_the_adapters_own() -> None:
    storage = checked(Odd())

    with pytest.raises(StorageNotFound):
        await storage.head("absent")
    with pytest.raises(RuntimeError, match="no capabilities"):
        storage.capabilities()
    with pytest.raises(ZeroDivisionError):  # of the block, not of the store
        async with storage.local_path("file") as path:
            assert path == Path("file")
            raise ZeroDivisionError
    assert (storage.adapter_name, storage.bucket) == ("Odd", "mine")  # type: ignore[attr-defined]
    assert checked(storage) is storage
