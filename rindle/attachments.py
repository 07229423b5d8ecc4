"""Attach assets to the application's objects: plain functions on ``Session``, for the caller's own transaction.

The asset row is locked before its state is read, so an attach and a purge cannot pass each other; the purge of a
replaced or detached asset is an outbox row of the same transaction and exists only if the caller commits.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from rindle import outbox
from rindle.arguments import check_text
from rindle.db.database import translating_conflicts
from rindle.db.events import record_event
from rindle.db.models import MediaAsset, MediaAttachment, MediaVariant, is_id, utc_now
from rindle.db.transitions import lock_asset
from rindle.delivery.urls import is_servable
from rindle.errors import InvalidArgument, NotFound, ProfileMismatch, Quarantined, StateConflict
from rindle.owners import OwnerRef, OwnerTypes, check_slot
from rindle.profile import Profile
from rindle.services import Services
from rindle.settings import Settings
from rindle.states import AssetState, VariantState


class Unchecked(Enum):
    """Type of :data:`UNCHECKED`."""

    UNCHECKED = "unchecked"


#: ``uploaded_by`` left out: trusted server code that has checked the asset itself.
UNCHECKED: Final = Unchecked.UNCHECKED

#: Which profiles a slot accepts: one or several, each by its class or name.
SlotProfiles = str | type[Profile] | Iterable[str | type[Profile]]

_DEFAULT_TYPES = OwnerTypes()


def attach(
    session: Session,
    asset: MediaAsset | str,
    owner: Any,
    slot: str,
    *,
    profile: SlotProfiles | None = None,
    uploaded_by: str | Unchecked | None = UNCHECKED,
    services: Services | None = None,
) -> MediaAttachment:
    """Put ``asset`` into an owner's slot, in the caller's transaction; see ``Rindle.attach``.

    Args:
        services: the application's; without them owner types have the names of their classes, no slot is declared, and
            settings come from the environment.

    Raises:
        NotFound: unknown or purged asset, or one that ``uploaded_by`` did not upload.
        ProfileMismatch: the slot does not accept assets of this profile.
        UnknownProfile: ``profile`` is not registered.
        Quarantined: the asset was rejected.
        StateConflict: a concurrent transaction was first; roll back and repeat.
    """
    ref = _owner_types(services).ref(owner)
    check_slot(slot)
    if uploaded_by is not UNCHECKED:
        check_text("uploaded_by", uploaded_by)
    asset_id = asset if isinstance(asset, str) else asset.id
    accepted = _owner_types(services).profiles_of(ref, slot) if profile is None else profile_names(profile, services)
    with translating_conflicts():
        locked = _attachable(session, asset_id, uploaded_by, slot, accepted)
        return _place(session, locked, ref, slot, _settings(services))


def profile_names(profiles: SlotProfiles, services: Services | None = None) -> frozenset[str]:
    """Return the stable names of one or several profiles, which are registered if there are ``services``.

    Raises:
        UnknownProfile: one of them is not registered.
        InvalidArgument: there is none.
    """
    given = [profiles] if isinstance(profiles, str | type) else list(profiles)
    if services is not None:
        given = [services.profile(one) for one in given]
    if not given:
        raise InvalidArgument("a slot accepts at least one profile", detail={"option": "profile"})
    return frozenset(one if isinstance(one, str) else one.name for one in given)


def _attachable(
    session: Session, asset_id: str, uploaded_by: str | Unchecked | None, slot: str, accepted: frozenset[str] | None
) -> MediaAsset:
    found = lock_asset(session, asset_id, "share") if is_id(asset_id) else None
    foreign = found is not None and uploaded_by is not UNCHECKED and found.uploaded_by != uploaded_by
    if found is None or foreign or found.state == AssetState.DELETED:
        raise NotFound("no asset with this id can be attached", detail={"entity": "asset"})
    if accepted is not None and found.profile not in accepted:
        raise ProfileMismatch(
            f"the slot {slot!r} accepts assets of {', '.join(sorted(accepted))}, not of {found.profile}",
            detail={"slot": slot, "expected": sorted(accepted), "found": found.profile},
        )
    if found.state == AssetState.QUARANTINED:
        raise Quarantined(
            "the asset was rejected and cannot be attached; upload another file",
            detail={"reason": found.error_code, "asset_id": found.id},
        )
    return found


def _place(session: Session, asset: MediaAsset, ref: OwnerRef, slot: str, settings: Settings) -> MediaAttachment:
    for _ in range(2):
        # Locked: of two concurrent replacements the second must see, and purge, the asset of the first.
        statement = _slot(ref, slot).with_for_update().execution_options(populate_existing=True)
        present = session.scalars(statement).one_or_none()
        if present is not None:
            return _replace(session, present, asset, settings)
        attachment = MediaAttachment(asset_id=asset.id, owner_type=ref.type, owner_id=ref.id, slot=slot)
        try:
            with session.begin_nested():  # a concurrent insert must not abort the caller's transaction
                session.add(attachment)
        except IntegrityError:
            continue
        _note(session, asset, slot, "attached")
        return attachment
    raise StateConflict(f"another transaction is filling slot {slot!r}; repeat the call")


def _replace(session: Session, present: MediaAttachment, asset: MediaAsset, settings: Settings) -> MediaAttachment:
    if present.asset_id == asset.id:
        return present
    replaced = present.asset_id
    present.asset_id, present.updated_at = asset.id, utc_now()
    session.flush()
    session.expire(present, ["asset"])
    _note(session, asset, present.slot, "replaced")
    _purge_later(session, replaced, settings)
    return present


def detach(
    session: Session,
    owner: Any,
    slot: str,
    *,
    services: Services | None = None,
) -> None:
    """Empty an owner's slot, in the caller's transaction; does nothing for an empty slot. See ``Rindle.detach``."""
    ref = _owner_types(services).ref(owner)
    check_slot(slot)
    with translating_conflicts():
        present = session.scalars(_slot(ref, slot).with_for_update()).one_or_none()
        if present is None:
            return
        asset = session.get(MediaAsset, present.asset_id)
        session.delete(present)
        session.flush()
        if asset is not None:
            _note(session, asset, slot, "detached")
        _purge_later(session, present.asset_id, _settings(services))


def attachment_for(
    session: Session,
    owner: Any,
    slot: str,
    *,
    load: Iterable[str] = ("asset",),
    services: Services | None = None,
) -> MediaAttachment | None:
    """Return the attachment in an owner's slot, or ``None``; one query, never writes.

    Args:
        load: related rows to load: ``"asset"``, ``"variants"`` (the asset and its variants); ``()`` loads none.
    """
    ref = _owner_types(services).ref(owner)
    check_slot(slot)
    statement = _slot(ref, slot).order_by(MediaAttachment.inserted_at.desc()).limit(1)
    for part in load:
        if part == "asset":
            statement = statement.options(joinedload(MediaAttachment.asset))
        elif part == "variants":
            statement = statement.options(joinedload(MediaAttachment.asset).joinedload(MediaAsset.variants))
        else:
            raise InvalidArgument(
                f"unknown value {part!r} in load; choose from 'asset' and 'variants'",
                detail={"option": "load", "found": part},
            )
    return session.scalars(statement).unique().first()


def ready_variants_for(
    session: Session, asset: MediaAsset | str, *, services: Services | None = None
) -> list[MediaVariant]:
    """Return the ready variants of an asset, ordered by name.

    Args:
        services: the application's; with them the variants that an outdated recipe built are left out.
    """
    asset_id = asset if isinstance(asset, str) else asset.id
    if not is_id(asset_id):
        return []
    statement = select(MediaVariant).where(
        MediaVariant.asset_id == asset_id,
        MediaVariant.state == VariantState.READY,
        MediaVariant.dynamic.is_(False),
    )
    found = list(session.scalars(statement.order_by(MediaVariant.name)))
    owner = session.get(MediaAsset, asset_id) if found and services is not None else None
    if owner is None or services is None:
        return found
    profile = services.profile(owner.profile)
    return [row for row in found if is_servable(profile, row)]


def _owner_types(services: Services | None) -> OwnerTypes:
    return _DEFAULT_TYPES if services is None else services.owner_types


def _settings(services: Services | None) -> Settings:
    return Settings() if services is None else services.settings


def _slot(ref: OwnerRef, slot: str) -> Select[MediaAttachment]:
    return select(MediaAttachment).where(
        MediaAttachment.owner_type == ref.type,
        MediaAttachment.owner_id == ref.id,
        MediaAttachment.slot == slot,
    )


def _purge_later(session: Session, asset_id: str, settings: Settings) -> None:
    asset = session.get(MediaAsset, asset_id)
    outbox.start_purge(session, settings, asset_id, asset.profile if asset is not None else None)


def _note(session: Session, asset: MediaAsset, slot: str, change: str) -> None:
    record_event(
        session,
        "attachment_changed",
        scope=("asset", asset.id),
        payload={"asset_id": asset.id, "change": change, "slot": slot},
        asset_id=asset.id,
        profile=asset.profile,
        audit=True,
    )
    session.flush()
