"""Attach, replace, detach and purge on both databases, in the application's own transactions and against each other."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import ForeignKey, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rindle import MediaAsset, MediaAttachment, MediaOutbox, OwnerRef
from rindle.db import purge as purge_rows
from rindle.errors import (
    InvalidArgument,
    InvalidOwner,
    InvalidSlot,
    NotFound,
    OwnerNotPersisted,
    OwnerTypeConflict,
    Quarantined,
    StateConflict,
    StillAttached,
)
from tests.invariants import everything_holds
from tests.patience import until
from tests.stage import Stage, on_postgres, photo


class AppBase(DeclarativeBase):
    """The application's own tables, in the same database."""


class Member(AppBase):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20), default="member")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "member"}


class Admin(Member):
    __mapper_args__ = {"polymorphic_identity": "admin"}


class Room(AppBase):
    __tablename__ = "rooms"
    house: Mapped[str] = mapped_column(String(36), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    member_id: Mapped[int | None] = mapped_column(ForeignKey("members.id"))


@pytest.fixture
async def app_stage(stage: Stage) -> AsyncIterator[Stage]:
    """A stage whose database also holds the application's tables."""
    async with stage.engine.begin() as connection:
        await connection.run_sync(AppBase.metadata.create_all)
    yield stage


async def _purges(stage: Stage) -> list[str]:
    return [row.workflow_id.rpartition(":")[2] for row in await stage.outbox() if "Purge" in row.workflow_type]


# --- the ordinary life --------------------------------------------------------------------------------------------


async def test_attach_joins_the_application_s_transaction_and_shows_after_its_commit(app_stage: Stage) -> None:
    asset = await app_stage.verified(actor="alice")
    async with app_stage.transaction() as session:
        member = Member(id=1)
        session.add(member)
        await session.flush()
        made = await app_stage.rindle.attach(asset.id, member, "avatar", uploaded_by="alice", session=session)
        assert (made.owner_type, made.owner_id, made.slot) == ("Member", "1", "avatar")
        await session.commit()
    found = await app_stage.rindle.attachment_for(member, "avatar")
    assert found is not None
    assert found.asset.id == asset.id


async def test_attaching_what_is_there_already_changes_nothing(app_stage: Stage) -> None:
    asset = await app_stage.verified()
    first = await app_stage.rindle.attach(asset.id, ("user", "1"), "avatar")
    again = await app_stage.rindle.attach(asset.id, ("user", "1"), "avatar")
    assert first.id == again.id
    assert await _purges(app_stage) == []
    assert len(await app_stage.events(asset.id, "attachment_changed")) == 1


async def test_replacing_purges_the_old_one_only_after_the_commit(app_stage: Stage) -> None:
    await app_stage.member()
    old, new = await app_stage.ready(), await app_stage.ready()
    await app_stage.rindle.attach(old.id, ("user", "1"), "avatar")
    async with app_stage.transaction() as session:
        await app_stage.rindle.attach(new.id, ("user", "1"), "avatar", session=session)
        assert old.storage_key in await app_stage.keys()
        await session.commit()
    await app_stage.gone(old.id)
    assert (await app_stage.settled(new.id)).state == "ready"
    audit = await app_stage.events(old.id, "asset.purged")
    assert [event.payload["objects"] for event in audit] == [3]
    await everything_holds(app_stage)


async def test_a_shared_asset_survives_until_its_last_owner_lets_go(app_stage: Stage) -> None:
    await app_stage.member()
    asset = await app_stage.ready()
    for owner in ("1", "2"):
        await app_stage.rindle.attach(asset.id, ("user", owner), "avatar")
    client = await app_stage.client()

    await app_stage.rindle.detach(("user", "1"), "avatar")

    async def decided() -> str | None:
        from rindle.workflows import ids

        handle = client.get_workflow_handle(ids.purge_id(asset.id, prefix=app_stage.prefix))
        try:
            return (await handle.result())["outcome"]
        except Exception:
            return None  # not started yet

    assert await until(decided, what="the purge to decide") == "still_attached"
    assert (await app_stage.rindle.asset(asset.id)).state == "ready"
    await app_stage.rindle.detach(("user", "2"), "avatar")
    await app_stage.rindle.detach(("user", "2"), "avatar")  # idempotent
    await app_stage.gone(asset.id)
    assert await app_stage.keys() == set()


async def test_purging_an_attached_asset_by_hand_is_refused(app_stage: Stage) -> None:
    asset = await app_stage.verified()
    await app_stage.rindle.attach(asset.id, ("user", "1"), "avatar")
    with pytest.raises(StillAttached):
        await app_stage.rindle.purge_asset(asset.id)
    with pytest.raises(NotFound):
        await app_stage.rindle.purge_asset(str(uuid.uuid4()))


async def test_the_grace_period_puts_the_purge_off(app_stage: Stage) -> None:
    asset = await app_stage.verified()
    patient = app_stage.application(RINDLE_PURGE_DELAY_SECONDS="3600")
    await patient.attach(asset.id, ("user", "1"), "avatar")
    await patient.detach(("user", "1"), "avatar")
    row = next(row for row in await app_stage.outbox() if "Purge" in row.workflow_type)
    assert (row.available_at - row.inserted_at).total_seconds() == pytest.approx(3600, abs=5)


# --- who may ------------------------------------------------------------------------------------------------------


async def test_bob_cannot_attach_what_alice_uploaded(app_stage: Stage) -> None:
    hers = await app_stage.verified(actor="alice")
    anonymous = await app_stage.verified()
    for asset_id, actor in ((hers.id, "bob"), (hers.id, None), (anonymous.id, "bob"), ("no id", "alice")):
        with pytest.raises(NotFound):
            await app_stage.rindle.attach(asset_id, ("user", "bob"), "avatar", uploaded_by=actor)
    await app_stage.rindle.attach(anonymous.id, ("user", "bob"), "avatar", uploaded_by=None)
    await app_stage.rindle.attach(hers.id, ("user", "staff"), "avatar")  # unchecked: trusted server code


async def test_a_condemned_asset_cannot_be_attached(app_stage: Stage) -> None:
    await app_stage.member()
    asset = await app_stage.ready(body=b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert (asset.state, asset.error_code) == ("quarantined", "mime_not_allowed")
    with pytest.raises(Quarantined) as refused:
        await app_stage.rindle.attach(asset.id, ("user", "1"), "avatar")
    assert refused.value.detail["reason"] == "mime_not_allowed"


# --- owners and slots ---------------------------------------------------------------------------------------------


async def test_owners_may_be_anything_that_can_be_named(app_stage: Stage) -> None:
    class Told:
        def __rindle_owner__(self) -> tuple[str, uuid.UUID]:
            return "told", uuid.UUID("0198C0DE-0000-7000-8000-00000000000A")

    rindle = app_stage.rindle
    async with app_stage.transaction() as session:
        admin, room = Admin(id=7), Room(house="h", number=3)
        session.add_all([admin, room])
        await session.commit()
    refs = [rindle.owner_types.ref(owner) for owner in (admin, room, Told(), OwnerRef("x", "1"), ("y", 2))]
    assert refs == [
        OwnerRef("Member", "7"),  # the base mapper's name: a member and the admin he becomes are one owner
        OwnerRef("Room", json.dumps(["h", "3"], separators=(",", ":"))),
        OwnerRef("told", "0198c0de-0000-7000-8000-00000000000a"),
        OwnerRef("x", "1"),
        OwnerRef("y", "2"),
    ]
    rindle.register_owner_type("person", Member)
    assert rindle.owner_types.ref(admin) == OwnerRef("person", "7")
    with pytest.raises(OwnerTypeConflict):
        rindle.register_owner_type("person", Room)


@pytest.mark.parametrize("owner", [object(), "user:1", ("user", ""), ("", "1"), ("u", None), None, ("a", "b", "c")])
async def test_what_is_no_owner_is_refused(lite_stage: Stage, owner: object) -> None:
    with pytest.raises(InvalidOwner):
        await lite_stage.rindle.attachment_for(owner, "avatar")


async def test_an_owner_without_a_key_is_told_to_flush(lite_stage: Stage) -> None:
    with pytest.raises(OwnerNotPersisted, match="flush"):
        await lite_stage.rindle.attachment_for(Member(), "avatar")


@pytest.mark.parametrize("slot", ["", "x" * 256, "a\nb", "\x7f"])
async def test_a_slot_is_a_name(lite_stage: Stage, slot: str) -> None:
    with pytest.raises(InvalidSlot):
        await lite_stage.rindle.attachment_for(("user", "1"), slot)


async def test_attachment_for_loads_what_is_asked_in_one_query(app_stage: Stage) -> None:
    await app_stage.member()
    asset = await app_stage.ready()
    await app_stage.rindle.attach(asset.id, ("user", "1"), "avatar")
    found = await app_stage.rindle.attachment_for(("user", "1"), "avatar", load=("variants",))
    assert found is not None
    assert [row.name for row in found.asset.variants] == ["large", "thumb"]
    bare = await app_stage.rindle.attachment_for(("user", "1"), "avatar", load=())
    assert bare is not None and "asset" not in bare.__dict__
    with pytest.raises(InvalidArgument):
        await app_stage.rindle.attachment_for(("user", "1"), "avatar", load=("everything",))
    assert [row.name for row in await app_stage.rindle.ready_variants_for(asset)] == ["large", "thumb"]


# --- against each other -------------------------------------------------------------------------------------------


@on_postgres
async def test_an_attach_held_open_stalls_neither_the_pipeline_nor_another_attach(stage: Stage) -> None:
    """On SQLite one writer holds the file, so only Postgres can promise this."""
    await stage.member()
    asset = await stage.verified(actor="alice")
    async with stage.transaction() as held:
        await stage.rindle.attach(asset.id, ("user", "1"), "avatar", session=held)
        assert (await stage.settled(asset.id)).state == "ready"  # promoted and built while the attach is open
        await stage.rindle.attach(asset.id, ("user", "2"), "avatar")
        await held.commit()
    assert await stage.rindle.attachment_for(("user", "1"), "avatar") is not None


@on_postgres
async def test_a_purge_waits_for_an_attach_that_is_open_and_then_leaves_the_asset(stage: Stage) -> None:
    await stage.member()
    asset = await stage.ready()
    async with stage.transaction() as held:
        await stage.rindle.attach(asset.id, ("user", "1"), "avatar", session=held)
        deciding = asyncio.create_task(stage.rindle.database.write(purge_rows.begin, asset.id, late_put_seconds=0))

        async def waiting() -> bool:
            blocked = await stage.read(
                lambda s: (
                    s.connection()
                    .exec_driver_sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
                    .scalar()
                )
            )
            return bool(blocked)

        await until(waiting, what="the purge to wait for the lock")
        await held.commit()
    decision, _ = await deciding
    assert decision.outcome == "still_attached"
    assert (await stage.rindle.asset(asset.id)).state == "ready"


async def test_on_sqlite_a_transaction_that_read_too_early_ends_as_state_conflict(lite_stage: Stage) -> None:
    stage = lite_stage
    first = await stage.verified()
    async with stage.transaction() as held:
        await held.scalars(select(MediaAsset))  # takes its snapshot
        await stage.verified()  # the world writes
        with pytest.raises(StateConflict):
            await stage.rindle.attach(first.id, ("user", "1"), "avatar", session=held)
        await held.rollback()
        await stage.rindle.attach(first.id, ("user", "1"), "avatar", session=held)  # repeated: fine
        await held.commit()
    assert await stage.rindle.attachment_for(("user", "1"), "avatar") is not None


async def test_attaches_and_purges_at_once_never_lose_an_attached_object(stage: Stage) -> None:
    """Every round lets an attach and a purge of one unattached asset go at the same moment; either may win."""
    await stage.member()
    picture = photo(stage.home / "small.jpg", width=64, height=48)
    outcomes = set()
    for number in range(6):
        asset = await stage.ready("plain", picture)
        barrier = asyncio.Barrier(2)

        async def attach(asset_id: str = asset.id, owner: str = str(number), meet: asyncio.Barrier = barrier) -> bool:
            await meet.wait()
            try:
                await stage.rindle.attach(asset_id, ("user", owner), "avatar")
            except (NotFound, StateConflict):
                return False
            return True

        async def purge(asset_id: str = asset.id, meet: asyncio.Barrier = barrier) -> str:
            await meet.wait()
            for _ in range(20):
                try:
                    begin = stage.rindle.database.write(purge_rows.begin, asset_id, late_put_seconds=0)
                    return (await begin)[0].outcome
                except StateConflict:
                    continue
            return "gave up"

        attached, decision = await asyncio.gather(attach(), purge())
        assert attached == (decision == "still_attached"), (attached, decision)
        outcomes.add(decision)
        if decision == "purge":
            await stage.rindle.database.write(_start_purge, stage, asset.id)
            await stage.gone(asset.id)
    assert outcomes <= {"purge", "still_attached"}
    await everything_holds(stage)


def _start_purge(session: object, stage: Stage, asset_id: str) -> None:
    from sqlalchemy.orm import Session

    from rindle import outbox

    assert isinstance(session, Session)
    outbox.start_purge(session, stage.rindle.settings, asset_id, "plain")


async def test_two_replacements_of_one_slot_at_once_leave_no_orphan(stage: Stage) -> None:
    await stage.member()
    picture = photo(stage.home / "small.jpg", width=64, height=48)
    first, left, right = [await stage.ready("plain", picture) for _ in range(3)]
    await stage.rindle.attach(first.id, ("user", "1"), "avatar")

    await asyncio.gather(
        stage.rindle.attach(left.id, ("user", "1"), "avatar"), stage.rindle.attach(right.id, ("user", "1"), "avatar")
    )

    kept = await stage.rindle.attachment_for(("user", "1"), "avatar")
    assert kept is not None and kept.asset_id in (left.id, right.id)
    for asset in (first, left, right):
        if asset.id != kept.asset_id:
            await stage.gone(asset.id)
    await everything_holds(stage)


async def test_two_first_attaches_to_one_slot_at_once_leave_one_row(stage: Stage) -> None:
    picture = photo(stage.home / "small.jpg", width=64, height=48)
    assets = [await stage.verified("plain", picture) for _ in range(4)]
    results = await asyncio.gather(
        *(stage.rindle.attach(asset.id, ("user", "1"), "avatar") for asset in assets), return_exceptions=True
    )
    assert all(isinstance(result, MediaAttachment | StateConflict) for result in results)
    rows = await stage.read(lambda s: s.scalars(select(MediaAttachment)).all())
    assert len(rows) == 1
    replaced = {asset.id for asset, result in zip(assets, results, strict=True) if isinstance(result, MediaAttachment)}
    assert set(await _purges(stage)) == replaced - {rows[0].asset_id}


async def test_the_plain_functions_raise_the_same_errors(lite_stage: Stage) -> None:
    def unknown(session: object) -> None:
        from sqlalchemy.orm import Session

        assert isinstance(session, Session)
        calls = lite_stage.rindle.attachments
        with pytest.raises(NotFound):
            calls.attach(str(uuid.uuid4()), ("user", "1"), "avatar", session=session)
        calls.detach(("user", "1"), "avatar", session=session)
        assert calls.attachment_for(("user", "1"), "avatar", session=session) is None
        assert session.scalars(select(MediaOutbox)).all() == []

    await lite_stage.rindle.database.write(unknown)
