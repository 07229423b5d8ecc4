"""Owner erasure: preview, report, purges, certificate, batches, forced deletion; on both databases."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from rindle import MediaEvent, Rindle
from rindle.erasure.certificate import ErasureCertificate
from rindle.errors import (
    BatchTooLarge,
    EmptyBatch,
    ForceDeleteForbidden,
    InvalidArgument,
    InvalidOwner,
    NotFound,
)
from rindle.workflows import ids
from tests.invariants import everything_holds
from tests.patience import until
from tests.stage import Stage, photo

ADA, BOB, EVE = ("member", "ada@example.org"), ("member", "bob"), ("member", "eve")


async def uploaded(stage: Stage, count: int = 1) -> list[str]:
    """Return the ids of ready assets without variants, uploaded through the server."""
    found = []
    for _ in range(count):
        asset = await stage.rindle.upload("plain", await _photo(stage), filename="me.jpg", actor="ada")
        found.append((await stage.settled(asset.id)).id)
    return sorted(found)


async def _photo(stage: Stage) -> str:
    return str(photo(stage.home / "photo.jpg"))


async def certified(stage: Stage, operation_id: str) -> ErasureCertificate:
    """Return the certificate of an erasure as soon as it is final."""

    async def final() -> ErasureCertificate | None:
        found = await stage.rindle.erasure_certificate(operation_id)
        return found if found.status != "pending" else None

    found = await until(final, what="the certificate to be final")
    assert found is not None
    return found


@pytest.fixture
async def worked(stage: Stage) -> AsyncIterator[Stage]:
    """A stage with a worker."""
    await stage.member()
    yield stage


async def test_erasing_an_owner_detaches_purges_and_certifies(worked: Stage) -> None:
    stage, rindle = worked, worked.rindle
    own, shared, other = await uploaded(stage, 3)
    with_variants = (await stage.ready()).id
    for asset, owner, slot in [
        (own, ADA, "b"),
        (own, ADA, "a"),
        (shared, ADA, "c"),
        (shared, BOB, "c"),
        (with_variants, ADA, "d"),
        (other, BOB, "x"),
    ]:
        await rindle.attach(asset, owner, slot)
    keys = await stage.keys()
    preview = await rindle.preview_owner_erasure(ADA)
    assert await stage.keys() == keys

    report = await rindle.erase_owner(ADA, actor="support")

    assert [one.slot for one in report.attachments_to_detach.entries] == ["a", "b", "c", "d"]
    assert [one.asset_id for one in report.assets_to_purge.entries] == sorted([own, with_variants])
    assert [one.to_dict() for one in report.retained_shared_assets.entries] == [
        {"asset_id": shared, "profile": "plain", "surviving_attachment_count": 1}
    ]
    assert (report.purge_enqueued, report.purge_already_queued) == (2, 0)
    counts = {"purge_enqueued": 0, "purge_already_queued": 0, "mode": "preview"}
    expected = {name: value for name, value in report.to_dict().items() if name != "operation_id"} | counts
    assert preview.to_dict() == expected
    assert await rindle.attachment_for(ADA, "a") is None
    assert await rindle.attachment_for(BOB, "c") is not None

    certificate = await certified(stage, report.operation_id)

    assert certificate.status == "complete"
    [first, second] = certificate.assets
    found = {one.key for one in (*first.objects, *second.objects)}
    assert found == keys - await stage.keys()
    assert len(found) == 4
    for asset in certificate.assets:
        for one in asset.objects:
            assert one.absent_at is not None
            assert one.deleted_at <= one.absent_at
            assert one.unverified is None
    await stage.gone(own)
    assert (await rindle.asset(shared)).state == "ready"
    again = await rindle.erase_owner(ADA, operation_id=report.operation_id)
    assert again == report
    nothing = await rindle.erase_owner(ADA)
    assert nothing.operation_id != report.operation_id
    assert (nothing.attachments_to_detach.count, nothing.assets_to_purge.count, nothing.purge_enqueued) == (0, 0, 0)
    assert (await certified(stage, nothing.operation_id)).status == "complete"
    await everything_holds(stage)


async def test_neither_temporal_nor_the_certificate_holds_what_it_must_not(worked: Stage) -> None:
    stage = worked
    [asset] = await uploaded(stage)
    await stage.rindle.attach(asset, ADA, "avatar")

    report = await stage.rindle.erase_owner(ADA, actor="support")
    certificate = await certified(stage, report.operation_id)

    client = await stage.client()
    run = client.get_workflow_handle(f"{stage.prefix}-erasure:{report.operation_id}")
    result = await run.result()
    history = (await run.fetch_history()).to_json()
    described = await run.describe()
    for secret in (ADA[1], "support", certificate.assets[0].objects[0].key):
        assert secret not in history
    assert result["outcome"] == "completed"
    assert described.typed_search_attributes.get(ids.KIND) == "erasure"
    document = json.dumps(certificate.to_dict())
    assert "signature" not in document.lower()
    page = certificate.to_html()
    assert certificate.assets[0].objects[0].key in page
    assert f"<time>{certificate.assets[0].objects[0].absent_at}</time>" in page
    assert "<td>Objects found absent</td>" in page
    assert "<script" not in page


async def test_the_audit_events_have_the_operation_and_the_actor(worked: Stage) -> None:
    stage = worked
    [asset] = await uploaded(stage)
    await stage.rindle.attach(asset, ADA, "avatar")

    report = await stage.rindle.erase_owner(ADA, actor="support")
    await certified(stage, report.operation_id)

    def audit(session: Any) -> list[tuple[str, str | None, bool]]:
        found = session.scalars(
            select(MediaEvent).where(MediaEvent.scope_id == report.operation_id).order_by(MediaEvent.id)
        )
        return [(one.type, one.actor, one.audit) for one in found]

    assert await stage.read(audit) == [
        ("owner.erased", "support", True),
        ("owner.erasure_completed", "support", True),
    ]
    [detached] = [one for one in await stage.events(asset, "attachment_changed") if one.payload["change"] == "detached"]
    assert detached.actor == "support"


async def test_an_operation_belongs_to_one_owner(worked: Stage) -> None:
    operation = str(uuid.uuid4())
    await worked.rindle.erase_owner(ADA, operation_id=operation.upper())

    with pytest.raises(InvalidArgument):
        await worked.rindle.erase_owner(BOB, operation_id=operation)
    with pytest.raises(InvalidArgument):
        await worked.rindle.erase_owner(ADA, operation_id="ada@example.org")
    with pytest.raises(NotFound):
        await worked.rindle.erasure_certificate("ada@example.org")
    with pytest.raises(NotFound):
        await worked.rindle.erasure_certificate(str(uuid.uuid4()))


async def test_an_asset_that_is_attached_again_is_kept_and_the_certificate_says_so(stage: Stage) -> None:
    delayed = stage.application(RINDLE_PURGE_DELAY_SECONDS="3600")
    await stage.member(delayed)
    kept, lost = await uploaded(stage, 2)
    await stage.rindle.attach(kept, ADA, "a")
    await stage.rindle.attach(lost, ADA, "b")

    report = await delayed.erase_owner(ADA)
    await delayed.attach(kept, ADA, "a")
    await stage.make_due()
    certificate = await certified(stage, report.operation_id)

    assert certificate.status == "incomplete"
    assert {one.asset_id: one.outcome for one in certificate.assets} == {kept: "attached_again", lost: "purged"}
    assert (await stage.rindle.asset(kept)).state == "ready"
    await everything_holds(stage)


async def test_a_purge_that_was_queued_before_is_counted_as_such(stage: Stage) -> None:
    delayed = stage.application(RINDLE_PURGE_DELAY_SECONDS="3600")
    await stage.member(delayed)
    [asset] = await uploaded(stage)
    await delayed.attach(asset, ADA, "a")
    await delayed.attach(asset, ADA, "b")
    await delayed.detach(ADA, "a")

    report = await delayed.erase_owner(ADA)

    assert (report.purge_enqueued, report.purge_already_queued) == (0, 1)
    await stage.make_due()
    assert (await certified(stage, report.operation_id)).status == "complete"


async def test_an_asset_is_certified_only_after_its_last_upload_ticket(stage: Stage) -> None:
    """What a ticket recreates between the two deletions is deleted, and found absent after the ticket."""
    await stage.member()
    session = await stage.sent("plain")
    asset = (await stage.rindle.verify_completion(session.id)).asset
    await stage.settled(asset.id)
    await stage.rindle.attach(asset.id, ADA, "a")

    await stage.let_tickets_expire(session.id, hours=-1)
    report = await stage.rindle.erase_owner(ADA)

    async def deleted_once() -> bool:
        [one] = (await stage.rindle.erasure_certificate(report.operation_id)).assets
        return one.objects != () and one.objects[0].unverified == "upload_possible"

    await until(deleted_once, what="the first deletion")
    await stage.put(session.id, b"late bytes")
    await stage.let_tickets_expire(session.id)
    purge = (await stage.client()).get_workflow_handle(ids.purge_id(asset.id, prefix=stage.prefix))
    await purge.signal("wake")  # it would look by itself in an hour
    certificate = await certified(stage, report.operation_id)

    [one] = certificate.assets
    [thing] = one.objects
    assert certificate.status == "complete"
    assert one.uploads_end_at is not None
    assert thing.absent_at is not None
    assert thing.deleted_at < one.uploads_end_at.isoformat()[:26] <= thing.absent_at
    assert await stage.keys() == set()


# --- batches ------------------------------------------------------------------------------------------------------


async def test_a_batch_purges_what_only_its_owners_share_and_the_preview_agrees(worked: Stage) -> None:
    rindle = worked.rindle
    inner, outer, own = await uploaded(worked, 3)
    for asset, owner in [(inner, ADA), (inner, BOB), (outer, ADA), (outer, EVE), (own, BOB)]:
        await rindle.attach(asset, owner, f"slot of {asset}")
    owners = [ADA, BOB, ADA]

    preview = await rindle.preview_batch_owner_erasure(owners)
    report = await rindle.erase_owners(owners)

    for found in (preview, report):
        assert [one.owner.owner_id for one in found.owners] == [ADA[1], BOB[1]]
        assert [one.asset_id for one in found.assets_to_purge.entries] == sorted([inner, own])
        assert [one.asset_id for one in found.retained_shared_assets.entries] == sorted([inner, outer])
        assert (found.attachments_to_detach.count, found.net_assets_to_purge, found.net_retained_assets) == (4, 2, 1)
    rerun = await rindle.erase_owners(owners)
    assert (rerun.attachments_to_detach.count, rerun.net_assets_to_purge, len(rerun.owners)) == (0, 0, 2)
    for one in (*report.owners, *rerun.owners):
        assert (await certified(worked, one.report.operation_id)).status == "complete"
    await everything_holds(worked)


async def test_a_batch_is_validated_before_its_first_owner(stage: Stage) -> None:
    for call in (stage.rindle.erase_owners, stage.rindle.preview_batch_owner_erasure):
        with pytest.raises(EmptyBatch):
            await call([])
        with pytest.raises(BatchTooLarge) as large:
            await call([ADA, BOB, ADA, EVE], max_owners=2)
        assert large.value.detail == {"requested": 3, "max": 2}
        with pytest.raises(InvalidOwner) as invalid:
            await call([ADA, ("member", "")])
        assert invalid.value.detail["index"] == 1


# --- forced deletion ----------------------------------------------------------------------------------------------


def with_policy(stage: Stage, policy: Any) -> Rindle:
    """Return the application with a policy of forced deletions."""
    rindle = stage.application()
    rindle.services = replace(rindle.services, force_delete_policy=policy)
    return rindle


async def test_a_forced_deletion_needs_a_policy_and_an_attempt_is_audited(worked: Stage) -> None:
    stage = worked
    [asset] = await uploaded(stage)
    await stage.rindle.attach(asset, ADA, "avatar")

    def refuse(*facts: Any) -> None:
        raise PermissionError("a text that stays here")

    for rindle, code in ((stage.rindle, "no_policy"), (with_policy(stage, refuse), "PermissionError")):
        with pytest.raises(ForceDeleteForbidden):
            await rindle.force_delete_asset(asset, "why not", actor="eve")
        assert await stage.events(asset, "asset.force_deleted") == []
        with pytest.raises(ForceDeleteForbidden) as refused:
            await rindle.force_delete_asset(asset, "why not", actor="eve", dry_run=False)
        assert refused.value.detail["reason"] == code
    audit = await stage.events(asset, "asset.force_delete_refused")
    assert [(one.payload["refused_by"], one.actor) for one in audit] == [
        ("no_policy", "eve"),
        ("PermissionError", "eve"),
    ]
    with pytest.raises(InvalidArgument):
        await stage.rindle.force_delete_asset(asset, "", actor="eve")
    assert await stage.rindle.attachment_for(ADA, "avatar") is not None


async def test_a_forced_deletion_removes_every_attachment_once(worked: Stage) -> None:
    stage = worked
    [asset] = await uploaded(stage)
    await stage.rindle.attach(asset, ADA, "avatar")
    await stage.rindle.attach(asset, BOB, "cover")
    seen: list[tuple[str, int, str, str]] = []
    rindle = with_policy(stage, lambda found, rows, actor, why: seen.append((found.id, len(rows), actor, why)))

    preview = await rindle.force_delete_asset(asset, "court order", actor="legal")
    assert (preview.mode, preview.attachments_detached, preview.purge_started) == ("preview", 2, False)
    report = await rindle.force_delete_asset(asset, "court order", actor="legal", reference="AZ 7", dry_run=False)

    assert (report.mode, report.purge_started, report.already_deleted) == ("execute", True, False)
    assert [(one.owner_id, one.slot) for one in report.attachments] == [(ADA[1], "avatar"), (BOB[1], "cover")]
    assert seen == [(asset, 2, "legal", "court order")] * 2
    await stage.gone(asset)
    assert await stage.keys() == set()
    again = await rindle.force_delete_asset(asset, "court order", actor="legal", dry_run=False)
    assert (again.already_deleted, again.purge_started, again.attachments_detached) == (True, False, 0)
    [event] = await stage.events(asset, "asset.force_deleted")
    assert (event.actor, event.payload["reference"], len(event.payload["attachments"])) == ("legal", "AZ 7", 2)
