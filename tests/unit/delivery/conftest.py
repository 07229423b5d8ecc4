"""The gallery of the delivery tests: private, public and guarded profiles of pictures, films and songs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rindle import Profile
from rindle.errors import Unauthorized
from rindle.presets import Web
from rindle.protocols import DeliverySubject, Storage
from rindle.storage.grant import Grant
from rindle.storage.local import LocalStorage
from tests.gallery import BASE_URL, VARIANTS, Gallery, opened


class Members:
    """Thumbnails for all, originals for members; remembers whom and what it was asked about."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, str, DeliverySubject]] = []

    def authorize(self, actor: Any, action: str, subject: DeliverySubject) -> None:
        self.asked.append((actor, action, subject))
        if subject.variant != "thumb" and actor != "member":
            raise Unauthorized("members only", code="forbidden")


class Audience:
    """The poster for all, the film for members."""

    def authorize(self, actor: Any, action: str, subject: DeliverySubject) -> bool:
        return subject.variant == "poster" or actor == "member"


MEMBERS, PREMIERE = Members(), Audience()


def make_profiles(store: Storage) -> list[type[Profile]]:
    class Private(Profile):
        name = "private"
        storage = store
        variants = VARIANTS

    class Public(Profile):
        name = "public"
        storage = store
        variants = VARIANTS
        delivery = {"public": True}

    class Guarded(Profile):
        name = "guarded"
        storage = store
        variants = VARIANTS
        delivery = {"authorizer": MEMBERS, "signed_url_ttl_seconds": 60}

    class Film(Web):
        name = "film"
        storage = store
        delivery = {"public": True}
        extra_variants = {"web_480p": {"kind": "video", "preset": "web_480p"}}

    class Premiere(Film):
        name = "premiere"
        delivery = {"authorizer": PREMIERE}

    class Song(Profile):
        name = "song"
        storage = store
        variants = {"m4a_128k": {"kind": "audio", "preset": "m4a_128k"}, "waveform": {"kind": "waveform"}}
        delivery = {"public": True}

    return [Private, Public, Guarded, Film, Premiere, Song]


def grant_of(gallery: Gallery, url: str) -> Grant:
    """Return what a signed local URL allows."""
    assert url.startswith(f"{BASE_URL}/")
    [storage] = gallery.rindle.storages.values()
    assert isinstance(storage, LocalStorage)
    return storage.grant_of(url.removeprefix(f"{BASE_URL}/"), "GET")


@pytest.fixture
async def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gallery]:
    monkeypatch.setenv("RINDLE_STRICT_EVENTS", "1")
    MEMBERS.asked.clear()
    async with opened(tmp_path, make_profiles) as made:
        yield made


@pytest.fixture
def private(gallery: Gallery) -> type[Profile]:
    return gallery.rindle.profiles.get("private")


@pytest.fixture
def public(gallery: Gallery) -> type[Profile]:
    return gallery.rindle.profiles.get("public")


@pytest.fixture
def guarded(gallery: Gallery) -> type[Profile]:
    return gallery.rindle.profiles.get("guarded")


@pytest.fixture
def film(gallery: Gallery) -> type[Profile]:
    return gallery.rindle.profiles.get("film")


@pytest.fixture
def premiere(gallery: Gallery) -> type[Profile]:
    return gallery.rindle.profiles.get("premiere")


@pytest.fixture
def song(gallery: Gallery) -> type[Profile]:
    return gallery.rindle.profiles.get("song")
