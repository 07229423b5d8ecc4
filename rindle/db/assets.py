"""SQL that reads one asset, and the error for an unknown asset."""

from __future__ import annotations

from sqlalchemy.orm import Session

from rindle.db.models import MediaAsset, is_id
from rindle.errors import NotFound


def find_with_variants(session: Session, asset_id: str) -> MediaAsset | None:
    """Return an asset with its variants loaded, or ``None``."""
    found = session.get(MediaAsset, asset_id) if is_id(asset_id) else None
    if found is not None:
        _ = found.variants  # loaded while the session is open
    return found


def get_with_variants(session: Session, asset_id: str) -> MediaAsset:
    """Return an asset with its variants loaded.

    Raises:
        NotFound: no such asset.
    """
    found = find_with_variants(session, asset_id)
    if found is None:
        raise no_such_asset()
    return found


def no_such_asset() -> NotFound:
    """Return the error for an unknown asset id, and for an asset that the caller may not see."""
    return NotFound("could not find the asset: not found", detail={"entity": "asset"})
