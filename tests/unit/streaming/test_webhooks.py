"""Webhooks: stored once, applied once, in any order."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from rindle import MediaEvent, MediaOutbox, telemetry
from rindle import webhooks as flow
from rindle.db import outbox as outbox_rows
from rindle.db import providers as rows
from rindle.db.models import utc_now
from rindle.errors import Misconfigured, ProviderWebhookInvalid
from rindle.operations.maintenance.retention import Retention
from rindle.operations.maintenance.sweep import run_here
from rindle.protocols import WebhookKind
from rindle.relay import coalesce
from rindle.streaming import signatures
from rindle.streaming.memory import SIGNATURE_HEADER, InMemoryProvider
from rindle.streaming.mux import MuxProvider
from rindle.webhooks import ingest_webhook
from tests.unit.streaming.cinema import SECRET, Cinema

READY, CREATED, DELETED, ERRORED = WebhookKind.READY, WebhookKind.CREATED, WebhookKind.DELETED, WebhookKind.ERRORED


async def test_a_webhook_is_stored_once_with_no_secret_in_the_telemetry(cinema: Cinema) -> None:
    asset = await cinema.pushed(state="processing")
    seen: list[tuple[str, dict[str, object]]] = []
    remove = telemetry.add_handler(lambda name, facts, numbers: seen.append((name, dict(facts))))
    try:
        for _ in range(2):
            assert await cinema.received(READY, asset, event_id="e1")
    finally:
        remove()
    [row] = await cinema.outbox()
    assert (row.kind, row.dedupe_key, row.state) == ("provider_webhook", "webhook:memory:e1", "pending")
    assert [name.removeprefix("rindle.provider.webhook.") for name, _ in seen] == ["secret_used", "verified"] * 2
    assert seen[0][1] == {"provider": "memory", "index": 0}
    text = repr(seen)
    assert SECRET not in text and str((await cinema.row(asset)).provider_asset_id) not in text


async def test_an_applied_webhook_is_not_stored_again(cinema: Cinema) -> None:
    asset = await cinema.pushed(state="processing")
    await cinema.received(READY, asset, event_id="e1")
    await cinema.apply(asset)
    gone = delete(MediaOutbox).where(MediaOutbox.kind == "provider_webhook")
    await cinema.rindle.database.write(lambda session: session.execute(gone))  # after 30 days
    assert await cinema.received(READY, asset, event_id="e1")
    assert await cinema.outbox() == []


async def test_webhooks_and_their_records_are_kept_for_thirty_days(cinema: Cinema) -> None:
    """So long their provider may send one again."""
    database, asset = cinema.rindle.database, await cinema.pushed(state="processing")
    await cinema.received(READY, asset, event_id="e1")
    await cinema.apply(asset)

    async def after(days: float) -> tuple[int, int]:
        moment = utc_now() - timedelta(days=days)

        def swept(session: Session) -> None:
            session.execute(update(MediaOutbox).values(state="dispatched", dispatched_at=moment))
            session.execute(
                update(MediaEvent).where(MediaEvent.type == "provider_webhook").values(occurred_at=moment, audit=False)
            )
            outbox_rows.delete_dispatched(session, older_than_seconds=7 * 86_400, limit=100)

        await database.write(swept)
        await run_here(cinema.rindle.services, Retention(), Retention.options(dry_run=False))
        return len(await cinema.outbox()), (await cinema.events(asset)).count("provider_webhook")

    assert await after(29) == (1, 1)
    assert await after(31) == (0, 0)


async def test_a_late_event_fills_in_what_is_missing(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed()
    row = await cinema.row(asset)
    known = (row.provider_asset_id, row.playback_ids)
    made = provider.assets[row.provider_asset_id or ""]
    body, headers = provider.webhook(CREATED, SECRET, asset=made, occurred_at=datetime.now(UTC) - timedelta(hours=1))
    await cinema.change(asset, provider_asset_id=None, playback_ids=[], last_event_at=utc_now(), last_event_id="new")
    assert await ingest_webhook(cinema.rindle.services, "memory", body, headers, [SECRET])
    await cinema.apply(asset)
    row = await cinema.row(asset)
    assert ((row.provider_asset_id, row.playback_ids), row.state, row.last_event_id) == (known, "ready", "new")


async def test_a_long_id_is_hashed(cinema: Cinema) -> None:
    asset = await cinema.pushed(state="processing")
    await cinema.received(READY, asset, event_id="e" * 5_000)
    [row] = await cinema.outbox()
    assert row.dedupe_key is not None and len(row.dedupe_key) < 255


async def test_a_forged_or_old_webhook_stores_nothing(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed(state="processing")
    services = cinema.rindle.services
    made = next(iter(provider.assets.values()))
    body, headers = provider.webhook(READY, SECRET, asset=made)
    old, old_headers = provider.webhook(READY, SECRET, asset=made, now=utc_now() - timedelta(seconds=400))
    for raw, named, secrets in (
        (body + b" ", headers, [SECRET]),
        (body, {}, [SECRET]),
        (body, headers, []),
        (body, headers, ["", "another"]),
        (old, old_headers, [SECRET]),
    ):
        with pytest.raises(ProviderWebhookInvalid):
            await ingest_webhook(services, "memory", raw, named, secrets)
    with pytest.raises(Misconfigured):
        await ingest_webhook(services, "unknown", body, headers, [SECRET])
    assert await cinema.outbox() == [] and (await cinema.row(asset)).state == "processing"


async def test_an_unknown_type_is_dropped(cinema: Cinema, provider: InMemoryProvider) -> None:
    body, headers = provider.webhook("later.invention", SECRET)
    assert SIGNATURE_HEADER in headers
    assert not await ingest_webhook(cinema.rindle.services, "memory", body, headers, [SECRET])
    assert await cinema.outbox() == []


async def test_the_second_secret_is_reported_by_its_index(cinema: Cinema, provider: InMemoryProvider) -> None:
    seen: list[object] = []
    remove = telemetry.add_handler(
        lambda name, facts, numbers: seen.append(facts.get("index")) if name.endswith("secret_used") else None
    )
    body, headers = provider.webhook("later.invention", SECRET)
    try:
        await ingest_webhook(cinema.rindle.services, "memory", body, headers, ["newer", SECRET])
    finally:
        remove()
    assert seen == [1]


async def test_the_database_that_refuses_is_not_hidden(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed(state="processing")

    def refuse(*args: object) -> None:
        raise OperationalError("insert", None, Exception("away"))

    original, flow._store = flow._store, refuse  # type: ignore[assignment]
    try:
        with pytest.raises(OperationalError):
            await cinema.received(READY, asset)
    finally:
        flow._store = original


# --- applying ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_created_and_ready_in_any_order_and_twice_end_ready(
    cinema: Cinema, provider: InMemoryProvider, order: tuple[int, ...]
) -> None:
    asset = await cinema.pushed(state="processing")
    made = provider.finish((await cinema.row(asset)).provider_asset_id or "")
    start = datetime.now(UTC) - timedelta(seconds=60)
    kinds = [CREATED, READY, READY]
    for number in order:
        await cinema.received(
            kinds[number], asset, event_id=f"e{number}", occurred_at=start + timedelta(seconds=number)
        )
    ids = [row.id for row in await cinema.outbox()]
    await cinema.apply(asset, *ids)
    await cinema.apply(asset, *ids)
    row = await cinema.row(asset)
    assert (row.state, row.playback_ids) == ("ready", list(made.playback_ids))
    events = await cinema.events(asset)
    assert events.count("provider_asset_ready") == 1 and events.count("provider_webhook") == 3


async def test_a_late_event_never_moves_a_state_backwards(cinema: Cinema) -> None:
    asset = await cinema.pushed()
    now = datetime.now(UTC)
    await cinema.received(READY, asset, event_id="new", occurred_at=now)
    await cinema.apply(asset)
    await cinema.received(ERRORED, asset, event_id="old", occurred_at=now - timedelta(seconds=5))
    await cinema.apply(asset)
    row = await cinema.row(asset)
    assert (row.state, row.last_event_id) == ("ready", "new")


async def test_a_webhook_before_our_commit_finds_its_row_by_passthrough(
    cinema: Cinema, provider: InMemoryProvider
) -> None:
    """The provider has created the asset, and we know nothing of it yet."""
    asset = await cinema.film()
    await cinema.activities.ensure_provider_row(cinema.order(asset))
    passthrough = (await cinema.row(asset)).mux_passthrough or ""
    made = await provider.create_asset("https://source.invalid", policy="signed", passthrough=passthrough)
    made = provider.finish(made.id)
    body, headers = provider.webhook(READY, SECRET, asset=made)
    assert await ingest_webhook(cinema.rindle.services, "memory", body, headers, [SECRET])
    await cinema.apply(asset)
    row = await cinema.row(asset)
    assert (row.state, row.provider_asset_id) == ("ready", made.id)
    status = await cinema.push(asset)
    assert (status.outcome, len(provider.assets)) == ("ready", 1)


async def test_an_asset_of_a_deleted_row_is_deleted_at_the_provider(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed(state="processing")
    made = provider.assets[(await cinema.row(asset)).provider_asset_id or ""]
    await cinema.change(asset, state="deleted", provider_asset_id=None)
    body, headers = provider.webhook(READY, SECRET, asset=made)
    await ingest_webhook(cinema.rindle.services, "memory", body, headers, [SECRET])
    await cinema.apply(asset)
    row = await cinema.row(asset)
    assert (provider.assets, row.state, row.cleanup_pending) == ({}, "deleted", False)


async def test_deleted_at_the_provider(cinema: Cinema) -> None:
    asset = await cinema.pushed()
    await cinema.received(DELETED, asset)
    await cinema.apply(asset)
    assert (await cinema.row(asset)).state == "deleted"


# --- the relay's part --------------------------------------------------------------------------------------------


async def test_webhooks_of_one_film_become_one_signal(cinema: Cinema) -> None:
    asset = await cinema.pushed(state="processing")
    for number in range(3):
        await cinema.received(READY, asset, event_id=f"e{number}")
    database, settings = cinema.rindle.database, cinema.rindle.settings
    claimed = [row for row in await database.write(outbox_rows.claim) if row.kind == outbox_rows.WEBHOOK]
    routed = await database.write(flow.route, claimed)
    for row in claimed:
        flow.address(settings, row, *routed.known[row.id])
    [call] = coalesce(claimed)
    assert (call.signals, len(call.webhook_ids)) == (["provider_event"], 3)
    assert call.row.workflow_id == f"rindle-provider-push:{asset.id}:memory"
    assert str((await cinema.row(asset)).provider_asset_id) not in json.dumps(call.row.payload)


async def test_a_storm_of_webhooks_becomes_a_few_signals(cinema: Cinema) -> None:
    """Mux reports each change of an asset; nothing is done about most of them. Those that count share signals."""
    body = json.dumps({"id": "e", "type": "video.asset.updated", "data": {"id": "x"}}).encode()
    now = utc_now()
    headers = {"Mux-Signature": signatures.sign(body, SECRET, now=now)}
    mux = MuxProvider()
    for _ in range(10_000):
        found = mux.verify_webhook(body, headers, [SECRET], now=now, tolerance_seconds=300)
        assert found.event is None  # nothing is stored
    asset, count = await cinema.pushed(state="processing"), 2 * outbox_rows.BATCH + 1
    for number in range(count):
        await cinema.received(READY, asset, event_id=f"e{number}")
    database, settings = cinema.rindle.database, cinema.rindle.settings
    signals, told = 0, []
    while claimed := [row for row in await database.write(outbox_rows.claim) if row.kind == outbox_rows.WEBHOOK]:
        routed = await database.write(flow.route, claimed)
        for row in claimed:
            flow.address(settings, row, *routed.known[row.id])
        for call in coalesce(claimed):
            signals += len(call.signals)
            told += call.webhook_ids
    assert (len(set(told)), signals) == (count, 3)


async def test_a_webhook_that_nobody_knows_waits_and_is_then_an_orphan(
    cinema: Cinema, provider: InMemoryProvider
) -> None:
    stranger = await provider.create_asset("https://source.invalid", policy="signed", passthrough="unknown")
    body, headers = provider.webhook(READY, SECRET, asset=stranger, event_id="e1")
    await ingest_webhook(cinema.rindle.services, "memory", body, headers, [SECRET])
    database = cinema.rindle.database
    waits = []
    for _ in range(5):
        [row] = await cinema.outbox()
        routed = await database.write(flow.route, [row])
        waits += routed.waiting.values()
        for row_id, seconds in routed.waiting.items():
            await database.write(outbox_rows.reschedule, [row_id], seconds=seconds, error="orphan_event")
    assert (waits, routed.orphans) == ([5, 15, 45, 90], [row.id])
    [event] = await database.read(
        lambda session: session.scalars(select(MediaEvent).where(MediaEvent.type == "orphan_event")).all()
    )
    assert (event.scope_id, event.payload) == ("memory:e1", {"provider": "memory", "kind": "ready"})
    assert await database.read(rows.is_applied, {"provider": "memory", "id": "e1"})
