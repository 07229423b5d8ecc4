"""The transactions of erasures on both databases: large owners in pages, operations at the same time, kept assets."""

from __future__ import annotations

import asyncio

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaAttachment, MediaErasureAsset, MediaEvent
from rindle.db import erasures as rows
from rindle.db.models import MediaOutbox, new_id
from rindle.erasure.steps import ErasureSteps
from rindle.messages import ErasureCounts, SettleOrder
from rindle.owners import OwnerRef
from tests.stage import Stage

ADA, BOB = OwnerRef("member", "ada"), OwnerRef("member", "bob")
MANY = 2 * rows.CHUNK + 7


def owned(session: Session, count: int) -> list[str]:
    """Insert assets in slots of one owner; returns their ids in order."""
    asset_ids = [new_id() for _ in range(count)]
    session.execute(
        insert(MediaAsset),
        [{"id": one, "storage_key": f"plain/{one}/x.jpg", "profile": "plain", "state": "ready"} for one in asset_ids],
    )
    attach(session, ADA, asset_ids)
    return sorted(asset_ids)


def attach(session: Session, owner: OwnerRef, asset_ids: list[str]) -> None:
    """Insert an attachment of each asset."""
    session.execute(
        insert(MediaAttachment),
        [{"asset_id": one, "owner_type": owner.type, "owner_id": owner.id, "slot": one} for one in asset_ids],
    )


async def requested(stage: Stage, owner: OwnerRef = ADA) -> str:
    """Return the id of a new operation."""
    operation = new_id()
    await stage.rindle.database.write(rows.request, operation, owner, "support")
    return operation


def outcomes(session: Session, operation: str) -> dict[str, int]:
    """Return how many assets of an operation have which outcome."""
    found = (
        select(MediaErasureAsset.outcome, func.count())
        .where(MediaErasureAsset.erasure_id == operation)
        .group_by(MediaErasureAsset.outcome)
    )
    return {row[0]: row[1] for row in session.execute(found)}


async def test_an_owner_with_many_assets_is_detached_at_once_and_restarted_in_pages(stage: Stage) -> None:
    impatient = stage.application(RINDLE_ERASURE_CHECK_SECONDS="0.001")  # nothing ends while purges are started again
    write, steps = stage.rindle.database.write, ErasureSteps(impatient.services)
    asset_ids = await write(owned, MANY)
    operation = await requested(stage)

    counts = await write(steps.detach, operation)

    assert (counts.attachments, counts.assets_to_purge, counts.purge_enqueued) == (MANY, MANY, MANY)
    assert len(counts.model_dump_json()) < 1_000
    assert await write(steps.detach, operation) == counts

    def written(session: Session) -> list[int | None]:
        tables = (MediaAttachment, MediaOutbox, MediaErasureAsset)
        audit = select(func.count()).select_from(MediaEvent).where(MediaEvent.type == "attachment_changed")
        return [*(session.scalar(select(func.count()).select_from(table)) for table in tables), session.scalar(audit)]

    assert await stage.read(written) == [0, MANY, MANY, MANY]

    # Meanwhile one asset was attached again, and one was deleted by hand.
    await write(attach, BOB, [asset_ids[0]])
    await write(lambda session: session.execute(delete(MediaAsset).where(MediaAsset.id == asset_ids[-1])))
    pages, after = 0, ""
    while True:
        progress = await write(steps.settle, SettleOrder(operation_id=operation, restart=True, after=after))
        pages, after = pages + 1, progress.after
        if not after:
            break
    assert (pages, progress.pending) == (3, MANY - 2)
    assert await stage.read(lambda session: outcomes(session, operation)) == {
        "attached_again": 1,
        "gone": 1,
        "pending": MANY - 2,
    }
    assert (await stage.read(written))[1] == MANY + MANY - 2
    certificate = await stage.rindle.erasure_certificate(operation)
    assert (certificate.status, certificate.counts["pending"]) == ("pending", MANY - 2)


async def test_of_two_operations_on_one_owner_the_second_finds_nothing_left(stage: Stage) -> None:
    write, steps = stage.rindle.database.write, ErasureSteps(stage.rindle.services)
    await write(owned, 5)
    operations = [await requested(stage) for _ in range(2)]

    found = await asyncio.gather(*(write(steps.detach, operation) for operation in operations))

    assert sorted((one.attachments, one.purge_enqueued) for one in found) == [(0, 0), (5, 5)]


async def test_an_operation_that_runs_twice_at_once_detaches_once(stage: Stage) -> None:
    write, steps = stage.rindle.database.write, ErasureSteps(stage.rindle.services)
    await write(owned, 5)
    operation = await requested(stage)

    first, second = await asyncio.gather(write(steps.detach, operation), write(steps.detach, operation))

    assert first == second
    assert first.attachments == 5
    assert len(await stage.outbox()) == 5


async def test_a_request_is_withdrawn_only_before_it_has_done_anything(stage: Stage) -> None:
    write, steps = stage.rindle.database.write, ErasureSteps(stage.rindle.services)
    await write(owned, 1)
    early, late = await requested(stage), await requested(stage)
    assert await write(rows.withdraw, early)
    assert await write(steps.detach, early) == ErasureCounts(operation_id=early, outcome="withdrawn")
    assert (await write(steps.detach, late)).attachments == 1

    assert not await write(rows.withdraw, late)

    assert (await write(steps.detach, late)).attachments == 1


async def test_the_last_purge_completes_the_operation_once(stage: Stage) -> None:
    write, steps = stage.rindle.database.write, ErasureSteps(stage.rindle.services)
    first, second = await write(owned, 2)
    operation = await requested(stage)
    await write(steps.detach, operation)

    await write(lambda session: steps.deleted(session, first, [], None, is_final=True))
    assert not [row for row in await stage.outbox() if "-erasure:" in row.workflow_id]
    for _ in range(2):  # the activity may run again
        await write(lambda session: steps.kept(session, second))

    [wake] = [row for row in await stage.outbox() if "-erasure:" in row.workflow_id]
    assert wake.workflow_id.endswith(operation)
    for _ in range(2):
        assert (await write(steps.settle, SettleOrder(operation_id=operation))).pending == 0
    completed = select(MediaEvent).where(MediaEvent.type == "owner.erasure_completed")
    [event] = await stage.read(lambda session: list(session.scalars(completed)))
    assert event.payload == {"operation_id": operation, "purged": 1, "attached_again": 1, "gone": 0}
