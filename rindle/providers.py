"""Calls to streaming providers about one row, and what the row remembers of the answers.

Workflows and sweeps make the same calls. Ids of providers never leave this process.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection
from datetime import timedelta

from rindle.crash_points import crash_point
from rindle.db import providers as rows
from rindle.db.models import MediaProviderAsset
from rindle.errors import MissingConfig, ProviderNotFound, ProviderSyncFailed, RindleError
from rindle.protocols import DirectUploads
from rindle.services import Services
from rindle.states import ProviderState

log = logging.getLogger(__name__)

#: How long before the row was made or moved an asset may have been created, by the provider's clock.
CLOCK_SKEW = timedelta(seconds=60)


def fetched_by(offered: Collection[str], *, is_public: bool) -> str | None:
    """Return the capability by which a provider fetches from a storage that offers these; ``None`` for none.

    Args:
        is_public: whether the profile delivers without signatures.
    """
    has_address = "local" not in offered or "public_url" in offered  # else it may be this machine's own
    if has_address and "signed_url" in offered and not is_public:
        return "signed_url"
    return "public_url" if "public_url" in offered else None


async def poll(services: Services, row: MediaProviderAsset) -> RindleError | None:
    """Read the state of an asset at its provider into its row; a call that fails is noted there.

    A row that changes during the call is left as it is.

    Returns:
        why the call failed; ``None`` when the provider has answered, also that it has no such asset.

    Raises:
        ProviderQuotaExceeded: the provider limits the rate of calls.
        Misconfigured: the provider is not registered any more.
    """
    if row.provider_asset_id is None:
        return None
    try:
        found = await services.provider(row.provider_name).get_asset(row.provider_asset_id)
    except ProviderNotFound:
        await services.database.write(rows.give_up_as_seen, row, f"{row.provider_name} asset not found")
    except (ProviderSyncFailed, MissingConfig) as error:
        log.warning("a poll of a streaming provider failed", extra={"asset_id": row.asset_id, "code": error.code})
        await services.database.write(rows.note_error, row, f"{error.code}: {error.message}")
        return error
    else:
        await services.database.write(rows.apply_poll, row, found)
    return None


async def give_up_if_stuck(services: Services, row: MediaProviderAsset) -> bool:
    """Give up an open row that has not changed for too long; returns whether it was given up."""
    after_seconds = services.settings.provider_stuck_seconds
    if not rows.is_stuck(row, after_seconds=after_seconds):  # most rows: no transaction is needed
        return False
    return await services.database.write(rows.give_up_stuck, row, after_seconds=after_seconds)


async def remove_from_provider(services: Services, row: MediaProviderAsset) -> None:
    """Delete what a provider has of an asset, then record it on the row.

    Raises:
        ProviderSyncFailed, ProviderQuotaExceeded: it could not be deleted, or the row has learned meanwhile of an asset
            or an upload that was not; the next attempt reads the row again and continues.
        Misconfigured: the provider is not registered any more.
    """
    removed = await delete_at_provider(services, row)
    crash_point("provider.removed")
    if not await services.database.write(rows.note_removed, row.id, removed):
        raise ProviderSyncFailed(
            f"{row.provider_name} has got more of the asset while it was deleted there", transient=True
        )


async def delete_at_provider(services: Services, row: MediaProviderAsset) -> frozenset[str]:
    """Delete what a provider has of an asset, also if the row never learned its id; the row does not change.

    Returns:
        the provider's ids of what is gone there: assets, and the upload of the row.

    Raises:
        ProviderSyncFailed, ProviderQuotaExceeded: it could not be deleted; the next attempt continues.
        Misconfigured: the provider is not registered any more.
    """
    provider = services.provider(row.provider_name)
    asset_ids = {row.provider_asset_id}
    if row.provider_upload_id is not None and isinstance(provider, DirectUploads):
        await provider.cancel_direct_upload(row.provider_upload_id)
        with contextlib.suppress(ProviderNotFound):  # the last chunk may have been faster than the cancellation
            asset_ids.add((await provider.get_direct_upload(row.provider_upload_id)).asset_id)
    elif row.provider_asset_id is None and row.state != ProviderState.PENDING and row.mux_passthrough:
        found = await provider.find_by_passthrough(row.mux_passthrough, since=row.inserted_at - CLOCK_SKEW)
        asset_ids.add(None if found is None else found.id)
    for asset_id in asset_ids:
        if asset_id is not None:
            await provider.delete_asset(asset_id)
    return frozenset(one for one in (*asset_ids, row.provider_upload_id) if one is not None)
