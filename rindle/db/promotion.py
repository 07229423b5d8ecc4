"""SQL of promotion: the writes of an upload's validation, until its asset is available.

Upload sessions are in ``db/uploads``; the life of the variants that a promotion queues is in ``db/variants``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from rindle.db import given_up, uploads, variants
from rindle.db.events import record_event
from rindle.db.models import MediaAsset
from rindle.db.transitions import add_queued, lock_asset, move_asset, recompute, set_fields
from rindle.errors import MAX_REASON_CHARS, ContentRejected, StateConflict, UploadRejected
from rindle.messages import Failure
from rindle.profile import Profile
from rindle.rejections import type_of
from rindle.states import DELIVERABLE, IN_PROMOTION, AssetState


def pass_gate(session: Session, asset_id: str, profile: type[Profile], mime: str) -> None:
    """Record that the bytes have the allowed type ``mime``, and move the asset to ``analyzing``."""
    asset = lock_asset(session, asset_id)
    if asset is not None and asset.state == AssetState.VALIDATING:
        move_asset(session, asset, AssetState.ANALYZING, **uploads.file_columns(asset, profile, mime))


def note_scanned(session: Session, asset_id: str, etag: str | None) -> None:
    """Record that the scanner accepted the bytes with this ETag, unless the asset has left its validation meanwhile."""
    asset = lock_asset(session, asset_id)
    if asset is not None and asset.state == AssetState.ANALYZING:
        set_fields(session, asset, scanned_etag=etag)


def note_checksum(session: Session, asset_id: str, checksum: str) -> None:
    """Record the SHA-256 of validated bytes whose headers are about to be replaced, which may change their ETag."""
    asset = lock_asset(session, asset_id)
    if asset is not None and asset.state in (AssetState.VALIDATING, AssetState.ANALYZING):
        set_fields(session, asset, checksum_sha256=checksum)


def follow_etag(session: Session, asset_id: str, before: str | None, etag: str) -> None:
    """Pin ``etag`` instead of ``before``: the same bytes under another ETag. A scan of these bytes counts on."""
    asset = lock_asset(session, asset_id)
    if asset is not None and asset.stored_etag == before:
        set_fields(session, asset, **pinned(asset, etag))


def pinned(asset: MediaAsset, etag: str) -> dict[str, str]:
    """Return the columns of an asset whose bytes now have this ETag."""
    is_scanned = asset.scanned_etag is not None and asset.scanned_etag == asset.stored_etag
    return {"stored_etag": etag, **({"scanned_etag": etag} if is_scanned else {})}


def quarantine(
    session: Session, asset_id: str, rejection: UploadRejected | ContentRejected, mime: str | None = None
) -> None:
    """Quarantine an asset that is still being validated; any other asset does not change.

    Args:
        rejection: why, for the uploader and for the operator.
        mime: the type of the bytes if they passed the byte gate; the row may not have it yet.
    """
    asset = lock_asset(session, asset_id)
    if asset is None or asset.state not in (AssetState.VALIDATING, AssetState.ANALYZING):
        return
    facts = uploads.rejection_columns(rejection)
    through = []
    found = mime or type_of(rejection)
    if found is not None and asset.state == AssetState.VALIDATING:
        facts |= uploads.type_columns(found)
    if mime is not None and asset.state == AssetState.VALIDATING:
        through.append(AssetState.ANALYZING)
    move_asset(session, asset, AssetState.QUARANTINED, through=through, **facts)


def release(session: Session, asset: MediaAsset, *, reason: str, actor: str | None) -> None:
    """Move a quarantined asset, which the caller has locked, back to ``validating``, and write the audit event.

    The rejection is removed, and so is the note that the scanner has accepted the bytes: everything is checked again.
    """
    error_code = asset.error_code
    facts: dict[str, Any] = {**uploads.NO_REJECTION, "scanned_etag": None}
    move_asset(session, asset, AssetState.VALIDATING, actor=actor, **facts)
    record_event(
        session,
        "asset.quarantine_released",
        scope=("asset", asset.id),
        payload={"asset_id": asset.id, "reason": reason, "error_code": error_code},
        asset_id=asset.id,
        profile=asset.profile,
        actor=actor,
        audit=True,
    )


def promote(session: Session, /, asset_id: str, profile: type[Profile], **facts: Any) -> list[str]:
    """Make a validated asset available and queue its variants, in one step; returns the groups to build.

    An asset that is still ``validating`` passes ``analyzing`` here: one write, and both states in the timeline.

    Raises:
        StateConflict: the asset changed meanwhile.
    """
    asset = lock_asset(session, asset_id)
    if asset is None or asset.state not in (AssetState.VALIDATING, AssetState.ANALYZING):
        raise StateConflict("the asset changed while it was being validated", detail={"entity": "asset"})
    through = [AssetState.ANALYZING, AssetState.PROMOTING]
    if asset.state == AssetState.ANALYZING:
        del through[0]
    if asset.state == AssetState.VALIDATING and facts.get("content_type"):
        facts = uploads.file_columns(asset, profile, facts["content_type"]) | facts
    facts |= {"recipe_digest": profile.profile_digest(), **uploads.NO_REJECTION}
    move_asset(session, asset, AssetState.AVAILABLE, through=through, **facts)
    rows = list(variants.variants_of(session, asset_id))
    planned = variants.missing_variants(asset, profile, rows)
    add_queued(session, asset, planned)
    rows += planned
    recompute(session, asset_id, rows)
    return variants.groups_to_build(asset, rows)


def gave_up(asset: MediaAsset) -> bool:
    """Whether the promotion of the asset ended with an error, which only ``resume`` removes."""
    return asset.state in IN_PROMOTION and asset.error_code is not None


def forget_failure(session: Session, asset_id: str) -> None:
    """Remove the note of :func:`note_failure`, so that the promotion can be continued."""
    asset = lock_asset(session, asset_id)
    if asset is not None and gave_up(asset):
        set_fields(session, asset, **uploads.NO_REJECTION)


def note_failure(session: Session, session_id: str, failure: Failure, step: Mapping[str, Any]) -> None:
    """Record why a promotion failed, on an asset that is neither available nor quarantined; its state stays.

    A repeated step changes nothing: the asset may have been resumed, or released from quarantine, in between.
    """
    found = uploads.find_upload(session, session_id)
    asset = None if found is None else lock_asset(session, found.asset.id)
    if asset is None or not given_up.note_once(session, asset.id, failure, step):
        return
    if AssetState(asset.state) not in DELIVERABLE and asset.state != AssetState.QUARANTINED:
        noted = {"error_code": failure.code, "error_reason": failure.message[:MAX_REASON_CHARS]}
        set_fields(session, asset, **{**uploads.NO_REJECTION, **noted})


__all__ = [
    "follow_etag",
    "note_checksum",
    "note_failure",
    "note_scanned",
    "pass_gate",
    "pinned",
    "promote",
    "quarantine",
    "release",
]
