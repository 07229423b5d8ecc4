"""An owner with many assets: pages, bounded histories, a true certificate, also while everything else goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaAttachment, MediaErasure, Rindle
from rindle.db import erasures as rows
from rindle.db.models import new_id, utc_now
from rindle.erasure.certificate import ErasureCertificate
from rindle.erasure.steps import ErasureSteps
from rindle.errors import NotFound, RindleError, StorageUnauthorized
from rindle.messages import SettleOrder
from rindle.protocols import DeleteResult
from rindle.testing.flaky import FlakyStorage
from rindle.workflows import ids
from tests.application import storage
from tests.patience import until
from tests.servers.temporal import StoppableTemporal
from tests.stage import Stage, staged

ADA, BOB = ("member", "ada"), ("member", "bob")


async def filled(stage: Stage, count: int, *, owner: tuple[str, str] = ADA, shared: int = 0) -> list[str]:
    """Return the ids of ready assets with their objects, attached to an owner, the first ``shared`` to Bob, too."""
    assets = []
    for _ in range(count):
        asset_id = new_id()
        key = f"plain/{asset_id}/original.jpg"
        assets.append(MediaAsset(id=asset_id, state="ready", profile="plain", kind="image", storage_key=key))
        source = stage.home / "object"
        source.write_bytes(b"content")
        await stage.storage.store(key, source)

    def add(session: Session) -> None:
        session.add_all(assets)
        session.flush()
        for number, asset in enumerate(assets):
            for owner_type, owner_id in (owner, BOB) if number < shared else (owner,):
                session.add(
                    MediaAttachment(asset_id=asset.id, owner_type=owner_type, owner_id=owner_id, slot=f"photo:{number}")
                )

    await stage.rindle.database.write(add)
    return [asset.id for asset in assets]


async def certified(rindle: Rindle, operation_id: str) -> ErasureCertificate:
    """Return the certificate of an erasure as soon as it is final."""

    async def final() -> ErasureCertificate | None:
        found = await rindle.erasure_certificate(operation_id)
        return found if found.status != "pending" else None

    found = await until(final, what="the certificate to be final")
    assert found is not None
    return found


async def test_many_assets_are_erased_in_pages_and_temporal_holds_little(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "CHUNK", 7)
    await stage.member()
    assets = await filled(stage, 40, shared=5)

    report = await stage.rindle.erase_owner(ADA)
    certificate = await certified(stage.rindle, report.operation_id)

    assert report.attachments_to_detach.count == 40
    assert {one.asset_id for one in report.retained_shared_assets.entries} == set(assets[:5])
    assert certificate.status == "complete"
    assert {one.asset_id for one in certificate.assets} == set(assets[5:])
    counts = certificate.counts
    assert (counts["purged"], counts["objects"], counts["objects_absent"]) == (35, 35, 35)
    assert await stage.keys() == {f"plain/{asset_id}/original.jpg" for asset_id in assets[:5]}
    client = await stage.rindle.services.temporal.client()
    handle = client.get_workflow_handle(ids.erasure_id(report.operation_id, prefix=stage.prefix))
    await handle.result()
    history = await handle.fetch_history()
    # The counts are all that it knows, however many assets there are.
    assert len(history.events) < 80
    assert max(event.ByteSize() for event in history.events) < 4096
    assert not any(asset_id in history.to_json() for asset_id in assets)


async def test_purges_are_started_again_page_by_page_but_not_while_others_end(
    lite_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = lite_stage
    monkeypatch.setattr(rows, "CHUNK", 3)
    assets = sorted(await filled(stage, 8))
    operation, database, steps = new_id(), stage.rindle.database, ErasureSteps(stage.rindle.services)

    def begin(session: Session) -> None:
        session.add(MediaErasure(id=operation, owner_type=ADA[0], owner_id=ADA[1]))

    async def purges() -> int:
        return len([row for row in await stage.outbox() if row.signal == "wake"])

    def age(session: Session) -> None:
        then = utc_now() - timedelta(seconds=stage.rindle.services.settings.erasure_check_seconds + 1)
        session.execute(update(MediaErasure).where(MediaErasure.id == operation).values(updated_at=then))

    await database.write(begin)
    await database.write(steps.detach, operation)
    assert await purges() == len(assets)

    progress = await database.write(steps.settle, SettleOrder(operation_id=operation, restart=True))
    assert (progress.pending, progress.after) == (8, "")
    assert await purges() == len(assets)

    await database.write(age)
    visited = []
    progress = await database.write(steps.settle, SettleOrder(operation_id=operation, restart=True))
    while progress.after:
        visited.append(progress.after)
        order = SettleOrder(operation_id=operation, restart=True, after=progress.after)
        progress = await database.write(steps.settle, order)
    assert visited == [assets[2], assets[5]]
    assert await purges() == 2 * len(assets)


class Refusing(FlakyStorage):
    """Refuses every deletion until it is told otherwise."""

    is_refusing = True

    async def delete(self, key: str) -> DeleteResult:
        """Delete, or refuse."""
        if self.is_refusing:
            raise StorageUnauthorized("the store says no")
        return await super().delete(key)


async def test_a_store_that_refuses_all_deletions_is_named_and_everything_ends_when_it_does_not(
    lite_stage: Stage,
) -> None:
    stage = lite_stage
    store = Refusing(storage(stage.environment))
    await stage.member(stage.application(store=store, RINDLE_ERASURE_CHECK_SECONDS="0.5"))
    assets = await filled(stage, 4)
    report = await stage.rindle.erase_owner(ADA)

    def refused(session: Session) -> int:
        condition = (MediaAsset.state == "deleted", MediaAsset.error_code == "storage_unauthorized")
        return session.scalar(select(func.count()).select_from(MediaAsset).where(*condition)) or 0

    async def all_refused() -> bool:
        return await stage.read(refused) == len(assets)

    await until(all_refused, what="every deletion to be refused")
    certificate = await stage.rindle.erasure_certificate(report.operation_id)
    assert (certificate.status, certificate.counts["pending"], certificate.counts["objects"]) == ("pending", 4, 0)
    assert len(await stage.keys()) == 4

    store.is_refusing = False
    certificate = await certified(stage.rindle, report.operation_id)

    assert certificate.status == "complete"
    assert await stage.keys() == set()


@pytest.fixture
async def away_stage(tmp_path: Path, database_url: str, stoppable_temporal: StoppableTemporal) -> AsyncIterator[Stage]:
    """A stage with a Temporal server of its own that the test may stop."""
    async with staged(tmp_path, database_url, stoppable_temporal.target) as ready:
        yield ready


async def test_an_erasure_continues_after_temporal_was_killed_and_restarted_from_its_file(
    away_stage: Stage, stoppable_temporal: StoppableTemporal
) -> None:
    stage = away_stage
    await stage.worker(RINDLE_PURGE_DELAY_SECONDS="3600")
    await filled(stage, 4)
    report = await stage.rindle.erase_owner(ADA)
    assert (await stage.rindle.erasure_certificate(report.operation_id)).counts["pending"] == 4

    await stoppable_temporal.kill()
    await stoppable_temporal.start()
    await stage.make_due()

    assert (await certified(stage.rindle, report.operation_id)).status == "complete"
    assert await stage.keys() == set()
    client = await stoppable_temporal.client()
    handle = client.get_workflow_handle(ids.erasure_id(report.operation_id, prefix=stage.prefix))
    assert (await handle.result())["outcome"] == "completed"


async def test_what_the_owner_attaches_meanwhile_is_erased_or_kept_but_never_lost(stage: Stage) -> None:
    await stage.member()
    assets, new = await filled(stage, 12), await filled(stage, 6, owner=BOB)

    async def attach_all() -> dict[str, str]:
        """Attach assets of another owner, and the erased ones again; returns the slot of each that was accepted."""
        accepted = {}
        for number, asset_id in enumerate([*new, *assets[:6]]):
            try:
                await stage.rindle.attach(asset_id, ADA, f"again:{number}")
            except RindleError:  # deleted by then
                continue
            accepted[f"again:{number}"] = asset_id
        return accepted

    report, accepted = await asyncio.gather(stage.rindle.erase_owner(ADA), attach_all())
    certificate = await certified(stage.rindle, report.operation_id)

    removed = {one.slot for one in report.attachments_to_detach.entries}
    kept = {slot: asset_id for slot, asset_id in accepted.items() if slot not in removed}
    for slot, asset_id in kept.items():
        found = await stage.rindle.attachment_for(ADA, slot)
        assert found is not None
        assert found.asset_id == asset_id
        assert (await stage.rindle.asset(asset_id)).state == "ready"
    outcomes = {one.asset_id: one.outcome for one in certificate.assets}
    for asset_id in assets:
        if asset_id in kept.values():
            assert outcomes[asset_id] == "attached_again"
            continue
        assert outcomes[asset_id] == "purged"
        with pytest.raises(NotFound):
            await stage.rindle.asset(asset_id)
    assert certificate.status == ("incomplete" if "attached_again" in outcomes.values() else "complete")
    left = {*new, *(one for one in assets if one in kept.values())}
    assert await stage.keys() == {f"plain/{asset_id}/original.jpg" for asset_id in left}
