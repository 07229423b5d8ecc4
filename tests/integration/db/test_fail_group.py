"""The failure of a build is recorded once: a repeated step undoes no later decision."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from rindle import MediaAsset, Profile
from rindle.db import variants as rows
from rindle.messages import Failure
from rindle.protocols import Storage
from rindle.storage.memory import MemoryStorage
from tests.gallery import VARIANTS, Gallery, opened

FAILURE = Failure(code="storage_permanent", message="the store says no")


def make_profiles(store: Storage) -> list[type[Profile]]:
    return [type("Avatar", (Profile,), {"name": "avatar", "storage": store, "variants": VARIANTS})]


@pytest.fixture
async def gallery(tmp_path: Path, database_url: str) -> AsyncIterator[Gallery]:
    async with opened(tmp_path, make_profiles, storage=MemoryStorage(), database_url=database_url) as made:
        yield made


def build(run_id: str) -> dict[str, Any]:
    """Return the facts of a build."""
    return {"run_id": run_id, "worker": "render", "attempt": 1}


async def claimed(gallery: Gallery, asset: MediaAsset, run_id: str) -> None:
    def claim(session: Session) -> None:
        assert rows.claim_group(session, asset.id, "images", gallery.rindle.profiles.get, build(run_id)) is not None

    await gallery.rindle.database.write(claim)


async def failed(gallery: Gallery, asset: MediaAsset, run_id: str) -> int:
    return await gallery.rindle.database.write(rows.fail_group, asset.id, "images", FAILURE, build(run_id))


async def states(gallery: Gallery, asset: MediaAsset) -> set[str]:
    return {row.state for row in (await gallery.rindle.asset(asset.id)).variants}


@pytest.mark.parametrize("is_claimed", [True, False])
async def test_a_failure_that_is_recorded_again_leaves_a_variant_that_was_queued_since(
    gallery: Gallery, is_claimed: bool
) -> None:
    asset = await gallery.available(gallery.rindle.profiles.get("avatar"))
    if is_claimed:
        await claimed(gallery, asset, "first")
    assert await failed(gallery, asset, "first") == len(VARIANTS)
    assert await states(gallery, asset) == {"failed"}
    await gallery.rindle.requeue_variants(asset.id)

    assert await failed(gallery, asset, "first") == 0
    assert await states(gallery, asset) == {"queued"}

    await claimed(gallery, asset, "second")
    assert await failed(gallery, asset, "first") == 0
    assert await states(gallery, asset) == {"processing"}
    assert await failed(gallery, asset, "second") == len(VARIANTS)
    assert await states(gallery, asset) == {"failed"}
