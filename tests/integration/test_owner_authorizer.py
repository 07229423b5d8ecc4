"""An authorizer that decides by uploader and owner, without a query of its own, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, selectinload

from rindle import MediaAsset, OwnerRef, Profile
from rindle.errors import Unauthorized
from rindle.http import create_router
from rindle.protocols import AssetSubject, DeliverySubject, Storage
from tests.gallery import VARIANTS, Gallery, opened


class OwnersAndUploaders:
    """Members see what is in a slot of theirs, and what they have uploaded."""

    def __init__(self) -> None:
        self.subjects: list[Any] = []

    def authorize(self, actor: Any, action: str, subject: DeliverySubject | AssetSubject) -> bool:
        self.subjects.append(subject)
        return actor == subject.uploaded_by or OwnerRef("member", actor) in subject.owners


MEMBERS = OwnersAndUploaders()


def make_profiles(store: Storage) -> list[type[Profile]]:
    class Owned(Profile):
        name = "owned"
        storage = store
        variants = VARIANTS
        delivery = {"authorizer": MEMBERS}

    class Free(Profile):
        name = "free"
        storage = store
        variants = VARIANTS

    return [Owned, Free]


@pytest.fixture
async def gallery(tmp_path: Path, database_url: str) -> AsyncIterator[Gallery]:
    MEMBERS.subjects.clear()
    async with opened(tmp_path, make_profiles, database_url=database_url) as made:
        yield made


@pytest.fixture
async def photo(gallery: Gallery) -> MediaAsset:
    """A photo that Ada has uploaded, in two slots of member 1 and one of member 2."""
    made = await gallery.ready(gallery.rindle.profiles.get("owned"), actor="ada")
    for number, slot in ((1, "cover"), (1, "avatar"), (2, "avatar")):
        await gallery.rindle.attach(made, ("member", number), slot)
    return await gallery.rindle.asset(made)


async def test_the_subject_has_the_uploader_and_each_owner_once(gallery: Gallery, photo: MediaAsset) -> None:
    await gallery.rindle.url("owned", photo, actor="ada")
    await gallery.rindle.variant_url("owned", photo, "thumb", actor=2)
    await gallery.rindle.picture_tag("owned", photo.id, ["thumb", "large"], actor=1)

    assert len(MEMBERS.subjects) == 5
    for subject in MEMBERS.subjects:
        assert subject.uploaded_by == "ada"
        assert subject.owners == (OwnerRef("member", 1), OwnerRef("member", 2))
    with pytest.raises(Unauthorized):
        await gallery.rindle.url("owned", photo, actor=3)


async def test_an_asset_in_no_slot_and_a_raw_key_have_no_owner(gallery: Gallery) -> None:
    asset = await gallery.ready(gallery.rindle.profiles.get("owned"))
    for given in (asset, asset.storage_key):
        with pytest.raises(Unauthorized):
            await gallery.rindle.url("owned", given, actor=1)

    assert [(one.uploaded_by, one.owners) for one in MEMBERS.subjects] == [(None, ()), (None, ())]


async def _queries(gallery: Gallery, asset: Any, profile: str = "owned", actor: Any = 1) -> list[int]:
    """Return how many queries each of the three calls runs."""
    rindle = gallery.rindle
    counts = []
    for call in (
        lambda: rindle.url(profile, asset, actor=actor),
        lambda: rindle.variant_url(profile, asset, "thumb", actor=actor),
        lambda: rindle.picture_tag(profile, asset, ["thumb", "large"], actor=actor),
    ):
        async with gallery.counting() as statements:
            assert await call()
        counts.append(len([one for one in statements if "media_events" not in one]))  # which the listener reads
    return counts


async def test_an_asset_that_was_loaded_by_the_application_s_calls_needs_no_query(
    gallery: Gallery, photo: MediaAsset
) -> None:
    rindle = gallery.rindle
    held = await rindle.attachment_for(("member", 1), "avatar", load=("variants",))
    assert held is not None

    for asset in (await rindle.asset(photo), await rindle.settled(photo), held.asset):
        assert await _queries(gallery, asset) == [0, 0, 0]


async def test_whatever_is_missing_is_read_in_one_query(gallery: Gallery, photo: MediaAsset) -> None:
    engine = gallery.rindle.database.engine
    assert isinstance(engine, AsyncEngine)
    async with AsyncSession(engine) as session:  # as the application selects its assets
        statement = select(MediaAsset).where(MediaAsset.id == photo.id)
        bare = (await session.scalars(statement)).one()
        session.expunge_all()
        with_owners = (await session.scalars(statement.options(selectinload(MediaAsset.attachments)))).one()
        session.expunge_all()
        with_variants = (await session.scalars(statement.options(selectinload(MediaAsset.variants)))).one()
        session.expunge_all()
        committed = (await session.scalars(statement)).one()
        await session.commit()  # it is expired now

    assert await _queries(gallery, bare) == [1, 1, 1]
    assert await _queries(gallery, with_owners) == [0, 1, 1]
    assert await _queries(gallery, with_variants) == [1, 1, 1]
    assert await _queries(gallery, committed) == [1, 1, 1]
    assert await _queries(gallery, photo.id) == [1, 1, 1]


async def test_without_an_authorizer_no_owner_is_read(gallery: Gallery) -> None:
    made = await gallery.ready(gallery.rindle.profiles.get("free"))

    assert await _queries(gallery, await gallery.unloaded(made), "free") == [0, 1, 1]
    async with gallery.counting() as statements:
        await gallery.rindle.url("free", made.id)
    assert "media_attachments" not in "".join(statements)


async def test_a_row_that_was_attached_or_detached_has_its_owners_read_again(gallery: Gallery) -> None:
    rindle = gallery.rindle
    asset = await gallery.ready(rindle.profiles.get("owned"))

    await rindle.attach(asset, ("member", 7), "avatar")
    assert await rindle.url("owned", asset, actor=7)

    def detach(session: Session) -> MediaAsset:
        row = session.get_one(MediaAsset, asset.id, options=[selectinload(MediaAsset.attachments)])
        rindle.attachments.detach(("member", 7), "avatar", session=session)
        return row

    detached = await rindle.database.write(detach)
    with pytest.raises(Unauthorized):
        await rindle.url("owned", detached, actor=7)


async def test_an_application_with_a_synchronous_engine_has_the_same_subjects(
    gallery: Gallery, photo: MediaAsset, database_url: str
) -> None:
    engine: Engine = create_engine(database_url.replace("sqlite+aiosqlite", "sqlite"))
    rindle = type(gallery.rindle)(
        engine=engine, profiles=gallery.rindle.profiles, settings=gallery.rindle.settings, secrets=["s" * 32]
    )
    with Session(engine) as session:
        held = rindle.attachments.attachment_for(("member", 2), "avatar", load=("variants",), session=session)
    assert held is not None
    MEMBERS.subjects.clear()

    assert await rindle.picture_tag("owned", held.asset, ["thumb"], actor=2)

    assert {subject.owners for subject in MEMBERS.subjects} == {(OwnerRef("member", 1), OwnerRef("member", 2))}
    await rindle.close()
    engine.dispose()


async def test_the_asset_routes_give_their_authorizer_the_owners_too(gallery: Gallery, photo: MediaAsset) -> None:
    router = OwnersAndUploaders()
    app = FastAPI()
    app.include_router(
        create_router(
            gallery.rindle,
            profiles={"owned": gallery.rindle.profiles.get("owned")},
            actor_from_request=lambda request: request.headers.get("X-User"),
            authorizer=router,
        )
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site.test") as client:
        for actor, status in (("2", 200), ("3", 404)):
            answer = await client.get(f"/assets/{photo.id}/url", headers={"X-User": actor})
            assert answer.status_code == status

    assert [subject.owners for subject in router.subjects] == [(OwnerRef("member", 1), OwnerRef("member", 2))] * 2
    assert isinstance(router.subjects[0], AssetSubject)
