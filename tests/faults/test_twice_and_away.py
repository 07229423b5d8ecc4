"""Activities that run twice, a database that goes away for a moment."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from temporalio.client import Client
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor, Worker

from rindle import MediaAsset, Rindle, outbox
from rindle.db import direct_uploads, providers
from rindle.errors import ProviderSyncFailed, RindleError, StoragePermanent
from rindle.messages import GroupOrder, PromotionFailure, ProviderFailure
from rindle.operations.maintenance import runs
from rindle.operations.maintenance.backfill_metadata import BackfillMetadata
from rindle.operations.maintenance.provider_sync import provider_retry
from rindle.operations.maintenance.registry import SWEEPS
from rindle.operations.maintenance.verify_storage import verify_storage
from rindle.protocols import WebhookKind
from rindle.streaming.memory import InMemoryProvider
from rindle.testing.flaky import FlakyStorage
from rindle.webhooks import ingest_webhook
from tests.application import SECRET, storage
from tests.invariants import everything_holds
from tests.media.clips import Clips
from tests.patience import until
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, photo, staged
from tests.tus import encoded, tus_client
from tests.workflows.fleet import dispatched, handle_of

JPEG = encoded(filename="me.jpg")


class Twice(Interceptor):
    """Runs every activity twice: one after the other, or both at once. At least once is what Temporal promises."""

    def __init__(self, *, at_once: bool) -> None:
        self.at_once = at_once
        self.ran: set[str] = set()

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap an activity."""
        outer = self

        class Doubled(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                outer.ran.add(input.fn.__name__)
                if not outer.at_once:
                    await self.next.execute_activity(input)
                    return await self.next.execute_activity(input)
                answers = await asyncio.gather(
                    self.next.execute_activity(input), self.next.execute_activity(input), return_exceptions=True
                )
                good = [answer for answer in answers if not isinstance(answer, BaseException)]
                if good:
                    return good[-1]
                raise answers[0]  # type: ignore[misc]

        return Doubled(next)


class Refusing(FlakyStorage):
    """Refuses an operation for as long as it is named."""

    refused = ""

    async def _play(self, operation: str, call: Callable[[], Awaitable[Any]], **options: Any) -> Any:
        if operation == self.refused:
            raise StoragePermanent("the store says no")
        return await super()._play(operation, call, **options)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The activities that worker processes register, by name, as they do it."""
    names: set[str] = set()

    def noted(client: Client, *, activities: Sequence[Callable[..., Any]], **options: Any) -> Worker:
        names.update(step.__name__ for step in activities)
        return Worker(client, activities=activities, **options)

    monkeypatch.setattr("rindle.bootstrap.Worker", noted)
    return names


@pytest.mark.parametrize("at_once", [False, True], ids=["in_turn", "at_once"])
async def test_every_activity_may_run_twice(stage: Stage, registered: set[str], at_once: bool) -> None:
    """An activity that is new to the worker is missing here until a step below reaches it."""
    twice = Twice(at_once=at_once)
    store = Refusing(storage({**stage.environment, "APP_PUBLIC_URL": "https://media.test"}))
    provider = InMemoryProvider()
    rindle = stage.application(store=store, providers=[provider], RINDLE_PROVIDER_POLL_SECONDS="0.2")
    await stage.member(rindle, interceptors=[twice])

    await _uploads_end_in_every_way(stage, store)
    await _builds_end_in_every_way(stage, store)
    await _films_are_streamed(stage, rindle, provider, twice)
    await _reels_are_uploaded(rindle, provider)
    await _old_objects_are_deleted_later(stage, store, twice)
    purged = await stage.ready("scanned")
    await stage.rindle.purge_asset(purged.id)
    await stage.gone(purged.id)
    await _an_erasure_is_completed(stage)
    await _sweeps_are_done(stage)

    await everything_holds(stage)
    assert registered >= {"admit", "render_images", "build_av"}  # of each queue
    assert registered - twice.ran == set()


async def _uploads_end_in_every_way(stage: Stage, store: Refusing) -> None:
    """Scanned and ready; verified by the workflow; given up and resumed; cancelled in both ways; expired."""
    ready = await stage.ready("scanned")
    assert ready.state == "ready"
    assert {row.name: row.state for row in ready.variants} == {"large": "ready", "thumb": "ready"}

    sent = await stage.sent()
    await dispatched(stage)
    await (await handle_of(stage, stage.upload_workflow(sent.id))).signal("complete")
    assert (await stage.settled(str(sent.asset_id))).state == "ready"

    body = photo(stage.home / "photo.jpg").read_bytes()
    async with tus_client(stage.rindle, "avatar") as client:
        parts = [
            await client.create(len(piece), piece, upload_concat="partial") for piece in (body[:1000], body[1000:])
        ]
        joined = await client.call("POST", upload_concat=f"final;{' '.join(parts)}", upload_metadata=JPEG)
        made = await client.row(joined.headers["location"])
    assert (await stage.settled(str(made.asset_id))).state == "ready"

    store.refused = "local_path"
    stuck = await stage.sent()
    await stage.rindle.verify_completion(stuck.id)
    await dispatched(stage)
    await (await handle_of(stage, stage.upload_workflow(stuck.id))).result()
    assert (await stage.rindle.asset(str(stuck.asset_id))).state != "ready"
    store.refused = ""
    await stage.rindle.resume(str(stuck.asset_id))
    assert (await stage.state(str(stuck.asset_id), "ready")).state == "ready"

    cancelled = await stage.sent()
    await stage.rindle.cancel_upload(cancelled.id)
    short = stage.application(RINDLE_UPLOAD_SESSION_TTL_SECONDS="1")
    expired = await short.initiate_upload("avatar", filename="me.jpg")
    aborted = await stage.sent()
    await dispatched(stage)
    await (await handle_of(stage, stage.upload_workflow(aborted.id))).cancel()
    for upload in (cancelled, expired, aborted):

        async def released(session_id: str = upload.id) -> bool:
            return (await stage.session(session_id)).backing_released_at is not None

        await until(released, what="the upload that has ended to be released")
    assert (await stage.session(expired.id)).state == "expired"


async def _sweeps_are_done(stage: Stage) -> None:
    """Every sweep, with all that it changes."""
    services = stage.rindle.services
    # A clean-up does not start beside an abort run, which the server lists for a moment longer than it runs.
    for sweep in (*reversed(SWEEPS), BackfillMetadata()):
        executes = {"dry_run": False} if "dry_run" in sweep.options.model_fields else {}
        handle = await runs.start(services, sweep, sweep.options(**executes))
        assert not (await runs.follow(services, handle, sweep)).failures, sweep.name
    asset = await stage.ready("plain")
    assert (await stage.rindle.reprobe(asset)).kind == "image"


async def _builds_end_in_every_way(stage: Stage, store: Refusing) -> None:
    """Cancelled by the application and by a signal, queued again by a signal, given up, and a film."""
    client = await stage.client()
    for cancel in (stage.rindle.cancel_processing, partial(_signal_cancel, stage)):
        stage.tell("processor", "hold")
        held = await stage.verified("held")
        await stage.variant(held.id, "thumb", "processing")
        await cancel(held.id)
        stage.tell("processor", "")
        await client.get_workflow_handle(stage.variants_workflow(held.id)).result()
        await client.start_workflow(
            "rindle.VariantWorkflow",
            {"asset_id": held.id},
            id=stage.variants_workflow(held.id),
            task_queue=stage.prefix,
            start_signal="requeue",
        )
        assert (await stage.state(held.id, "ready")).state == "ready"

    store.refused = "store"
    broken = await stage.ready()
    assert broken.state == "degraded"
    store.refused = ""
    await stage.rindle.requeue_variants(broken.id)
    assert (await stage.state(broken.id, "ready")).state == "ready"

    film = await stage.ready("held_film", Clips(stage.home).film(), filename="film.mp4")
    assert film.state == "ready"


async def _films_are_streamed(stage: Stage, rindle: Rindle, provider: InMemoryProvider, twice: Twice) -> None:
    """Polled, ready by a webhook and deleted there by a purge; refused."""
    clip = Clips(stage.home).film()

    async def in_state(asset: MediaAsset, state: str) -> None:
        async def look() -> bool:
            row = await rindle.database.read(providers.find, asset.id, "streamed", "memory")
            return row is not None and row.state == state

        await until(look, what=f"the film to be {state} at its provider")

    film = await rindle.upload("streamed", clip, filename="film.mp4")
    await in_state(film, "processing")
    await until(lambda: "poll_provider_asset" in twice.ran, what="the provider to be polled")
    [made] = provider.assets.values()
    body, headers = provider.webhook(WebhookKind.READY, SECRET, asset=provider.finish(made.id))
    assert await ingest_webhook(rindle.services, "memory", body, headers, [SECRET])
    await in_state(film, "ready")
    await until(lambda: "apply_provider_events" in twice.ran, what="the webhook to be applied")
    await rindle.purge_asset(film.id)
    await stage.gone(film.id)
    assert provider.assets == {}

    for _ in range(2):  # at once, both of them create
        provider.fail_next("create_asset", ProviderSyncFailed("status 401", status=401))
    refused = await rindle.upload("streamed", clip, filename="film.mp4")
    await in_state(refused, "errored")


async def _reels_are_uploaded(rindle: Rindle, provider: InMemoryProvider) -> None:
    """Never sent; cancelled, which the provider confirms later."""

    async def opened() -> str:
        return (await rindle.create_direct_upload("reel", cors_origin="https://cohort.example")).asset_id

    async def is_so(asset_id: str, state: str) -> None:
        async def look() -> bool:
            row = await rindle.database.read(direct_uploads.find, asset_id)
            return row is not None and row.state == state and not row.cleanup_pending

        await until(look, what=f"the reel to be {state} at its provider")

    def age(session: Session) -> None:
        row = direct_uploads.find(session, late)
        assert row is not None
        row.inserted_at = row.inserted_at.replace(year=2020)

    late, unwanted = await opened(), await opened()
    provider.fail_next("cancel_direct_upload", ProviderSyncFailed("no answer", transient=True))
    with suppress(ProviderSyncFailed):  # unless the workflow was faster
        await rindle.cancel_direct_upload(unwanted)
    await is_so(unwanted, "deleted")
    await rindle.database.write(age)
    await rindle.database.write(
        lambda session: outbox.wake_provider_upload(session, rindle.settings, late, "reel", "memory", signal="wake")
    )
    await is_so(late, "errored")


async def _old_objects_are_deleted_later(stage: Stage, store: Refusing, twice: Twice) -> None:
    """A variant that was lost is built again while the store deletes nothing."""
    asset = await stage.ready()
    lost = await stage.variant(asset.id, "thumb")
    assert lost.storage_key is not None
    await stage.storage.delete(lost.storage_key)
    assert (await verify_storage(stage.rindle.services)).missing == 1
    store.refused = "delete"
    twice.ran.discard("remove_obsolete")  # a build that was cancelled at the right moment has been here
    await stage.rindle.regenerate_variants()
    await until(lambda: "remove_obsolete" in twice.ran, what="the workflow to try the deletion")
    store.refused = ""
    client = await stage.client()
    await client.get_workflow_handle(stage.variants_workflow(asset.id)).result()
    assert (await stage.variant(asset.id, "thumb")).state == "ready"


async def _an_erasure_is_completed(stage: Stage) -> None:
    """Reported once, its object certified."""
    asset = await stage.ready("plain")
    await stage.rindle.attach(asset.id, ("User", "1"), "avatar")

    report = await stage.rindle.erase_owner(("User", "1"))

    assert (report.attachments_to_detach.count, report.purge_enqueued) == (1, 1)

    async def complete() -> bool:
        return (await stage.rindle.erasure_certificate(report.operation_id)).status == "complete"

    await until(complete, what="the erasure to be completed")


async def _signal_cancel(stage: Stage, asset_id: str) -> None:
    await (await handle_of(stage, stage.variants_workflow(asset_id))).signal("cancel")


class Repeated(Interceptor):
    """Runs one activity a second time, as Temporal does when its completion was lost, after something has happened.

    What happens gets the input of the activity.
    """

    def __init__(self, name: str, between: Callable[[Any], Awaitable[Any]]) -> None:
        self.name = name
        self.between = between
        self.repeated = False

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Wrap an activity."""
        outer = self

        class Again(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                answer = await self.next.execute_activity(input)
                if outer.repeated or input.fn.__name__ != outer.name:
                    return answer
                outer.repeated = True
                await outer.between(input.args[0])
                return await self.next.execute_activity(input)

        return Again(next)


async def ready_after_a_repetition(stage: Stage, step: Repeated, asset_id: str) -> None:
    """Wait until the step has run again, and check that the asset becomes ready all the same."""
    await until(lambda: step.repeated, what="the step to run again")
    assert (await stage.state(asset_id, "ready")).state == "ready"
    await everything_holds(stage)


async def test_a_repeated_failure_leaves_what_was_queued_again(stage: Stage) -> None:
    store = Refusing(storage(stage.environment))

    async def queue_again(order: GroupOrder) -> None:
        store.refused = ""
        await stage.rindle.requeue_variants(order.asset_id)

    step = Repeated("fail_group", queue_again)
    await stage.member(stage.application(store=store), interceptors=[step])
    store.refused = "store"

    asset = await stage.verified()

    await ready_after_a_repetition(stage, step, asset.id)


async def test_a_repeated_cancellation_leaves_what_was_queued_again(stage: Stage) -> None:
    async def queue_again(order: GroupOrder) -> None:
        stage.tell("processor", "")
        await stage.rindle.requeue_variants(order.asset_id)

    step = Repeated("cancel_group", queue_again)
    await stage.member(stage.rindle, interceptors=[step])
    stage.tell("processor", "hold")
    asset = await stage.verified("held")
    await stage.variant(asset.id, "thumb", "processing")

    await _signal_cancel(stage, asset.id)

    await ready_after_a_repetition(stage, step, asset.id)


async def test_a_repeated_request_to_build_leaves_what_was_cancelled(stage: Stage) -> None:
    async def cancel(order: GroupOrder) -> None:
        await stage.rindle.cancel_processing(order.asset_id)

    step = Repeated("requeue_group", cancel)
    await stage.member(stage.rindle, interceptors=[step])
    stage.tell("processor", "hold")
    asset = await stage.verified("held")
    await stage.variant(asset.id, "thumb", "processing")
    await stage.rindle.cancel_processing(asset.id)
    client = await stage.client()
    workflow = client.get_workflow_handle(stage.variants_workflow(asset.id))
    await workflow.result()

    await client.start_workflow(
        "rindle.VariantWorkflow",
        {"asset_id": asset.id},
        id=workflow.id,
        task_queue=stage.prefix,
        start_signal="requeue",
    )
    await workflow.result()

    assert step.repeated
    assert (await stage.variant(asset.id, "thumb")).state == "cancelled"
    await everything_holds(stage)


async def test_a_repeated_failure_leaves_what_was_resumed(stage: Stage) -> None:
    store = Refusing(storage(stage.environment))

    async def resume(order: PromotionFailure) -> None:
        store.refused = ""
        asset_id = str((await stage.session(order.session_id)).asset_id)
        assert (await stage.rindle.asset(asset_id)).error_code == "storage_permanent"
        await stage.rindle.resume(asset_id)

    step = Repeated("fail_promotion", resume)
    await stage.member(stage.application(store=store), interceptors=[step])
    store.refused = "local_path"

    asset = await stage.verified()

    await ready_after_a_repetition(stage, step, asset.id)


async def test_a_repeated_failure_leaves_what_was_given_to_its_provider_again(stage: Stage) -> None:
    provider = InMemoryProvider()
    store = storage({**stage.environment, "APP_PUBLIC_URL": "https://media.test"})
    rindle = stage.application(store=store, providers=[provider])

    async def retry(order: ProviderFailure) -> None:
        await provider_retry(rindle.services, order.push.asset_id)

    step = Repeated("fail_provider_asset", retry)
    await stage.member(rindle, interceptors=[step])
    provider.fail_next("create_asset", ProviderSyncFailed("status 401", status=401))

    film = await rindle.upload("streamed", Clips(stage.home).film(), filename="film.mp4")

    await until(lambda: step.repeated, what="the step to run again")
    await until(lambda: provider.assets, what="the asset to be created at its provider")
    [made] = provider.assets.values()

    async def is_recorded() -> bool:
        row = await rindle.database.read(providers.find, film.id, "streamed", "memory")
        return row is not None and (row.state, row.provider_asset_id) == ("processing", made.id)

    await until(is_recorded, what="the film to be in preparation at its provider")


async def test_a_database_that_is_briefly_away_loses_nothing(
    tmp_path: Path, temporal_server: TemporalServer, postgres_server: PostgresServer
) -> None:
    url = postgres_server.new_database()
    port = int(re.search(r":(\d+)/", url).group(1))  # type: ignore[union-attr]
    async with Proxy(port) as proxy:
        through = url.replace(f":{port}/", f":{proxy.port}/")
        async with staged(tmp_path, through, temporal_server.target) as stage:
            await stage.worker()
            session = await stage.sent()
            asset = await stage.verified()

            await proxy.cut()
            with pytest.raises((DBAPIError, RindleError)):
                await stage.rindle.verify_completion(session.id)
            await proxy.restore()

            async def verified() -> bool:
                try:  # the pool may still hand out a connection that died
                    return (await stage.rindle.verify_completion(session.id)).session.state == "completed"
                except (DBAPIError, RindleError):
                    return False

            await until(verified, what="verify to work again")
            assert (await stage.settled(asset.id)).state == "ready"
            assert (await stage.settled(str(session.asset_id))).state == "ready"
            await everything_holds(stage)


async def test_a_sqlite_file_another_process_is_writing_to_makes_writers_wait(lite_stage: Stage) -> None:
    stage = lite_stage
    picture = photo(stage.home / "p.jpg")
    locked, free = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        import aiosqlite

        async with aiosqlite.connect(stage.home / "stage.db") as other:
            await other.execute("BEGIN IMMEDIATE")
            locked.set()
            await free.wait()
            await other.rollback()

    holding = asyncio.create_task(hold())
    await locked.wait()
    writing = asyncio.create_task(stage.rindle.initiate_upload("avatar", filename=picture.name))
    free.set()
    await holding
    assert (await writing).state == "initialized"
