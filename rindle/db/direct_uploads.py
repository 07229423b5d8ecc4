"""SQL of direct uploads to streaming providers: the rows before, during and after the upload of a browser.

The rows are committed before the provider is called, so that its webhooks find them. A row is ``pending`` until the
provider has opened the upload, ``uploading`` until it has made an asset of the bytes, and then as a pushed one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from rindle.db.models import MediaAsset, MediaAttachment, MediaProviderAsset, is_id
from rindle.db.providers import have_table, note_linked
from rindle.db.transitions import lock_asset, move_provider_asset, set_fields
from rindle.errors import NotCancellable
from rindle.profile import DIRECT_CREATOR_UPLOAD
from rindle.protocols import ProviderUpload
from rindle.states import OPEN_PROVIDER_STATES, AssetState
from rindle.states import ProviderState as P

#: Longest lifetime in seconds of an upload.
MAX_TIMEOUT_SECONDS = 604_800


def is_stored() -> ColumnElement[bool]:
    """Return the condition that the original of an asset is in the storage, not at a provider alone."""
    return MediaAsset.storage_key.not_like("streaming/%/direct\\_upload/%", escape="\\")


def insert(session: Session, asset: MediaAsset, row: MediaProviderAsset, *, timeout_seconds: int) -> None:
    """Add a new asset and its row at the provider.

    The lifetime of the upload is kept among the facts of the provider, which reports it as well.
    """
    session.add(asset)
    session.flush()
    row.asset_id, row.raw_provider_metadata = asset.id, {"timeout": timeout_seconds}
    session.add(row)
    session.flush()


def find(session: Session, asset_id: str) -> MediaProviderAsset | None:
    """Return the row of an asset that was uploaded to a provider itself."""
    if not is_id(asset_id):
        return None
    statement = select(MediaProviderAsset).where(
        MediaProviderAsset.asset_id == asset_id, MediaProviderAsset.ingest_mode == DIRECT_CREATOR_UPLOAD
    )
    return session.scalars(statement.execution_options(populate_existing=True)).first()


def _locked(session: Session, asset_id: str) -> tuple[MediaAsset, MediaProviderAsset] | None:
    asset = lock_asset(session, asset_id)
    row = None if asset is None else find(session, asset_id)
    return None if asset is None or row is None else (asset, row)


def opened(session: Session, asset_id: str, upload_id: str) -> bool:
    """Record the upload that the provider has opened.

    Returns:
        whether it is still wanted: not after a cancellation or deletion meanwhile. The row then knows it and waits for
        its removal.
    """
    found = _locked(session, asset_id)
    if found is None:
        return False
    asset, row = found
    is_wanted = asset.state != AssetState.DELETED and P(row.state) not in (P.DELETED, P.ERRORED)
    if not is_wanted:
        set_fields(session, row, provider_upload_id=upload_id, cleanup_pending=row.state == P.DELETED)
    elif row.state == P.PENDING:
        move_provider_asset(session, row, P.UPLOADING, provider_upload_id=upload_id)
    elif row.provider_upload_id is None:  # a webhook was first
        set_fields(session, row, provider_upload_id=upload_id)
    return is_wanted


def begin_cancel(session: Session, asset_id: str) -> MediaProviderAsset | None:
    """Move the row to ``deleted`` before the provider is called, and return it; ``None`` when there is no such row.

    Raises:
        NotCancellable: the bytes have arrived, or the upload has failed.
    """
    found = _locked(session, asset_id)
    if found is None:
        return None
    _, row = found
    state = P(row.state)
    if state is P.PENDING:
        move_provider_asset(session, row, P.DELETED)
    elif state is P.UPLOADING and row.provider_upload_id is None:
        raise NotCancellable(
            "the provider's id of the upload is not known, so it cannot be cancelled",
            reason="missing_upload_id",
            state=state.value,
        )
    elif state is P.UPLOADING:
        move_provider_asset(session, row, P.DELETED, cleanup_pending=True)
    elif state is not P.DELETED:
        raise NotCancellable(
            f"the upload has ended: the asset is {state.value} at its provider; purge it instead",
            reason="state",
            state=state.value,
        )
    return row


def queried_at(row: MediaProviderAsset, *, grace_seconds: float) -> datetime:
    """Return when the provider is queried for an upload that no webhook has reported.

    A row that stays ``pending`` has no upload that anybody could use.
    """
    timeout = row.raw_provider_metadata.get("timeout", MAX_TIMEOUT_SECONDS) if row.state == P.UPLOADING else 0
    return row.inserted_at + timedelta(seconds=float(timeout) + grace_seconds)


def apply_upload(session: Session, asset_id: str, found: ProviderUpload) -> None:
    """Apply what the provider reports of an upload whose time is over."""
    rows = _locked(session, asset_id)
    if rows is None or P(rows[1].state) not in OPEN_PROVIDER_STATES or rows[1].provider_asset_id is not None:
        return
    row = rows[1]
    if found.asset_id is not None:
        through = (P.UPLOADING,) if row.state == P.PENDING else ()
        move_provider_asset(session, row, P.PROCESSING, through=through, provider_asset_id=found.asset_id)
        note_linked(session, row)
    elif found.status == "cancelled":
        move_provider_asset(session, row, P.DELETED)
    elif found.status == "errored":
        move_provider_asset(session, row, P.ERRORED, last_sync_error=found.error or "the provider reports an error")
    else:  # still waiting, or timed out: no bytes
        move_provider_asset(session, row, P.ERRORED, last_sync_error="timeout: the upload did not arrive in time")


def released(session: Session, asset_id: str) -> None:
    """Record that an upload which nobody wanted is cancelled at the provider.

    An asset that the provider has made of it is still to be deleted there.
    """
    found = _locked(session, asset_id)
    if found is not None and found[1].cleanup_pending and found[1].provider_asset_id is None:
        set_fields(session, found[1], cleanup_pending=False)


def failed(
    session: Session, profiles: Collection[str], before: datetime, after: str, *, limit: int
) -> tuple[Sequence[tuple[str, str]], str | None]:
    """Return staged assets, with their profiles, of uploads that were cancelled or have failed before a time.

    Attached ones are left out.

    Returns:
        the assets, and the id after which the next page begins; ``None`` after the last page.
    """
    if not have_table(session):
        return [], None
    asset, row = MediaAsset, MediaProviderAsset
    attached = select(MediaAttachment.id).where(MediaAttachment.asset_id == asset.id).exists()
    statement = (
        select(asset.id, asset.profile)
        .join(row, row.asset_id == asset.id)
        .where(row.ingest_mode == DIRECT_CREATOR_UPLOAD, row.state.in_((P.DELETED.value, P.ERRORED.value)))
        .where(row.updated_at < before, asset.state == AssetState.STAGED, asset.profile.in_(profiles), ~attached)
    )
    if after:
        statement = statement.where(asset.id > after)
    found = [(asset_id, profile) for asset_id, profile in session.execute(statement.order_by(asset.id).limit(limit))]
    return found, found[-1][0] if len(found) == limit else None
