"""What a slot accepts: declared once per owner type, or named by the call, in both kinds of session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from rindle import MediaOutbox, OwnerRef, Profile
from rindle.errors import InvalidArgument, InvalidSlot, NotFound, ProfileMismatch, UnknownProfile
from rindle.protocols import Storage
from tests.gallery import Gallery, opened

ALICE = ("member", "1")


class Photo(Profile):
    name = "photo"
    storage = "media"
    variants = {}


class Film(Profile):
    name = "film"
    storage = "media"
    variants = {}


class Unregistered(Profile):
    name = "unregistered"
    storage = "media"
    variants = {}


def make_profiles(store: Storage) -> list[type[Profile]]:
    class Song(Profile):
        name = "song"
        storage = store
        variants = {}

    def stored_in(profile: type[Profile]) -> type[Profile]:
        profile.storage = store
        return profile

    return [stored_in(Photo), stored_in(Film), Song]


@pytest.fixture
async def gallery(tmp_path: Path) -> AsyncIterator[Gallery]:
    async with opened(tmp_path, make_profiles) as made:
        yield made


async def test_a_declared_slot_accepts_its_profiles_and_no_other(gallery: Gallery) -> None:
    rindle = gallery.rindle
    rindle.register_owner_type("member", slots={"avatar": Photo, "lesson": [Film, "song"]})
    photo, film, song = [await gallery.ready(rindle.profiles.get(name)) for name in ("photo", "film", "song")]

    for owner in (ALICE, OwnerRef("member", "2")):
        assert (await rindle.attach(photo, owner, "avatar")).asset_id == photo.id
        for allowed in (film, song):
            assert (await rindle.attach(allowed.id, owner, "lesson")).asset_id == allowed.id
        for asset, slot, expected in ((film, "avatar", ["photo"]), (photo, "lesson", ["film", "song"])):
            with pytest.raises(ProfileMismatch) as refused:
                await rindle.attach(asset.id, owner, slot)
            assert (refused.value.code, refused.value.http_status) == ("profile_mismatch", 422)
            assert refused.value.detail == {"slot": slot, "expected": expected, "found": asset.profile}

    await rindle.attach(film, ALICE, "not declared")
    await rindle.attach(film, ("team", "1"), "avatar")  # a slot of another type


async def test_a_refused_asset_replaces_nothing(gallery: Gallery) -> None:
    rindle = gallery.rindle
    rindle.register_owner_type("member", slots={"avatar": Photo})
    photo, film = await gallery.ready(Photo), await gallery.ready(Film)
    await rindle.attach(photo, ALICE, "avatar")

    with pytest.raises(ProfileMismatch):
        await rindle.attach(film, ALICE, "avatar")

    attachment = await rindle.attachment_for(ALICE, "avatar")
    assert attachment is not None and attachment.asset_id == photo.id
    outbox = await rindle.database.read(lambda session: session.scalars(select(MediaOutbox.workflow_type)).all())
    assert not [kind for kind in outbox if "Purge" in kind]


async def test_a_call_may_name_what_it_accepts(gallery: Gallery) -> None:
    rindle = gallery.rindle
    photo, film = await gallery.ready(Photo), await gallery.ready(Film)

    accepting: list[Any] = [Film, "film", ["photo", Film], (name for name in ("film",))]
    for profile in accepting:
        assert (await rindle.attach(film, ALICE, "any", profile=profile)).asset_id == film.id
    refusing: list[Any] = [Film, "film", {"film", "song"}]
    for profile in refusing:
        with pytest.raises(ProfileMismatch):
            await rindle.attach(photo, ALICE, "any", profile=profile)

    rindle.register_owner_type("member", slots={"avatar": Photo})
    await rindle.attach(film, ALICE, "avatar", profile=[Photo, Film])  # the call takes precedence
    with pytest.raises(ProfileMismatch):
        await rindle.attach(photo, ALICE, "avatar", profile=Film)


async def test_mistakes_of_a_declaration_are_found_at_once(gallery: Gallery) -> None:
    rindle = gallery.rindle
    photo = await gallery.ready(Photo)

    for unknown in (Unregistered, "photos"):
        with pytest.raises(UnknownProfile):
            rindle.register_owner_type("member", slots={"avatar": unknown})
        with pytest.raises(UnknownProfile):
            await rindle.attach(photo, ALICE, "avatar", profile=unknown)
    with pytest.raises(InvalidArgument):
        rindle.register_owner_type("member", slots={"avatar": []})
    with pytest.raises(InvalidArgument):
        await rindle.attach(photo, ALICE, "avatar", profile=[])
    with pytest.raises(InvalidSlot):
        rindle.register_owner_type("member", slots={"a\nb": Photo})
    await rindle.attach(photo, ALICE, "avatar")  # nothing was declared


async def test_the_upload_of_another_actor_stays_not_found(gallery: Gallery) -> None:
    hers = await gallery.ready(Film, actor="alice")

    with pytest.raises(NotFound):
        await gallery.rindle.attach(hers, ("member", "2"), "avatar", profile=Photo, uploaded_by="bob")


async def test_a_synchronous_session_has_the_same_rule(gallery: Gallery, tmp_path: Path) -> None:
    rindle = gallery.rindle
    rindle.register_owner_type("member", slots={"avatar": Photo})
    photo, film = await gallery.ready(Photo), await gallery.ready(Film)
    engine = create_engine(f"sqlite:///{tmp_path / 'gallery.db'}")

    with Session(engine) as session, session.begin():
        with pytest.raises(ProfileMismatch):
            rindle.attachments.attach(film.id, ALICE, "avatar", session=session)
        rindle.attachments.attach(photo.id, ALICE, "avatar", session=session)
        rindle.attachments.attach(film.id, ALICE, "other", session=session)  # nothing was declared
        for profile in (Photo, "photo", [Photo]):
            with pytest.raises(ProfileMismatch):
                rindle.attachments.attach(film.id, ALICE, "other", profile=profile, session=session)
    engine.dispose()
    attachment = await rindle.attachment_for(ALICE, "avatar")
    assert attachment is not None and attachment.asset_id == photo.id
