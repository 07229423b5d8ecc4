"""Uploads through the application whose store, database or end fails halfway: no byte is lost, and nothing is left."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from rindle.db import streams as rows
from rindle.storage.local import LocalStorage
from rindle.testing.flaky import FlakyStorage
from tests.integration.uploads.conftest import released
from tests.lanes import FIRST_BYTES, MIB, LaneSite, address_of, lane_site
from tests.patience import PATIENCE_SECONDS, until
from tests.servers.minio import MinioServer
from tests.servers.proxy import Proxy
from tests.servers.temporal import TemporalServer

PROTOCOLS = ["tus", "ietf"]


@pytest.fixture(scope="module")
def film() -> bytes:
    """Two parts and a rest."""
    return os.urandom(2 * FIRST_BYTES)


async def verified(site: LaneSite, ticket: dict[str, Any]) -> str:
    """Wait until an upload is a finished asset; returns the SHA-256 of its object."""

    async def is_complete() -> bool:
        return (await site.stage.session(ticket["session"]["id"])).state == "completed"

    await until(is_complete, what="the upload to be verified")
    await site.stage.settled(ticket["session"]["asset_id"])
    key = ticket["session"]["upload_key"]
    found = await site.stage.storage.download(key, site.stage.home / "downloaded")
    return hashlib.sha256(await asyncio.to_thread(found.read_bytes)).hexdigest()


async def sent_to_its_end(site: LaneSite, ticket: dict[str, Any], film: bytes) -> None:
    """Continue an upload where it is, as a client does after a break, and check what has become of it."""

    async def is_sent() -> bool:
        try:
            offset = await site.offset(ticket)
        except AssertionError:  # 423 or 503: again in a moment
            return False
        answer = await site.append(ticket, offset, film[offset:], is_last=True)
        return answer.status_code in (200, 204)

    await until(is_sent, what="the rest to be sent")
    assert await verified(site, ticket) == hashlib.sha256(film).hexdigest()

    async def only_the_object_is_left() -> bool:
        left = await site.kept(ticket)
        return len(left) == 1 and left[0].endswith(ticket["session"]["upload_key"])

    await until(only_the_object_is_left, what="the rest of the upload to be removed")


@pytest.mark.external
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_store_that_goes_away_in_the_middle_of_a_part_costs_no_recorded_byte(
    tmp_path: Path,
    temporal_server: TemporalServer,
    minio: MinioServer,
    bucket_environment: dict[str, str],
    protocol: str,
    film: bytes,
) -> None:
    port = httpx.URL(minio.endpoint_url).port
    assert port is not None
    async with Proxy(port) as proxy:
        environment = {**bucket_environment, "APP_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
        async with lane_site(tmp_path, temporal_server.target, environment) as site:
            ticket = await site.open(protocol, len(film))
            assert (await site.append(ticket, 0, film[:FIRST_BYTES])).status_code == 204

            async def rest() -> AsyncGenerator[bytes, None]:
                for start in range(FIRST_BYTES, len(film), MIB):
                    if start == FIRST_BYTES + 4 * MIB:
                        await proxy.cut()
                    yield film[start : start + MIB]

            broken = await site.append(ticket, FIRST_BYTES, rest(), is_last=True)
            session = await site.stage.session(ticket["session"]["id"])
            assert broken.status_code == 503
            assert (session.state, session.last_known_offset) == ("uploading", FIRST_BYTES)

            await proxy.restore()
            await site.stage.member()
            await sent_to_its_end(site, ticket, film)


@pytest.mark.external
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("commits", [0, 1, 2])
async def test_a_database_that_goes_away_after_some_commits_costs_no_recorded_byte(
    tmp_path: Path,
    temporal_server: TemporalServer,
    bucket_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
    commits: int,
    film: bytes,
) -> None:
    """The part of the commit that fails is in the store, and no row knows it."""
    async with lane_site(tmp_path, temporal_server.target, bucket_environment) as site:
        ticket = await site.open(protocol, len(film))
        commit_state, left = rows.commit_state, commits

        def failing(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                raise OperationalError("update", None, ConnectionError("the database is away"))
            left -= 1
            return commit_state(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(rows, "commit_state", failing)
            answer = await site.append(ticket, 0, film, is_last=True)
        assert answer.status_code == 503
        recorded = (await site.stage.session(ticket["session"]["id"])).last_known_offset
        assert recorded < len(film)

        await site.stage.member()
        await sent_to_its_end(site, ticket, film)


@pytest.fixture
async def flaky_site(tmp_path: Path, temporal_server: TemporalServer) -> AsyncIterator[LaneSite]:
    """Local files, with calls that a test holds."""
    store = FlakyStorage(LocalStorage(tmp_path / "media", fsync=False))
    async with lane_site(tmp_path, temporal_server.target, {}, store=store) as site:
        yield site


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("way", ["by the protocol", "by the session"])
async def test_an_upload_that_is_cancelled_while_its_object_is_made_leaves_nothing(
    flaky_site: LaneSite, protocol: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tus.patch", "resumable.call"):
        monkeypatch.setattr(f"rindle.http.{module}.ASSEMBLY_SECONDS", 0.0)
    site, store = flaky_site, flaky_site.stage.storage
    assert isinstance(store, FlakyStorage)
    held = store.hang("complete_part_stream")
    await site.stage.member()
    ticket = await site.open(protocol, 5)
    assert (await site.append(ticket, 0, b"hello", is_last=True)).status_code in (200, 204)
    await asyncio.wait_for(held.reached.wait(), PATIENCE_SECONDS)

    if way == "by the protocol":
        headers = {"Tus-Resumable": "1.0.0"} if protocol == "tus" else {}
        assert (await site.client.delete(address_of(ticket), headers=headers)).status_code == 204
    else:
        assert (await site.client.delete(f"/uploads/{ticket['session']['id']}")).status_code == 200
    held.release()
    await released(site.stage, ticket["session"]["id"])

    assert (await site.stage.session(ticket["session"]["id"])).state == "aborted"
    assert await site.kept(ticket) == []
