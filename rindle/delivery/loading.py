"""What delivery reads of an asset: its variants for their URLs, its owners for the authorizer; one statement at most.

Parts that the caller has loaded are used as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import inspect

from rindle.db import delivery as rows
from rindle.db.assets import no_such_asset
from rindle.db.ids import AssetOrId, id_of_asset
from rindle.db.models import MediaAsset, MediaVariant, is_id
from rindle.db.variants import variants_of
from rindle.errors import ProfileMismatch
from rindle.profile import Profile
from rindle.protocols import OwnerRef
from rindle.services import Services
from rindle.states import DELIVERABLE, AssetState


@dataclass(frozen=True, slots=True)
class LoadedAsset:
    """An asset with the rows that its delivery needs.

    Attributes:
        variants: the declared variants by name; empty when they were not requested.
        owners: the owners of the slots that hold it; empty when the profile has no authorizer.
    """

    row: MediaAsset
    variants: Mapping[str, MediaVariant] = field(default_factory=dict)
    owners: tuple[OwnerRef, ...] = ()


async def load(
    services: Services,
    profile: type[Profile],
    asset: AssetOrId,
    *,
    variants: bool = False,
    unvalidated: bool = False,
) -> LoadedAsset:
    """Load what the delivery of an asset needs, in one statement at most.

    Nothing is read for a row that may not be delivered.

    Args:
        asset: its id, or a row. An expired row is read again.
        variants: also load the variants.
        unvalidated: whether the caller also delivers an asset that is not validated yet.

    Raises:
        NotFound: no such asset.
        ProfileMismatch: see :func:`check_profile`.
    """
    owners = profile.delivery_policy().authorizer is not None
    if not isinstance(asset, MediaAsset) or inspect(asset).expired:
        asset_id = id_of_asset(asset)
        found = None
        if is_id(asset_id):
            found = await services.database.read(rows.get, asset_id, variants=variants, owners=owners)
        if found is None:
            raise no_such_asset()
        check_profile(profile, found)
        return _of_row(found, variants=variants, owners=owners)
    check_profile(profile, asset)
    if AssetState(asset.state) not in DELIVERABLE and not unvalidated:
        return LoadedAsset(asset)
    missing = inspect(asset).unloaded
    needs_variants, needs_owners = variants and "variants" in missing, owners and "attachments" in missing
    if needs_variants and needs_owners:
        found = await services.database.read(rows.get, asset.id, variants=True, owners=True)
        if found is None:  # it was purged since the caller read it
            return LoadedAsset(asset)
        both = _of_row(found, variants=True, owners=True)
        return LoadedAsset(asset, both.variants, both.owners)
    named = await _named(services, asset) if needs_variants else {}
    read = tuple(await services.database.read(rows.owners_of, asset.id)) if needs_owners else ()
    loaded = _of_row(asset, variants=variants and not needs_variants, owners=owners and not needs_owners)
    return LoadedAsset(asset, loaded.variants or named, loaded.owners or read)


def check_profile(profile: type[Profile], asset: MediaAsset) -> None:
    """Refuse an asset of another profile.

    Raises:
        ProfileMismatch: the rules of one profile do not apply to the files of another.
    """
    if asset.profile != profile.name:
        raise ProfileMismatch(
            f"the asset belongs to profile {asset.profile!r}, not to {profile.name!r}",
            detail={"expected": profile.name, "found": asset.profile},
        )


async def owners_of(services: Services, asset: MediaAsset) -> tuple[OwnerRef, ...]:
    """Return the owners of the slots that hold an asset: the loaded ones, else from one query."""
    if "attachments" in inspect(asset).unloaded:
        return tuple(await services.database.read(rows.owners_of, asset.id))
    return _of_row(asset, variants=False, owners=True).owners


def _of_row(asset: MediaAsset, *, variants: bool, owners: bool) -> LoadedAsset:
    named = {row.name: row for row in asset.variants if not row.dynamic} if variants else {}
    refs = {OwnerRef(one.owner_type, one.owner_id) for one in asset.attachments} if owners else set()
    return LoadedAsset(asset, named, tuple(sorted(refs, key=lambda ref: (ref.type, ref.id))))


async def _named(services: Services, asset: MediaAsset) -> dict[str, MediaVariant]:
    return {row.name: row for row in await services.database.read(variants_of, asset.id)}
