"""The gallery of the delivery tests: a private, a public and a guarded profile on one local storage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rindle import Profile
from rindle.errors import Unauthorized
from rindle.protocols import DeliverySubject, Storage
from tests.gallery import VARIANTS, Gallery, opened


class Members:
    """Thumbnails for all, originals for members; remembers whom and what it was asked about."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, str, DeliverySubject]] = []

    def authorize(self, actor: Any, action: str, subject: DeliverySubject) -> None:
        self.asked.append((actor, action, subject))
        if subject.variant != "thumb" and actor != "member":
            raise Unauthorized("members only", code="forbidden")


MEMBERS = Members()


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

    return [Private, Public, Guarded]


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
