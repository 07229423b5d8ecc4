"""``GET /events``: who may follow what, by authorizer or by ticket, and how many streams at once."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import pytest

from rindle.errors import Misconfigured, Unauthorized
from rindle.http import create_router
from rindle.protocols import AssetSubject, UploadSubject
from rindle.security import sign_ticket
from tests.live import SECRET, UNKNOWN, Clip, Newsroom, Other, answered, following, news_site, pairs, routes, served
from tests.patience import PATIENCE_SECONDS, until


class Rules:
    """Allows alice everything about her own and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, str, Any]] = []

    async def authorize(self, actor: Any, action: str, subject: Any) -> None:
        self.asked.append((actor, action, subject))
        owner = subject.token_actor if isinstance(subject, UploadSubject) else subject.uploaded_by
        if actor is None or actor != owner:
            raise Unauthorized("this is none of your business", code="forbidden")


async def test_the_authorizer_is_asked_about_every_subject_and_one_refusal_refuses_all(news: Newsroom) -> None:
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


async def test_without_an_authorizer_everything_is_refused_but_what_a_ticket_is_for(news: Newsroom) -> None:
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


async def test_a_ticket_does_not_reach_the_logs(news: Newsroom, caplog: pytest.LogCaptureFixture) -> None:
    ticket = news.rindle.subscription_ticket("asset", UNKNOWN)

    with caplog.at_level(logging.INFO, logger="rindle"):
        logging.getLogger("rindle.test").info("GET /media/events?scope=asset&ticket=%s&x=1", ticket)
        logging.getLogger("rindle.test").info("opened with %s", ticket, extra={"ticket": ticket})

    assert ticket not in caplog.text and caplog.text.count("[REDACTED]") == 2
    assert caplog.records[-1].ticket == "[REDACTED]"  # type: ignore[attr-defined]


async def test_the_profiles_own_authorizer_decides_where_the_router_has_none(news: Newsroom, monkeypatch: Any) -> None:
    asset = await news.running(actor="alice")
    rules = Rules()
    policy = Clip.delivery_policy()
    monkeypatch.setattr(Clip, "delivery_policy", lambda: type(policy)(authorizer=rules))

    async with served(routes(news.rindle)) as address:
        async with following(address, ("asset", asset.id), actor="alice") as stream:
            assert stream.response.status_code == 200
        assert (await answered(address, ("asset", asset.id), actor="bob"))[0] == 403


async def test_an_actor_and_a_process_have_so_many_streams(tmp_path: Path) -> None:
    async with news_site(tmp_path, streams_per_actor=2, streams_per_process=3) as (news, address):
        asset = await news.running()
        subject = ("asset", asset.id)
        async with following(address, subject, actor="alice"), following(address, subject, actor="alice"):
            async with following(address, subject, actor="alice") as third:
                of_actor = third.response
            async with following(address, subject, actor="bob"):
                async with following(address, subject, actor="carol") as fourth:
                    of_process = fourth.response
                strangers, _ = await answered(address, subject)

        for answer, limit, of in ((of_actor, 2, "actor"), (of_process, 3, "process")):
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
            assert answer.json()["error"]["code"] == "too_many_streams"
            assert answer.json()["error"]["detail"] == {"limit": limit, "of": of}
        assert strangers == 429

        async def has_room() -> bool:
            async with following(address, subject, actor="alice") as stream:
                return stream.response.status_code == 200

        await until(has_room, what="the places to be free again")


async def test_callers_without_a_name_leave_room_for_the_others(tmp_path: Path) -> None:
    shares: dict[str, Any] = {"streams_anonymous_share": 0.4, "streams_ticket_share": 0.2}
    async with (
        news_site(tmp_path, streams_per_process=5, **shares) as (news, address),
        AsyncExitStack() as open_streams,
    ):
        asset, other = await news.running(), await news.running()
        subject = ("asset", asset.id)
        ticket = news.rindle.subscription_ticket(*subject)

        async def status(*subjects: tuple[str, str], **caller: Any) -> tuple[int, Any]:
            """Open a stream that stays, or return whose limit is reached."""
            stream = await open_streams.enter_async_context(following(address, *subjects, **caller))
            refused = stream.response.json()["error"]["detail"] if stream.response.status_code == 429 else None
            return stream.response.status_code, refused

        for _ in range(2):
            assert await status(subject) == (200, None)
        assert await status(subject) == (429, {"limit": 2, "of": "anonymous"})
        assert await status(subject, ticket=ticket) == (200, None)
        assert await status(subject, ticket=ticket) == (429, {"limit": 1, "of": "ticket"})
        # A ticket counts only if nothing else is followed with it, and only without an actor.
        assert await status(subject, ("asset", other.id), ticket=ticket) == (429, {"limit": 2, "of": "anonymous"})
        assert await status(subject, ticket=ticket, actor="alice") == (200, None)
        assert await status(subject, actor="bob") == (200, None)
        assert await status(subject, actor="carol") == (429, {"limit": 5, "of": "process"})


@pytest.mark.usefixtures("quiet_log")
async def test_clients_that_leave_during_the_first_read_leave_nothing_behind(
    tmp_path: Path, database_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A hundred reads wait for a connection one after the other, also those that nobody wants any more.
    monkeypatch.setattr("rindle.db.database.CANCEL_LIMIT_SECONDS", PATIENCE_SECONDS)
    caplog.set_level(logging.ERROR, "rindle.relay")  # there is no Temporal, and it says so
    async with news_site(tmp_path, url=database_url) as (news, address):
        asset = await news.running()
        await news.restarted(asset, 20)
        missed = (await news.streamed(asset.id))[0]
        query = urlencode([*pairs(("asset", asset.id)), ("last_event_id", missed), ("snapshot", "1")])
        server = urlsplit(address)

        async def leave() -> None:
            _, writer = await asyncio.open_connection(server.hostname, server.port)
            writer.write(f"GET /media/events?{query} HTTP/1.1\r\nHost: {server.netloc}\r\n\r\n".encode())
            await writer.drain()
            writer.transport.abort()

        await asyncio.gather(*(leave() for _ in range(100)))
        async with following(address, ("asset", asset.id)) as stream:
            await news.restarted(asset)
            assert [block.event for block in await stream.events(1)] == ["variant_started"]
        await until(news.is_at_rest, what="the listener to stop")
