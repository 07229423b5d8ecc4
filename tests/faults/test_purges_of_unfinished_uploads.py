"""Purge and erasure of an asset whose bytes are still arriving: the store keeps nothing, in every lane that resumes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from rindle.db import purge
from rindle.http.resumable import resumable_router
from rindle.http.tus import tus_router
from rindle.http.uploads import upload_router
from rindle.protocols import StoredObject
from rindle.testing.flaky import FlakyStorage
from rindle.uploads import assembly
from tests.application import SECRET, Plain, storage
from tests.integration.uploads.conftest import PART_BYTES, bucket_environment, send_part, store_of
from tests.integration.uploads.test_resumable import UNIT, environment_of, put
from tests.patience import PATIENCE_SECONDS, until
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, staged
from tests.tus import BYTES

__all__ = ["bucket_environment"]  # the fixture

MIB = 1024 * 1024
#: The first bytes of a stream: on S3 a part of 8 MiB and a tail.
FIRST_BYTES = 9 * MIB
ADA = ("Member", "ada")

ON_DISK = "local"
ON_MINIO = pytest.param("s3", marks=pytest.mark.external)
STORES = [ON_DISK, ON_MINIO]
LANES = [
    *(pytest.param("local", lane, id=f"local-{lane}") for lane in ("tus", "ietf")),
    *(pytest.param("s3", lane, marks=pytest.mark.external, id=f"s3-{lane}") for lane in ("tus", "ietf", "multipart")),
    pytest.param("gcs", "resumable", marks=pytest.mark.external, id="gcs-resumable"),
]


class Site:
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

    async def append(self, ticket: Mapping[str, Any], offset: int, body: Any) -> httpx.Response:
        """Send bytes to the address of a ticket, as a client of its protocol does."""
        strategy, headers = ("tus", TUS) if "tus" in ticket else ("ietf", DRAFT)
        return await self.client.patch(
            ticket[strategy]["upload_url"], content=body, headers={**headers, "Upload-Offset": str(offset)}
        )

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
        return [str(path) for path in (self.stage.home / "media").rglob("*") if path.is_file()]


TUS = {"Tus-Resumable": "1.0.0", "Content-Type": BYTES}
DRAFT = {"Content-Type": "application/partial-upload", "Upload-Complete": "?0"}


def _in_bucket(environment: Mapping[str, str], key: str) -> list[str]:
    bucket, client = (
        environment["APP_BUCKET"],
        boto3.client(
            "s3",
            endpoint_url=environment["APP_ENDPOINT"],
            region_name="us-east-1",
            aws_access_key_id=environment["APP_ACCESS_KEY"],
            aws_secret_access_key=environment["APP_SECRET_KEY"],
        ),
    )
    try:
        objects = client.list_objects_v2(Bucket=bucket).get("Contents", ())
        uploads = client.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads", ())
        return [*(one["Key"] for one in objects), *(one["UploadId"] for one in uploads)]
    finally:
        client.close()


@pytest.fixture
async def site(
    request: pytest.FixtureRequest, tmp_path: Path, temporal_server: TemporalServer, kind: str
) -> AsyncIterator[Site]:
    """A site on the store of the test."""
    environment: dict[str, str] = {}
    if kind == "s3":
        environment = request.getfixturevalue("bucket_environment")
    elif kind == "gcs":
        environment = environment_of(request.getfixturevalue("fake_gcs"))
    store = FlakyStorage(storage(environment)) if kind == "gcs" else None  # notes its calls
    async with AsyncExitStack() as stack:
        url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
        stage = await stack.enter_async_context(staged(tmp_path, url, temporal_server.target, environment, store=store))
        app, rules = FastAPI(), {"profile": "plain", "secrets": [SECRET], "allow_anonymous": True}
        mounts: list[Any] = []
        if kind != "gcs":
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
        yield Site(stage, await stack.enter_async_context(client))


async def ended(site: Site, ticket: Mapping[str, Any]) -> None:
    """Wait until the rows of an asset are gone; nobody waits for the tickets that were issued."""
    await site.stage.let_tickets_expire(ticket["session"]["id"])
    await site.stage.gone(ticket["session"]["asset_id"])


@pytest.mark.parametrize(("kind", "lane"), LANES)
@pytest.mark.parametrize("is_erasure", [False, True], ids=["purge", "erasure"])
async def test_a_purge_during_an_upload_leaves_nothing(site: Site, lane: str, is_erasure: bool) -> None:
    await site.stage.member()
    ticket = await site.begin(lane)
    assert await site.kept(ticket)
    await site.stage.let_tickets_expire(ticket["session"]["id"])
    asset_id = ticket["session"]["asset_id"]

    if is_erasure:
        await site.stage.rindle.attach(asset_id, ADA, "film")
        await site.stage.rindle.erase_owner(ADA)
    else:
        await site.stage.rindle.purge_asset(asset_id)
    await ended(site, ticket)

    assert await site.kept(ticket) == []
    if lane in ("tus", "ietf"):
        assert (await site.append(ticket, FIRST_BYTES, b"more")).status_code == 404


@pytest.mark.parametrize("lane", ["tus", "ietf"])
@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("is_told", [False, True], ids=["late", "told"])
async def test_a_request_that_outlives_the_purge_leaves_nothing(
    site: Site, lane: str, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are stored when the rows are gone already, unless it notices the end of its lease before."""
    if not is_told:
        monkeypatch.setattr("rindle.uploads.leases.WATCH_SECONDS", PATIENCE_SECONDS)
    await site.stage.member()
    ticket, arriving, may_end = await site.open(lane), asyncio.Event(), asyncio.Event()

    async def body() -> AsyncGenerator[bytes, None]:
        yield bytes(MIB)
        arriving.set()
        await may_end.wait()
        for _ in range(FIRST_BYTES // MIB):
            yield bytes(MIB)

    sending = asyncio.create_task(site.append(ticket, 0, body()))
    try:
        await asyncio.wait_for(arriving.wait(), PATIENCE_SECONDS)
        await site.stage.rindle.purge_asset(ticket["session"]["asset_id"])
        await ended(site, ticket)
        if is_told:
            await asyncio.wait([sending], timeout=PATIENCE_SECONDS)
    finally:
        may_end.set()
    answer = await sending

    assert answer.status_code == 404
    assert await site.kept(ticket) == []


@pytest.mark.parametrize("lane", ["tus", "ietf"])
@pytest.mark.parametrize("kind", STORES)
async def test_an_asset_that_is_being_purged_takes_no_bytes(site: Site, lane: str) -> None:
    """No worker has removed anything yet; the purge is decided, and what came now would come after its look."""
    ticket = await site.begin(lane)
    await tombstoned(site.stage, ticket["session"]["asset_id"])

    answer = await site.append(ticket, FIRST_BYTES, b"more")

    assert answer.status_code == 404
    assert (await site.stage.session(ticket["session"]["id"])).last_known_offset == FIRST_BYTES


async def tombstoned(stage: Stage, asset_id: str) -> None:
    """Do the first step of a purge."""
    await stage.rindle.database.write(purge.begin, asset_id)


@pytest.mark.external
@pytest.mark.parametrize("kind", ["s3"])
@pytest.mark.parametrize("lane", ["tus", "multipart"])
async def test_an_object_that_is_made_after_the_purge_is_deleted(
    site: Site, lane: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A store needs minutes to join many parts, and an abort that arrives meanwhile does not stop it."""
    stage, bucket = site.stage, store_of(site.stage)
    begun, purged = asyncio.Event(), asyncio.Event()
    (tmp_path / "joined").write_bytes(bytes(PART_BYTES))

    async def slowly(key: str, upload_id: str, parts: Any) -> StoredObject:
        begun.set()
        await purged.wait()
        return await bucket.store(key, tmp_path / "joined")

    monkeypatch.setattr(bucket, "complete_multipart_upload", slowly)
    ticket = await site.open(lane, PART_BYTES)
    session_id, asset_id = ticket["session"]["id"], ticket["session"]["asset_id"]
    if lane == "multipart":
        await send_part(stage, session_id, 1, bytes(PART_BYTES))
        making = asyncio.ensure_future(stage.rindle.complete_multipart_upload(session_id))
    else:
        assert (await site.append(ticket, 0, bytes(PART_BYTES))).status_code == 204
        making = asyncio.ensure_future(assembly.assemble(stage.rindle.services, session_id))
    await begun.wait()
    await stage.member(stage.application(RINDLE_PURGE_SETTLE_SECONDS="1"))
    await stage.rindle.purge_asset(asset_id)
    await ended(site, ticket)

    purged.set()
    await asyncio.gather(making, return_exceptions=True)

    assert await site.kept(ticket) == []


@pytest.mark.parametrize("kind", STORES)
async def test_a_purge_of_an_upload_whose_bytes_are_all_there_leaves_nothing(site: Site) -> None:
    """Workflow and purge start together: the object may be made before, while or after its purge deletes it."""
    ticket = await site.open("tus")
    assert (await site.append(ticket, 0, bytes(2 * FIRST_BYTES))).status_code == 204
    assert (await site.stage.session(ticket["session"]["id"])).state == "uploaded"
    await site.stage.rindle.purge_asset(ticket["session"]["asset_id"])

    await site.stage.member()
    await ended(site, ticket)

    async def is_empty() -> bool:
        return await site.kept(ticket) == []

    await until(is_empty, what="the store to be empty")
