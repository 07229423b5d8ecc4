"""What of an asset must have ended for its purge to delete it at once, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaErasureAsset, MediaProviderAsset, MediaUploadSession, MediaVariant
from rindle.db import erasures, purge, streams
from rindle.db.models import MediaErasure, new_id, utc_now
from rindle.errors import NotFound
from rindle.owners import OwnerRef
from tests.stage import Stage

LATE_PUT_SECONDS = 60.0


def added(session: Session, **columns: Any) -> MediaAsset:
    """Insert a ready image with one variant and the upload that it came from, idle unless ``columns`` differ."""
    asset_id = new_id()
    key = f"plain/{asset_id}/original.jpg"
    asset = MediaAsset(id=asset_id, state=columns.pop("state", "ready"), profile="plain", kind="image", storage_key=key)
    variant = {"name": "thumb", "state": "ready", "recipe_digest": "0" * 64, **columns.pop("variant", {})}
    upload = {
        "state": "completed",
        "upload_key": key,
        "expires_at": utc_now(),
        "url_expires_at": utc_now() - timedelta(seconds=LATE_PUT_SECONDS + 1),
        **columns.pop("upload", {}),
    }
    assert not columns
    session.add(asset)
    session.flush()
    session.add_all([MediaVariant(asset_id=asset_id, **variant), MediaUploadSession(asset_id=asset_id, **upload)])
    session.flush()
    return asset


def at_provider(session: Session, asset: MediaAsset) -> None:
    """Insert a row of the asset at a streaming provider."""
    session.add(MediaProviderAsset(asset_id=asset.id, provider_name="memory", profile="plain", state="ready"))
    session.flush()


async def begun(stage: Stage, **columns: Any) -> tuple[str, purge.Tombstone | None]:
    """Begin the purge of a new asset; returns the outcome and what may be deleted at once."""

    def begin(session: Session) -> tuple[str, purge.Tombstone | None]:
        provided = columns.pop("provided", False)
        asset = added(session, **columns)
        if provided:
            at_provider(session, asset)
        decision, found = purge.begin(session, asset.id, late_put_seconds=LATE_PUT_SECONDS)
        assert (decision.groups, len(decision.session_ids)) == (("images",), 1)
        return decision.outcome, found

    return await stage.rindle.database.write(begin)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"state": "degraded", "variant": {"state": "missing"}},
        {"variant": {"state": "stale"}},
        {"upload": {"url_expires_at": None}},
    ],
    ids=str,
)
async def test_an_idle_asset_is_deleted_at_once(stage: Stage, columns: dict[str, Any]) -> None:
    outcome, found = await begun(stage, **columns)

    assert outcome == "purge"
    assert found is not None
    assert (found.asset.state, len(found.variants), len(found.sessions), found.is_erased) == ("deleted", 1, 1, False)


@pytest.mark.parametrize(
    "columns",
    [
        {"state": "deleted"},  # by another attempt, or by a forced deletion: it does not say what was running
        {"state": "quarantined"},
        {"state": "validating"},
        {"state": "transcoding", "variant": {"state": "processing"}},
        {"state": "degraded", "variant": {"state": "cancelled"}},  # its build may still be ending
        {"state": "degraded", "variant": {"state": "failed"}},
        {"variant": {"obsolete_keys": ["plain/x/old.jpg"]}},  # the workflow of its group deletes it
        {"upload": {"state": "signed"}},
        {"upload": {"state": "aborted"}},  # its parts may have to be released
        {"upload": {"url_expires_at": datetime(2100, 1, 1, tzinfo=UTC)}},
        {"provided": True},
    ],
    ids=str,
)
async def test_whatever_may_be_at_work_has_to_be_stopped_first(stage: Stage, columns: dict[str, Any]) -> None:
    assert await begun(stage, **columns) == ("purge", None)


async def test_a_put_that_began_before_its_ticket_expired_may_still_arrive(stage: Stage) -> None:
    expired = utc_now() - timedelta(seconds=LATE_PUT_SECONDS / 2)

    assert await begun(stage, upload={"url_expires_at": expired}) == ("purge", None)


async def test_a_request_that_read_its_upload_before_the_purge_began_gets_no_lease(stage: Stage) -> None:
    def read(session: Session) -> streams.Stream:
        asset = added(session, state="staged", upload={"state": "uploading"})
        upload_id = session.scalars(select(MediaUploadSession.id).where(MediaUploadSession.asset_id == asset.id)).one()
        session.expire_all()
        found = streams.find_stream(session, upload_id)
        assert found is not None
        return found

    database = stage.rindle.database
    known = await database.write(read)
    await database.write(purge.begin, known.asset.id if known.asset else "", late_put_seconds=LATE_PUT_SECONDS)

    with pytest.raises(NotFound):
        await database.write(streams.take_lease, known, "late", seconds=30, yield_seconds=10)


async def test_a_repeated_attempt_leaves_the_rest_to_the_other_activities(stage: Stage) -> None:
    asset = await stage.rindle.database.write(added)

    def begin(session: Session) -> bool:
        decision, found = purge.begin(session, asset.id, late_put_seconds=LATE_PUT_SECONDS)
        assert decision.outcome == "purge"
        return found is not None

    assert await stage.rindle.database.write(begin)
    assert not await stage.rindle.database.write(begin)


async def test_the_tombstone_says_whether_an_erasure_waits_for_it(stage: Stage) -> None:
    operation = new_id()

    def begin(session: Session) -> list[bool]:
        erased = [added(session), added(session), added(session)]
        erasures.request(session, operation, OwnerRef("member", "ada"), None)
        erasures.add_assets(session, operation, [(one.id, "plain") for one in erased[:2]])
        erasures.decide(session, erased[1].id, erasures.GONE)
        found = [purge.begin(session, one.id, late_put_seconds=LATE_PUT_SECONDS)[1] for one in erased]
        return [one.is_erased for one in found if one is not None]

    assert await stage.rindle.database.write(begin) == [True, False, False]


async def test_evidence_ends_the_purge_of_every_erasure_that_waits_and_counts_it_once(stage: Stage) -> None:
    operations = sorted([new_id(), new_id()])
    evidence = {"storage": "local", "key": "k", "deleted_at": "1", "absent_at": "2", "unverified": None}

    def end(session: Session) -> list[list[str]]:
        assets = [added(session), added(session)]
        for operation in operations:
            erasures.request(session, operation, OwnerRef("member", operation), None)
            erasures.add_assets(session, operation, [(one.id, "plain") for one in assets])
            session.get_one(MediaErasure, operation).pending = 2
        session.flush()
        first, second = (one.id for one in assets)
        return [
            erasures.note_objects(session, first, [evidence], None),
            erasures.note_objects(session, first, [{**evidence, "deleted_at": "9"}], None, outcome=erasures.PURGED),
            erasures.note_objects(session, first, [evidence], None, outcome=erasures.PURGED),
            erasures.note_objects(session, second, [evidence], None, outcome=erasures.PURGED),
        ]

    assert await stage.rindle.database.write(end) == [[], [], [], operations]

    def read(session: Session) -> list[tuple[str, bool, Any]]:
        found = session.query(MediaErasureAsset).all()
        assert [one.pending for one in session.query(MediaErasure)] == [0, 0]
        return [(one.outcome, one.decided_at is not None, one.objects) for one in found]

    assert await stage.read(read) == [("purged", True, [evidence])] * 4  # the first confirmed deletion keeps its time
