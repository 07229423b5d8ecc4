"""A small application for tests of delivery and HTTP: real SQLite, real local storage, no Temporal.

Rows are brought where a test needs them by the functions that the activities call, never by UPDATE.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaUploadSession, MediaVariant, Profile, Rindle, Settings
from rindle.db import promotion
from rindle.db import variants as variant_rows
from rindle.db.transitions import lock_asset, move_asset, move_variant, tombstone
from rindle.db.uploads import find_by_asset
from rindle.protocols import Storage, StreamingProvider
from rindle.states import AssetState, VariantState
from rindle.storage.local import LocalStorage
from tests.tables import create_tables

SECRET = "gallery-secret-of-at-least-32-bytes"
BASE_URL = "http://gallery.test/media/local"

#: A photo's worth of sizes: two made from the same original.
VARIANTS = {
    "thumb": {"mode": "crop", "width": 64, "height": 64, "format": "webp"},
    "large": {"mode": "fit", "width": 640, "height": 640, "format": "jpeg"},
}


def png(width: int = 8, height: int = 6) -> bytes:
    """Return a PNG of one colour."""
    target = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(target, "PNG")
    return target.getvalue()


class Gallery:
    """One application and how to bring its assets into any state."""

    def __init__(self, rindle: Rindle) -> None:
        self.rindle = rindle

    async def uploaded(
        self,
        profile: type[Profile],
        *,
        filename: str = "photo.png",
        data: bytes | None = None,
        actor: str | None = None,
    ) -> MediaAsset:
        """Take in a file; its asset is ``analyzing``."""
        return await self.rindle.upload(profile, io.BytesIO(data or png()), filename=filename, actor=actor)

    async def available(
        self, profile: type[Profile], *, facts: dict[str, Any] | None = None, **kwargs: Any
    ) -> MediaAsset:
        """Take in a file and judge it well; its variants are queued."""
        asset = await self.uploaded(profile, **kwargs)
        told = {"kind": "image", "width": 800, "height": 600, **(facts or {})}
        await self.rindle.database.write(promotion.promote, asset.id, profile, **told)
        return await self.rindle.asset(asset.id)

    async def ready(self, profile: type[Profile], *names: str, **kwargs: Any) -> MediaAsset:
        """As :meth:`available`, with the named variants built (all of them without names)."""
        asset = await self.available(profile, **kwargs)
        wanted = names or tuple(profile.variants)

        def build(session: Session) -> None:
            run = {"run_id": "run", "worker": "render", "attempt": 1}
            for group in dict.fromkeys(map(profile.group_of, profile.variants)):
                claimed = variant_rows.claim_group(session, asset.id, group, self.rindle.profiles.get, run)
                assert claimed is not None
                for claim in claimed.claims:
                    if claim.name not in wanted:
                        variant_rows.record_failure(session, claim, code="render_failed", reason="no", final=True)
                        continue
                    spec = profile.variants[claim.name]
                    sides = {side: getattr(spec, side, None) for side in ("width", "height")}
                    made = {"content_type": spec.content_type, "byte_size": 99, **sides}
                    variant_rows.record_group(session, asset.id, asset.storage_key, [(claim, made)])

        await self.rindle.database.write(build)
        return await self.rindle.asset(asset.id)

    async def in_state(self, profile: type[Profile], state: AssetState) -> MediaAsset:
        """Return an asset in ``state``, with its variants built as far as that can be."""
        if state is AssetState.STAGED:
            session = await self.rindle.initiate_upload(profile, filename="photo.png")
            return await self.rindle.asset(str(session.asset_id))
        if state is AssetState.VALIDATING:
            asset = await self.in_state(profile, AssetState.STAGED)
            return await self.moved(asset.id, state)
        if state in (AssetState.ANALYZING, AssetState.PROMOTING):
            asset = await self.uploaded(profile)
            return asset if state is AssetState.ANALYZING else await self.moved(asset.id, state)
        if state is AssetState.AVAILABLE:
            return await self.available(profile)
        if state is AssetState.DEGRADED:
            return await self.ready(profile, "thumb")
        asset = await self.ready(profile)
        if state is AssetState.DELETED:
            await self.rindle.database.write(lambda session: tombstone(session, _locked(session, asset.id)))
            return await self.rindle.asset(asset.id)
        return asset if state is AssetState.READY else await self.moved(asset.id, state)

    async def moved(self, asset_id: str, state: AssetState) -> MediaAsset:
        """Move an asset and return it as it is then."""
        await self.rindle.database.write(lambda session: move_asset(session, _locked(session, asset_id), state))
        return await self.rindle.asset(asset_id)

    async def move_variant(self, asset: MediaAsset, name: str, *states: VariantState) -> MediaAsset:
        """Move one variant through ``states`` and return the asset as it is then."""

        def move(session: Session) -> None:
            row = next(row for row in variant_rows.variants_of(session, asset.id) if row.name == name)
            for state in states:
                move_variant(session, row, state)

        await self.rindle.database.write(move)
        return await self.rindle.asset(asset.id)

    async def unloaded(self, asset: MediaAsset) -> MediaAsset:
        """Return the asset as a plain ``session.get`` gives it: without its variants."""
        found: MediaAsset | None = await self.rindle.database.read(Session.get, MediaAsset, asset.id)
        assert found is not None
        return found

    async def session_of(self, asset: MediaAsset) -> MediaUploadSession:
        """Return the upload that brought an asset in."""
        found = await self.rindle.database.read(find_by_asset, asset.id)
        assert found is not None
        return found.session

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[list[str]]:
        """Collect the SQL statements executed in the block."""
        statements: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.startswith("SELECT"):
                statements.append(statement)

        engine: Engine = self.rindle.database.engine.sync_engine  # type: ignore[union-attr]
        event.listen(engine, "before_cursor_execute", note)
        try:
            yield statements
        finally:
            event.remove(engine, "before_cursor_execute", note)


def variant_of(asset: MediaAsset, name: str) -> MediaVariant:
    """Return a loaded variant by name."""
    return next(row for row in asset.variants if row.name == name)


def _locked(session: Session, asset_id: str) -> MediaAsset:
    asset = lock_asset(session, asset_id)
    assert asset is not None
    return asset


@asynccontextmanager
async def opened(
    directory: Path,
    make_profiles: Callable[[Storage], list[type[Profile]]],
    *,
    storage: Storage | None = None,
    database_url: str | None = None,
    providers: Sequence[StreamingProvider] = (),
    **settings: Any,
) -> AsyncIterator[Gallery]:
    """Open a gallery in ``directory`` with the profiles that ``make_profiles`` makes for its storage; on a SQLite
    database there when none is given."""
    engine = create_async_engine(database_url or f"sqlite+aiosqlite:///{directory / 'gallery.db'}")
    await create_tables(engine)
    store = storage or LocalStorage(
        directory / "objects", base_url=BASE_URL, secrets=[SECRET], public_base_url=f"{BASE_URL}/p", fsync=False
    )
    tuned = Settings(tmp_dir=directory / "tmp", secrets=(), relay_poll_seconds=0.1, **settings)
    rindle = Rindle(engine=engine, profiles=make_profiles(store), settings=tuned, providers=providers)
    try:
        yield Gallery(rindle)
    finally:
        await rindle.close()
        await engine.dispose()
