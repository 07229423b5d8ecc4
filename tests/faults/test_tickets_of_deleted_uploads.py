"""A PUT ticket and a GET URL end with the asset they were signed for, on every store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from temporalio.service import RPCError

from rindle import MediaAsset, MediaUploadSession, Settings
from rindle.db.models import utc_now
from rindle.db.uploads import late_put_wait
from rindle.errors import NotFound
from rindle.http import create_router
from rindle.operations.maintenance.abort_incomplete_uploads import abort_incomplete_uploads
from rindle.protocols import DeleteResult, Presigned
from rindle.storage.memory import MemoryStorage
from rindle.testing.flaky import FlakyStorage
from rindle.workflows import ids
from tests.patience import PATIENCE_SECONDS, until
from tests.servers.minio import MinioServer
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, on_bucket, photo, staged
from tests.workflows.fleet import Fleet, handle_of, in_stage


class Visitor:
    """A stage whose objects are reached by HTTP, with workers that purge."""

    def __init__(self, stage: Stage, client: httpx.AsyncClient) -> None:
        self.stage, self.client = stage, client

    async def signed(self, expires_in: int = 3600) -> tuple[MediaUploadSession, Presigned]:
        """Open an upload and sign its PUT; the ticket outlives the test unless the test says otherwise."""
        session = await self.stage.rindle.initiate_upload("plain", filename="me.jpg")
        return session, (await self.stage.rindle.sign_url(session.id, expires_in=expires_in)).presigned

    async def let_tickets_expire(self, session_id: str, hours: float = 0) -> None:
        """Set the clock of a session: its row says that the last ticket expired so many hours ago."""

        await self.stage.let_tickets_expire(session_id, hours=hours)

    async def put(self, ticket: Presigned, body: bytes) -> int:
        """Redeem a ticket."""
        return (await self.client.put(ticket.url, content=body, headers=dict(ticket.headers))).status_code

    async def put_slowly(self, ticket: Presigned, body: bytes, begun: asyncio.Event, may_end: asyncio.Event) -> int:
        """Redeem a ticket with a body that trickles, since MinIO drops a silent one, until ``may_end``."""

        async def pieces() -> AsyncGenerator[bytes, None]:
            sent = len(body) // 2
            yield body[:sent]
            begun.set()
            while not may_end.is_set():
                yield body[sent : sent + 1]
                sent += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await may_end.wait()
            yield body[sent:]

        headers = {**ticket.headers, "Content-Length": str(len(body))}
        return (await self.client.put(ticket.url, content=pieces(), headers=headers)).status_code

    async def tombstone(self, asset_id: str) -> None:
        """Purge the asset, and wait until its objects are deleted for the first time."""
        await self.stage.rindle.purge_asset(asset_id)
        await in_stage(self.stage, ids.purge_id(asset_id, prefix=self.stage.prefix), "waiting")
        assert await self.stage.keys() == set()
        assert await self.stage.read(lambda session: session.get_one(MediaAsset, asset_id).state) == "deleted"


async def look_again(visitor: Visitor, asset_id: str) -> None:
    """Make the purge read its rows before its pause ends, as ``rindle purge --retry --execute`` does."""
    await (
        (await visitor.stage.client())
        .get_workflow_handle(ids.purge_id(asset_id, prefix=visitor.stage.prefix))
        .signal("wake")
    )


async def after(ticket: Presigned) -> None:
    """Wait until a ticket has expired."""
    await until(lambda: utc_now() > ticket.expires_at and utc_now().timestamp() > ticket.expires_at.timestamp() + 1)


async def open_visitor(stack: AsyncExitStack, stage: Stage, app: FastAPI | None) -> Visitor:
    transport = None if app is None else httpx.ASGITransport(app=app)
    client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, timeout=PATIENCE_SECONDS))
    fleet = await stack.enter_async_context(Fleet(stage))
    await fleet.start()
    return Visitor(stage, client)


@pytest.fixture
async def on_s3(tmp_path: Path, temporal_server: TemporalServer, minio: MinioServer) -> AsyncIterator[Visitor]:
    """A visitor of MinIO, which checks a ticket only when a PUT begins."""
    environment = {
        **on_bucket(minio),
        "RINDLE_LATE_PUT_SECONDS": "3600",
    }
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(staged(tmp_path, url, temporal_server.target, environment))
        yield await open_visitor(stack, stage, None)


@pytest.fixture
async def on_disk(tmp_path: Path, temporal_server: TemporalServer) -> AsyncIterator[Visitor]:
    """A visitor of the local store, through Rindle's own routes."""
    environment = {"APP_LOCAL_URL": "http://site.test/local", "RINDLE_LATE_PUT_SECONDS": "3600"}
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(staged(tmp_path, url, temporal_server.target, environment))
        app = FastAPI()
        profiles = {"plain": stage.rindle.services.profile("plain")}
        app.include_router(create_router(stage.rindle, profiles=profiles, include={"local"}))
        yield await open_visitor(stack, stage, app)


# --- S3: the object is deleted once more when no ticket is valid any more --------------------------------------------


async def test_what_a_second_put_stores_after_the_purge_is_deleted_when_the_ticket_has_expired(on_s3: Visitor) -> None:
    session, ticket = await on_s3.signed()
    body = photo(on_s3.stage.home / "p.jpg").read_bytes()
    assert await on_s3.put(ticket, body) == 200
    await on_s3.tombstone(str(session.asset_id))

    assert await on_s3.put(ticket, b"never validated") == 200  # the store still honours its signature
    assert await on_s3.stage.keys() == {session.upload_key}
    with pytest.raises(NotFound):
        await on_s3.stage.rindle.sign_url(session.id)  # but no new ticket prolongs it

    await on_s3.let_tickets_expire(session.id, hours=2)
    await look_again(on_s3, str(session.asset_id))
    await on_s3.stage.gone(str(session.asset_id))
    assert await on_s3.stage.keys() == set()
    [event] = await on_s3.stage.events(str(session.asset_id), "asset.purged")
    assert event.audit


async def test_a_put_that_ends_after_the_expiry_is_deleted_too(on_s3: Visitor) -> None:
    session, ticket = await on_s3.signed()
    asset_id = str(session.asset_id)
    await on_s3.tombstone(asset_id)
    begun, may_end = asyncio.Event(), asyncio.Event()
    sending = asyncio.create_task(on_s3.put_slowly(ticket, b"never validated" * 1000, begun, may_end))
    await begun.wait()
    await on_s3.let_tickets_expire(session.id)
    may_end.set()
    assert await sending == 200
    assert await on_s3.stage.keys() == {session.upload_key}

    await look_again(on_s3, asset_id)

    async def removed() -> bool:
        return await on_s3.stage.keys() == set()

    await until(removed, what="the next deletion")
    assert await on_s3.stage.read(lambda rows: rows.get(MediaAsset, asset_id)) is not None  # another PUT may still end
    await on_s3.let_tickets_expire(session.id, hours=2)
    with contextlib.suppress(RPCError):  # it has ended: the expiry came before the end of that deletion
        await look_again(on_s3, asset_id)
    await on_s3.stage.gone(asset_id)


async def test_a_cancelled_upload_is_released_again_after_a_late_put(on_s3: Visitor) -> None:
    session, ticket = await on_s3.signed()
    await on_s3.stage.rindle.cancel_upload(session.id)

    async def released() -> bool:
        return (await on_s3.stage.session(session.id)).backing_released_at is not None

    await until(released, what="the first release")
    assert await on_s3.put(ticket, b"late bytes") == 200
    await on_s3.let_tickets_expire(session.id, hours=1)
    run = await handle_of(on_s3.stage, on_s3.stage.upload_workflow(session.id))

    async def woken() -> bool:
        with contextlib.suppress(RPCError):  # it has ended: the release was its last step
            await run.signal("touch")
        return await on_s3.stage.keys() == set()

    assert await on_s3.stage.keys() == {session.upload_key}
    await until(woken, what="the second release")


def test_a_put_may_end_an_hour_after_its_ticket() -> None:
    now = utc_now()
    expiry = now + timedelta(minutes=10)

    assert Settings().late_put_seconds == 3600
    assert late_put_wait(expiry, 3600, since=now) == 4200
    assert late_put_wait(expiry, 3600, since=expiry + timedelta(minutes=59)) == 60
    assert late_put_wait(expiry, 3600, since=expiry + timedelta(hours=1)) == 0
    assert late_put_wait(None, 3600, since=now) == 0  # no ticket was signed


# --- the last ticket expires while the object is deleted -------------------------------------------------------------


class Overtaken(FlakyStorage):
    """A store in which something happens right after the first deletion of a key, before it is confirmed."""

    def __init__(self) -> None:
        super().__init__(MemoryStorage())
        self._happens: dict[str, Callable[[], Awaitable[None]]] = {}

    def after_deletion(self, key: str, happens: Callable[[], Awaitable[None]]) -> asyncio.Event:
        """Let it happen; the returned event is set when it has."""
        done = asyncio.Event()

        async def noted() -> None:
            await happens()
            done.set()

        self._happens[key] = noted
        return done

    async def delete(self, key: str) -> DeleteResult:
        result = await super().delete(key)
        if key in self._happens:
            await self._happens.pop(key)()
        return result


@pytest.fixture
async def overtaken(tmp_path: Path, temporal_server: TemporalServer) -> AsyncIterator[tuple[Stage, Overtaken]]:
    """A stage whose store deletes an object just before a late PUT; no worker runs yet."""
    store, url = Overtaken(), f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, temporal_server.target, store=store) as stage:
        yield stage, store


async def overtake(stage: Stage, store: Overtaken, session: MediaUploadSession) -> asyncio.Event:
    """Let a PUT with the last ticket of a session end right after the deletion, and that ticket expire then."""
    await stage.let_tickets_expire(session.id, hours=-1)

    async def late_put() -> None:
        await stage.put(session.id, b"never validated")
        await stage.let_tickets_expire(session.id)

    return store.after_deletion(session.upload_key, late_put)


async def test_a_purge_deletes_again_when_the_last_ticket_expired_during_its_deletion(
    overtaken: tuple[Stage, Overtaken],
) -> None:
    stage, store = overtaken
    await stage.member()
    session = await stage.sent()
    asset = (await stage.rindle.verify_completion(session.id)).asset
    await stage.settled(asset.id)
    put = await overtake(stage, store, session)

    await stage.rindle.purge_asset(asset.id)
    await stage.gone(asset.id)

    assert put.is_set()
    assert await stage.keys() == set()
    assert len(await stage.events(asset.id, "asset.purged")) == 1


async def test_a_release_is_repeated_when_the_last_ticket_expired_during_its_deletion(
    overtaken: tuple[Stage, Overtaken],
) -> None:
    stage, store = overtaken
    await stage.member()
    session = await stage.sent()
    put = await overtake(stage, store, session)

    await stage.rindle.cancel_upload(session.id)
    await asyncio.wait_for(put.wait(), PATIENCE_SECONDS)

    async def removed() -> bool:
        return await stage.keys() == set()

    await until(removed, what="the second release")


async def test_a_sweep_wakes_the_upload_when_the_last_ticket_expired_during_its_deletion(
    overtaken: tuple[Stage, Overtaken],
) -> None:
    stage, store = overtaken
    session = await stage.sent()
    put = await overtake(stage, store, session)
    await stage.rindle.cancel_upload(session.id)

    assert (await abort_incomplete_uploads(stage.rindle.services)).sessions_aborted == 1

    assert put.is_set()
    [*_, added] = await stage.outbox()
    assert (added.workflow_id, added.signal) == (stage.upload_workflow(session.id), "touch")
    assert await stage.keys() == {session.upload_key}
    await stage.member()

    async def removed() -> bool:
        return await stage.keys() == set()

    await until(removed, what="the second release")


# --- the local store: nothing outlives the asset ---------------------------------------------------------------------


async def test_no_ticket_and_no_url_of_the_local_store_outlives_its_asset(on_disk: Visitor) -> None:
    session, ticket = await on_disk.signed()
    body = photo(on_disk.stage.home / "p.jpg").read_bytes()
    assert await on_disk.put(ticket, body) == 200
    asset = (await on_disk.stage.rindle.verify_completion(session.id)).asset
    await on_disk.stage.settled(asset.id)
    url = await on_disk.stage.storage.url(asset.storage_key, expires_in=3600)
    assert (await on_disk.client.get(url)).content == body

    await on_disk.tombstone(asset.id)
    assert await on_disk.put(ticket, b"never validated") == 403
    assert (await on_disk.client.get(url)).status_code == 404
    assert await on_disk.stage.keys() == set()
    # Even if something stores an object there once more: nobody has validated it.
    await on_disk.stage.storage.store(asset.storage_key, on_disk.stage.home / "p.jpg", content_type="image/jpeg")
    assert (await on_disk.client.get(url)).status_code == 404

    await on_disk.let_tickets_expire(session.id, hours=2)
    await look_again(on_disk, asset.id)
    await on_disk.stage.gone(asset.id)
    assert (await on_disk.client.get(url)).status_code == 404


async def test_keys_that_rindle_did_not_make_are_served_as_before(on_disk: Visitor) -> None:
    path = on_disk.stage.home / "report"
    path.write_bytes(b"of the application")
    for key in ("report.txt", "reports/2026/report.txt"):
        await on_disk.stage.storage.store(key, path)
        url = await on_disk.stage.storage.url(key, expires_in=60)
        assert (await on_disk.client.get(url)).content == b"of the application"


async def test_the_local_store_checks_a_ticket_again_when_the_body_has_ended(on_disk: Visitor) -> None:
    seconds = 1
    while True:  # a busy machine may need longer than the ticket lives to begin the body
        _, ticket = await on_disk.signed(seconds)
        begun, may_end = asyncio.Event(), asyncio.Event()
        sending = asyncio.create_task(on_disk.put_slowly(ticket, b"late" * 1000, begun, may_end))
        await asyncio.wait({sending, asyncio.ensure_future(begun.wait())}, return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            break
        seconds *= 2
    await after(ticket)
    may_end.set()

    assert await sending == 403
    assert await on_disk.stage.keys() == set()


async def test_a_put_to_the_local_store_that_ends_after_the_purge_began_is_refused(on_disk: Visitor) -> None:
    session, ticket = await on_disk.signed()
    begun, may_end = asyncio.Event(), asyncio.Event()
    sending = asyncio.create_task(on_disk.put_slowly(ticket, b"late" * 1000, begun, may_end))
    await begun.wait()
    await on_disk.tombstone(str(session.asset_id))
    may_end.set()

    assert await sending == 403
    assert await on_disk.stage.keys() == set()
