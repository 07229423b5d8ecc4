"""A variant whose recipe has changed: what every read delivers at each moment, from the change to the next object."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

from rindle import MediaAsset, Profile
from rindle.db import variants as variant_rows
from rindle.db.transitions import lock_asset
from rindle.errors import VariantNotReady
from rindle.http import create_router
from rindle.protocols import Storage
from rindle.states import VariantState
from tests.gallery import Gallery, opened, png, variant_of

ORIGIN = "http://gallery.test"
RUN = {"run_id": "run", "worker": "render", "attempt": 1}


def declaring(size: int, *, public: bool) -> Callable[[Storage], list[type[Profile]]]:
    """Return the profiles of a release whose thumbnail has ``size`` pixels."""

    def make_profiles(store: Storage) -> list[type[Profile]]:
        class Photo(Profile):
            name = "photo"
            storage = store
            variants = {"thumb": {"mode": "crop", "width": size, "height": size}}
            delivery = {"public": public}

        return [Photo]

    return make_profiles


class Release:
    """One release of the application: its rows and objects stay when the next one starts."""

    def __init__(self, gallery: Gallery, client: httpx.AsyncClient) -> None:
        self.gallery, self.rindle, self.client = gallery, gallery.rindle, client
        self.photo: type[Profile] = gallery.rindle.profiles.get("photo")

    async def claimed(self, asset: MediaAsset) -> variant_rows.ClaimedGroup:
        """Start a build."""

        def claim(session: Session) -> variant_rows.ClaimedGroup | None:
            return variant_rows.claim_group(session, asset.id, "images", self.rindle.profiles.get, RUN)

        found = await self.rindle.database.write(claim)
        assert found is not None
        return found

    async def built(self, claimed: variant_rows.ClaimedGroup, scratch: Path, body: bytes) -> None:
        """End a build as its activity does: store the object, record it, delete the one it replaced."""
        [storage] = self.rindle.storages.values()
        [claim] = claimed.claims
        file = scratch / "made.jpg"
        file.write_bytes(body)
        await storage.store(claim.key, file, content_type="image/jpeg")
        made = {"content_type": "image/jpeg", "byte_size": len(body), "width": 64, "height": 64}
        unwanted, _ = await self.rindle.database.write(
            variant_rows.record_group, claimed.asset.id, claimed.asset.storage_key, [(claim, made)]
        )
        for keys in unwanted.values():
            for key in keys:
                await storage.delete(key)

    async def delivered(self, asset_id: str, stale_mode: str) -> dict[str, bytes | None]:
        """Return the bytes behind the URL that every kind of read gives; ``None`` when it gives none."""
        asset = await self.rindle.asset(asset_id)
        options: dict[str, Any] = {"stale_mode": stale_mode, "fallback": "none"}
        found: dict[str, str | None] = {}
        try:
            found["variant_url"] = await self.rindle.variant_url(self.photo, asset, "thumb", **options)
        except VariantNotReady:
            found["variant_url"] = None
        picture = await self.rindle.picture_tag(self.photo, asset, ["thumb"], **options)
        by_width = await self.rindle.picture_tag(self.photo, asset, [{"name": ["thumb"]}], **options)
        video = await self.rindle.video_tag(self.photo, asset, ["thumb"], poster="thumb", **options)
        audio = await self.rindle.audio_tag(self.photo, asset, ["thumb"], **options)
        found["picture_tag"] = _attribute("srcset", picture)
        found["srcset of widths"] = (_attribute("srcset", by_width) or "").removesuffix(" 64w") or None
        found["video_tag"] = _attribute("src", video)
        found["poster"] = _attribute("poster", video)
        found["audio_tag"] = _attribute("src", audio)
        answer = await self.client.get(f"/media/assets/{asset_id}/url", params={"variant": "thumb", **options})
        found["route"] = answer.json().get("url")
        assert answer.status_code == 200 or answer.json()["error"]["code"] == "variant_not_ready"
        return {read: None if url is None else await self.got(url) for read, url in found.items()}

    async def got(self, url: str) -> bytes:
        answer = await self.client.get(url)
        assert answer.status_code == 200, (url, answer.status_code)
        return answer.content

    async def original(self, asset_id: str) -> bytes:
        """Return the bytes that the defaults deliver instead of a variant that is not ready."""
        asset = await self.rindle.asset(asset_id)
        return await self.got(await self.rindle.variant_url(self.photo, asset, "thumb"))

    async def shown(self, asset_id: str) -> str:
        """Return the state of the variant that clients read."""
        [variant] = (await self.client.get(f"/media/assets/{asset_id}")).json()["asset"]["variants"]
        ready = [row.name for row in await self.rindle.ready_variants_for(asset_id)]
        assert ready == (["thumb"] if variant["state"] == "ready" else [])
        return str(variant["state"])


def _attribute(name: str, markup: str) -> str | None:
    found = re.search(rf'\b{name}="([^"]+)"', markup)
    return found and found[1]


@asynccontextmanager
async def release(directory: Path, size: int, *, public: bool) -> AsyncIterator[Release]:
    async with opened(directory, declaring(size, public=public)) as gallery:
        app = FastAPI()
        photo = gallery.rindle.profiles.get("photo")
        app.include_router(
            create_router(gallery.rindle, profiles={"photo": photo}, allow_anonymous=True), prefix="/media"
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
            yield Release(gallery, client)


@pytest.mark.parametrize("public", [False, True])
async def test_every_read_delivers_the_same_at_each_moment_of_a_changed_recipe(tmp_path: Path, public: bool) -> None:
    old, new = b"old object", b"new object"
    async with release(tmp_path, 64, public=public) as first:
        asset = await first.gallery.available(first.photo)
        await first.built(await first.claimed(asset), tmp_path, old)

        assert set((await first.delivered(asset.id, "fallback_original")).values()) == {old}
        assert await first.shown(asset.id) == "ready"

    async with release(tmp_path, 96, public=public) as second:

        async def outdated(state: str) -> None:
            assert await second.shown(asset.id) == state
            assert set((await second.delivered(asset.id, "fallback_original")).values()) == {None}
            assert set((await second.delivered(asset.id, "serve_stale")).values()) == {old}
            assert await second.original(asset.id) == png()

        await outdated("stale")  # the row is still ready: nothing has compared its recipe yet

        await second.rindle.database.write(_detect_drift, asset.id, second.photo)
        await outdated("stale")

        assert (await second.rindle.requeue_variants(asset.id, ["thumb"])).enqueued == 1
        await outdated("queued")

        build = await second.claimed(asset)
        await outdated("processing")

        await second.built(build, tmp_path, new)
        assert await second.shown(asset.id) == "ready"
        for stale_mode in ("fallback_original", "serve_stale"):
            assert set((await second.delivered(asset.id, stale_mode)).values()) == {new}


async def test_an_outdated_variant_that_nobody_has_noticed_is_built_again_by_name(tmp_path: Path) -> None:
    async with release(tmp_path, 64, public=False) as first:
        asset = await first.gallery.ready(first.photo)

    async with release(tmp_path, 96, public=False) as second:
        report = await second.rindle.requeue_variants(asset.id, ["thumb"])

        assert (report.enqueued, report.errors) == (1, 0)


async def test_a_variant_that_is_no_longer_declared_is_outdated(tmp_path: Path) -> None:
    def without_variants(store: Storage) -> list[type[Profile]]:
        class Photo(Profile):
            name = "photo"
            storage = store
            variants = {}

        return [Photo]

    async with release(tmp_path, 64, public=False) as first:
        asset = await first.gallery.ready(first.photo)
    async with opened(tmp_path, without_variants) as gallery:
        row = variant_of(await gallery.rindle.asset(asset.id), "thumb")

        with pytest.raises(VariantNotReady):
            await gallery.rindle.variant_url("photo", asset, row, fallback="none")
        assert await gallery.rindle.variant_url("photo", asset, row, fallback="none", stale_mode="serve_stale")


async def test_an_object_that_is_missing_is_not_served_while_it_is_built_again(tmp_path: Path) -> None:
    async with release(tmp_path, 64, public=False) as first:
        asset = await first.gallery.move_variant(await first.gallery.ready(first.photo), "thumb", VariantState.MISSING)
        assert (await first.rindle.requeue_variants(asset.id, ["thumb"])).enqueued == 1
        assert set((await first.delivered(asset.id, "serve_stale")).values()) == {None}

        await first.built(await first.claimed(asset), tmp_path, b"again")
        assert set((await first.delivered(asset.id, "fallback_original")).values()) == {b"again"}


def _detect_drift(session: Session, asset_id: str, profile: type[Profile]) -> None:
    asset = lock_asset(session, asset_id)
    assert asset is not None
    assert variant_rows.detect_drift(session, asset, profile) == ["thumb"]
