"""Reading one asset: with its variants, and what happened to it. Changes of assets are in the other flows."""

from __future__ import annotations

from collections.abc import Sequence

from rindle.db import assets as rows
from rindle.db import events as event_rows
from rindle.db.assets import no_such_asset
from rindle.db.ids import AssetOrId, id_of_asset
from rindle.db.models import MediaAsset, MediaEvent
from rindle.services import Services


async def get_asset(services: Services, asset: AssetOrId) -> MediaAsset:
    """Return an asset with its variants loaded; see ``Rindle.asset``."""
    asset_id = id_of_asset(asset)
    return await services.database.read(rows.get_with_variants, asset_id, attachments=services.has_authorizers)


async def timeline(services: Services, asset: AssetOrId, *, after: int = 0, limit: int = 1000) -> Sequence[MediaEvent]:
    """Return what happened to an asset, oldest first; see ``Rindle.timeline``."""
    return await services.database.read(event_rows.timeline, id_of_asset(asset), after=after, limit=limit)


__all__ = ["get_asset", "no_such_asset", "timeline"]
