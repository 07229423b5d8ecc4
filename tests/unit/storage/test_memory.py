"""What MemoryStorage has beside the contract: redeeming its own URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rindle.errors import StorageConflict, StorageNotFound, Unauthorized, UploadRejected
from rindle.storage.memory import MemoryStorage


async def test_a_grant_is_redeemed_under_its_conditions() -> None:
    storage = MemoryStorage()
    grant = await storage.presigned_put("a/b/c", 60, content_type="image/png", content_length=3, max_bytes=3)

    assert storage.put(grant, b"png").size == 3
    with pytest.raises(StorageConflict):
        storage.put(grant, b"PNG")
    with pytest.raises(UploadRejected):
        storage.put(grant, b"long")
    with pytest.raises(Unauthorized):
        storage.put(grant, b"png", {"Content-Type": "text/html"})
    assert (await storage.head("a/b/c")).content_type == "image/png"


async def test_a_cap_holds() -> None:
    storage = MemoryStorage()
    grant = await storage.presigned_put("a/b/c", 60, max_bytes=3)

    with pytest.raises(UploadRejected) as caught:
        storage.put(grant, b"long")

    assert caught.value.code == "max_bytes_exceeded"
    with pytest.raises(StorageNotFound):
        await storage.head("a/b/c")


async def test_the_urls_of_one_store_mean_nothing_to_another(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    storage = MemoryStorage()
    await storage.store("a/b/c", tmp_path / "a")

    with pytest.raises(Unauthorized):
        MemoryStorage().get(await storage.url("a/b/c"))


async def test_stored_headers_are_kept_but_not_served_by_a_signed_url(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    storage = MemoryStorage()
    await storage.store("a/b/c", tmp_path / "a", content_type="text/plain", content_disposition="attachment")

    body, headers = storage.get(await storage.url("a/b/c"))
    head = await storage.head("a/b/c")

    assert body == b"x"
    assert headers["content-type"] == "application/octet-stream"
    assert "content-disposition" not in headers
    assert (head.content_type, head.headers) == ("text/plain", {"content-disposition": "attachment"})
