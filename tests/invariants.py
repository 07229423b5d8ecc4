"""What must hold whenever the dust has settled, whatever was killed, repeated or refused before."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import select
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaAttachment, MediaEvent, MediaUploadSession, MediaVariant
from rindle.db import variants
from rindle.states import ASSET_MOVES, SESSION_MOVES, VARIANT_MOVES, AssetState, SessionState, VariantState
from tests.patience import until
from tests.stage import Stage

_VARIANT_EVENTS = {
    "variant_started": VariantState.PROCESSING,
    "variant_ready": VariantState.READY,
    "variant_failed": VariantState.FAILED,
    "variant_cancelled": VariantState.CANCELLED,
}
_SESSION_EVENTS = {
    "upload_session_signed": SessionState.SIGNED,
    "upload_session_uploading": SessionState.UPLOADING,
    "upload_session_completed": SessionState.COMPLETED,
    "upload_session_cancelled": SessionState.ABORTED,
    "upload_session_expired": SessionState.EXPIRED,
    "upload_session_failed": SessionState.FAILED,
}


async def everything_holds(stage: Stage) -> None:
    """Check objects against rows, rows against their event trails, attachments against assets."""

    async def objects_match() -> bool:
        return not await stage.read(_obsolete_keys) and await stage.keys() == await stage.read(_known_keys)

    await until(objects_match, what="the store to hold exactly what the rows know")
    await stage.read(_trails_are_legal)
    await stage.read(_no_attachment_is_lost)


def _known_keys(session: Session) -> set[str]:
    """Return the keys that should hold an object: proven originals, and one per ready variant."""
    keys: set[str] = set()
    for asset, upload in session.execute(
        select(MediaAsset, MediaUploadSession).join(MediaUploadSession, MediaUploadSession.asset_id == MediaAsset.id)
    ):
        if upload.state == SessionState.COMPLETED:
            keys.add(asset.storage_key)
    ready = (VariantState.READY, VariantState.STALE)
    for variant in session.scalars(select(MediaVariant)):
        if variant.storage_key and (
            variant.state in ready or variant.state in (VariantState.FAILED, VariantState.CANCELLED)
        ):
            keys.add(variant.storage_key)
    return keys


def _obsolete_keys(session: Session) -> set[str]:
    """Return the keys whose deletion is not confirmed yet."""
    return {key for row in session.scalars(select(MediaVariant)) for key in variants.obsolete_keys(row)}


def _trails_are_legal(session: Session) -> None:
    trails: dict[str, list[MediaEvent]] = defaultdict(list)
    for event in session.scalars(select(MediaEvent).order_by(MediaEvent.id)):
        trails[f"{event.scope_key}:{event.scope_id}"].append(event)
    for asset in session.scalars(select(MediaAsset)):
        state = AssetState.STAGED
        for event in trails[f"asset:{asset.id}"]:
            if event.type != "asset_state_changed":
                continue
            assert event.payload["from"] == state, f"{asset}: gap in the trail before {event.id}"
            to = AssetState(event.payload["state"])
            assert to in ASSET_MOVES[state] or to is AssetState.DELETED, f"{asset}: illegal {state} -> {to}"
            state = to
        assert state == asset.state, f"{asset}: the trail ends in {state}"
    for variant in session.scalars(select(MediaVariant)):
        at, percent = VariantState.PLANNED, 0
        for event in trails[f"variant:{variant.id}"]:
            if event.type == "variant_progress":
                assert at is VariantState.PROCESSING, f"{variant}: progress while {at}"
                assert event.payload["progress"] > percent, f"{variant}: progress falls"
                percent = event.payload["progress"]
                continue
            percent = 0
            to_variant = _VARIANT_EVENTS.get(event.type) or VariantState(event.payload["state"])
            assert to_variant in VARIANT_MOVES[at], f"{variant}: illegal {at} -> {to_variant}"
            at = to_variant
        assert at == variant.state, f"{variant}: the trail ends in {at}"
    for upload in session.scalars(select(MediaUploadSession)):
        where = SessionState.INITIALIZED
        for event in trails[f"upload_session:{upload.id}"]:
            if event.type == "upload_session_initialized":
                continue
            to_session = _SESSION_EVENTS.get(event.type) or SessionState(event.payload["state"])
            assert to_session in SESSION_MOVES[where], f"{upload}: illegal {where} -> {to_session}"
            where = to_session
        assert where == upload.state, f"{upload}: the trail ends in {where}"


def _no_attachment_is_lost(session: Session) -> None:
    for attachment in session.scalars(select(MediaAttachment)):
        asset = session.get(MediaAsset, attachment.asset_id)
        assert asset is not None and asset.state != AssetState.DELETED, f"{attachment} lost its asset"
