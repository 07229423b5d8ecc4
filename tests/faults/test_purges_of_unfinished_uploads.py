"""Purge and erasure of an asset whose bytes are still arriving: the store keeps nothing, in every lane that resumes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rindle.db import purge
from rindle.protocols import StoredObject
from rindle.testing.flaky import FlakyStorage
from tests.application import storage
from tests.integration.uploads.conftest import PART_BYTES, send_part, store_of
from tests.integration.uploads.test_resumable import environment_of
from tests.lanes import FIRST_BYTES, LANES, MIB, STORES, LaneSite, lane_site
from tests.patience import PATIENCE_SECONDS, until
from tests.servers.temporal import TemporalServer
from tests.stage import Stage
from tests.tus import assembled

ADA = ("Member", "ada")


@pytest.fixture
async def site(
    request: pytest.FixtureRequest, tmp_path: Path, temporal_server: TemporalServer, kind: str
) -> AsyncIterator[LaneSite]:
    """A site on the store of the test."""
    environment: dict[str, str] = {}
    if kind == "s3":
        environment = request.getfixturevalue("bucket_environment")
    elif kind == "gcs":
        environment = environment_of(request.getfixturevalue("fake_gcs"))
    store = FlakyStorage(storage(environment)) if kind == "gcs" else None  # notes its calls
    async with lane_site(tmp_path, temporal_server.target, environment, store=store) as ready:
        yield ready


async def ended(site: LaneSite, ticket: Mapping[str, Any]) -> None:
    """Wait until the rows of an asset are gone; nobody waits for the tickets that were issued."""
    await site.stage.let_tickets_expire(ticket["session"]["id"])
    await site.stage.gone(ticket["session"]["asset_id"])


@pytest.mark.parametrize(("kind", "lane"), LANES)
@pytest.mark.parametrize("is_erasure", [False, True], ids=["purge", "erasure"])
async def test_a_purge_during_an_upload_leaves_nothing(site: LaneSite, lane: str, is_erasure: bool) -> None:
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
    site: LaneSite, lane: str, is_told: bool, monkeypatch: pytest.MonkeyPatch
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
async def test_an_asset_that_is_being_purged_takes_no_bytes(site: LaneSite, lane: str) -> None:
    """No worker has removed anything yet; the purge is decided, and what came now would come after its look."""
    ticket = await site.begin(lane)
    await tombstoned(site.stage, ticket["session"]["asset_id"])

    answer = await site.append(ticket, FIRST_BYTES, b"more")

    assert answer.status_code == 404
    assert (await site.stage.session(ticket["session"]["id"])).last_known_offset == FIRST_BYTES


async def tombstoned(stage: Stage, asset_id: str) -> None:
    """Do the first step of a purge."""
    await stage.rindle.database.write(purge.begin, asset_id, late_put_seconds=0)


@pytest.mark.external
@pytest.mark.parametrize("kind", ["s3"])
@pytest.mark.parametrize("lane", ["tus", "multipart"])
async def test_an_object_that_is_made_after_the_purge_is_deleted(
    site: LaneSite, lane: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
        making = asyncio.ensure_future(assembled(stage.rindle.services, session_id))
    await begun.wait()
    await stage.member(stage.application(RINDLE_PURGE_SETTLE_SECONDS="1"))
    await stage.rindle.purge_asset(asset_id)
    await ended(site, ticket)

    purged.set()
    await asyncio.gather(making, return_exceptions=True)

    assert await site.kept(ticket) == []


@pytest.mark.parametrize("kind", STORES)
async def test_a_purge_of_an_upload_whose_bytes_are_all_there_leaves_nothing(site: LaneSite) -> None:
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
