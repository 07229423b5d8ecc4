"""Uploads of browsers to a provider: what is recorded before, during and after them, and every race."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from rindle import telemetry
from rindle.db import direct_uploads as rows
from rindle.db import providers as provider_rows
from rindle.db.models import MediaProviderAsset, utc_now
from rindle.errors import (
    InvalidArgument,
    InvalidCorsOrigin,
    NotCancellable,
    NotFound,
    ProviderAssetNotReady,
    ProviderNotFound,
    ProviderQuotaExceeded,
    ProviderSyncFailed,
    RindleError,
    StreamingNotConfigured,
    UploadCancelled,
    UploadRejected,
)
from rindle.messages import ProviderStatus
from rindle.operations.maintenance.abort_incomplete_uploads import (
    AbortIncompleteUploadsReport,
    abort_incomplete_uploads,
)
from rindle.operations.maintenance.verify_storage import verify_storage
from rindle.protocols import ProviderUpload, WebhookKind
from rindle.providers import remove_from_provider
from rindle.streaming.memory import InMemoryProvider
from rindle.uploads.to_provider import DirectUpload
from tests.unit.streaming.studio import ORIGIN, Studio

LINKED, READY, ERRORED = WebhookKind.UPLOAD_ASSET_CREATED, WebhookKind.READY, WebhookKind.ERRORED
AWAY = ProviderSyncFailed("no answer", transient=True)


async def state_of(studio: Studio, upload: DirectUpload) -> tuple[str, str]:
    """Return the states of the row at the provider and of the asset."""
    return (await studio.row_of(upload)).state, (await studio.asset_of(upload)).state


async def checked(studio: Studio, upload: DirectUpload) -> ProviderStatus:
    """Ask the provider, as the workflow does when the time of an upload is over."""
    return await studio.uploads.check_provider_upload(studio.order(await studio.asset_of(upload)))


# --- opening -----------------------------------------------------------------------------------------------------


async def test_the_rows_are_there_before_the_provider_is_called(studio: Studio, provider: InMemoryProvider) -> None:
    upload = await studio.opened(filename="My talk.mp4", actor="ada")

    at_provider, row, asset = (
        await studio.at_provider(upload),
        await studio.row_of(upload),
        await studio.asset_of(upload),
    )
    assert upload.upload_url == at_provider.url and at_provider.url not in repr(upload)
    assert (row.state, row.ingest_mode, row.playback_policy) == ("uploading", "direct_creator_upload", "signed")
    assert row.mux_passthrough is not None and len(row.mux_passthrough) == 32
    assert (asset.state, asset.kind, asset.uploaded_by) == ("staged", "video", "ada")
    assert (asset.filename, asset.display_name) == ("My_talk.mp4", "My talk.mp4")
    assert asset.storage_key == f"streaming/memory/direct_upload/{asset.id}"
    [started] = await studio.wakings()
    assert (started.workflow_type, started.signal) == ("rindle.ProviderUploadWorkflow", None)
    assert started.workflow_id == f"rindle-provider-upload:{asset.id}"
    assert provider.calls == ["create_direct_upload"]
    with pytest.raises(ProviderAssetNotReady):
        await studio.rindle.streaming_url("talk", asset)


NO_ORIGINS: tuple[Any, ...] = (
    *("*", "", "null", "cohort.example", "ftp://cohort.example", "https://", "https://cohort.example/"),
    *("https://a.example/x", "https://a.example?x", "https://a.example#x", "https://user@a.example", "https://a b"),
    *("https://a.example\n", "https://*.example", "https://a.example:port", f"https://a.example,{ORIGIN}"),
    *("https://" + "a" * 300, None, 5),
)


async def test_only_an_origin_is_accepted(studio: Studio, provider: InMemoryProvider) -> None:
    for origin in NO_ORIGINS:
        with pytest.raises(InvalidCorsOrigin):
            await studio.rindle.create_direct_upload("talk", cors_origin=origin)
    assert provider.calls == [] and await studio.wakings() == []
    for origin in ("http://localhost:8000", "https://xn--e1afmkfd.example", "http://[::1]:3000"):
        assert (await studio.rindle.create_direct_upload("talk", cors_origin=origin)).upload_url


async def test_what_is_wrong_is_refused_before_any_row(studio: Studio, provider: InMemoryProvider) -> None:
    create: Callable[..., Awaitable[DirectUpload]] = studio.rindle.create_direct_upload
    for timeout in (59, 604_801, True, 3600.0, "3600", None):
        with pytest.raises(InvalidArgument):
            await create("talk", cors_origin=ORIGIN, timeout=timeout)
    for profile in ("pushed", "plain"):
        with pytest.raises(StreamingNotConfigured) as refusal:
            await create(profile, cors_origin=ORIGIN)
        assert refusal.value.detail == {"profile": profile, "requested_kind": "direct_creator_upload"}
    with pytest.raises(UploadRejected):
        await create("talk", cors_origin=ORIGIN, filename="talk.exe")
    assert provider.calls == [] and await studio.wakings() == []


class NoUploads(InMemoryProvider):
    def capabilities(self) -> frozenset[str]:
        return super().capabilities() - {"direct_creator_upload"}


async def test_a_provider_without_uploads_is_refused(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(studio.rindle.services.providers, "memory", NoUploads())  # type: ignore[arg-type]
    with pytest.raises(StreamingNotConfigured):
        await studio.opened()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProviderSyncFailed("status 500", status=500, transient=True), "provider_sync_failed"),
        (ProviderQuotaExceeded("too many", retry_after=7), "provider_quota_exceeded"),
        (RuntimeError("https://upload.memory.invalid/secret"), "provider_sync_failed"),
    ],
)
async def test_a_provider_that_refuses_leaves_a_row_that_says_so(
    studio: Studio, provider: InMemoryProvider, error: Any, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    provider.fail_next("create_direct_upload", error)
    with pytest.raises(RindleError) as refusal:
        await studio.opened()
    assert refusal.value.code == code and "secret" not in str(refusal.value) + caplog.text
    [started] = await studio.wakings()
    row = await studio.rindle.database.read(rows.find, started.payload["input"]["asset_id"])
    assert row is not None and row.state == "errored" and (row.last_sync_error or "").startswith(code)


async def test_an_answer_without_an_address_is_no_upload(studio: Studio, provider: InMemoryProvider) -> None:
    async def empty(**options: Any) -> ProviderUpload:
        return ProviderUpload("u1")

    provider.create_direct_upload = empty  # type: ignore[method-assign]
    with pytest.raises(ProviderSyncFailed):
        await studio.opened()


# --- the upload --------------------------------------------------------------------------------------------------


async def test_the_asset_is_ready_with_its_row(studio: Studio, provider: InMemoryProvider) -> None:
    upload = await studio.opened()
    made = await studio.sent(upload)
    await studio.told(LINKED, upload, made)
    await studio.applied(upload)
    assert await state_of(studio, upload) == ("processing", "staged")
    await studio.told(READY, upload, provider.finish(made.id))
    await studio.applied(upload)
    assert await state_of(studio, upload) == ("ready", "ready")
    assert (await studio.rindle.streaming_url("talk", await studio.asset_of(upload))).kind == "hls"
    events = await studio.events(await studio.asset_of(upload))
    assert [one for one in events if one != "provider_webhook"] == [
        *("provider_asset_state_changed", "provider_asset_state_changed", "provider_asset_created"),
        "provider_asset_ready",
    ]


@pytest.mark.parametrize("first", [LINKED, READY])
async def test_a_webhook_that_is_faster_than_our_commit_finds_its_row(
    studio: Studio, provider: InMemoryProvider, first: WebhookKind
) -> None:
    """The provider tells of the upload before it has answered the request that opened it."""
    create = provider.create_direct_upload

    async def opened(**options: Any) -> ProviderUpload:
        made = await create(**options)
        asset = provider.receive(made.id)
        assert asset is not None
        asset = provider.finish(asset.id) if first is READY else asset
        [started] = await studio.wakings()
        upload = DirectUpload("", started.payload["input"]["asset_id"])
        await studio.told(first, upload, asset)
        await studio.applied(upload)
        return made

    provider.create_direct_upload = opened  # type: ignore[method-assign]
    upload = await studio.opened()
    row = await studio.row_of(upload)
    assert row.state == ("ready" if first is READY else "processing")
    [at_provider] = provider.uploads.values()
    assert (row.provider_upload_id, row.provider_asset_id) == (at_provider.id, at_provider.asset_id)


async def test_webhooks_in_any_order_end_ready(studio: Studio, provider: InMemoryProvider) -> None:
    upload = await studio.opened()
    made = provider.finish((await studio.sent(upload)).id)
    await studio.told(READY, upload, made)
    await studio.told(LINKED, upload, made)
    await studio.applied(upload)
    assert await state_of(studio, upload) == ("ready", "ready")


@pytest.mark.parametrize(
    ("status", "state", "error"),
    [
        ("waiting", "errored", "timeout: the upload did not arrive in time"),
        ("timed_out", "errored", "timeout: the upload did not arrive in time"),
        ("errored", "errored", "the file is empty"),
        ("cancelled", "deleted", None),
        ("asset_created", "processing", None),
        ("gone", "errored", "memory upload not found"),
    ],
)
async def test_the_provider_is_asked_when_the_time_is_over(
    studio: Studio, provider: InMemoryProvider, status: str, state: str, error: str | None
) -> None:
    upload = await studio.opened(timeout=60)
    at_provider = await studio.at_provider(upload)
    waiting = await checked(studio, upload)
    assert waiting.awaits_upload and 0 < waiting.wait_seconds <= 660 and "get_direct_upload" not in provider.calls
    if status == "asset_created":
        await studio.sent(upload)
    elif status == "gone":
        del provider.uploads[at_provider.id]
    else:
        provider.end_upload(at_provider.id, status, error=error if status == "errored" else None)
    await late(studio, upload)

    found = await checked(studio, upload)

    row = await studio.row_of(upload)
    assert (found.state, found.outcome) == (state, "" if state == "processing" else state)
    assert (row.state, row.last_sync_error) == (state, error)
    assert (row.provider_asset_id is not None) is (status == "asset_created")


async def late(studio: Studio, upload: DirectUpload) -> None:
    """Let the time of an upload be over."""
    asset = await studio.asset_of(upload)
    row = await studio.row_of(upload)
    await studio.change(asset, inserted_at=row.inserted_at.replace(year=2020))


async def test_a_row_that_never_got_its_upload_is_given_up(studio: Studio, provider: InMemoryProvider) -> None:
    """The process died between its commit and the call; or after the call, and then nobody has the address."""
    provider.fail_next("create_direct_upload", KeyboardInterrupt(), afterwards=True)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        await studio.opened(timeout=604_800)
    [started] = await studio.wakings()
    upload = DirectUpload("", started.payload["input"]["asset_id"])
    assert 0 < (await checked(studio, upload)).wait_seconds <= 600
    await late(studio, upload)
    assert (await checked(studio, upload)).outcome == "errored"
    assert (await studio.row_of(upload)).last_sync_error == "timeout: the upload was never opened"


async def test_an_upload_that_is_opened_while_its_row_is_read_is_not_given_up(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await studio.opened()
    await late(studio, upload)
    opened = await studio.row_of(upload)
    await studio.change(await studio.asset_of(upload), state="pending", provider_upload_id=None)
    seen = await studio.row_of(upload)
    await studio.rindle.database.write(rows.opened, upload.asset_id, opened.provider_upload_id or "")
    uploads = studio.uploads

    async def first_seen(order: object) -> MediaProviderAsset:
        monkeypatch.undo()
        return seen

    monkeypatch.setattr(uploads, "_read", first_seen)
    status = await uploads.check_provider_upload(studio.order(await studio.asset_of(upload)))

    assert (status.state, status.awaits_upload) == ("uploading", True)
    assert (await studio.row_of(upload)).last_sync_error is None


async def test_an_upload_that_is_linked_while_the_provider_does_not_know_it_is_not_given_up(
    studio: Studio, provider: InMemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await studio.opened()
    await late(studio, upload)

    async def linked(upload_id: str) -> ProviderUpload:
        await studio.told(LINKED, upload, await studio.sent(upload))
        await studio.applied(upload)
        raise ProviderNotFound("memory upload not found")

    monkeypatch.setattr(provider, "get_direct_upload", linked)
    status = await checked(studio, upload)

    assert (status.state, status.outcome) == ("processing", "")
    assert (await studio.row_of(upload)).last_sync_error is None


async def test_bytes_that_arrive_after_all_are_still_played(studio: Studio, provider: InMemoryProvider) -> None:
    upload = await studio.opened()
    await late(studio, upload)
    await checked(studio, upload)
    assert await state_of(studio, upload) == ("errored", "staged")
    made = provider.finish((await studio.sent(upload)).id)
    await studio.told(LINKED, upload, made)
    await studio.told(READY, upload, made)
    seen: list[tuple[str, object]] = []
    remove = telemetry.add_handler(lambda name, facts, numbers: seen.append((name, facts.get("outcome"))))
    await studio.applied(upload)
    remove()
    assert await state_of(studio, upload) == ("ready", "ready")
    assert [(name.rpartition(".")[2], outcome) for name, outcome in seen if ".webhook." in name] == [
        ("exception", "errored"),
        ("processed", "applied"),
    ]


# --- cancelling --------------------------------------------------------------------------------------------------


async def test_an_upload_is_cancelled_at_the_provider(studio: Studio, provider: InMemoryProvider) -> None:
    upload = await studio.opened()
    for _ in range(2):
        await studio.rindle.cancel_direct_upload(upload.asset_id)
    row = await studio.row_of(upload)
    assert (row.state, row.cleanup_pending) == ("deleted", False)
    assert (await studio.at_provider(upload)).status == "cancelled"
    assert provider.calls.count("cancel_direct_upload") == 2
    assert [row.signal for row in await studio.wakings()] == [None, "wake", "wake"]
    with pytest.raises(ProviderAssetNotReady):
        await studio.rindle.streaming_url("talk", await studio.asset_of(upload))


@pytest.mark.parametrize("state", ["processing", "ready", "errored"])
async def test_what_has_arrived_is_not_cancelled(studio: Studio, provider: InMemoryProvider, state: str) -> None:
    upload = await studio.opened()
    made = await studio.sent(upload)
    await studio.told(LINKED, upload, made)
    if state != "processing":
        await studio.told(WebhookKind(state), upload, provider.finish(made.id, state=state, error="no video"))
    await studio.applied(upload)
    with pytest.raises(NotCancellable) as refusal:
        await studio.rindle.cancel_direct_upload(upload.asset_id)
    assert refusal.value.detail == {"reason": "state", "state": state}
    assert "cancel_direct_upload" not in provider.calls and len(provider.assets) == 1


async def test_an_upload_whose_id_is_lost_is_not_cancelled(studio: Studio) -> None:
    upload = await studio.opened()
    await studio.change(await studio.asset_of(upload), provider_upload_id=None)
    with pytest.raises(NotCancellable) as refusal:
        await studio.rindle.cancel_direct_upload(upload.asset_id)
    assert refusal.value.detail == {"reason": "missing_upload_id", "state": "uploading"}


async def test_assets_that_are_no_direct_uploads_are_not_found(studio: Studio) -> None:
    pushed = await studio.film("pushed")
    await studio.push(pushed)
    for asset_id in (pushed.id, "00000000-0000-7000-8000-000000000000", "no id"):
        with pytest.raises(NotFound):
            await studio.rindle.cancel_direct_upload(asset_id)


async def test_a_profile_that_no_longer_streams_cannot_cancel(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = await studio.opened()
    plain = studio.profile("plain").delivery_policy()
    monkeypatch.setattr(studio.profile("talk"), "delivery_policy", lambda: plain)
    with pytest.raises(StreamingNotConfigured):
        await studio.rindle.cancel_direct_upload(upload.asset_id)


@pytest.mark.parametrize("afterwards", [False, True])
async def test_a_cancellation_that_the_provider_has_not_confirmed_is_repeated(
    studio: Studio, provider: InMemoryProvider, afterwards: bool
) -> None:
    upload = await studio.opened()
    provider.fail_next("cancel_direct_upload", AWAY, afterwards=afterwards)
    with pytest.raises(ProviderSyncFailed):
        await studio.rindle.cancel_direct_upload(upload.asset_id)
    row = await studio.row_of(upload)
    assert (row.state, row.cleanup_pending) == ("deleted", True)

    order = studio.order(await studio.asset_of(upload))
    assert (await studio.uploads.read_provider_upload(order)).needs_release
    for _ in range(2):
        assert not (await studio.uploads.release_provider_upload(order)).needs_release
    assert (await studio.at_provider(upload)).status == "cancelled"
    assert provider.calls.count("cancel_direct_upload") == 2  # a second run of the activity finds nothing to do


async def test_the_last_chunk_is_faster_than_the_cancellation(studio: Studio, provider: InMemoryProvider) -> None:
    """The provider has made an asset, and refuses to cancel; nobody has told us, and nobody will."""
    upload = await studio.opened()
    await studio.sent(upload)
    await studio.rindle.cancel_direct_upload(upload.asset_id)
    assert provider.assets == {}
    row = await studio.row_of(upload)
    assert (row.state, row.cleanup_pending) == ("deleted", False)


async def test_an_asset_that_is_linked_after_the_cancellation_is_deleted(
    studio: Studio, provider: InMemoryProvider
) -> None:
    upload = await studio.opened()
    made = await studio.sent(upload)
    provider.fail_next("cancel_direct_upload", AWAY)
    with pytest.raises(ProviderSyncFailed):
        await studio.rindle.cancel_direct_upload(upload.asset_id)
    for kind in (LINKED, READY):
        await studio.told(kind, upload, made)
    await studio.applied(upload)
    assert provider.assets == {} and await state_of(studio, upload) == ("deleted", "staged")


@pytest.mark.parametrize("is_purge", [False, True])
async def test_an_asset_that_is_linked_while_its_upload_is_released_is_deleted(
    studio: Studio, provider: InMemoryProvider, is_purge: bool
) -> None:
    """The provider answers that it has no asset yet; its webhook is applied before that is recorded."""
    upload = await studio.opened()
    order, query = studio.order(await studio.asset_of(upload)), provider.get_direct_upload
    if not is_purge:
        await studio.rindle.database.write(rows.begin_cancel, upload.asset_id)

    async def linked(upload_id: str) -> ProviderUpload:
        provider.get_direct_upload = query  # type: ignore[method-assign]
        answer = await query(upload_id)
        provider.uploads[upload_id] = replace(answer, status="waiting")  # the last chunk was faster than the request
        await studio.told(LINKED, upload, await studio.sent(upload))
        [event] = await studio.outbox()
        await studio.rindle.database.write(provider_rows.apply_event, event.id)
        return answer

    async def released() -> None:
        if is_purge:
            await remove_from_provider(studio.rindle.services, await studio.row_of(upload))
        else:
            await studio.uploads.release_provider_upload(order)

    provider.get_direct_upload = linked  # type: ignore[method-assign]
    with pytest.raises(ProviderSyncFailed) as failure:
        await released()
    assert failure.value.retryable and len(provider.assets) == 1
    row = await studio.row_of(upload)
    assert (row.state, row.cleanup_pending) == (("processing", False) if is_purge else ("deleted", True))

    await released()

    row = await studio.row_of(upload)
    assert (provider.assets, row.state, row.cleanup_pending) == ({}, "deleted", False)


async def test_an_upload_that_is_opened_while_its_row_is_removed_is_cancelled(
    studio: Studio, provider: InMemoryProvider
) -> None:
    upload = await studio.opened()
    opened = await studio.row_of(upload)
    await studio.change(await studio.asset_of(upload), state="pending", provider_upload_id=None)
    seen = await studio.row_of(upload)
    await studio.rindle.database.write(rows.opened, upload.asset_id, opened.provider_upload_id or "")

    with pytest.raises(ProviderSyncFailed):
        await remove_from_provider(studio.rindle.services, seen)
    await remove_from_provider(studio.rindle.services, await studio.row_of(upload))

    assert (await studio.at_provider(upload)).status == "cancelled"
    assert (await studio.row_of(upload)).state == "deleted"


async def test_a_withdrawn_upload_waits_for_the_removal_of_an_asset_that_was_made_of_it(studio: Studio) -> None:
    upload = await studio.opened()
    values = {"state": "deleted", "cleanup_pending": True}
    await studio.change(await studio.asset_of(upload), provider_asset_id="made", **values)
    await studio.rindle.database.write(rows.released, upload.asset_id)
    assert (await studio.row_of(upload)).cleanup_pending

    await studio.change(await studio.asset_of(upload), provider_asset_id=None)
    await studio.rindle.database.write(rows.released, upload.asset_id)
    assert not (await studio.row_of(upload)).cleanup_pending


@pytest.mark.parametrize("is_purged", [False, True])
async def test_a_cancellation_while_the_upload_is_opened(
    studio: Studio, provider: InMemoryProvider, is_purged: bool
) -> None:
    create = provider.create_direct_upload

    async def opened(**options: Any) -> ProviderUpload:
        made = await create(**options)
        asset_id = (await studio.wakings())[0].payload["input"]["asset_id"]
        if is_purged:
            await studio.gone(asset_id)
        else:
            await studio.rindle.cancel_direct_upload(asset_id)
        return made

    provider.create_direct_upload = opened  # type: ignore[method-assign]
    with pytest.raises(UploadCancelled):
        await studio.opened()
    [upload] = provider.uploads.values()
    assert upload.status == "cancelled"


async def test_an_upload_that_cannot_be_recorded_is_withdrawn(
    studio: Studio, provider: InMemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> bool:
        raise OperationalError("update", None, Exception("away"))

    monkeypatch.setattr(rows, "opened", refuse)
    with pytest.raises(OperationalError):
        await studio.opened()
    [upload] = provider.uploads.values()
    assert upload.status == "cancelled"


async def test_an_upload_that_cannot_be_withdrawn_is_logged_without_its_address(
    studio: Studio, provider: InMemoryProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object) -> bool:
        raise OperationalError("update", None, Exception("away"))

    monkeypatch.setattr(rows, "opened", refuse)
    provider.fail_next("cancel_direct_upload", AWAY)
    with caplog.at_level(logging.WARNING), pytest.raises(OperationalError):
        await studio.opened()
    [upload] = provider.uploads.values()
    assert "stays open at its streaming provider" in caplog.text
    assert upload.id not in caplog.text and upload.url not in caplog.text


async def test_cancelling_and_the_link_event_decide_once(studio: Studio, provider: InMemoryProvider) -> None:
    """Whoever is first wins: the other one finds the row in its new state."""
    upload = await studio.opened()
    made = await studio.sent(upload)
    await studio.told(LINKED, upload, made)
    await studio.applied(upload)
    with pytest.raises(NotCancellable):
        await studio.rindle.cancel_direct_upload(upload.asset_id)
    assert await state_of(studio, upload) == ("processing", "staged") and len(provider.assets) == 1


# --- sweeps ------------------------------------------------------------------------------------------------------


async def test_what_came_to_nothing_is_purged_after_a_day(studio: Studio) -> None:
    cancelled, failed, attached, young, alive = [await studio.opened() for _ in range(5)]
    for upload in (cancelled, attached, young):
        await studio.rindle.cancel_direct_upload(upload.asset_id)
    await late(studio, failed)
    await checked(studio, failed)
    await studio.rindle.attach(attached.asset_id, ("lesson", "1"), "talk")
    for upload in (cancelled, failed, attached, alive):
        await studio.change(await studio.asset_of(upload), updated_at=utc_now() - timedelta(hours=25))

    report = await abort_incomplete_uploads(studio.rindle.services)

    assert report == AbortIncompleteUploadsReport(direct_purges=2)
    purges = {row.payload["input"]["asset_id"] for row in await studio.purges()}
    assert purges == {cancelled.asset_id, failed.asset_id}


async def test_sweeps_of_the_storage_leave_an_asset_that_is_not_there(
    studio: Studio, provider: InMemoryProvider
) -> None:
    upload = await studio.opened()
    made = await studio.sent(upload)
    await studio.told(READY, upload, provider.finish(made.id))
    await studio.applied(upload)
    assert (await studio.asset_of(upload)).state == "ready"

    assert (await verify_storage(studio.rindle.services)).checked == 0
    report = await studio.rindle.regenerate_variants("talk")

    assert (report.enqueued, report.errors) == (0, 0) and (await studio.asset_of(upload)).state == "ready"
