"""Server-side uploads that end while the store still writes their object: nothing stays that no row names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from rindle import MediaAsset, MediaUploadSession
from rindle.db import purge
from rindle.errors import NotFound, UploadCancelled
from rindle.storage.memory import MemoryStorage
from rindle.testing.flaky import FlakyStorage, Held
from tests.patience import PATIENCE_SECONDS, until
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, photo, staged


class Sender:
    """A stage whose store waits, on request, before it writes an object; its workers share the store."""

    def __init__(self, stage: Stage, store: FlakyStorage) -> None:
        self.stage, self.store = stage, store
        self._held: list[Held] = []

    def upload(self, **options: Any) -> asyncio.Task[MediaAsset]:
        """Begin to pass a photo to the application."""
        source = photo(self.stage.home / "p.jpg")
        return asyncio.create_task(self.stage.rindle.upload("avatar", source, filename="p.jpg", **options))

    async def held(self, **options: Any) -> tuple[asyncio.Task[MediaAsset], MediaUploadSession]:
        """Begin an upload and wait until the store has its bytes, of which it has written none."""
        self._held.append(self.store.hang("store"))
        sending = self.upload(**options)
        await asyncio.wait_for(self._held[-1].reached.wait(), PATIENCE_SECONDS)
        return sending, await self.stage.read(lambda rows: rows.scalars(select(MediaUploadSession)).one())

    def release(self) -> None:
        """Let the store write what it has."""
        for one in self._held:
            one.release()


@pytest.fixture
async def sender(tmp_path: Path, temporal_server: TemporalServer) -> AsyncIterator[Sender]:
    """A sender on a store in memory; no worker runs yet."""
    store = FlakyStorage(MemoryStorage())
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, temporal_server.target, store=store) as stage:
        yield Sender(stage, store)


async def test_an_object_that_is_stored_after_the_release_of_its_upload_is_deleted(sender: Sender) -> None:
    stage = sender.stage
    await stage.member()
    sending, session = await sender.held()
    await stage.rindle.cancel_upload(session.id)

    async def released() -> bool:
        return (await stage.session(session.id)).backing_released_at is not None

    await until(released, what="the release")
    sender.release()

    with pytest.raises(UploadCancelled):
        await sending
    assert sender.store.calls_for("store") == 1
    assert await stage.keys() == set()


async def test_an_object_that_is_stored_after_the_purge_of_its_asset_is_deleted(sender: Sender) -> None:
    stage = sender.stage
    await stage.member()
    sending, session = await sender.held()
    await stage.rindle.purge_asset(str(session.asset_id))
    await stage.gone(str(session.asset_id))
    sender.release()

    with pytest.raises(NotFound):
        await sending
    assert sender.store.calls_for("store") == 1
    assert await stage.keys() == set()


async def test_an_object_that_is_stored_between_the_decision_of_a_purge_and_its_end_is_deleted(sender: Sender) -> None:
    """The purge waits only so long for running work, and then deletes what there is."""
    stage = sender.stage
    sending, session = await sender.held()
    await stage.rindle.database.write(purge.begin, str(session.asset_id), late_put_seconds=0)
    assert (await stage.session(session.id)).state == "uploading"
    sender.release()

    with pytest.raises(NotFound):
        await sending
    assert await stage.keys() == set()


async def test_the_object_of_an_upload_that_another_call_has_completed_stays(sender: Sender) -> None:
    key = {"actor": "alice", "idempotency_key": "k"}
    sending, session = await sender.held(**key)
    completed = await sender.upload(**key)
    sender.release()

    assert (await sending).id == completed.id == session.asset_id
    assert await sender.stage.keys() == {session.upload_key}
    assert (await sender.stage.session(session.id)).state == "completed"
