"""Rows and stores are compared in both directions."""

from __future__ import annotations

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaVariant
from rindle.db.models import new_id
from rindle.errors import StorageTransient, StorageUnauthorized, UnknownProfile
from rindle.messages import SweepProgress
from rindle.operations.maintenance import verify_storage as module
from rindle.operations.maintenance.sweep import run_here
from rindle.operations.maintenance.verify_storage import (
    VerifyStorage,
    VerifyStorageOptions,
    VerifyStorageReport,
    verify_storage,
)
from rindle.protocols import ObjectHead
from rindle.testing.flaky import FlakyStorage
from tests.application import storage
from tests.invariants import everything_holds
from tests.stage import Stage


async def state_of(stage: Stage, asset_id: str) -> dict[str, str]:
    """Return the state of an asset, and those of its variants by name."""
    asset = await stage.rindle.asset(asset_id)
    return {"asset": asset.state, **{row.name: row.state for row in asset.variants}}


def key_of(asset: MediaAsset, name: str) -> str:
    """Return the key of a variant."""
    return str(next(row.storage_key for row in asset.variants if row.name == name))


async def set_variant(stage: Stage, asset_id: str, name: str, **values: object) -> None:
    """Write columns of a variant, as if it had come to that."""

    def write(session: Session) -> None:
        found = update(MediaVariant).where(MediaVariant.asset_id == asset_id, MediaVariant.name == name)
        session.execute(found.values(**values))

    await stage.rindle.database.write(write)


async def put_foreign(stage: Stage, *keys: str) -> None:
    """Store objects that no row names."""
    source = stage.home / "foreign"
    source.write_bytes(b"nobody knows me")
    for key in keys:
        await stage.storage.store(key, source)


async def test_an_object_that_is_lost_is_found_missing_and_found_again_when_it_is_back(store_stage: Stage) -> None:
    stage = store_stage
    await stage.member()
    asset = await stage.ready()
    kept = stage.home / "kept"
    thumb = key_of(asset, "thumb")
    await stage.storage.download(thumb, kept)
    strangers = (f"avatar/{new_id()}/left.jpg", f"avatar/{asset.id}/other.jpg")
    await put_foreign(stage, *strangers)

    async def verify() -> VerifyStorageReport:
        return await verify_storage(stage.rindle.services, originals=True, min_age_seconds=0)

    assert await verify() == VerifyStorageReport(checked=3, present=3, unreferenced=2)

    await stage.storage.delete(thumb)
    assert await verify() == VerifyStorageReport(checked=3, present=2, missing=1, unreferenced=2)
    assert await state_of(stage, asset.id) == {"asset": "degraded", "large": "ready", "thumb": "missing"}
    assert await verify() == VerifyStorageReport(checked=3, present=2, missing=1, unreferenced=2)

    other = stage.home / "other"
    other.write_bytes(b"of another size")
    await stage.storage.store(thumb, other)
    assert (await verify()).missing == 1  # that is not what was built

    await stage.storage.store(thumb, kept)
    assert await verify() == VerifyStorageReport(checked=3, present=2, restored=1, unreferenced=2)
    assert await state_of(stage, asset.id) == {"asset": "ready", "large": "ready", "thumb": "ready"}
    moves = [event.payload["state"] for event in await stage.events(asset.id, "variant_state_changed")]
    assert moves[-1:] == ["missing"]
    for key in strangers:
        await stage.storage.delete(key)
    await everything_holds(stage)


async def test_states_that_cannot_become_missing_are_counted_and_stay(stage: Stage) -> None:
    await stage.member()
    asset = await stage.ready()
    await set_variant(stage, asset.id, "thumb", state="stale")
    await set_variant(stage, asset.id, "large", state="failed")
    for name in ("thumb", "large"):
        await stage.storage.delete(key_of(asset, name))

    report = await verify_storage(stage.rindle.services, objects=False)

    assert report == VerifyStorageReport(checked=2, fsm_blocked=2)
    assert not report.has_errors
    assert (await state_of(stage, asset.id))["thumb"] == "stale"


async def test_a_store_that_gives_no_answer_changes_nothing(stage: Stage) -> None:
    await stage.member()
    asset = await stage.ready()
    store = FlakyStorage(storage(stage.environment))
    store.fail("head", StorageTransient("no answer"))
    store.fail("list_keys", StorageUnauthorized("not for you"), times=100)
    services = stage.application(store=store).services

    outcome = await run_here(services, VerifyStorage(), VerifyStorageOptions(profile="avatar"))

    assert outcome.report == VerifyStorageReport(checked=2, present=1, errors=2)
    assert {(failure.item, failure.code) for failure in outcome.failures} == {
        (asset.id, "storage_transient"),
        ("avatar", "storage_unauthorized"),
    }
    assert await state_of(stage, asset.id) == {"asset": "ready", "large": "ready", "thumb": "ready"}


async def test_a_lost_original_is_named(lite_stage: Stage) -> None:
    stage = lite_stage
    await stage.member()
    asset = await stage.ready("plain")
    await stage.storage.delete(asset.storage_key)

    outcome = await run_here(stage.rindle.services, VerifyStorage(), VerifyStorageOptions(originals=True))

    assert outcome.report == VerifyStorageReport(checked=1, missing=1)
    assert [(failure.item, failure.code) for failure in outcome.failures] == [(asset.id, "storage_not_found")]
    assert not outcome.report.has_errors


async def test_a_row_that_changes_meanwhile_is_left_alone(lite_stage: Stage) -> None:
    stage = lite_stage
    await stage.member()
    asset = await stage.ready()
    thumb = key_of(asset, "thumb")
    store = FlakyStorage(storage(stage.environment))
    await store.delete(thumb)

    class Changing(FlakyStorage):
        async def head(self, key: str) -> ObjectHead:
            if key == thumb:
                await set_variant(stage, asset.id, "thumb", state="stale")
            return await super().head(key)

    services = stage.application(store=Changing(store)).services

    report = await verify_storage(services, objects=False)

    assert report == VerifyStorageReport(checked=2, present=1)
    assert (await state_of(stage, asset.id))["thumb"] == "stale"


async def test_young_objects_and_those_of_deleted_assets_are_not_counted(stage: Stage) -> None:
    await stage.member()
    asset = await stage.ready("plain")
    await put_foreign(stage, f"plain/{asset.id}/left.jpg", f"plain/{new_id()}/left.jpg")
    services = stage.rindle.services

    assert (await verify_storage(services)).unreferenced == 0
    assert (await verify_storage(services, min_age_seconds=0)).unreferenced == 2

    def delete(session: Session) -> None:
        session.execute(update(MediaAsset).values(state="deleted"))

    await stage.rindle.database.write(delete)
    assert (await verify_storage(services, min_age_seconds=0)).unreferenced == 1


async def test_every_row_and_object_is_looked_at_once_and_no_cursor_holds_a_key(
    lite_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = lite_stage
    await stage.member()
    assets = [await stage.ready(actor=str(number)) for number in range(3)]
    monkeypatch.setattr(module, "PAGE", 2)
    monkeypatch.setattr("rindle.operations.maintenance.sweep.PAGE", 2)
    foreign = [f"avatar/{name}" for name in ("0 secret name.jpg", "a/b/c/d.jpg", "not-a-uuid/x.jpg", "zzz.jpg")]
    await put_foreign(stage, *foreign, f"avatar/{new_id()}/left.jpg", "elsewhere/not-ours.jpg")
    pages: list[SweepProgress] = []
    options = VerifyStorageOptions(originals=True, min_age_seconds=0, profile="avatar")

    outcome = await run_here(stage.rindle.services, VerifyStorage(), options, on_page=pages.append)

    assert outcome.report == VerifyStorageReport(checked=9, present=9, unreferenced=5)
    assert len(pages) > 9
    cursors = [progress.cursor for progress in pages]
    assert len(set(cursors)) == len(cursors)
    assert not any("/" in cursor or "secret" in cursor for cursor in cursors)
    assert {asset.id for asset in assets} <= {cursor.rpartition("|")[2] for cursor in cursors}


async def test_an_unknown_profile_is_refused(lite_stage: Stage) -> None:
    with pytest.raises(UnknownProfile):
        await verify_storage(lite_stage.rindle.services, profile="avatr")


async def test_the_keys_of_unknown_objects_are_logged(lite_stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rindle.operations.maintenance")
    key = f"plain/{new_id()}/left.jpg"
    await put_foreign(lite_stage, key)

    await verify_storage(lite_stage.rindle.services, min_age_seconds=0)

    assert f"object without a row: media {key}" in [record.getMessage() for record in caplog.records]
