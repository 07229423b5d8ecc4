"""SQL of promotion: what the validation of an upload writes to its asset, up to the moment it becomes available.

Upload sessions are in ``db/uploads``; the life of the variants that a promotion queues is in ``db/variants``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from rindle.db import uploads, variants
from rindle.db.transitions import add_queued, lock_asset, move_asset, recompute, set_fields
from rindle.errors import MAX_REASON_CHARS, StateConflict
from rindle.profile import Profile
from rindle.states import DELIVERABLE, AssetState


def pass_gate(session: Session, asset_id: str, mime: str) -> None:
    """Record that the bytes are of the allowed type ``mime``: the asset is ``analyzing`` from now on."""
    asset = lock_asset(session, asset_id)
    if asset is not None and asset.state == AssetState.VALIDATING:
        move_asset(session, asset, AssetState.ANALYZING, content_type=mime)


def note_scanned(session: Session, asset_id: str, etag: str | None) -> None:
    """Record that the scanner found the bytes with this ETag clean."""
    asset = lock_asset(session, asset_id)
    if asset is not None:
        set_fields(session, asset, scanned_etag=etag)


def quarantine(session: Session, asset_id: str, code: str, reason: str, mime: str | None = None) -> None:
    """Reject an asset that is still being validated; one that has left that stage is left as it is.

    Args:
        mime: the type of the bytes, when they passed the byte gate; the row may not have it yet.
    """
    asset = lock_asset(session, asset_id)
    if asset is None or asset.state not in (AssetState.VALIDATING, AssetState.ANALYZING):
        return
    facts: dict[str, Any] = {"error_code": code, "error_reason": reason[:MAX_REASON_CHARS]}
    through = []
    if mime is not None and asset.state == AssetState.VALIDATING:
        through.append(AssetState.ANALYZING)
        facts["content_type"] = mime
    move_asset(session, asset, AssetState.QUARANTINED, through=through, **facts)


def promote(session: Session, /, asset_id: str, profile: type[Profile], **facts: Any) -> list[str]:
    """Make a validated asset available and queue its variants, in one step; returns the groups to build.

    An asset that is still ``validating`` passes through ``analyzing`` here: both are in its timeline, in one write.

    Raises:
        StateConflict: the asset moved meanwhile.
    """
    asset = lock_asset(session, asset_id)
    if asset is None or asset.state not in (AssetState.VALIDATING, AssetState.ANALYZING):
        raise StateConflict("the asset moved while it was being judged", detail={"entity": "asset"})
    through = [AssetState.ANALYZING, AssetState.PROMOTING]
    if asset.state == AssetState.ANALYZING:
        del through[0]
    facts |= {"recipe_digest": profile.profile_digest(), "error_code": None, "error_reason": None}
    move_asset(session, asset, AssetState.AVAILABLE, through=through, **facts)
    rows = list(variants.variants_of(session, asset_id))
    planned = variants.missing_variants(asset, profile, rows)
    add_queued(session, asset, planned)
    rows += planned
    recompute(session, asset_id, rows)
    return variants.groups_to_build(asset, rows)


def note_failure(session: Session, session_id: str, code: str, reason: str) -> None:
    """Record why a promotion gave up, on an asset that is neither available nor rejected; its state stays."""
    found = uploads.find_upload(session, session_id)
    if found is None:
        return
    asset = lock_asset(session, found.asset.id)
    if asset is not None and AssetState(asset.state) not in DELIVERABLE and asset.state != AssetState.QUARANTINED:
        set_fields(session, asset, error_code=code, error_reason=reason[:MAX_REASON_CHARS])


__all__ = ["note_failure", "note_scanned", "pass_gate", "promote", "quarantine"]
