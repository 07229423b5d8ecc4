"""``GET /events`` as browsers meet it: what is sent, resuming, slow clients, and how streams end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from rindle.subscriptions import QUEUE_SIZE
from tests.live import (
    UNKNOWN,
    Block,
    Clip,
    Newsroom,
    Running,
    age,
    answered,
    following,
    news_site,
    newsroom,
    pairs,
    restart_repeatedly,
    routes,
    told,
)
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import postgres
from tests.servers.proxy import Proxy

# --- what is sent ------------------------------------------------------------------------------------------------


async def test_the_answer_is_an_event_stream_that_nobody_keeps_or_changes(tmp_path: Path) -> None:
    async with (
        news_site(tmp_path, stream_ping_seconds=PATIENCE_SECONDS) as (news, address),  # no ping between the lines
        httpx.AsyncClient(timeout=None) as client,
    ):
        asset = await news.running()
        newest = (await news.streamed(asset.id))[-1]
        query = pairs(("asset", asset.id))
        async with (
            client.stream("GET", f"{address}/media/events", params=query) as response,
            contextlib.aclosing(response.aiter_lines()) as lines,
        ):
            greeting = [await anext(lines) for _ in range(4)]
            await news.progressed(asset, 43)
            sent = [await anext(lines) for _ in range(4)]
        event = (await news.rindle.timeline(asset.id))[-1]

    headers = dict(response.headers)
    assert response.status_code == 200
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"
    assert headers["content-encoding"] == "identity"
    assert "content-length" not in headers
    assert greeting == ["retry: 3000", ": connected", f"id: {newest}", ""]
    occurred_at = event.occurred_at.isoformat().replace("+00:00", "Z")
    assert sent == [
        f"id: {event.id}",
        "event: variant_progress",
        f'data: {{"type":"variant_progress","asset_id":"{asset.id}","variant_id":"{asset.variant_id}",'
        f'"variant_name":"poster","state":"processing","progress":43,"occurred_at":"{occurred_at}"}}',
        "",
    ]


async def test_several_subjects_share_a_stream_and_the_id_says_where_each_stands(
    live_news: tuple[Newsroom, str],
) -> None:
    news, address = live_news
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


async def test_an_event_that_concerns_two_subjects_is_sent_once(live_news: tuple[Newsroom, str]) -> None:
    news, address = live_news
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


async def test_snapshots_come_before_what_happens_next(live_news: tuple[Newsroom, str]) -> None:
    news, address = live_news
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


async def test_pings_keep_the_connection_alive(tmp_path: Path) -> None:
    async with news_site(tmp_path, stream_ping_seconds=0.05) as (news, address):
        asset = await news.running()
        async with following(address, ("asset", asset.id)) as stream:
            pings = [await stream.block() for _ in range(3)]
            await news.progressed(asset, 10)
            event = await stream.event()

    assert [ping.lines for ping in pings if ping is not None] == [[": ping"]] * 3
    assert event is not None and event.event == "variant_progress"


async def test_nothing_secret_is_in_a_stream(live_news: tuple[Newsroom, str]) -> None:
    news, address = live_news
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
) -> None:
    url = postgres_server.new_database()
    async with news_site(tmp_path, url=url) as (news, address), Proxy(int(address.rpartition(":")[2])) as proxy:
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


async def test_the_place_before_the_first_event_is_enough_to_resume(live_news: tuple[Newsroom, str]) -> None:
    news, address = live_news
    asset = await news.running()

    async with following(address, ("asset", asset.id)) as stream:
        last_id = stream.last_id
    await news.restarted(asset, 2)
    async with following(address, ("asset", asset.id), last_id=last_id) as stream:
        blocks = await stream.events(2)

    assert [int(block.id or 0) for block in blocks] == (await news.streamed(asset.id))[-2:]


async def test_the_header_wins_over_the_query_and_a_resumed_stream_shows_its_snapshot_last(
    live_news: tuple[Newsroom, str],
) -> None:
    news, address = live_news
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
async def test_a_last_event_id_of_another_form_is_refused(live_news: tuple[Newsroom, str], last_id: str) -> None:
    news, address = live_news
    asset = await news.running()

    status, body = await answered(address, ("asset", asset.id), last_event_id=last_id)

    assert (status, body["error"]["code"]) == (400, "invalid_last_event_id")


async def reset_of(address: str, asset: Running, last_id: int) -> tuple[dict[str, Any], Block, Block]:
    async with following(address, ("asset", asset.id), last_id=str(last_id)) as stream:
        assert stream.last_id is None  # nobody resumes from here before the snapshot was seen
        reset, snapshot = await stream.events(2)
        return reset.data, reset, snapshot


async def test_who_cannot_resume_is_reset_and_shown_where_everything_stands(live_news: tuple[Newsroom, str]) -> None:
    news, address = live_news
    asset, crowded, old = await news.running(), await news.running(), await news.running()
    newest = (await news.streamed(asset.id))[-1]
    first = (await news.streamed(crowded.id))[0]
    await news.write(restart_repeatedly, crowded.variant_id, 1001)
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


async def test_one_subject_that_cannot_resume_resets_all(live_news: tuple[Newsroom, str]) -> None:
    news, address = live_news
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


async def test_a_client_that_falls_too_far_behind_is_reset_and_shown_where_everything_stands(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'news.db'}"
    # It takes nothing until its queue has overflowed; meanwhile it must not be given up.
    async with newsroom(tmp_path, url, stream_send_seconds=PATIENCE_SECONDS) as news:
        asset = await news.running()
        client = SlowClient(routes(news.rindle, allow_anonymous=True), asset)
        task = asyncio.create_task(client.run())
        await asyncio.wait_for(client.begun.wait(), PATIENCE_SECONDS)
        (subscription,) = news.rindle.listener.subscriptions

        await news.write(restart_repeatedly, asset.variant_id, QUEUE_SIZE + 1)

        async def overflowed() -> bool:
            return subscription.has_pending_reset

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


async def test_a_client_that_takes_nothing_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'news.db'}"
    async with newsroom(tmp_path, url, stream_send_seconds=0.1) as news:
        asset = await news.running()
        client = SlowClient(routes(news.rindle, allow_anonymous=True), asset)
        with caplog.at_level(logging.INFO, logger="rindle"):
            await asyncio.wait_for(client.run(), PATIENCE_SECONDS)

        assert "does not read" in caplog.text
        await until(news.is_at_rest, what="the listener to stop")


# --- ends --------------------------------------------------------------------------------------------------------


async def test_a_page_that_waits_for_the_end_is_let_go_and_told_to_stay_away(tmp_path: Path) -> None:
    async with news_site(tmp_path, stream_grace_seconds=0.3) as (news, address):
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
    async with news_site(directory, stream_grace_seconds=grace_seconds, stream_ping_seconds=pause) as (news, address):
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


async def test_work_that_begins_again_keeps_the_stream(tmp_path: Path) -> None:
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


async def test_a_connection_lives_for_a_while_and_is_resumed(tmp_path: Path) -> None:
    async with news_site(tmp_path, stream_max_seconds=0.2) as (news, address):
        asset = await news.running()
        async with following(address, ("asset", asset.id)) as stream:
            assert await stream.rest() == []
        await news.progressed(asset, 10)
        missed: list[Block] = []
        while not missed:  # on a busy machine a connection may be over before it has told anything
            async with following(address, ("asset", asset.id), last_id=stream.last_id) as stream:
                missed = await stream.rest()

        assert [block.event for block in missed] == ["variant_progress"]


async def test_the_stream_of_a_deleted_asset_ends(live_news: tuple[Newsroom, str]) -> None:
    news, address = live_news
    asset = await news.running()

    async with following(address, ("asset", asset.id)) as stream:
        await news.deleted(asset.id)
        blocks = await stream.rest()

    assert told(blocks) == [("asset_state_changed", "deleted")]


async def test_clients_that_leave_leave_nothing_behind(
    tmp_path: Path, postgres_server: postgres.PostgresServer
) -> None:
    url = postgres_server.new_database()
    async with news_site(tmp_path, url=url) as (news, address):
        asset = await news.running()
        async with contextlib.AsyncExitStack() as clients:
            for _ in range(10):
                await clients.enter_async_context(following(address, ("asset", asset.id)))
            assert news.rindle.listener.is_running
        await until(news.is_at_rest, what="the listener to stop")
        assert not list(news.rindle.listener.subscriptions)
    postgres_server.drop_database(url)


async def test_two_hundred_streams_share_one_listener(tmp_path: Path, postgres_server: postgres.PostgresServer) -> None:
    url = postgres_server.new_database()
    async with news_site(tmp_path, url=url) as (news, address):
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
            connections = await until(news.listening)

        assert [block.data["asset_id"] for block in blocks] == [assets[n % 4].id for n in range(200)]
        assert connections == 1
    postgres_server.drop_database(url)


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
async def test_a_request_of_another_form_is_refused(live_news: tuple[Newsroom, str], query: str) -> None:
    _, address = live_news

    async with httpx.AsyncClient(timeout=None) as client:
        answer = await client.get(f"{address}/media/events?{query}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_argument")


async def test_twenty_subjects_fit_into_one_stream(live_news: tuple[Newsroom, str]) -> None:
    news, address = live_news
    asset = await news.running()

    async with following(address, *[("asset", asset.id)] * 20) as stream:
        await news.progressed(asset, 10)
        (block,) = await stream.events(1)

    assert (block.id or "").count(".") == 19
