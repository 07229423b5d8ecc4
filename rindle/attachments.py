"""Attach assets to the application's objects: functions on ``Session``, for the caller's own transaction.

:class:`SessionAttachments` has them for synchronous code, bound to one application; the methods of ``Rindle`` run them
for both kinds of session. Owner types, slots and settings are always those of the application.

The asset row is locked before its state is read, so an attach and a purge cannot pass each other; the purge of a
replaced or detached asset is an outbox row of the same transaction and exists only if the caller commits.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload, scoped_session
from sqlalchemy.orm.attributes import instance_dict

from rindle import outbox, sqlite
from rindle.arguments import actor_text
from rindle.db.database import translating_conflicts
from rindle.db.events import record_event
from rindle.db.ids import AssetOrId, id_of_asset
from rindle.db.models import MediaAsset, MediaAttachment, MediaVariant, is_id, utc_now
from rindle.db.transitions import lock_asset
from rindle.delivery.urls import is_servable
from rindle.errors import InvalidArgument, NotFound, ProfileMismatch, Quarantined, StateConflict
from rindle.owners import check_slot
from rindle.profile import Profile
from rindle.protocols import OwnerRef
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
#: A session of synchronous code; a ``scoped_session`` stands for the one of its thread or request.
SyncSession = Session | scoped_session[Any]


class SessionAttachments:
    """The calls about attachments for synchronous code, in the transaction of a ``Session``: ``rindle.attachments``.

    They have the arguments of the methods of ``Rindle`` with the same names, in the same order, and read and write the
    same slots. They do not commit.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    def attach(
        self,
        asset: AssetOrId,
        owner: Any,
        slot: str,
        *,
        profile: SlotProfiles | None = None,
        uploaded_by: str | UUID | Unchecked | None = UNCHECKED,
        session: SyncSession,
    ) -> MediaAttachment:
        """Put an asset into an owner's slot; see ``Rindle.attach``.

        Raises:
            StateConflict: another transaction was first; roll back and repeat the whole transaction.
            InvalidArgument: ``session`` is not a ``Session``; also the other errors of ``Rindle.attach``.
        """
        return attach(
            _opened(session),
            asset,
            owner,
            slot,
            profile=profile,
            uploaded_by=uploaded_by,
            services=self._services,
        )

    def detach(self, owner: Any, slot: str, *, session: SyncSession) -> None:
        """Empty an owner's slot and queue the purge of its asset; see ``Rindle.detach``."""
        detach(_opened(session), owner, slot, services=self._services)

    def attachment_for(
        self, owner: Any, slot: str, *, load: Iterable[str] = ("asset",), session: SyncSession
    ) -> MediaAttachment | None:
        """Return the attachment in an owner's slot, or ``None``; see ``Rindle.attachment_for``."""
        return attachment_for(_opened(session), owner, slot, load=load, services=self._services)

    def ready_variants_for(self, asset: AssetOrId, *, session: SyncSession) -> list[MediaVariant]:
        """Return the ready variants of an asset, ordered by name; see ``Rindle.ready_variants_for``."""
        return ready_variants_for(_opened(session), asset, services=self._services)


def _opened(session: SyncSession) -> Session:
    found = session() if isinstance(session, scoped_session) else session
    if not isinstance(found, Session):
        raise InvalidArgument(
            "session must be a Session of synchronous code; with an AsyncSession call await rindle.attach(...), "
            "rindle.detach(...) or rindle.attachment_for(...)",
            detail={"option": "session"},
        )
    return found


def attach(
    session: Session,
    asset: AssetOrId,
    owner: Any,
    slot: str,
    *,
    profile: SlotProfiles | None = None,
    uploaded_by: str | UUID | Unchecked | None = UNCHECKED,
    services: Services,
) -> MediaAttachment:
    """Put ``asset`` into an owner's slot, in the caller's transaction; see ``Rindle.attach``.

    Raises:
        NotFound: unknown or purged asset, or one that ``uploaded_by`` did not upload.
        ProfileMismatch: the slot does not accept assets of this profile.
        UnknownProfile: ``profile`` is not registered.
        Quarantined: the asset was rejected.
        StateConflict: a concurrent transaction was first; roll back and repeat.
    """
    ref = services.owner_types.ref(owner)
    check_slot(slot)
    uploader = uploaded_by if isinstance(uploaded_by, Unchecked) else actor_text("uploaded_by", uploaded_by)
    accepted = services.owner_types.profiles_of(ref, slot) if profile is None else profile_names(profile, services)
    with translating_conflicts():
        sqlite.begin_write(session)
        locked = _attachable(session, id_of_asset(asset), uploader, slot, accepted)
        attachment = _place(session, locked, ref, slot, services.settings)
    for row in (locked, asset):
        if isinstance(row, MediaAsset):
            _forget_owners(row)
    return attachment


def profile_names(profiles: SlotProfiles, services: Services) -> frozenset[str]:
    """Return the stable names of one or several registered profiles.

    Raises:
        UnknownProfile: one of them is not registered.
        InvalidArgument: there is none.
    """
    given = [profiles] if isinstance(profiles, str | type) else list(profiles)
    if not given:
        raise InvalidArgument("a slot accepts at least one profile", detail={"option": "profile"})
    return frozenset(services.profile(one).name for one in given)


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


def detach(session: Session, owner: Any, slot: str, *, services: Services) -> None:
    """Empty an owner's slot, in the caller's transaction; does nothing for an empty slot. See ``Rindle.detach``."""
    ref = services.owner_types.ref(owner)
    check_slot(slot)
    with translating_conflicts():
        sqlite.begin_write(session)
        present = session.scalars(_slot(ref, slot).with_for_update()).one_or_none()
        if present is None:
            return
        asset = session.get(MediaAsset, present.asset_id)
        session.delete(present)
        session.flush()
        if asset is not None:
            _note(session, asset, slot, "detached")
            _forget_owners(asset)
        _purge_later(session, present.asset_id, services.settings)


def attachment_for(
    session: Session,
    owner: Any,
    slot: str,
    *,
    load: Iterable[str] = ("asset",),
    services: Services,
) -> MediaAttachment | None:
    """Return the attachment in an owner's slot, or ``None``; one query, never writes.

    Args:
        load: related rows to load: ``"asset"``, ``"variants"`` (the asset and its variants); ``()`` loads none.
    """
    ref = services.owner_types.ref(owner)
    check_slot(slot)
    statement = _slot(ref, slot).order_by(MediaAttachment.inserted_at.desc()).limit(1)
    for part in load:
        if part not in ("asset", "variants"):
            raise InvalidArgument(
                f"unknown value {part!r} in load; choose from 'asset' and 'variants'",
                detail={"option": "load", "found": part},
            )
        with_asset = joinedload(MediaAttachment.asset)
        statement = statement.options(with_asset.joinedload(MediaAsset.variants) if part == "variants" else with_asset)
        if services.has_authorizers:
            statement = statement.options(joinedload(MediaAttachment.asset).joinedload(MediaAsset.attachments))
    return session.scalars(statement).unique().first()


def ready_variants_for(session: Session, asset: AssetOrId, *, services: Services) -> list[MediaVariant]:
    """Return the ready variants of an asset, ordered by name, without those that an outdated recipe built."""
    asset_id = id_of_asset(asset)
    if not is_id(asset_id):
        return []
    statement = select(MediaVariant).where(
        MediaVariant.asset_id == asset_id,
        MediaVariant.state == VariantState.READY,
        MediaVariant.dynamic.is_(False),
    )
    found = list(session.scalars(statement.order_by(MediaVariant.name)))
    owner = session.get(MediaAsset, asset_id) if found else None
    if owner is None:
        return found
    profile = services.profile(owner.profile)
    return [row for row in found if is_servable(profile, row)]


def _slot(ref: OwnerRef, slot: str) -> Select[MediaAttachment]:
    return select(MediaAttachment).where(
        MediaAttachment.owner_type == ref.type,
        MediaAttachment.owner_id == ref.id,
        MediaAttachment.slot == slot,
    )


def _forget_owners(asset: MediaAsset) -> None:
    """Unload the attachments of a row that the caller may deliver next: its owners have changed."""
    instance_dict(asset).pop("attachments", None)


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
