"""The address that a streaming provider calls: each answer of the contract, over the body as it was received."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from rindle import telemetry
from rindle.errors import Misconfigured
from rindle.http import create_router, provider_webhook_router
from rindle.http.webhooks import MAX_WEBHOOK_BYTES, WebhookSecrets
from rindle.protocols import ProviderAsset, WebhookKind
from rindle.streaming import signatures
from rindle.streaming.memory import InMemoryProvider
from rindle.streaming.mux import MuxProvider
from tests.gallery import opened
from tests.integration.http.site import CLOSED_PORT, ORIGIN, documentation, error_of, operations
from tests.unit.streaming.cinema import SECRET, Cinema, make_profiles

MEMORY, MUX = "/media/webhooks/rindle/memory", "/media/webhooks/rindle/mux"
READY, CREATED = WebhookKind.READY, WebhookKind.CREATED


class Desk:
    """A site with an address for webhooks of the provider in memory and of Mux; no Temporal server answers it."""

    def __init__(self, cinema: Cinema, client: httpx.AsyncClient, app: FastAPI) -> None:
        self.cinema, self.client, self.app = cinema, client, app

    @property
    def provider(self) -> InMemoryProvider:
        return self.cinema.provider

    async def post(self, body: bytes, headers: dict[str, str], path: str = MEMORY) -> httpx.Response:
        return await self.client.post(path, content=body, headers=headers)

    async def notified(self, kind: WebhookKind, asset: ProviderAsset, **options: Any) -> int:
        body, headers = self.provider.webhook(kind, SECRET, asset=asset, **options)
        return (await self.post(body, headers)).status_code

    async def stored(self) -> list[str | None]:
        return [row.dedupe_key for row in await self.cinema.outbox()]

    async def made(self, state: str = "processing") -> ProviderAsset:
        """Return an asset of the provider, that was pushed."""
        asset = await self.cinema.pushed(state=state)
        return self.provider.assets[(await self.cinema.row(asset)).provider_asset_id or ""]


@asynccontextmanager
async def a_desk(home: Path, secrets: WebhookSecrets, **options: Any) -> AsyncIterator[Desk]:
    provider = InMemoryProvider()
    async with opened(home, make_profiles, providers=[provider, MuxProvider()], **options) as gallery:
        app = FastAPI()
        profiles = {profile.name: profile for profile in gallery.rindle.profiles}
        webhooks: dict[str, WebhookSecrets] = {"memory": secrets, "mux": secrets}
        router = create_router(gallery.rindle, profiles=profiles, allow_anonymous=True, webhooks=webhooks)
        app.include_router(router, prefix="/media")
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        hooks = {"response": [documentation(app)]}
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, event_hooks=hooks) as client:
            yield Desk(Cinema(gallery, provider), client, app)


@pytest.fixture(autouse=True)
def _no_temporal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with a_desk(tmp_path, [SECRET]) as made:
        yield made


async def test_a_webhook_is_stored_once_while_temporal_is_unavailable(desk: Desk) -> None:
    body, headers = desk.provider.webhook(READY, SECRET, asset=await desk.made(), event_id="e1")
    for _ in range(2):
        answer = await desk.post(body, headers)
        assert (answer.status_code, answer.content) == (202, b"")
        assert answer.headers["cache-control"] == "no-store"
    assert await desk.stored() == ["webhook:memory:e1"]


async def test_an_unknown_type_is_answered_and_dropped(desk: Desk) -> None:
    answer = await desk.post(*desk.provider.webhook("a.later.invention", SECRET))
    assert (answer.status_code, answer.content, await desk.stored()) == (200, b"", [])


async def test_everything_invalid_gets_the_same_answer(desk: Desk) -> None:
    made, now = await desk.made(), datetime.now(UTC)
    body, headers = desk.provider.webhook(READY, SECRET, asset=made)
    document = json.loads(body)

    def signed(raw: bytes) -> tuple[bytes, dict[str, str]]:
        return raw, {name: signatures.sign(raw, SECRET, now=now) for name in headers}

    refused = {
        "no signature": (body, {}),
        "an empty signature": (body, dict.fromkeys(headers, "")),
        "another secret": desk.provider.webhook(READY, "another", asset=made),
        "a changed body": (body.replace(b'"ready"', b'"errored"'), headers),
        "the same JSON, written differently": (json.dumps(document, indent=1).encode(), headers),
        "too old": desk.provider.webhook(READY, SECRET, asset=made, now=now - timedelta(seconds=400)),
        "from the future": desk.provider.webhook(READY, SECRET, asset=made, now=now + timedelta(seconds=400)),
        "no JSON": signed(b"{"),
        "no object": signed(b"[1]"),
        "no text": signed(b"\xff\xfe"),
        "nothing": signed(b""),
        "no id": signed(json.dumps({**document, "id": None}).encode()),
    }
    answers = {name: await desk.post(*request) for name, request in refused.items()}
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(refused, 400)
    assert len({answer.content for answer in answers.values()}) == 1
    assert error_of(answers["too old"]) == (400, "provider_webhook_invalid")
    assert await desk.stored() == []


async def test_mux_signs_the_bytes_as_they_are_sent(desk: Desk) -> None:
    """Spaces, escapes and the order of keys are covered; the header is found in any case, with more than one digest."""
    body = b'{ "type":"video.asset.ready" ,"id" : "e\\u0031", "created_at":1764417600,\n"data":{"id":"m1"}}'
    moment, seconds = datetime.now(UTC), timedelta(seconds=1)
    good, wrong = signatures.sign(body, SECRET, now=moment), signatures.sign(body, "old", now=moment).partition(",")[2]
    when, _, digest = good.partition(",")
    for header in (good, f" {when} , {wrong}, v0=abc , {digest} "):
        assert (await desk.post(body, {"MUX-SIGNATURE": header}, MUX)).status_code == 202
    later = signatures.sign(body, SECRET, now=moment + seconds).partition(",")[0]
    assert (await desk.post(body, {"Mux-Signature": f"{later},{digest}"}, MUX)).status_code == 400
    assert (await desk.post(body.replace(b"\n", b""), {"Mux-Signature": good}, MUX)).status_code == 400
    assert await desk.stored() == ["webhook:mux:e1"]


async def test_only_post_is_allowed(desk: Desk) -> None:
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = await desk.client.request(method, MEMORY)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), method
        assert answer.text == ("" if method == "HEAD" else "method not allowed")


class Flood:
    """A body without a length, of which it counts what was consumed."""

    def __init__(self, pieces: int) -> None:
        self.pieces, self.consumed = pieces, 0

    async def sent(self) -> AsyncGenerator[bytes, None]:
        for _ in range(self.pieces):
            self.consumed += 65_536
            yield bytes(65_536)


async def test_a_body_over_the_limit_is_refused_while_it_arrives(desk: Desk) -> None:
    flood = Flood(1_000)
    async with aclosing(flood.sent()) as pieces:
        answer = await desk.client.post(MEMORY, content=pieces)
    assert error_of(answer) == (413, "max_bytes_exceeded")
    assert flood.consumed <= MAX_WEBHOOK_BYTES + 2 * 65_536
    announced = await desk.client.post(MEMORY, content=bytes(MAX_WEBHOOK_BYTES + 1))
    assert error_of(announced) == (413, "max_bytes_exceeded")


async def test_a_body_of_the_limit_is_read(desk: Desk) -> None:
    body = json.dumps({"id": "large", "type": "a.later.invention"}).encode()
    body += b" " * (MAX_WEBHOOK_BYTES - len(body))
    headers = {"Memory-Signature": signatures.sign(body, SECRET, now=datetime.now(UTC))}
    assert (await desk.post(body, headers)).status_code == 200


async def test_a_database_that_refuses_lets_the_provider_send_again(desk: Desk, caplog: Any) -> None:
    body, headers = desk.provider.webhook(READY, SECRET, asset=await desk.made(), event_id="e1")
    engine = desk.cinema.rindle.database.engine.sync_engine  # type: ignore[union-attr]

    def refuse(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("INSERT INTO media_outbox"):
            raise OperationalError(statement, None, Exception(f"disk full {SECRET}"))

    event.listen(engine, "before_cursor_execute", refuse)
    try:
        answer = await desk.post(body, headers)
    finally:
        event.remove(engine, "before_cursor_execute", refuse)
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (503, b"", "30")
    assert "a webhook was not stored" in caplog.text and SECRET not in caplog.text
    assert (await desk.post(body, headers)).status_code == 202
    assert await desk.stored() == ["webhook:memory:e1"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
async def test_webhooks_in_any_order_and_twice_are_applied_once(desk: Desk, order: tuple[int, ...]) -> None:
    asset = await desk.cinema.pushed(state="processing")
    made = desk.provider.finish((await desk.cinema.row(asset)).provider_asset_id or "")
    start = datetime.now(UTC) - timedelta(seconds=60)
    for number in (*order, *order):
        kind, moment = (CREATED, READY, READY)[number], start + timedelta(seconds=number)
        assert await desk.notified(kind, made, event_id=f"e{number}", occurred_at=moment) == 202
    assert await desk.stored() == [f"webhook:memory:e{number}" for number in order]
    for _ in range(2):
        await desk.cinema.apply(asset)
    row, events = await desk.cinema.row(asset), await desk.cinema.events(asset)
    assert (row.state, row.playback_ids) == ("ready", list(made.playback_ids))
    assert (events.count("provider_asset_ready"), events.count("provider_webhook")) == (1, 3)
    assert await desk.notified(READY, made, event_id="e1") == 202  # repeated after it was applied
    assert len(await desk.stored()) == 3


# --- secrets -----------------------------------------------------------------------------------------------------


async def test_secrets_are_read_at_each_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[str] = []

    async def fetched() -> list[str]:
        return held

    def ways() -> dict[str, WebhookSecrets]:
        return {"variable": "SOME_WEBHOOK_SECRETS", "function": lambda: held, "coroutine": fetched}

    def rotate(*secrets: str) -> None:
        held[:] = secrets
        monkeypatch.setenv("SOME_WEBHOOK_SECRETS", " , ".join(["", *secrets]))

    used: list[object] = []
    remove = telemetry.add_handler(lambda name, facts, _: used.append(facts["index"]) if "index" in facts else None)
    try:
        for name, secrets in ways().items():
            home = tmp_path / name
            home.mkdir()
            monkeypatch.delenv("SOME_WEBHOOK_SECRETS", raising=False)
            held.clear()
            async with a_desk(home, secrets) as desk:
                made = await desk.made()
                assert await desk.notified(READY, made) == 400, name  # no secret at all
                rotate(SECRET)
                assert await desk.notified(READY, made) == 202, name
                rotate("a newer one", SECRET)
                assert await desk.notified(READY, made) == 202, name
                rotate("a newer one")
                assert await desk.notified(READY, made) == 400, name
    finally:
        remove()
    assert used == [0, 1] * 3


async def test_wrong_wiring_fails_when_the_router_is_made(tmp_path: Path) -> None:
    class Deaf(InMemoryProvider):
        name = "deaf"

        def capabilities(self) -> frozenset[str]:
            return super().capabilities() - {"webhook_ingest"}

    async with opened(tmp_path, make_profiles, providers=[InMemoryProvider(), Deaf()]) as gallery:
        mistakes: list[Any] = ["the Secret itself", [], [""], ["good", " "], [1], b"bytes", None, 5, {"a": "b"}]
        for secrets in mistakes:
            with pytest.raises(Misconfigured, match="secrets of the webhooks of 'memory'") as refusal:
                provider_webhook_router(gallery.rindle, "memory", secrets)
            assert "Secret itself" not in str(refusal.value) and "good" not in str(refusal.value)
        with pytest.raises(Misconfigured, match="unknown"):
            provider_webhook_router(gallery.rindle, "unknown", [SECRET])
        with pytest.raises(Misconfigured, match="sends no webhooks"):
            provider_webhook_router(gallery.rindle, "deaf", [SECRET])


async def test_there_is_no_address_without_secrets(tmp_path: Path) -> None:
    async with opened(tmp_path, make_profiles, providers=[InMemoryProvider()]) as gallery:
        profiles = {profile.name: profile for profile in gallery.rindle.profiles}
        make: Callable[..., Any] = create_router
        for options in ({}, {"webhooks": {"memory": [SECRET]}, "include": {"uploads"}}):
            app = FastAPI()
            app.include_router(make(gallery.rindle, profiles=profiles, allow_anonymous=True, **options))
            assert not [path for path, _, _ in operations(app) if "webhooks" in path]


async def test_the_route_is_described(desk: Desk) -> None:
    described = {path: operation for path, _, operation in operations(desk.app) if "webhooks" in path}
    assert described.keys() == {MEMORY, MUX}
    assert described[MUX]["operationId"] == "rindle_webhook_mux"
    assert described[MUX]["responses"].keys() == {"200", "202", "400", "413", "500", "503", "default"}
