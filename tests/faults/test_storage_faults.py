"""Stores that answer 503, hang, cut the body or swap the file: outages are retried, only content is condemned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rindle.errors import (
    ObjectChanged,
    StorageAdapterException,
    StorageError,
    StorageNotFound,
    StorageTransient,
    StorageUnauthorized,
)
from rindle.storage.memory import MemoryStorage
from rindle.testing.flaky import FlakyStorage
from tests.invariants import everything_holds
from tests.patience import until
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, photo, staged


@pytest.fixture
async def flaky(tmp_path: Path, temporal_server: TemporalServer) -> AsyncIterator[tuple[Stage, FlakyStorage]]:
    """A stage on a store whose faults the test scripts; the worker runs in this process and shares it."""
    store = FlakyStorage(MemoryStorage())
    async with staged(
        tmp_path, f"sqlite+aiosqlite:///{tmp_path}/stage.db", temporal_server.target, store=store
    ) as ready:
        yield ready, store


async def test_a_store_that_is_away_at_verify_is_asked_again_by_the_workflow(
    flaky: tuple[Stage, FlakyStorage],
) -> None:
    stage, store = flaky
    await stage.member()
    session = await stage.sent()
    store.fail("head", StorageTransient("503"), 3)

    with pytest.raises(StorageTransient):
        await stage.rindle.verify_completion(session.id)
    assert (await stage.session(session.id)).state == "signed"

    assert (await stage.settled(str(session.asset_id))).state == "ready"  # nobody called again
    await everything_holds(stage)


async def test_a_refused_credential_at_verify_is_an_outage_not_a_verdict(flaky: tuple[Stage, FlakyStorage]) -> None:
    stage, store = flaky
    session = await stage.sent()
    store.fail("head", StorageUnauthorized("403"), 1)
    with pytest.raises(StorageTransient):
        await stage.rindle.verify_completion(session.id)
    assert (await stage.rindle.verify_completion(session.id)).session.state == "completed"


@pytest.mark.parametrize("operation", ["download", "store", "delete"])
async def test_outages_during_promotion_and_build_are_retried_and_never_quarantine(
    flaky: tuple[Stage, FlakyStorage], operation: str
) -> None:
    stage, store = flaky
    await stage.member()
    session = await stage.sent()
    store.fail(operation, StorageTransient("SlowDown"), 2)

    await stage.rindle.verify_completion(session.id)
    asset = await stage.settled(str(session.asset_id))

    assert asset.state == "ready"
    assert {row.attempts for row in asset.variants} == {0}  # an outage is not the variant's fault
    if operation == "delete":
        await stage.rindle.purge_asset(asset.id)
        await stage.gone(asset.id)
        assert await stage.keys() == set()
    else:
        await everything_holds(stage)


async def test_a_body_cut_short_is_fetched_again(flaky: tuple[Stage, FlakyStorage]) -> None:
    stage, store = flaky
    await stage.member()
    session = await stage.sent()
    store.cut("download", after_bytes=1000)

    await stage.rindle.verify_completion(session.id)

    assert (await stage.settled(str(session.asset_id))).state == "ready"
    await everything_holds(stage)


async def test_a_store_that_hangs_stops_nobody_else(flaky: tuple[Stage, FlakyStorage]) -> None:
    stage, store = flaky
    await stage.member()
    held = store.hang("download")
    stuck = await stage.verified()
    await held.reached.wait()
    other = await stage.ready()
    assert other.state == "ready"
    held.release()
    assert (await stage.settled(stuck.id)).state == "ready"


async def test_a_file_swapped_after_verify_is_quarantined(flaky: tuple[Stage, FlakyStorage]) -> None:
    stage, _ = flaky
    asset = await stage.verified()
    await stage.storage.store(asset.storage_key, photo(stage.home / "other.jpg", width=640, height=480))
    await stage.member()

    condemned = await stage.settled(asset.id)

    assert (condemned.state, condemned.error_code) == ("quarantined", "object_changed_after_verify")
    assert condemned.variants == []


async def test_an_original_that_disappears_before_a_rebuild_fails_the_variants_without_retries(
    stage: Stage,
) -> None:
    await stage.member()
    stage.tell("processor", "hold")
    asset = await stage.verified("held")
    await stage.variant(asset.id, "thumb", "processing")
    await stage.rindle.cancel_processing(asset.id)
    await stage.storage.delete(asset.storage_key)
    stage.tell("processor", "")

    await stage.rindle.requeue_variants(asset.id)

    thumb = await stage.variant(asset.id, "thumb", "failed")
    assert thumb.error_code == "variant_source_not_found"
    assert (await stage.rindle.asset(asset.id)).state == "degraded"


async def test_a_promotion_that_gave_up_goes_on_after_resume(flaky: tuple[Stage, FlakyStorage]) -> None:
    """A permanent refusal ends the promotion with its code on the row; resume continues from there."""
    from rindle.errors import StoragePermanent

    stage, store = flaky
    await stage.member()
    session = await stage.sent()
    store.fail("download", StoragePermanent("no"), 1)
    await stage.rindle.verify_completion(session.id)

    async def noted() -> str | None:
        return (await stage.rindle.asset(str(session.asset_id))).error_code

    assert await until(noted, what="the failure to be noted") == "storage_permanent"
    assert (await stage.rindle.asset(str(session.asset_id))).state == "validating"
    await stage.rindle.resume(str(session.asset_id))
    asset = await stage.settled(str(session.asset_id))
    assert (asset.state, asset.error_code) == ("ready", None)


async def test_an_error_nobody_foresaw_costs_attempts_and_ends(flaky: tuple[Stage, FlakyStorage]) -> None:
    """A third-party adapter that raises something of its own must not keep a build going for a day."""
    stage, store = flaky
    await stage.member(stage.application(store=store, RINDLE_VARIANT_ATTEMPTS="2"))
    session = await stage.sent()
    store.fail("store", RuntimeError("not one of our errors"), 50)

    await stage.rindle.verify_completion(session.id)

    asset = await stage.settled(str(session.asset_id))
    assert asset.state == "degraded"
    assert {(row.state, row.attempts, row.error_code) for row in asset.variants} == {
        ("failed", 2, "storage_adapter_exception")
    }


# --- adapters that raise exceptions of their own --------------------------------------------------------------------


SECRET_URL = "https://store.test/key?signature=canary"


async def test_an_exception_of_an_adapter_at_verify_is_an_outage(flaky: tuple[Stage, FlakyStorage]) -> None:
    stage, store = flaky
    await stage.member()
    session = await stage.sent()
    store.fail("head", KeyError(SECRET_URL))

    with pytest.raises(StorageAdapterException) as failed:
        await stage.rindle.verify_completion(session.id)

    assert "canary" not in f"{failed.value} {failed.value.detail}"
    assert (await stage.settled(str(session.asset_id))).state == "ready"  # nobody called again


async def test_exceptions_of_an_adapter_do_not_end_a_promotion(flaky: tuple[Stage, FlakyStorage]) -> None:
    stage, store = flaky
    await stage.member()
    session = await stage.sent()
    store.fail("download", ConnectionError(SECRET_URL), 5)

    await stage.rindle.verify_completion(session.id)

    assert (await stage.settled(str(session.asset_id))).state == "ready"
    await everything_holds(stage)


async def test_exceptions_of_an_adapter_reach_callers_with_their_code(flaky: tuple[Stage, FlakyStorage]) -> None:
    stage, store = flaky
    session = await stage.rindle.initiate_upload("avatar", filename="me.jpg")
    calls = {
        "presigned_put": lambda: stage.rindle.sign_url(session.id),
        "store": lambda: stage.rindle.upload("avatar", photo(stage.home / "p.jpg"), filename="p.jpg"),
    }
    for operation, call in calls.items():
        store.fail(operation, RuntimeError(SECRET_URL))
        with pytest.raises(StorageAdapterException) as failed:
            await call()
        assert failed.value.detail == {"adapter": "memory", "operation": operation, "error": "RuntimeError"}


async def test_an_adapter_that_cannot_sweep_does_not_keep_a_worker_from_starting(
    tmp_path: Path, temporal_server: TemporalServer
) -> None:
    class Unswept(MemoryStorage):
        async def sweep(self, older_than_seconds: float) -> int:
            raise RuntimeError(SECRET_URL)

    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, temporal_server.target, store=Unswept()) as stage:
        await stage.member()
        assert (await stage.ready()).state == "ready"


@pytest.mark.parametrize(
    "error", [StorageTransient("503"), ObjectChanged("412"), StorageNotFound("404")], ids=["away", "changed", "gone"]
)
async def test_headers_that_cannot_be_replaced_at_once_are_replaced_later(
    flaky: tuple[Stage, FlakyStorage], error: StorageError
) -> None:
    stage, store = flaky
    session = await stage.rindle.initiate_upload("avatar", filename="me.jpg")
    await stage.rindle.sign_url(session.id)
    await store.store(session.upload_key, photo(stage.home / "p.jpg"), content_type="text/html")
    store.fail("replace_headers", error, 2)
    await stage.member()

    asset = (await stage.rindle.verify_completion(session.id)).asset

    assert (await stage.settled(asset.id)).state == "ready"
    assert (await store.head(asset.storage_key)).content_type == "image/jpeg"
    await everything_holds(stage)
