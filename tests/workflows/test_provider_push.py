"""``ProviderPushWorkflow`` on a real server: polled, woken by webhooks, started twice, purged meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rindle import MediaAsset, outbox
from rindle.errors import ProviderSyncFailed
from rindle.messages import StatusView
from rindle.protocols import WebhookKind
from rindle.streaming.memory import InMemoryProvider
from rindle.workflows import streaming
from tests.patience import until
from tests.stage import Stage
from tests.workflows.films import cinema_on, in_state, start, workflow_of
from tests.workflows.fleet import Fleet, closed, dispatched, handle_of


@pytest.fixture
async def fleet(lite_stage: Stage) -> AsyncIterator[Fleet]:
    async with Fleet(lite_stage) as started:
        yield started


async def result_of(stage: Stage, asset: MediaAsset) -> dict[str, str]:
    workflow_id = workflow_of(stage, asset)
    await dispatched(stage)
    assert await closed(stage, workflow_id) == "COMPLETED"
    found: dict[str, str] = await (await handle_of(stage, workflow_id)).result()
    return found


async def test_a_push_is_polled_until_the_film_is_ready(
    lite_stage: Stage, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "POLL_SECONDS", 0.5)  # the third poll and all later ones come soon, too
    provider = InMemoryProvider()
    cinema = cinema_on(lite_stage, provider, RINDLE_PROVIDER_POLL_SECONDS="0.2")
    asset = await cinema.film()
    await start(cinema, asset)
    await fleet.start(cinema.rindle)
    await in_state(cinema, asset, "processing")
    made = provider.finish((await cinema.row(asset)).provider_asset_id or "")

    assert (await result_of(lite_stage, asset))["outcome"] == "ready"
    assert (await cinema.row(asset)).playback_ids == list(made.playback_ids)
    assert (await cinema.rindle.streaming_url("film", asset)).kind == "hls"
    history = (await (await handle_of(lite_stage, workflow_of(lite_stage, asset))).fetch_history()).to_json()
    for secret in (made.id, made.passthrough, *made.playback_ids, *provider.sources):
        assert secret is not None and secret not in history


async def test_a_webhook_ends_the_wait_also_if_it_came_while_temporal_was_away(lite_stage: Stage, fleet: Fleet) -> None:
    """No relay runs when the webhook is stored: that is how it looks while Temporal is away."""
    provider = InMemoryProvider()
    cinema = cinema_on(lite_stage, provider, RINDLE_PROVIDER_POLL_SECONDS="3600")
    asset = await cinema.film()
    await cinema.push(asset)
    provider.finish((await cinema.row(asset)).provider_asset_id or "")
    for event_id in ("e1", "e1", "e2"):
        assert await cinema.received(WebhookKind.READY, asset, event_id=event_id)
    await fleet.start(cinema.rindle)

    await in_state(cinema, asset, "ready")
    assert (await result_of(lite_stage, asset))["outcome"] == "ready"
    assert (await cinema.events(asset)).count("provider_asset_ready") == 1


async def test_a_webhook_wakes_a_push_that_waits(lite_stage: Stage, fleet: Fleet) -> None:
    provider = InMemoryProvider()
    cinema = cinema_on(lite_stage, provider, RINDLE_PROVIDER_POLL_SECONDS="3600")
    asset = await cinema.film()
    await start(cinema, asset)
    await fleet.start(cinema.rindle)
    await in_state(cinema, asset, "processing")
    handle = await handle_of(lite_stage, workflow_of(lite_stage, asset))
    view: StatusView = await handle.query("status", result_type=StatusView)
    assert view.kind == "provider push"
    provider.finish((await cinema.row(asset)).provider_asset_id or "", state="errored", error="no video")
    await cinema.received(WebhookKind.ERRORED, asset)

    assert (await result_of(lite_stage, asset))["outcome"] == "errored"
    assert (await cinema.row(asset)).last_sync_error == "no video"


async def test_a_lost_answer_is_retried_into_one_asset(lite_stage: Stage, fleet: Fleet) -> None:
    provider = InMemoryProvider(ready_at_once=True)
    provider.fail_next("create_asset", ProviderSyncFailed("no answer", transient=True), afterwards=True)
    cinema = cinema_on(lite_stage, provider)
    asset = await cinema.film()
    await start(cinema, asset)
    await start(cinema, asset)
    await fleet.start(cinema.rindle)

    assert (await result_of(lite_stage, asset))["outcome"] == "ready"
    assert len(provider.assets) == 1


async def test_a_refused_push_is_errored_and_says_so(lite_stage: Stage, fleet: Fleet) -> None:
    provider = InMemoryProvider()
    provider.fail_next("create_asset", ProviderSyncFailed("status 401", status=401))
    cinema = cinema_on(lite_stage, provider)
    asset = await cinema.film()
    await start(cinema, asset)
    await fleet.start(cinema.rindle)

    assert (await result_of(lite_stage, asset))["outcome"] == "errored"
    assert (await cinema.row(asset)).last_sync_error == "provider_sync_failed: status 401"
    assert provider.calls.count("create_asset") == 1


async def test_a_purge_ends_the_push_and_deletes_the_film_at_the_provider(lite_stage: Stage, fleet: Fleet) -> None:
    provider = InMemoryProvider()
    cinema = cinema_on(lite_stage, provider, RINDLE_PROVIDER_POLL_SECONDS="3600")
    asset = await cinema.film()
    await start(cinema, asset)
    await fleet.start(cinema.rindle)
    await in_state(cinema, asset, "processing")
    provider.fail_next("delete_asset", ProviderSyncFailed("status 500", status=500, transient=True))
    await cinema.rindle.database.write(
        lambda session: outbox.start_purge(session, cinema.rindle.settings, asset.id, "film")
    )

    await lite_stage.gone(asset.id)
    assert provider.assets == {}
    assert provider.calls.count("delete_asset") == 2
    assert (await result_of(lite_stage, asset))["outcome"] in ("cancelled", "skipped", "deleted")


async def test_while_the_provider_refuses_a_purge_keeps_the_rows_and_not_the_objects(
    lite_stage: Stage, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, delete = InMemoryProvider(), InMemoryProvider.delete_asset
    refused: list[str] = []

    async def refuse(self: InMemoryProvider, asset_id: str) -> None:
        refused.append(asset_id)
        raise ProviderSyncFailed("status 401", status=401)

    monkeypatch.setattr(InMemoryProvider, "delete_asset", refuse)
    cinema = cinema_on(lite_stage, provider, RINDLE_RETRY_INITIAL_SECONDS="0.2")
    asset = await cinema.pushed()
    store = cinema.rindle.storages["media"]
    assert (await store.list_keys("")).objects
    await cinema.rindle.purge_asset(asset.id)
    await fleet.start(cinema.rindle)

    async def are_gone() -> bool:
        return bool(refused) and not (await store.list_keys("")).objects

    await until(are_gone, what="the objects to be deleted")
    row = await cinema.row(asset)
    assert (row.state, row.provider_asset_id) == ("ready", *provider.assets)
    monkeypatch.setattr(InMemoryProvider, "delete_asset", delete)

    await lite_stage.gone(asset.id)
    assert provider.assets == {}
