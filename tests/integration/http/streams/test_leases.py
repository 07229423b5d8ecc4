"""A request that still holds an upload past the time of its lease, beside one that reads the offset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from rindle.db.models import utc_now
from tests.integration.uploads.conftest import change
from tests.lanes import lane_site
from tests.patience import PATIENCE_SECONDS, until
from tests.servers.temporal import TemporalServer


@pytest.mark.parametrize(("protocol", "locked"), [("tus", 423), ("ietf", 503)])
async def test_an_offset_that_was_told_after_the_time_of_a_lease_is_not_changed_by_its_holder(
    tmp_path: Path, temporal_server: TemporalServer, monkeypatch: pytest.MonkeyPatch, protocol: str, locked: int
) -> None:
    """The holder stands still, as a process that was stopped: it does not renew its lease."""
    monkeypatch.setattr("rindle.uploads.leases.WATCH_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr("rindle.http.streams.body.IDLE_SECONDS", PATIENCE_SECONDS)
    go_on = asyncio.Event()

    async def stalled() -> AsyncGenerator[bytes, None]:
        yield b"WOR"
        await go_on.wait()
        yield b"LD"

    async with lane_site(tmp_path, temporal_server.target, {}) as site:
        ticket = await site.open(protocol, 15)
        session_id = ticket["session"]["id"]
        assert (await site.append(ticket, 0, b"hello")).status_code == httpx.codes.NO_CONTENT
        holder = asyncio.create_task(site.append(ticket, 5, stalled()))

        async def is_held() -> bool:
            return (await site.stage.session(session_id)).lock_owner is not None

        await until(is_held, what="the request to have the upload")
        await change(site.stage, session_id, lock_expires_at=utc_now())

        told = await site.offset(ticket)
        go_on.set()

        assert (await holder).status_code == locked
        row = await site.stage.session(session_id)
        assert (told, row.last_known_offset, row.lock_owner) == (5, 5, None)
        assert (await site.append(ticket, told, b"world")).status_code == httpx.codes.NO_CONTENT
        assert await site.offset(ticket) == 10
