"""SQL that reads one asset, and the error for an unknown asset."""

from __future__ import annotations

from sqlalchemy.orm import Session, joinedload

from rindle.db.models import MediaAsset, is_id
from rindle.errors import NotFound


def find_with_variants(session: Session, asset_id: str, *, attachments: bool = False) -> MediaAsset | None:
    """Return an asset with its variants loaded, or ``None``.

    Args:
        attachments: load them too, in the statement of the asset.
    """
    options = [joinedload(MediaAsset.attachments)] if attachments else []
    found = session.get(MediaAsset, asset_id, options=options) if is_id(asset_id) else None
    if found is not None:
        _ = found.variants  # loaded while the session is open
    return found


def get_with_variants(session: Session, asset_id: str, *, attachments: bool = False) -> MediaAsset:
    """Return an asset with its variants loaded, and its attachments if requested.

    Raises:
        NotFound: no such asset.
    """
    found = find_with_variants(session, asset_id, attachments=attachments)
    if found is None:
        raise no_such_asset()
    return found


def no_such_asset() -> NotFound:
    """Return the error for an unknown asset id, and for an asset that the caller may not see."""
    return NotFound("could not find the asset: not found", detail={"entity": "asset"})
