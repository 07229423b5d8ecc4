"""The activities of a push: one asset at the provider, whatever fails on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from temporalio.testing import ActivityEnvironment

from rindle import MediaOutbox, outbox, telemetry
from rindle.db import providers as rows
from rindle.db.models import MediaProviderAsset, utc_now
from rindle.db.purge import purgeable
from rindle.errors import ProviderQuotaExceeded, ProviderSyncFailed, RindleError, SourceNotPublic
from rindle.messages import Failure, ProviderFailure
from rindle.protocols import ProviderAsset, WebhookKind
from rindle.providers import give_up_if_stuck, remove_from_provider
from rindle.states import VariantState
from rindle.storage.local import LocalStorage
from rindle.streaming.memory import InMemoryProvider
from rindle.workflows.streaming import longer_pause
from tests.gallery import SECRET, opened
from tests.unit.streaming.cinema import Cinema, make_profiles

TIMEOUT = ProviderSyncFailed("the provider did not answer", transient=True)


async def test_a_push_creates_one_asset_from_a_signed_url(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.film()
    status = await cinema.push(asset)
    row = await cinema.row(asset)
    assert (status.state, status.outcome, row.state) == ("processing", "", "processing")
    [made] = provider.assets.values()
    assert (row.provider_asset_id, row.mux_passthrough) == (made.id, made.passthrough)
    assert (row.playback_policy, row.ingest_mode) == ("signed", "server_push")
    assert provider.sources[0].startswith("http://gallery.test/media/local/")
    assert made.id not in repr(row) + repr(status) and "..." in repr(row)
    again = await cinema.push(asset)
    assert again.state == "processing" and len(provider.assets) == 1


async def test_a_push_is_told_of_with_its_duration(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.film()
    facts = {"profile": "film", "provider": "memory", "asset_id": asset.id}
    seen: list[tuple[str, dict[str, object], list[str]]] = []

    def note(name: str, told: Mapping[str, Any], numbers: Mapping[str, float]) -> None:
        if name.startswith("rindle.provider.ingest."):
            seen.append((name.rpartition(".")[2], dict(told), list(numbers)))

    remove = telemetry.add_handler(note)
    provider.fail_next("create_asset", TIMEOUT)
    try:
        with pytest.raises(ProviderSyncFailed):
            await cinema.push(asset)
        await cinema.push(asset)
    finally:
        remove()
    failed = {**facts, "kind": "error", "reason": "provider_sync_failed"}
    assert seen == [
        ("start", facts, []),
        ("exception", failed, ["duration_us"]),
        ("start", facts, []),
        ("stop", facts, ["duration_us"]),
    ]


@pytest.mark.parametrize("error", [TIMEOUT, ProviderQuotaExceeded("slow down", retry_after=7)])
@pytest.mark.parametrize("afterwards", [False, True], ids=["request lost", "answer lost"])
async def test_a_lost_request_or_answer_bills_one_asset(
    cinema: Cinema, provider: InMemoryProvider, error: RindleError, afterwards: bool
) -> None:
    asset = await cinema.film()
    provider.fail_next("create_asset", error, afterwards=afterwards)
    with pytest.raises(type(error)):
        await cinema.push(asset)
    assert (await cinema.row(asset)).state == "uploading"
    status = await cinema.push(asset)
    assert status.state == "processing"
    assert list(provider.assets) == [(await cinema.row(asset)).provider_asset_id]
    assert "find_by_passthrough" in provider.calls


async def test_a_source_that_is_not_built_is_not_pushed(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.film()
    await cinema.gallery.move_variant(asset, "web_720p", VariantState.STALE, VariantState.QUEUED)
    status = await cinema.push(asset)
    assert (status.outcome, status.reason) == ("stale_source", "asset_changed")
    assert provider.assets == {}


async def test_a_source_of_another_recipe_is_not_pushed(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.film()

    def age(session: Session) -> None:
        variant = next(one for one in session.get_one(type(asset), asset.id).variants if one.name == "web_720p")
        variant.recipe_digest = "0" * 64

    await cinema.rindle.database.write(age)
    status = await cinema.push(asset)
    assert (status.outcome, status.reason) == ("stale_source", "recipe_changed")
    assert provider.assets == {}


async def test_a_source_that_changes_during_the_creation_leaves_nothing_at_the_provider(
    cinema: Cinema, provider: InMemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = await cinema.film()
    create = provider.create_asset

    async def slowly(*args: str, **kwargs: str) -> object:
        made = await create(*args, **kwargs)  # type: ignore[arg-type]
        await cinema.gallery.move_variant(asset, "web_720p", VariantState.STALE, VariantState.QUEUED)
        return made

    monkeypatch.setattr(provider, "create_asset", slowly)
    status = await cinema.push(asset)
    assert (status.outcome, provider.assets) == ("stale_source", {})
    assert (await cinema.row(asset)).provider_asset_id is None


async def test_a_poll_follows_the_provider(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed(state="processing")
    assert (await cinema.activities.poll_provider_asset(cinema.order(asset))).outcome == ""
    made = provider.finish((await cinema.row(asset)).provider_asset_id or "")
    assert (await cinema.activities.poll_provider_asset(cinema.order(asset))).outcome == "ready"
    row = await cinema.row(asset)
    assert (row.state, row.playback_ids) == ("ready", list(made.playback_ids))
    assert await cinema.events(asset) == [
        "provider_asset_state_changed",
        "provider_asset_state_changed",
        "provider_asset_ready",
    ]


async def test_what_a_provider_reports_is_kept_within_limits(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed(state="processing")
    asset_id = (await cinema.row(asset)).provider_asset_id or ""

    async def polled(**reported: Any) -> MediaProviderAsset:
        provider.assets[asset_id] = dataclasses.replace(provider.assets[asset_id], **reported)
        await cinema.activities.poll_provider_asset(cinema.order(asset))
        return await cinema.row(asset)

    unknown = await polled(state="", raw={"status": "a later invention"})  # nothing changes
    assert (unknown.state, unknown.raw_provider_metadata) == ("processing", {"policy": "signed"})
    small = await polled(state="processing", raw={"size": 1})
    assert small.raw_provider_metadata == {"size": 1}
    large = await polled(raw={"notes": "x" * rows.MAX_RAW_BYTES})
    assert large.raw_provider_metadata.keys() == {"truncated", "bytes"}
    failed = await polled(state="errored", error="ü" * 5_000, raw={})
    assert failed.state == "errored" and 4_000 < len((failed.last_sync_error or "").encode()) <= 4_096


async def test_a_failed_poll_is_noted_once_and_does_not_make_the_row_younger(
    cinema: Cinema, provider: InMemoryProvider
) -> None:
    asset = await cinema.pushed(state="processing")
    before = (await cinema.row(asset)).updated_at
    for _ in range(2):
        provider.fail_next("get_asset", TIMEOUT)
        assert (await cinema.activities.poll_provider_asset(cinema.order(asset))).outcome == ""
    row = await cinema.row(asset)
    assert (row.state, row.last_sync_error) == ("processing", "provider_sync_failed: the provider did not answer")
    assert row.updated_at == before


async def test_an_asset_that_is_gone_at_the_provider_is_errored(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed(state="processing")
    provider.assets.clear()
    assert (await cinema.activities.poll_provider_asset(cinema.order(asset))).outcome == "errored"
    assert (await cinema.row(asset)).last_sync_error == "memory asset not found"


async def test_an_asset_that_does_not_change_is_stuck_until_the_provider_says_ready(
    cinema: Cinema, provider: InMemoryProvider
) -> None:
    asset = await cinema.pushed(state="processing")
    await cinema.change(asset, updated_at=utc_now() - timedelta(seconds=7_201))
    assert (await cinema.activities.poll_provider_asset(cinema.order(asset))).outcome == "errored"
    row = await cinema.row(asset)
    assert row.last_sync_error == "stuck in processing past threshold"
    made = provider.finish(row.provider_asset_id or "")
    await cinema.rindle.database.write(rows.apply_poll, row, made)
    assert (await cinema.row(asset)).state == "ready"


async def test_a_row_that_a_webhook_has_just_moved_is_not_stuck(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed(state="processing")
    await cinema.change(asset, state="uploading", updated_at=utc_now() - timedelta(days=1))
    seen = await cinema.row(asset)
    await cinema.received(WebhookKind.CREATED, asset)
    await cinema.apply(asset)
    assert not await give_up_if_stuck(cinema.rindle.services, seen)
    assert (await cinema.row(asset)).state == "processing"

    await cinema.change(asset, updated_at=utc_now() - timedelta(days=1))
    assert await give_up_if_stuck(cinema.rindle.services, await cinema.row(asset))
    assert (await cinema.row(asset)).last_sync_error == "stuck in processing past threshold"


@pytest.mark.parametrize("is_lost", [False, True], ids=["an older answer", "no answer"])
async def test_a_poll_that_a_webhook_overtakes_changes_nothing(
    cinema: Cinema, provider: InMemoryProvider, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    asset = await cinema.pushed(state="processing")
    query = provider.get_asset

    async def overtaken(asset_id: str) -> ProviderAsset:
        answer = dataclasses.replace(await query(asset_id), raw={"status": "preparing"})
        provider.finish(asset_id)
        await cinema.received(WebhookKind.READY, asset)
        await cinema.apply(asset)
        if is_lost:
            raise TIMEOUT
        return answer

    monkeypatch.setattr(provider, "get_asset", overtaken)
    await cinema.activities.poll_provider_asset(cinema.order(asset))

    row = await cinema.row(asset)
    assert (row.state, row.last_sync_error) == ("ready", None)
    assert row.raw_provider_metadata.get("status") is None


async def test_an_asset_that_the_provider_refused_stays_errored(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed(state="errored")
    row = await cinema.row(asset)
    assert row.last_sync_error == "no video"
    made = provider.finish(row.provider_asset_id or "")
    await cinema.rindle.database.write(rows.apply_poll, row, made)
    assert (await cinema.row(asset)).state == "errored"


async def test_a_push_that_gave_up_says_why(cinema: Cinema) -> None:
    asset = await cinema.film()
    await cinema.activities.ensure_provider_row(cinema.order(asset))
    failure = Failure(code="missing_config", message="RINDLE_MUX_TOKEN_ID is not set")
    order = ProviderFailure(push=cinema.order(asset), failure=failure)
    status = await ActivityEnvironment().run(cinema.activities.fail_provider_asset, order)
    assert status.outcome == "errored"
    assert (await cinema.row(asset)).last_sync_error == "missing_config: RINDLE_MUX_TOKEN_ID is not set"


async def test_a_local_storage_without_a_public_address_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("private")
    store = LocalStorage(directory / "objects", base_url="http://127.0.0.1:1", secrets=[SECRET], fsync=False)
    provider = InMemoryProvider()
    async with opened(directory, make_profiles, storage=store, providers=[provider]) as gallery:
        cinema = Cinema(gallery, provider)
        with pytest.raises(SourceNotPublic):
            await cinema.push(await cinema.film())
    assert provider.assets == {}


@pytest.mark.parametrize("state", ["ready", "processing", "errored"])
async def test_a_purge_deletes_the_asset_at_the_provider_first(
    cinema: Cinema, provider: InMemoryProvider, state: str
) -> None:
    asset = await cinema.pushed(state=state)
    provider.fail_next("delete_asset", TIMEOUT)
    with pytest.raises(ProviderSyncFailed):
        await remove_from_provider(cinema.rindle.services, await cinema.row(asset))
    assert len(provider.assets) == 1 and (await cinema.row(asset)).state == state
    await remove_from_provider(cinema.rindle.services, await cinema.row(asset))
    assert provider.assets == {} and (await cinema.row(asset)).state == "deleted"
    assert await cinema.rindle.database.read(purgeable, asset.id) is None  # the asset itself is not touched


async def test_a_purge_finds_an_asset_whose_id_was_lost(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.film()
    provider.fail_next("create_asset", TIMEOUT, afterwards=True)
    with pytest.raises(ProviderSyncFailed):
        await cinema.push(asset)
    assert len(provider.assets) == 1
    await remove_from_provider(cinema.rindle.services, await cinema.row(asset))
    assert provider.assets == {}


async def test_a_built_source_starts_its_push_in_the_transaction_that_records_it(cinema: Cinema) -> None:
    asset = await cinema.film()
    profile, settings = cinema.profile(), cinema.rindle.settings

    async def pushes() -> list[tuple[str, str]]:
        found = await cinema.rindle.database.read(
            lambda session: session.scalars(select(MediaOutbox).where(MediaOutbox.signal == "wake")).all()
        )
        return [(row.workflow_type, row.workflow_id) for row in found]

    def build(session: Session, ready: set[str], *, fails: bool = False) -> None:
        outbox.push_source(session, settings, asset.id, profile, ready)
        if fails:
            raise RuntimeError("rolled back")

    await cinema.rindle.database.write(build, {"poster"})
    with pytest.raises(RuntimeError):
        await cinema.rindle.database.write(build, {"web_720p"}, fails=True)
    assert await pushes() == []
    await cinema.rindle.database.write(build, {"poster", "web_720p"})
    assert await pushes() == [("rindle.ProviderPushWorkflow", f"rindle-provider-push:{asset.id}:memory")]


async def test_two_attempts_at_once_leave_one_asset_and_both_follow_it(
    cinema: Cinema, provider: InMemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that was taken for lost may still run beside the one that replaced it."""
    asset = await cinema.film()
    create, late = provider.create_asset, []

    async def slowly(*args: str, **kwargs: str) -> object:
        monkeypatch.setattr(provider, "create_asset", create)
        late.append(await cinema.activities.create_provider_asset(cinema.order(asset)))
        return await create(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(provider, "create_asset", slowly)
    statuses = [await cinema.push(asset), *late]
    assert [(status.state, status.outcome) for status in statuses] == [("processing", "")] * 2
    assert list(provider.assets) == [(await cinema.row(asset)).provider_asset_id]


@pytest.mark.parametrize(
    ("first", "later"),
    [(30.0, [60.0, 300.0, 300.0]), (200.0, [300.0, 300.0, 300.0]), (600.0, [600.0, 600.0, 600.0])],
)
def test_polls_become_rarer_and_never_more_frequent_than_the_setting(first: float, later: list[float]) -> None:
    pause, pauses = first, []
    for polls in (1, 2, 3):
        pause = longer_pause(pause, polls=polls)
        pauses.append(pause)
    assert pauses == later
