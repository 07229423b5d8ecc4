"""``GET /events`` as browsers meet it: a real server, connections that break, and the answers before the first byte."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount

from rindle.errors import Misconfigured, Unauthorized
from rindle.http import create_asgi_app, create_router
from rindle.protocols import AssetSubject, UploadSubject
from rindle.security import sign_ticket
from rindle.subscriptions import QUEUE_SIZE
from tests.integration.test_subscriptions import age, many
from tests.live import (
    SECRET,
    Block,
    Clip,
    Newsroom,
    Other,
    Running,
    answered,
    following,
    newsroom,
    pairs,
    routes,
    served,
)
from tests.servers import free_port, postgres
from tests.servers.proxy import Proxy
from tests.stage import PATIENCE_SECONDS, REPOSITORY, status_of, until

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


@asynccontextmanager
async def site(directory: Path, *, url: str | None = None, **settings: Any) -> AsyncIterator[tuple[Newsroom, str]]:
    url = url or f"sqlite+aiosqlite:///{directory / 'news.db'}"
    async with (
        newsroom(directory, url, **settings) as news,
        served(routes(news.rindle, allow_anonymous=True)) as address,
    ):
        yield news, address


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[tuple[Newsroom, str]]:
    async with site(tmp_path) as opened:
        yield opened


@pytest.fixture
async def news(tmp_path: Path) -> AsyncIterator[Newsroom]:
    async with newsroom(tmp_path, f"sqlite+aiosqlite:///{tmp_path / 'news.db'}") as opened:
        yield opened


def told(blocks: list[Block]) -> list[tuple[str | None, str | None]]:
    return [(block.event, block.data.get("state")) for block in blocks]


# --- what is sent ------------------------------------------------------------------------------------------------


async def test_the_answer_is_an_event_stream_that_nobody_keeps_or_changes(web: Any):
    news, address = web
    asset = await news.running()
    newest = (await news.streamed(asset.id))[-1]

    async with httpx.AsyncClient(timeout=None) as client:
        query = pairs(("asset", asset.id))
        async with (
            client.stream("GET", f"{address}/media/events", params=query) as response,
            contextlib.aclosing(response.aiter_lines()) as lines,
        ):
            greeting = [await anext(lines) for _ in range(4)]
            await news.progressed(asset, 43)
            sent = [await anext(lines) for _ in range(4)]

    headers = dict(response.headers)
    assert response.status_code == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"
    assert headers["content-encoding"] == "identity"
    assert "content-length" not in headers
    assert greeting == ["retry: 3000", ": connected", f"id: {newest}", ""]
    event = (await news.rindle.timeline(asset.id))[-1]
    occurred_at = event.occurred_at.isoformat().replace("+00:00", "Z")
    assert sent == [
        f"id: {event.id}",
        "event: variant_progress",
        f'data: {{"type":"variant_progress","asset_id":"{asset.id}","variant_id":"{asset.variant_id}",'
        f'"variant_name":"poster","state":"processing","progress":43,"occurred_at":"{occurred_at}"}}',
        "",
    ]


async def test_several_subjects_share_a_stream_and_the_id_says_where_each_stands(web: Any):
    news, address = web
    one, other = await news.running(), await news.running()
    stand = [(await news.streamed(asset.id))[-1] for asset in (one, other)]

    async with following(address, ("asset", one.id), ("asset", other.id)) as stream:
        await news.progressed(other, 10)
        (first,) = await stream.events(1)
        await news.progressed(one, 20)
        (second,) = await stream.events(1)

    now = [(await news.streamed(asset.id))[-1] for asset in (one, other)]
    assert first.id == f"{stand[0]}.{now[1]}"
    assert second.id == f"{now[0]}.{now[1]}"


async def test_an_event_that_concerns_two_subjects_is_sent_once(web: Any):
    news, address = web
    asset = await news.running()

    async with following(address, ("asset", asset.id), ("variant", asset.variant_id)) as stream:
        await news.progressed(asset, 10)
        await news.finished(asset)
        blocks = await stream.events(3)

    ids = (await news.streamed(asset.id))[-3:]
    assert told(blocks) == [
        ("variant_progress", "processing"),
        ("variant_ready", "ready"),
        ("asset_state_changed", "ready"),
    ]
    assert [block.id for block in blocks] == [f"{ids[0]}.{ids[0]}", f"{ids[1]}.{ids[1]}", f"{ids[2]}.{ids[1]}"]


async def test_snapshots_come_before_what_happens_next(web: Any):
    news, address = web
    asset = await news.running()
    session_id = (await news.gallery.session_of(await news.rindle.asset(asset.id))).id
    await news.progressed(asset, 30)
    newest = (await news.streamed(asset.id))[-1]
    subjects = [
        ("asset", asset.id),
        ("upload_session", session_id),
        ("variant", asset.variant_id),
        ("provider_asset", asset.id),
    ]

    async with following(address, *subjects, snapshot=1) as stream:
        shown = await stream.events(4)
        await news.progressed(asset, 40)
        (live,) = await stream.events(1)

    assert [block.event for block in shown] == ["snapshot"] * 4
    assert [block.data for block in shown] == [
        {
            "type": "snapshot",
            "scope": "asset",
            "asset_id": asset.id,
            "state": "processing",
            "kind": "image",
            "variants": [{"name": "poster", "state": "processing", "progress": 30}],
        },
        {
            "type": "snapshot",
            "scope": "upload_session",
            "session_id": session_id,
            "state": "completed",
            "offset": shown[1].data["offset"],
        },
        {
            "type": "snapshot",
            "scope": "variant",
            "asset_id": asset.id,
            "variant_id": asset.variant_id,
            "variant_name": "poster",
            "state": "processing",
            "progress": 30,
        },
        {"type": "snapshot", "scope": "provider_asset", "asset_id": asset.id, "state": None},
    ]
    assert {block.id for block in shown} == {".".join([str(newest)] * 4)}
    assert (live.event, live.data["progress"]) == ("variant_progress", 40)


async def test_pings_keep_the_connection_alive(tmp_path: Path):
    async with site(tmp_path, stream_ping_seconds=0.05) as (news, address):
        asset = await news.running()
        async with following(address, ("asset", asset.id)) as stream:
            pings = [await stream.block() for _ in range(3)]
            await news.progressed(asset, 10)
            event = await stream.event()

    assert [ping.lines for ping in pings if ping is not None] == [[": ping"]] * 3
    assert event is not None and event.event == "variant_progress"


async def test_nothing_secret_is_in_a_stream(web: Any):
    news, address = web
    session = await news.rindle.initiate_upload(Clip, filename="canary-name.png", actor="canary-actor")
    signed_key = session.upload_key

    async with following(address, ("upload_session", session.id), last_id="0", snapshot=1) as stream:
        blocks = await stream.events(2)
    async with following(address, ("asset", str(session.asset_id)), snapshot=1) as stream:
        blocks += await stream.events(1)

    text = "\n".join(line for block in blocks for line in block.lines)
    for secret in (signed_key, "canary-name", "canary-actor", "http"):
        assert secret not in text


# --- resuming ----------------------------------------------------------------------------------------------------


async def test_a_killed_connection_is_resumed_without_gap_or_reordering(
    tmp_path: Path, postgres_server: postgres.PostgresServer
):
    url = postgres_server.new_database()
    async with site(tmp_path, url=url) as (news, address), Proxy(int(address.rpartition(":")[2])) as proxy:
        assets = [await news.running() for _ in range(2)]
        begun = [await news.streamed(asset.id) for asset in assets]
        subjects = [("asset", asset.id) for asset in assets]
        through = f"http://127.0.0.1:{proxy.port}"
        steps = 40
        received: list[Block] = []
        last_id = ".".join(str(known[-1]) for known in begun)
        cuts = 0

        async def write(asset: Running) -> None:
            for _ in range(steps):
                await news.restarted(asset)

        async with asyncio.TaskGroup() as writers:
            for asset in assets:
                writers.create_task(write(asset))
            while len(received) < 2 * steps:
                with contextlib.suppress(httpx.HTTPError):  # the connection is cut under the reader
                    async with following(through, *subjects, last_id=last_id) as stream:
                        while len(received) < 2 * steps and (block := await stream.event()) is not None:
                            received.append(block)
                            last_id = block.id or ""
                            if len(received) in (7, 23, 50):
                                cuts += 1
                                await proxy.cut()
                                break
                if len(received) < 2 * steps:
                    await proxy.restore()

        assert cuts == 3
        for asset, before in zip(assets, begun, strict=True):
            written = (await news.streamed(asset.id))[len(before) :]
            place = assets.index(asset)
            got = [int((block.id or "").split(".")[place]) for block in received if block.data["asset_id"] == asset.id]
            assert got == written
    postgres_server.drop_database(url)


async def test_the_place_before_the_first_event_is_enough_to_resume(web: Any):
    news, address = web
    asset = await news.running()

    async with following(address, ("asset", asset.id)) as stream:
        last_id = stream.last_id
    await news.restarted(asset, 2)
    async with following(address, ("asset", asset.id), last_id=last_id) as stream:
        blocks = await stream.events(2)

    assert [int(block.id or 0) for block in blocks] == (await news.streamed(asset.id))[-2:]


async def test_the_header_wins_over_the_query_and_a_resumed_stream_shows_its_snapshot_last(web: Any):
    news, address = web
    asset = await news.running()
    known = await news.streamed(asset.id)

    async with following(address, ("asset", asset.id), last_event_id=known[-2]) as stream:
        (by_query,) = await stream.events(1)
    async with following(
        address, ("asset", asset.id), last_id=str(known[-3]), last_event_id=known[-2], snapshot=1
    ) as stream:
        *missed, shown = await stream.events(3)
        await news.progressed(asset, 50)
        (live,) = await stream.events(1)

    assert by_query.id == str(known[-1])
    assert [block.id for block in missed] == [str(known[-2]), str(known[-1])]
    assert (shown.event, shown.id, shown.data["state"]) == ("snapshot", str(known[-1]), "processing")
    assert live.data["progress"] == 50


@pytest.mark.parametrize("last_id", ["x", "-1", "1.2", "1.", ".1", "1,2", "9" * 20, "9223372036854775808", "١"])
async def test_a_last_event_id_of_another_form_is_refused(web: Any, last_id: str):
    news, address = web
    asset = await news.running()

    status, body = await answered(address, ("asset", asset.id), last_event_id=last_id)

    assert (status, body["error"]["code"]) == (400, "invalid_last_event_id")


async def reset_of(address: str, asset: Running, last_id: int) -> tuple[dict[str, Any], Block, Block]:
    async with following(address, ("asset", asset.id), last_id=str(last_id)) as stream:
        assert stream.last_id is None  # nobody resumes from here before the snapshot was seen
        reset, snapshot = await stream.events(2)
        return reset.data, reset, snapshot


async def test_who_cannot_resume_is_reset_and_shown_where_everything_stands(web: Any):
    news, address = web
    asset, crowded, old = await news.running(), await news.running(), await news.running()
    newest = (await news.streamed(asset.id))[-1]
    first = (await news.streamed(crowded.id))[0]
    await news.write(many, crowded.variant_id, 1001)
    exactly = (await news.streamed(crowded.id))[-1001]
    oldest = (await news.streamed(old.id))[0]
    await age(news, old.id)

    unknown = await reset_of(address, asset, newest + 1)
    too_many = await reset_of(address, crowded, first)
    expired = await reset_of(address, old, oldest)
    async with following(address, ("asset", crowded.id), last_id=str(exactly)) as stream:
        replayed = await stream.events(1000)

    assert unknown[0] == {"type": "reset", "reason": "unknown", "last_id": str(newest + 1)}
    assert too_many[0] == {"type": "reset", "reason": "too_many", "last_id": str(first)}
    assert expired[0] == {"type": "reset", "reason": "expired", "last_id": str(oldest)}
    for of, (_, reset, snapshot) in ((asset, unknown), (crowded, too_many), (old, expired)):
        assert reset.id is None and snapshot.event == "snapshot"
        assert snapshot.id == str((await news.streamed(of.id))[-1])
        assert snapshot.data["state"] == "processing"
    assert [block.event for block in replayed] == ["variant_started"] * 1000


async def test_one_subject_that_cannot_resume_resets_all(web: Any):
    news, address = web
    one, other = await news.running(), await news.running()
    place = (await news.streamed(one.id))[-2]

    async with following(
        address, ("asset", one.id), ("asset", other.id), last_id=f"{place}.{10**12}", snapshot=1
    ) as stream:
        blocks = await stream.events(3)
        await news.progressed(one, 10)
        (live,) = await stream.events(1)

    assert [block.event for block in blocks] == ["reset", "snapshot", "snapshot"]
    assert [block.data["asset_id"] for block in blocks[1:]] == [one.id, other.id]
    assert live.event == "variant_progress"


# --- slow clients ------------------------------------------------------------------------------------------------


class SlowClient:
    """Calls an ASGI application itself, so that it decides when something is taken."""

    def __init__(self, app: Any, asset: Running) -> None:
        self._app = app
        self._query = f"scope=asset&id={asset.id}"
        self.taking = asyncio.Event()
        self.left = asyncio.Event()
        self.bodies: list[bytes] = []
        self.begun = asyncio.Event()

    async def run(self) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "path": "/media/events",
            "raw_path": b"/media/events",
            "root_path": "",
            "scheme": "http",
            "query_string": self._query.encode(),
            "headers": [],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await self.left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                self.bodies.append(message.get("body", b""))
                self.begun.set()
                await self.taking.wait()

        await self._app(scope, receive, send)

    @property
    def text(self) -> str:
        return b"".join(self.bodies).decode()


async def test_a_client_that_falls_too_far_behind_is_reset_and_shown_where_everything_stands(news: Newsroom):
    asset = await news.running()
    client = SlowClient(routes(news.rindle, allow_anonymous=True), asset)
    task = asyncio.create_task(client.run())
    await asyncio.wait_for(client.begun.wait(), PATIENCE_SECONDS)
    (subscription,) = news.rindle.listener.subscriptions

    await news.write(many, asset.variant_id, QUEUE_SIZE + 1)

    async def overflowed() -> bool:
        return subscription.owes_reset

    await until(overflowed, what="the queue to overflow")
    client.taking.set()

    async def shown() -> bool:
        return "event: snapshot" in client.text

    await until(shown, what="the snapshot")
    await news.restarted(asset)

    async def live() -> bool:
        return "variant_started" in client.text.partition("event: snapshot")[2]

    await until(live, what="what happens next")
    client.left.set()
    await asyncio.wait_for(task, PATIENCE_SECONDS)
    assert '"reason":"overflow"' in client.text
    await until(news.is_at_rest, what="the listener to stop")


async def test_a_client_that_takes_nothing_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    url = f"sqlite+aiosqlite:///{tmp_path / 'news.db'}"
    async with newsroom(tmp_path, url, stream_send_seconds=0.1) as news:
        asset = await news.running()
        client = SlowClient(routes(news.rindle, allow_anonymous=True), asset)
        with caplog.at_level(logging.INFO, logger="rindle"):
            await asyncio.wait_for(client.run(), PATIENCE_SECONDS)

        assert "takes nothing" in caplog.text
        await until(news.is_at_rest, what="the listener to stop")


# --- ends --------------------------------------------------------------------------------------------------------


async def test_a_page_that_waits_for_the_end_is_let_go_and_told_to_stay_away(tmp_path: Path):
    async with site(tmp_path, stream_grace_seconds=0.3) as (news, address):
        asset = await news.running()
        async with following(address, ("asset", asset.id), until="terminal") as stream:
            await news.finished(asset)
            blocks = await stream.rest()
        async with following(address, ("asset", asset.id), until="terminal", snapshot=1) as stream:
            loaded_later = await stream.rest()
        again, _ = await answered(address, ("asset", asset.id), until="terminal", last_id=blocks[-1].id)
        async with following(address, ("asset", asset.id), until="terminal", last_id=blocks[0].id) as stream:
            missed = await stream.rest()

        assert told(blocks) == [("variant_ready", "ready"), ("asset_state_changed", "ready")]
        assert told(loaded_later) == [("snapshot", "ready")]
        assert again == 204
        assert told(missed) == [("asset_state_changed", "ready")]
        await until(news.is_at_rest, what="the listener to stop")


async def kept_by_new_work(directory: Path, grace_seconds: float) -> tuple[list[Block], list[Block | None]] | None:
    """Let work begin again while a stream lingers; returns the stream's events and some pings long after its grace.

    ``None`` when the grace was over before the work had begun, as a short one may be on a busy machine.
    """
    directory.mkdir()
    pause = 0.4 * grace_seconds
    async with site(directory, stream_grace_seconds=grace_seconds, stream_ping_seconds=pause) as (news, address):
        asset = await news.running()
        async with following(address, ("asset", asset.id), until="terminal") as stream:
            await news.failed(asset)
            blocks = await stream.events(2)
            await news.retried(asset)
            if (begun := await stream.event()) is None:
                return None
            blocks += [begun, *await stream.events(1)]
            pings = [await stream.block() for _ in range(4)]  # longer than it would have lingered
            await news.finished(asset)
            return blocks + await stream.rest(), pings


async def test_work_that_begins_again_keeps_the_stream(tmp_path: Path):
    for grace_seconds in (1, 4, 16):
        if kept := await kept_by_new_work(tmp_path / str(grace_seconds), grace_seconds):
            break

    assert kept is not None
    blocks, pings = kept
    assert all(ping is not None and ping.lines == [": ping"] for ping in pings)
    assert told(blocks) == [
        ("variant_failed", "failed"),
        ("asset_state_changed", "degraded"),
        ("variant_started", "processing"),
        ("asset_state_changed", "processing"),
        ("variant_ready", "ready"),
        ("asset_state_changed", "ready"),
    ]


async def test_a_connection_lives_for_a_while_and_is_resumed(tmp_path: Path):
    async with site(tmp_path, stream_max_seconds=0.2) as (news, address):
        asset = await news.running()
        async with following(address, ("asset", asset.id)) as stream:
            assert await stream.rest() == []
        await news.progressed(asset, 10)
        missed: list[Block] = []
        while not missed:  # on a busy machine a connection may be over before it has told anything
            async with following(address, ("asset", asset.id), last_id=stream.last_id) as stream:
                missed = await stream.rest()

        assert [block.event for block in missed] == ["variant_progress"]


async def test_the_stream_of_a_deleted_asset_ends(web: Any):
    news, address = web
    asset = await news.running()

    async with following(address, ("asset", asset.id)) as stream:
        await news.deleted(asset.id)
        blocks = await stream.rest()

    assert told(blocks) == [("asset_state_changed", "deleted")]


async def test_clients_that_leave_leave_nothing_behind(tmp_path: Path, postgres_server: postgres.PostgresServer):
    url = postgres_server.new_database()
    async with site(tmp_path, url=url) as (news, address):
        asset = await news.running()
        async with contextlib.AsyncExitStack() as clients:
            for _ in range(10):
                await clients.enter_async_context(following(address, ("asset", asset.id)))
            assert news.rindle.listener.is_running
        await until(news.is_at_rest, what="the listener to stop")
        assert not list(news.rindle.listener.subscriptions)
    postgres_server.drop_database(url)


async def test_two_hundred_streams_share_one_listener(tmp_path: Path, postgres_server: postgres.PostgresServer):
    url = postgres_server.new_database()
    async with site(tmp_path, url=url) as (news, address):
        assets = [await news.running() for _ in range(4)]
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=None, limits=limits) as client, contextlib.AsyncExitStack() as opened:
            streams = [
                await opened.enter_async_context(following(address, ("asset", assets[n % 4].id), client=client))
                for n in range(200)
            ]
            for asset in assets:
                await news.progressed(asset, 50)
            blocks = [(await stream.events(1))[0] for stream in streams]
            connections = await news.listening()

        assert [block.data["asset_id"] for block in blocks] == [assets[n % 4].id for n in range(200)]
        assert connections == 1
    postgres_server.drop_database(url)


# --- who may -----------------------------------------------------------------------------------------------------


class Rules:
    """Allows alice everything about her own and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, str, Any]] = []

    async def authorize(self, actor: Any, action: str, subject: Any) -> None:
        self.asked.append((actor, action, subject))
        owner = subject.token_actor if isinstance(subject, UploadSubject) else subject.uploaded_by
        if actor is None or actor != owner:
            raise Unauthorized("this is none of your business", code="forbidden")


async def test_the_authorizer_is_asked_about_every_subject_and_one_refusal_refuses_all(news: Newsroom):
    mine, foreign = await news.running(actor="alice"), await news.running(actor="bob")
    session_id = (await news.gallery.session_of(await news.rindle.asset(mine.id))).id
    hidden = await news.gallery.uploaded(Other, actor="alice")
    rules = Rules()

    async with served(routes(news.rindle, authorizer=rules)) as address:
        async with following(
            address,
            ("asset", mine.id),
            ("variant", mine.variant_id),
            ("upload_session", session_id),
            ("provider_asset", mine.id),
            actor="alice",
        ) as stream:
            assert stream.response.status_code == 200
        refused = [
            await answered(address, *subjects, actor=actor)
            for subjects, actor in (
                ([("asset", foreign.id)], "alice"),
                ([("asset", UNKNOWN)], "alice"),
                ([("asset", mine.id), ("asset", foreign.id)], "alice"),
                ([("asset", mine.id), ("asset", UNKNOWN)], "alice"),
                ([("variant", UNKNOWN)], "alice"),
                ([("upload_session", UNKNOWN)], "alice"),
                ([("asset", hidden.id)], "alice"),
                ([("asset", mine.id)], "mallory"),
                ([("asset", mine.id)], None),
            )
        ]

    assert [(actor, action, type(subject)) for actor, action, subject in rules.asked[:4]] == [
        ("alice", "subscribe", AssetSubject),
        ("alice", "subscribe", AssetSubject),
        ("alice", "subscribe", UploadSubject),
        ("alice", "subscribe", AssetSubject),
    ]
    assert rules.asked[0][2].asset_id == mine.id
    assert {status for status, _ in refused} == {403}
    bodies = [body for _, body in refused]
    assert bodies == [bodies[0]] * len(bodies)  # nobody learns what exists
    assert bodies[0]["error"]["code"] == "unauthorized"
    await until(news.is_at_rest, what="the listener to stop")


async def test_without_an_authorizer_everything_is_refused_but_what_a_ticket_is_for(news: Newsroom):
    asset, other = await news.running(actor="alice"), await news.running(actor="alice")
    ticket = news.rindle.subscription_ticket("asset", asset.id)
    for_other = news.rindle.subscription_ticket("asset", other.id, ttl=60)
    for_variant = news.rindle.subscription_ticket("variant", asset.variant_id)
    past = int(time.time()) - 1
    bad = {
        "expired": sign_ticket("asset", asset.id, expires_at=past, secrets=[SECRET]),
        "forged": sign_ticket("asset", asset.id, expires_at=past + 99, secrets=["another secret, of forgers" * 2]),
        "changed": ticket[:-2] + ("AA" if ticket[-2:] != "AA" else "BB"),
        "of another subject": for_other,
        "of another scope": for_variant,
        "no ticket": "eyJhIjoxfQ",
        "not even text": "\u0661",
    }

    async with served(routes(news.rindle)) as address:
        refused = {
            name: await answered(address, ("asset", asset.id), ticket=text, actor="alice") for name, text in bad.items()
        }
        refused["without"] = await answered(address, ("asset", asset.id), actor="alice")
        refused["unknown"] = await answered(
            address, ("asset", UNKNOWN), ticket=news.rindle.subscription_ticket("asset", UNKNOWN)
        )
        refused["half"] = await answered(address, ("asset", asset.id), ("asset", other.id), ticket=ticket)
        async with following(address, ("asset", asset.id), ticket=ticket) as stream:
            await news.progressed(asset, 10)
            assert (await stream.events(1))[0].event == "variant_progress"
        query = [*pairs(("asset", asset.id), ("asset", other.id)), ("ticket", for_other), ("ticket", ticket)]
        async with (
            httpx.AsyncClient(timeout=None) as client,
            client.stream("GET", f"{address}/media/events", params=query) as both,
        ):
            assert both.status_code == 200

    assert {name: status for name, (status, _) in refused.items()} == dict.fromkeys(refused, 403)
    assert {body["error"]["message"] for _, body in refused.values()} == {"not allowed to follow this"}
    with pytest.raises(ValueError):
        news.rindle.subscription_ticket("asset", asset.id, ttl=0)
    with pytest.raises(Misconfigured):
        create_router(news.rindle, profiles={"clip": Clip}, include={"events", "assets"})


async def test_a_ticket_does_not_reach_the_logs(news: Newsroom, caplog: pytest.LogCaptureFixture):
    ticket = news.rindle.subscription_ticket("asset", UNKNOWN)

    with caplog.at_level(logging.INFO, logger="rindle"):
        logging.getLogger("rindle.test").info("GET /media/events?scope=asset&ticket=%s&x=1", ticket)
        logging.getLogger("rindle.test").info("opened with %s", ticket, extra={"ticket": ticket})

    assert ticket not in caplog.text and caplog.text.count("[REDACTED]") == 2
    assert caplog.records[-1].ticket == "[REDACTED]"  # type: ignore[attr-defined]


async def test_the_profiles_own_authorizer_decides_where_the_router_has_none(news: Newsroom, monkeypatch: Any):
    asset = await news.running(actor="alice")
    rules = Rules()
    policy = Clip.delivery_policy()
    monkeypatch.setattr(Clip, "delivery_policy", lambda: type(policy)(authorizer=rules))

    async with served(routes(news.rindle)) as address:
        async with following(address, ("asset", asset.id), actor="alice") as stream:
            assert stream.response.status_code == 200
        assert (await answered(address, ("asset", asset.id), actor="bob"))[0] == 403


@pytest.mark.parametrize(
    "query",
    [
        "",
        "scope=asset",
        f"id={UNKNOWN}",
        f"scope=owner&id={UNKNOWN}",
        f"scope=asset&scope=asset&id={UNKNOWN}",
        f"scope=asset&id={UNKNOWN}&id={UNKNOWN}",
        "scope=asset&id=1",
        f"scope=asset&id={'0' * 100}",
        "&".join([f"scope=asset&id={UNKNOWN}"] * 21),
        f"scope=asset&id={UNKNOWN}&until=never",
    ],
)
async def test_a_request_of_another_form_is_refused(web: Any, query: str):
    _, address = web

    async with httpx.AsyncClient(timeout=None) as client:
        answer = await client.get(f"{address}/media/events?{query}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_argument")


async def test_twenty_subjects_fit_into_one_stream(web: Any):
    news, address = web
    asset = await news.running()

    async with following(address, *[("asset", asset.id)] * 20) as stream:
        await news.progressed(asset, 10)
        (block,) = await stream.events(1)

    assert (block.id or "").count(".") == 19


async def test_an_actor_and_a_process_have_so_many_streams(tmp_path: Path):
    async with site(tmp_path, streams_per_actor=2, streams_per_process=3) as (news, address):
        asset = await news.running()
        subject = ("asset", asset.id)
        async with following(address, subject, actor="alice"), following(address, subject, actor="alice"):
            async with following(address, subject, actor="alice") as third:
                of_actor = third.response
            async with following(address, subject, actor="bob"):
                async with following(address, subject, actor="carol") as fourth:
                    of_process = fourth.response
                strangers, _ = await answered(address, subject)

        for answer, limit in ((of_actor, 2), (of_process, 3)):
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
            assert answer.json()["error"]["code"] == "too_many_streams"
            assert answer.json()["error"]["detail"] == {"limit": limit}
        assert strangers == 429

        async def has_room() -> bool:
            async with following(address, subject, actor="alice") as stream:
                return stream.response.status_code == 200

        await until(has_room, what="the places to be free again")


# --- surroundings ------------------------------------------------------------------------------------------------


async def test_the_route_is_described(news: Newsroom):
    described = routes(news.rindle, allow_anonymous=True).openapi()["paths"]["/media/events"]["get"]

    assert described["operationId"] == "rindle_follow_events"
    assert list(described["responses"]["200"]["content"]) == ["text/event-stream"]
    assert {"200", "204", "400", "403", "429", "503", "default"} <= described["responses"].keys()
    assert {parameter["name"] for parameter in described["parameters"]} == {
        "scope",
        "id",
        "snapshot",
        "until",
        "last_event_id",
        "Last-Event-ID",
        "ticket",
    }


async def test_it_works_in_starlette_behind_gzip(news: Newsroom):
    asset = await news.running()
    media = create_asgi_app(news.rindle, profiles={"clip": Clip}, include={"events"}, allow_anonymous=True)
    app = Starlette(routes=[Mount("/media", media)], middleware=[Middleware(GZipMiddleware, minimum_size=1)])

    async with served(app) as address, following(address, ("asset", asset.id)) as stream:
        await news.progressed(asset, 10)
        (block,) = await stream.events(1)

    assert block.event == "variant_progress"
    assert stream.response.headers["content-encoding"] == "identity"


async def test_it_works_beside_django(news: Newsroom):
    django = pytest.importorskip("django")
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse
    from django.urls import path

    urls = type(sys)("urls_of_a_django_application")
    urls.urlpatterns = [path("", lambda request: HttpResponse("django is here"))]  # type: ignore[attr-defined]
    sys.modules[urls.__name__] = urls
    if not settings.configured:
        settings.configure(ROOT_URLCONF=urls.__name__, ALLOWED_HOSTS=["*"], SECRET_KEY=SECRET, LOGGING_CONFIG=None)
    django.setup()
    pages = get_asgi_application()
    media = create_asgi_app(news.rindle, profiles={"clip": Clip}, include={"events"}, allow_anonymous=True)
    mounted = Starlette(routes=[Mount("/media", media), Mount("/", pages)])
    asset = await news.running()

    async with served(mounted, lifespan="off") as address:
        async with httpx.AsyncClient(timeout=None) as client:
            page = await client.get(address)
        async with following(address, ("asset", asset.id)) as stream:
            await news.progressed(asset, 10)
            (block,) = await stream.events(1)

    assert page.text == "django is here"
    assert block.event == "variant_progress"
    del sys.modules[urls.__name__]


@asynccontextmanager
async def server_process(url: str, port: int, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "--factory", "tests.live:create_app"),
            *("--host", "127.0.0.1", "--port", str(port), "--no-access-log"),
            cwd=REPOSITORY,
            env={**os.environ, "LIVE_DATABASE_URL": url},
            stdout=output,
            stderr=output,
        )
    try:

        async def answers() -> bool:
            return await status_of(f"http://127.0.0.1:{port}/openapi.json") == 200

        await until(answers, what="the web server")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_server_that_restarts_costs_no_event(tmp_path: Path, database_url: str, how: signal.Signals):
    port, log = free_port(), tmp_path / "web.log"
    address = f"http://127.0.0.1:{port}"
    async with newsroom(tmp_path, database_url) as news:
        asset = await news.running()
        known = await news.streamed(asset.id)

        async with server_process(database_url, port, log) as process:
            async with following(address, ("asset", asset.id)) as stream:
                await news.restarted(asset)
                received = await stream.events(1)
                process.send_signal(how)
                with contextlib.suppress(httpx.HTTPError):
                    assert await stream.rest() == []
            # An open stream keeps no server from going.
            assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) in (0, -how)
        await news.restarted(asset, 3)
        async with (
            server_process(database_url, port, log),
            following(address, ("asset", asset.id), last_id=received[-1].id) as stream,
        ):
            received += await stream.events(3)
            await news.restarted(asset)
            received += await stream.events(1)

        assert [int(block.id or 0) for block in received] == (await news.streamed(asset.id))[len(known) :]
