"""Waiting for an asset to come to rest."""

from __future__ import annotations

import asyncio

from sqlalchemy.orm import Session

from rindle.db.models import MediaAsset, is_id
from rindle.errors import NotFound
from rindle.events import TERMINAL_ASSET_STATES
from rindle.services import Services
from rindle.states import AssetState

#: Pauses between looks: quick at first (a thumbnail takes half a second), then gentle.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0


async def settled(services: Services, asset_id: str, *, timeout_seconds: float) -> MediaAsset:
    """Return the asset once its state is terminal; see ``Rindle.settled``."""
    pause = _FIRST_PAUSE_SECONDS
    async with asyncio.timeout(timeout_seconds):
        while True:
            asset = await services.database.read(_read, asset_id)
            if asset is None:
                raise NotFound("could not find the asset: not found", detail={"entity": "asset"})
            if AssetState(asset.state) in TERMINAL_ASSET_STATES:
                return asset
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)


def _read(session: Session, asset_id: str) -> MediaAsset | None:
    asset = session.get(MediaAsset, asset_id) if is_id(asset_id) else None
    if asset is not None:
        _ = asset.variants
    return asset
