"""A site with every lane of its store, for tests of what is left when an upload does not end as it should."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from rindle.http.resumable import resumable_router
from rindle.http.tus import tus_router
from rindle.http.uploads import upload_router
from rindle.protocols import PartStream, Storage
from rindle.testing.flaky import FlakyStorage
from tests.application import SECRET, Plain
from tests.integration.uploads.conftest import PART_BYTES, send_part
from tests.integration.uploads.test_resumable import UNIT, put
from tests.patience import PATIENCE_SECONDS
from tests.servers.minio import MinioServer
from tests.stage import Stage, staged
from tests.tus import BYTES

MIB = 1024 * 1024
#: The first bytes of a stream: on S3 a part of 8 MiB and a tail.
FIRST_BYTES = 9 * MIB

ON_DISK = "local"
ON_MINIO = pytest.param("s3", marks=pytest.mark.external)
STORES = [ON_DISK, ON_MINIO]
LANES = [
    *(pytest.param("local", lane, id=f"local-{lane}") for lane in ("tus", "ietf")),
    *(pytest.param("s3", lane, marks=pytest.mark.external, id=f"s3-{lane}") for lane in ("tus", "ietf", "multipart")),
    pytest.param("gcs", "resumable", marks=pytest.mark.external, id="gcs-resumable"),
]
TUS = {"Tus-Resumable": "1.0.0", "Content-Type": BYTES}
DRAFT = {"Content-Type": "application/partial-upload"}


class LaneSite:
    """An application with all lanes of its store, and a look at everything that the store keeps."""

    def __init__(self, stage: Stage, client: httpx.AsyncClient) -> None:
        self.stage, self.client = stage, client

    async def open(self, strategy: str, size: int | None = None) -> dict[str, Any]:
        """Open an upload; by default of a size that leaves room for more than its first bytes."""
        size = size or (2 * UNIT if strategy == "resumable" else 2 * FIRST_BYTES)
        wanted = {"profile": "plain", "filename": "film.bin", "size": size, "strategy": strategy}
        cut = {"part_size": PART_BYTES} if strategy == "multipart" else {}
        answer = await self.client.post("/uploads", json={**wanted, **cut})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def begin(self, strategy: str) -> dict[str, Any]:
        """Open an upload and send its first bytes."""
        ticket = await self.open(strategy)
        if strategy == "multipart":
            await send_part(self.stage, ticket["session"]["id"], 1, bytes(PART_BYTES))
        elif strategy == "resumable":
            uri = SecretStr(ticket["resumable"]["session_uri"])
            assert await put(uri, bytes(UNIT), 0, 2 * UNIT) == 308
        else:
            assert (await self.append(ticket, 0, bytes(FIRST_BYTES))).status_code == 204
        return ticket

    async def append(
        self, ticket: Mapping[str, Any], offset: int, body: Any, *, is_last: bool = False
    ) -> httpx.Response:
        """Send bytes to the address of a ticket, as a client of its protocol does.

        Args:
            is_last: the body ends the file; tus does not say so.
        """
        headers = TUS if "tus" in ticket else {**DRAFT, "Upload-Complete": "?1" if is_last else "?0"}
        return await self.client.patch(
            address_of(ticket), content=body, headers={**headers, "Upload-Offset": str(offset)}
        )

    async def offset(self, ticket: Mapping[str, Any]) -> int:
        """Return where an upload continues."""
        answer = await self.client.head(address_of(ticket), headers=TUS if "tus" in ticket else {})
        assert answer.status_code == 204, answer.status_code
        return int(answer.headers["upload-offset"])

    async def kept(self, ticket: Mapping[str, Any]) -> list[str]:
        """Return what the store keeps: objects, tails, files, and unfinished uploads to the key of a ticket."""
        environment = self.stage.environment
        match environment.get("APP_STORAGE", ON_DISK):
            case "s3":
                return await asyncio.to_thread(_in_bucket, environment, ticket["session"]["upload_key"])
            case "gcs":  # a session is not listed, and the emulator keeps one that was cancelled
                store = self.stage.storage
                assert isinstance(store, FlakyStorage)
                return [*await self.stage.keys(), *([] if store.calls_for("cancel_resumable_upload") else ["session"])]
        # `Path.rglob` raises when a worker removes a directory meanwhile.
        walk = os.walk(self.stage.home / "media")
        return [str(Path(directory, name)) for directory, _, names in walk for name in names]


def _in_bucket(environment: Mapping[str, str], key: str) -> list[str]:
    bucket = environment["APP_BUCKET"]
    with MinioServer.of(environment).client() as client:
        objects = client.list_objects_v2(Bucket=bucket).get("Contents", ())
        uploads = client.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads", ())
        return [*(one["Key"] for one in objects), *(one["UploadId"] for one in uploads)]


def address_of(ticket: Mapping[str, Any]) -> str:
    """Return the address of an upload that passes through the application."""
    return str(ticket["tus" if "tus" in ticket else "ietf"]["upload_url"])


@asynccontextmanager
async def lane_site(
    home: Path, target: str, environment: dict[str, str], *, store: Storage | None = None
) -> AsyncIterator[LaneSite]:
    """Open a site on SQLite, with the store of ``environment`` or ``store``."""
    async with AsyncExitStack() as stack:
        url = f"sqlite+aiosqlite:///{home}/stage.db"
        stage = await stack.enter_async_context(staged(home, url, target, environment, store=store))
        app, rules = FastAPI(), {"profile": "plain", "secrets": [SECRET], "allow_anonymous": True}
        mounts: list[Any] = []
        if isinstance(stage.storage, PartStream):
            mounts = [
                tus_router(stage.rindle, path="/files", **rules),
                resumable_router(stage.rindle, path="/drafts", **rules),
            ]
        for mount in mounts:
            app.mount(mount.path, mount)
        app.include_router(upload_router(stage.rindle, profiles={"plain": Plain}, mounts=mounts, allow_anonymous=True))
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://files.test",
            headers={"X-Rindle": "1"},
            timeout=PATIENCE_SECONDS,
        )
        yield LaneSite(stage, await stack.enter_async_context(client))
