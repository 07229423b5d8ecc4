"""Rows of assets at providers are brought to what the provider has, and an errored one is tried once more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaOutbox, messages, telemetry
from rindle.db import providers as rows
from rindle.db.models import utc_now
from rindle.errors import InvalidTransition, NotFound, ProviderQuotaExceeded, ProviderSyncFailed
from rindle.operations.maintenance import provider_sync as module
from rindle.operations.maintenance.provider_sync import ProviderSyncReport, provider_retry, provider_sync
from rindle.operations.maintenance.sweep import run_here
from rindle.protocols import ProviderAsset
from rindle.streaming.memory import InMemoryProvider
from tests.patience import until
from tests.stage import Stage
from tests.unit.streaming.cinema import Cinema
from tests.workflows.films import cinema_on, in_state, start, workflow_of
from tests.workflows.fleet import Fleet

TIMEOUT = ProviderSyncFailed("the provider did not answer", transient=True)


@pytest.fixture
def provider() -> InMemoryProvider:
    return InMemoryProvider()


@pytest.fixture
async def cinema(lite_stage: Stage, provider: InMemoryProvider) -> AsyncIterator[Cinema]:
    """Films whose workflows do not poll while a test looks at them."""
    yield cinema_on(lite_stage, provider, RINDLE_PROVIDER_POLL_SECONDS="3600")


async def aged(cinema: Cinema, state: str = "processing", *, seconds: float = 60, **values: Any) -> MediaAsset:
    """Return a film whose row has not changed for a while; the provider has it unless it is only ``uploading``."""
    asset = await cinema.pushed(state="processing")
    if state == "uploading":
        values = {"provider_asset_id": None, **values}
    await cinema.change(asset, state=state, updated_at=utc_now() - timedelta(seconds=seconds), **values)
    return asset


async def requested(cinema: Cinema) -> list[str]:
    """Return the pushes for which requests wait."""
    pushes = MediaOutbox.workflow_type == messages.PROVIDER_PUSH_WORKFLOW
    statement = select(MediaOutbox.workflow_id).where(MediaOutbox.state == "pending", pushes)
    return await cinema.rindle.database.read(lambda session: list(session.scalars(statement)))


async def sync(cinema: Cinema, asset: MediaAsset | None = None) -> ProviderSyncReport:
    return await provider_sync(cinema.rindle.services, asset)


async def test_each_row_becomes_what_the_provider_has(cinema: Cinema, provider: InMemoryProvider) -> None:
    ready, waits, gone, broken, fresh = [await aged(cinema) for _ in range(5)]
    late = await aged(cinema, "errored", last_sync_error="stuck in processing past threshold")
    refused = await aged(cinema, "errored", last_sync_error="no video")
    for asset in (ready, late, refused):
        provider.finish((await cinema.row(asset)).provider_asset_id or "")
    provider.finish((await cinema.row(broken)).provider_asset_id or "", state="errored", error="no video")
    del provider.assets[(await cinema.row(gone)).provider_asset_id or ""]
    await cinema.change(fresh, updated_at=utc_now() + timedelta(hours=1))
    seen: list[tuple[str, bool, bool]] = []
    remove = telemetry.add_handler(
        lambda name, facts, numbers: (
            seen.append((name, bool(facts["no_change"]), numbers["age_ms"] >= 60_000)) if ".sync." in name else None
        )
    )
    try:
        report = await sync(cinema)
    finally:
        remove()

    assert report == ProviderSyncReport(scanned=5, resolved=4, unchanged=1)
    states = [(await cinema.row(asset)).state for asset in (ready, waits, gone, broken, fresh, late, refused)]
    assert states == ["ready", "processing", "errored", "errored", "processing", "ready", "errored"]
    assert sorted(seen) == [("rindle.provider.sync.resolved", no_change, True) for no_change in (False,) * 4 + (True,)]


async def test_a_row_that_does_not_change_is_given_up(cinema: Cinema, provider: InMemoryProvider) -> None:
    at_provider = await aged(cinema, seconds=7_300)
    never_created = await aged(cinema, "uploading", seconds=7_300)
    unreachable = await aged(cinema, seconds=7_200 + 3_600)
    provider.fail_next("get_asset", TIMEOUT)  # the oldest one is first

    assert await sync(cinema) == ProviderSyncReport(scanned=3, stuck=2, errors=1)

    for asset, state in ((at_provider, "processing"), (never_created, "uploading"), (unreachable, "processing")):
        row = await cinema.row(asset)
        assert (row.state, row.last_sync_error) == ("errored", f"stuck in {state} past threshold")
    await cinema.change(at_provider, updated_at=utc_now() - timedelta(days=2))
    for asset in (at_provider, unreachable):
        provider.finish((await cinema.row(asset)).provider_asset_id or "")
    assert (await sync(cinema)).resolved == 1  # the other one is too old
    assert (await cinema.row(unreachable)).state == "ready"


async def test_a_row_that_was_given_up_is_examined_again_after_a_failed_poll(
    cinema: Cinema, provider: InMemoryProvider
) -> None:
    asset = await aged(cinema, "errored", last_sync_error="stuck in processing past threshold")
    provider.fail_next("get_asset", TIMEOUT)
    assert await sync(cinema) == ProviderSyncReport(scanned=1, errors=1)
    assert (await cinema.row(asset)).last_sync_error == "stuck in processing past threshold"

    provider.finish((await cinema.row(asset)).provider_asset_id or "")

    assert await sync(cinema) == ProviderSyncReport(scanned=1, resolved=1)
    row = await cinema.row(asset)
    assert (row.state, row.last_sync_error) == ("ready", None)


async def test_an_asset_that_was_perhaps_never_created_is_given_to_its_workflow(
    lite_stage: Stage, cinema: Cinema
) -> None:
    asset = await aged(cinema, "uploading")
    assert await sync(cinema) == ProviderSyncReport(scanned=1, unchanged=1)
    assert await requested(cinema) == [workflow_of(lite_stage, asset)]


async def test_an_upload_of_a_browser_is_left_to_its_time_limit(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await aged(cinema, "uploading", seconds=50_000, ingest_mode="direct_creator_upload")
    provider.calls.clear()
    assert await sync(cinema) == ProviderSyncReport(scanned=1, unchanged=1)
    assert (await cinema.row(asset)).state == "uploading" and provider.calls == [] == await requested(cinema)


async def test_a_deletion_that_failed_is_finished(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await aged(cinema, "deleted", cleanup_pending=True)
    await aged(cinema, "deleted")
    provider.fail_next("delete_asset", TIMEOUT)
    assert await sync(cinema) == ProviderSyncReport(scanned=1, errors=1)
    assert (await cinema.row(asset)).cleanup_pending
    assert await sync(cinema) == ProviderSyncReport(scanned=1, resolved=1)
    assert not (await cinema.row(asset)).cleanup_pending and len(provider.assets) == 1
    assert await sync(cinema) == ProviderSyncReport()


async def test_one_failing_row_does_not_stop_the_others_and_every_page_is_read(
    cinema: Cinema, provider: InMemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    films = [await aged(cinema, seconds=3_000 - number) for number in range(5)]
    for asset in films:
        provider.finish((await cinema.row(asset)).provider_asset_id or "")
    await aged(cinema, "deleted", cleanup_pending=True)
    provider.fail_next("get_asset", ProviderQuotaExceeded("slow down", retry_after=7))

    outcome = await run_here(cinema.rindle.services, module.ProviderSync(), module.ProviderSyncOptions())

    # Two pages of open rows, oldest first, then the deletion; the next sweep does the rest.
    assert outcome.report == ProviderSyncReport(scanned=5, resolved=4, errors=1)
    assert [failure.code for failure in outcome.failures] == ["provider_quota_exceeded"]
    assert [(await cinema.row(asset)).state for asset in films[-1:]] == ["processing"]
    assert await sync(cinema) == ProviderSyncReport(scanned=2, resolved=2)


async def test_older_rows_of_other_profiles_do_not_hide_those_of_the_wanted_one(
    cinema: Cinema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 1)
    for _ in range(module.OPEN_PAGES + 1):
        await aged(cinema, seconds=600)
    premiere = await cinema.pushed("premiere", state="processing")
    await cinema.change(premiere, updated_at=utc_now() - timedelta(seconds=60))

    report = await provider_sync(cinema.rindle.services, profile="premiere")

    assert report == ProviderSyncReport(scanned=1, unchanged=1)


async def test_a_row_that_a_workflow_follows_is_left_to_it(
    lite_stage: Stage, cinema: Cinema, provider: InMemoryProvider
) -> None:
    asset = await cinema.film()
    async with Fleet(lite_stage) as fleet:
        await start(cinema, asset)
        await fleet.start(cinema.rindle)
        await in_state(cinema, asset, "processing")
        provider.finish((await cinema.row(asset)).provider_asset_id or "")
        await cinema.change(asset, updated_at=utc_now() - timedelta(seconds=60))
        assert await sync(cinema) == ProviderSyncReport(scanned=1, unchanged=1)
        assert (await cinema.row(asset)).state == "processing"

        assert await sync(cinema, asset) == ProviderSyncReport(scanned=1, resolved=1)  # who names it, means it
        assert (await cinema.row(asset)).state == "ready"
        await (await lite_stage.client()).get_workflow_handle(workflow_of(lite_stage, asset)).terminate()


async def test_without_temporal_every_row_is_examined(lite_stage: Stage, provider: InMemoryProvider) -> None:
    cinema = cinema_on(lite_stage, provider, TEMPORAL_ADDRESS="127.0.0.1:9")
    asset = await aged(cinema)
    provider.finish((await cinema.row(asset)).provider_asset_id or "")
    assert await sync(cinema) == ProviderSyncReport(scanned=1, resolved=1)


async def test_an_answer_about_the_first_copy_does_not_change_a_film_that_is_created_anew(
    cinema: Cinema, provider: InMemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = await aged(cinema, "errored", last_sync_error="stuck in processing past threshold")
    query = provider.get_asset

    async def restarted(asset_id: str) -> ProviderAsset:
        await provider_retry(cinema.rindle.services, asset.id)
        return await query(asset_id)

    monkeypatch.setattr(provider, "get_asset", restarted)
    report = await sync(cinema)

    row = await cinema.row(asset)
    assert (row.state, row.provider_asset_id, row.last_sync_error) == ("processing", None, None)
    assert report == ProviderSyncReport(scanned=1, resolved=1)


# --- once more ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [False, True], ids=["id known", "id lost"])
async def test_an_errored_film_is_created_anew_and_its_first_copy_deleted(
    lite_stage: Stage, cinema: Cinema, provider: InMemoryProvider, lost: bool
) -> None:
    asset = await cinema.pushed(state="errored")
    before = await cinema.row(asset)
    if lost:
        await cinema.change(asset, provider_asset_id=None)
    [first] = provider.assets

    report = await provider_retry(cinema.rindle.services, asset.id)

    assert (report.provider, report.state, provider.assets) == ("memory", "processing", {})
    row = await cinema.row(asset)
    assert (row.state, row.provider_asset_id, row.last_sync_error) == ("processing", None, None)
    assert row.mux_passthrough != before.mux_passthrough
    async with Fleet(lite_stage) as fleet:
        await fleet.start(cinema.rindle)

        async def created() -> bool:
            return (await cinema.row(asset)).provider_asset_id is not None

        await until(created, what="the film to be created again")
        await (await lite_stage.client()).get_workflow_handle(workflow_of(lite_stage, asset)).terminate()
    assert len(provider.assets) == 1 and first not in provider.assets


async def test_a_retry_is_refused_where_it_makes_no_sense(cinema: Cinema, provider: InMemoryProvider) -> None:
    services = cinema.rindle.services
    with pytest.raises(NotFound):
        await provider_retry(services, "0198f6d4-8f2c-7000-8000-000000000000")
    with pytest.raises(NotFound):
        await provider_retry(services, await cinema.film())
    with pytest.raises(NotFound):
        await provider_retry(services, await cinema.film("plain"))
    with pytest.raises(InvalidTransition, match="is ready at its provider"):
        await provider_retry(services, await cinema.pushed())
    upload = await cinema.pushed(state="errored")
    await cinema.change(upload, ingest_mode="direct_creator_upload")
    with pytest.raises(InvalidTransition, match="only its creator"):
        await provider_retry(services, upload)

    kept = await cinema.pushed(state="errored")
    provider.fail_next("delete_asset", TIMEOUT)
    with pytest.raises(ProviderSyncFailed):
        await provider_retry(services, kept)
    assert (await cinema.row(kept)).state == "errored" and await requested(cinema) == []


async def test_two_retries_at_once_are_one(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed(state="errored")
    row = await cinema.row(asset)

    def twice(session: Session) -> list[bool]:
        found = rows.locked(session, asset.id, "film", "memory")
        assert found is not None
        return [rows.restart(session, found, passthrough=row.mux_passthrough) for _ in range(2)]

    assert await cinema.rindle.database.write(twice) == [True, False]
