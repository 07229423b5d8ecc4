"""SQL that checks which objects may be served."""

from __future__ import annotations

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from rindle.db.models import MediaAsset, MediaVariant
from rindle.states import DELIVERABLE, WITH_OBJECT, AssetState


def is_deliverable_key(session: Session, key: str) -> bool:
    """Whether ``key`` is the original of a deliverable asset, or the object of one of its variants.

    The decision is made when a URL is made. A public URL of an outdated variant works until its object is replaced.
    """
    deliverable = MediaAsset.state.in_([state.value for state in DELIVERABLE])
    variant = (
        select(MediaVariant.id)
        .where(
            MediaVariant.asset_id == MediaAsset.id,
            MediaVariant.storage_key == key,
            MediaVariant.state.in_([state.value for state in WITH_OBJECT]),
        )
        .exists()
    )
    statement = select(MediaAsset.id).where(deliverable, or_(MediaAsset.storage_key == key, variant))
    parts = key.split("/")
    if len(parts) == 3:  # keys of originals and variants contain the asset's id: the primary key finds the row
        statement = statement.where(MediaAsset.id == parts[1])
    return session.scalar(statement.limit(1)) is not None


def is_gone(session: Session, asset_id: str) -> bool:
    """Whether the asset is purged, or is to be."""
    state = session.scalar(select(MediaAsset.state).where(MediaAsset.id == asset_id))
    return state is None or state == AssetState.DELETED
