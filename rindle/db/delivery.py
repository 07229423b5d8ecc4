"""SQL of delivery: which objects may be served, and what an authorizer is given."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, joinedload

from rindle.db.models import MediaAsset, MediaAttachment, MediaVariant
from rindle.protocols import OwnerRef
from rindle.states import DELIVERABLE, WITH_OBJECT, AssetState


def get(session: Session, asset_id: str, *, variants: bool, owners: bool) -> MediaAsset | None:
    """Return an asset with its variants and attachments loaded, as requested, in one statement; ``None`` without it."""
    statement = select(MediaAsset).where(MediaAsset.id == asset_id)
    if variants:
        statement = statement.options(joinedload(MediaAsset.variants))
    if owners:
        statement = statement.options(joinedload(MediaAsset.attachments))
    return session.scalars(statement).unique().one_or_none()


def owners_of(session: Session, asset_id: str) -> Sequence[OwnerRef]:
    """Return the owners of the slots that hold an asset, each once, ordered by type and id."""
    columns = (MediaAttachment.owner_type, MediaAttachment.owner_id)
    found = session.execute(select(*columns).where(MediaAttachment.asset_id == asset_id).distinct().order_by(*columns))
    return [OwnerRef(*row) for row in found]


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
