"""What only a real S3 server can show about S3Storage; the contract runs against it in tests/contract."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from rindle.errors import StorageConflict, StorageMisconfigured, StorageNotFound, StorageUnauthorized
from rindle.storage.s3 import S3Storage, parts
from rindle.storage.s3.parts import MULTIPART_BYTES
from tests.contract.serving import send_raw
from tests.patience import PATIENCE_SECONDS, until, until_blocking
from tests.servers.minio import MinioServer

pytestmark = [pytest.mark.external, pytest.mark.usefixtures("patient_transfers")]

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def bucket(minio: MinioServer) -> str:
    return minio.new_bucket()


def storage_on(minio: MinioServer, bucket: str, **options: Any) -> S3Storage:
    facts: dict[str, Any] = {
        "endpoint_url": minio.endpoint_url,
        "access_key_id": minio.access_key,
        "secret_access_key": minio.secret_key,
    }
    return S3Storage(bucket, **{**facts, **options})


@pytest.fixture
async def storage(minio: MinioServer, bucket: str) -> AsyncIterator[S3Storage]:
    storage = storage_on(minio, bucket)
    yield storage
    await storage.close()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    with path.open("wb") as file:
        for _ in range(MULTIPART_BYTES // MIB + 5):
            file.write(os.urandom(MIB))
    return path


def unfinished_uploads(minio: MinioServer, bucket: str, key: str) -> list[Any]:
    with minio.client() as client:
        # MinIO lists the unfinished uploads of one key only.
        return list(client.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads", []))


def sha256_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


async def test_a_file_in_parts_comes_back_whole(storage: S3Storage, large: Path, tmp_path: Path) -> None:
    stored = await storage.store("parts/1/x", large, content_type="video/mp4", if_absent=True)
    head = await storage.head("parts/1/x")
    await storage.download("parts/1/x", tmp_path / "copy", if_match=stored.etag)

    assert stored.etag.endswith("-5")
    assert (head.size, head.etag, head.content_type) == (stored.size, stored.etag, "video/mp4")
    assert sha256_of(tmp_path / "copy") == sha256_of(large)


async def test_a_file_in_parts_may_only_create(
    minio: MinioServer, bucket: str, storage: S3Storage, large: Path, tmp_path: Path
) -> None:
    (tmp_path / "first").write_bytes(b"first")
    await storage.store("parts/2/x", tmp_path / "first")

    with pytest.raises(StorageConflict):
        await storage.store("parts/2/x", large, if_absent=True)

    assert (await storage.head("parts/2/x")).size == 5
    assert unfinished_uploads(minio, bucket, "parts/2/x") == []


class Stalling(parts.Slice):
    """The first part goes up; any other stops after its first piece until the upload is cancelled."""

    def read(self, size: int | None = -1) -> bytes:
        if self.start and self.position:
            until_blocking(self.stop.check, what="the upload to be cancelled")
        return super().read(size)


async def test_a_cancelled_upload_leaves_neither_object_nor_parts(
    minio: MinioServer, bucket: str, storage: S3Storage, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "Slice", Stalling)
    task = asyncio.create_task(storage.store("parts/3/x", large))

    async def is_begun() -> bool:
        assert not task.done()
        return bool(await asyncio.to_thread(unfinished_uploads, minio, bucket, "parts/3/x"))

    await until(is_begun, what="the upload to begin")
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert unfinished_uploads(minio, bucket, "parts/3/x") == []
    with pytest.raises(StorageNotFound):
        await storage.head("parts/3/x")


async def test_browsers_use_the_public_endpoint_and_servers_their_own(minio: MinioServer, bucket: str) -> None:
    public = f"http://localhost:{urlsplit(minio.endpoint_url).port}"
    storage = storage_on(minio, bucket, public_endpoint=public)

    grant = await storage.presigned_put("public/1/x", 60, content_type="image/png")
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
        put = await client.put(grant.url, content=b"hello", headers=dict(grant.headers))
        url = await storage.url("public/1/x")
        got = await client.get(url)
        inside = await client.get(url.replace("localhost", "127.0.0.1"))

    assert urlsplit(grant.url).hostname == urlsplit(url).hostname == "localhost"
    assert (put.status_code, got.content) == (200, b"hello")
    assert inside.status_code == 403  # the host is signed
    await storage.close()


@pytest.mark.parametrize("announced", [5 * 1024**3, 8 * MIB + 1, 0])
async def test_a_ticket_for_8_mib_takes_nothing_else(storage: S3Storage, announced: int) -> None:
    """The size is part of the signature: the store refuses before a byte of the body is sent (S3)."""
    grant = await storage.presigned_put("ticket/1/x", 60, content_length=8 * MIB)

    assert await send_raw("PUT", grant.url, {**grant.headers, "Content-Length": str(announced)}) == 403
    with pytest.raises(StorageNotFound):
        await storage.head("ticket/1/x")


async def test_a_body_of_unknown_length_is_refused(storage: S3Storage) -> None:
    grant = await storage.presigned_put("ticket/2/x", 60, content_length=5)

    async def body() -> AsyncGenerator[bytes, None]:
        yield b"12345"

    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client, aclosing(body()) as content:
        answer = await client.put(grant.url, content=content, headers=dict(grant.headers))

    assert 400 <= answer.status_code < 500
    with pytest.raises(StorageNotFound):
        await storage.head("ticket/2/x")


async def test_a_grant_for_one_key_writes_no_other(storage: S3Storage) -> None:
    grant = await storage.presigned_put("ticket/3/x", 60)

    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
        answer = await client.put(
            grant.url.replace("ticket/3/x", "ticket/3/y"), content=b"x", headers=dict(grant.headers)
        )

    assert answer.status_code == 403


async def test_prefixes_keep_tenants_apart(minio: MinioServer, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    one, ten = storage_on(minio, bucket, key_prefix="t/1"), storage_on(minio, bucket, key_prefix="t/10")
    await one.store("a/b/c", tmp_path / "x")

    assert [found.key for found in (await one.list_keys("")).objects] == ["a/b/c"]
    assert (await ten.list_keys("")).objects == ()
    with pytest.raises(StorageNotFound):
        await ten.head("a/b/c")
    for storage in (one, ten):
        await storage.close()


async def test_a_missing_bucket_is_a_matter_of_configuration(minio: MinioServer, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    storage = storage_on(minio, "no-such-bucket")

    for call in (storage.ping(), storage.store("a/b/c", tmp_path / "x"), storage.list_keys("")):
        with pytest.raises(StorageMisconfigured) as caught:
            await call
        assert caught.value.code == "missing_bucket"
    await storage.close()


async def test_wrong_credentials_are_refused(minio: MinioServer, bucket: str) -> None:
    storage = storage_on(minio, bucket, secret_access_key="wrong-canary-secret")

    for call in (storage.ping(), storage.head("a/b/c"), storage.list_keys("")):
        with pytest.raises(StorageUnauthorized) as caught:
            await call
        assert "canary" not in repr(caught.value)
    await storage.close()
