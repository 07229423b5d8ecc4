"""Deletion of an asset that owners still use: off unless the application has a policy for it, and audited."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from rindle import outbox, plugins, telemetry
from rindle.arguments import MAX_TEXT_CHARS, actor_text, check_text, text_flaw
from rindle.db.assets import no_such_asset
from rindle.db.events import record_event
from rindle.db.ids import AssetOrId, id_of_asset
from rindle.db.models import MediaAsset, MediaAttachment, MediaEvent, MediaVariant, is_id
from rindle.db.transitions import lock_asset, tombstone
from rindle.erasure.reports import Bucket
from rindle.errors import ForceDeleteForbidden, InvalidArgument, StateConflict
from rindle.operations.reports import Report
from rindle.services import Services
from rindle.states import AssetState

log = logging.getLogger(__name__)

#: Longest time in seconds that a policy may take.
POLICY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RemovedAttachment(Report):
    """An attachment that a forced deletion removes."""

    attachment_id: str
    owner_type: str
    owner_id: str
    slot: str


@dataclass(frozen=True, slots=True)
class ForceDeleteReport(Report):
    """Outcome of ``force_delete_asset``; ``mode`` is ``preview`` or ``execute``."""

    mode: str
    asset_id: str
    profile: str
    attachments_detached: int
    attachments: tuple[RemovedAttachment, ...]
    purge_started: bool
    already_deleted: bool


@dataclass(frozen=True, slots=True)
class _Order:
    asset_id: str
    reason: str
    actor: str
    reference: str | None
    mode: str


async def force_delete_asset(
    services: Services,
    asset: AssetOrId,
    reason: str,
    *,
    actor: str | UUID,
    reference: str | None = None,
    dry_run: bool = True,
) -> ForceDeleteReport:
    """Delete an asset although it is attached; see ``Rindle.force_delete_asset``."""
    named = actor_text("actor", actor) or ""
    for option, value in (("reason", reason), ("actor", named)):
        flaw = text_flaw(value, min_chars=1)
        if flaw is not None:
            raise InvalidArgument(f"{option} {flaw}", detail={"option": option, "max_chars": MAX_TEXT_CHARS})
    check_text("reference", reference)
    order = _Order(id_of_asset(asset), reason, named, reference, "preview" if dry_run else "execute")
    deleted = await services.database.read(_already_deleted, order)
    if deleted is not None:
        return deleted
    found, attachments = await services.database.read(_present, order.asset_id)
    refusal = await _refusal(services, found, attachments, order)
    if refusal is not None:
        if not dry_run:
            await services.database.write(_audit_refusal, order, found.profile, refusal)
        raise ForceDeleteForbidden(
            "the application has no policy for forced deletions; pass Rindle(force_delete_policy=...)"
            if refusal == "no_policy"
            else "the policy of the application refused this forced deletion",
            detail={"asset_id": order.asset_id, "reason": refusal},
        )
    if dry_run:
        return _report(order, found.profile, attachments)
    seen = {row.id for row in attachments}
    report = await services.database.write(_delete, services, order, seen)
    if report.purge_started:
        telemetry.emit(
            "rindle.asset.force_deleted", {"profile": report.profile}, {"attachments": report.attachments_detached}
        )
    return report


async def _refusal(
    services: Services, asset: MediaAsset, attachments: Sequence[MediaAttachment], order: _Order
) -> str | None:
    """Return why the deletion is refused, ``None`` when it is allowed; an unclear answer refuses."""
    policy = services.force_delete_policy
    if policy is None:
        return "no_policy"
    try:
        await plugins.call(
            plugins.Kind.REQUEST, policy, asset, attachments, order.actor, order.reason, timeout_seconds=POLICY_SECONDS
        )
    except Exception as error:  # foreign code: whatever it raises is a refusal, and its text stays here
        log.info("a forced deletion was refused", extra={"asset_id": order.asset_id, "error": type(error).__name__})
        return type(error).__name__
    return None


def _present(session: Session, asset_id: str) -> tuple[MediaAsset, Sequence[MediaAttachment]]:
    asset = session.get(MediaAsset, asset_id) if is_id(asset_id) else None
    if asset is None:
        raise no_such_asset()
    return asset, _attachments(session, asset_id)


def _attachments(session: Session, asset_id: str, *, lock: bool = False) -> Sequence[MediaAttachment]:
    statement = (
        select(MediaAttachment)
        .where(MediaAttachment.asset_id == asset_id)
        .order_by(MediaAttachment.owner_type, MediaAttachment.owner_id, MediaAttachment.slot)
        .execution_options(populate_existing=True)
    )
    return session.scalars(statement.with_for_update() if lock else statement).all()


def _already_deleted(session: Session, order: _Order) -> ForceDeleteReport | None:
    asset = session.get(MediaAsset, order.asset_id) if is_id(order.asset_id) else None
    profile = asset.profile if asset is not None and asset.state == AssetState.DELETED else None
    if asset is None and is_id(order.asset_id):
        statement = select(MediaEvent.profile).where(
            MediaEvent.asset_id == order.asset_id, MediaEvent.type.in_(["asset.force_deleted", "asset.purged"])
        )
        profile = session.scalar(statement.limit(1))
    if profile is None:
        return None
    return _report(order, profile, [], already_deleted=True)


def _delete(session: Session, services: Services, order: _Order, seen: set[str]) -> ForceDeleteReport:
    asset = lock_asset(session, order.asset_id, "exclusive")
    if asset is None or asset.state == AssetState.DELETED:
        found = _already_deleted(session, order)
        if found is None:
            raise no_such_asset()
        return found
    attachments = _attachments(session, order.asset_id, lock=True)
    if {row.id for row in attachments} != seen:
        raise StateConflict("the attachments changed after the policy allowed the deletion; repeat the call")
    report = _report(order, asset.profile, attachments, purge_started=True)
    stored = session.scalars(select(MediaVariant.storage_key).where(MediaVariant.asset_id == asset.id)).all()
    _audit(
        session,
        order,
        "asset.force_deleted",
        asset.profile,
        attachments=[one.to_dict() for one in report.attachments],
        keys=1 + sum(key is not None for key in stored),
    )
    session.execute(
        delete(MediaAttachment).where(MediaAttachment.asset_id == asset.id).execution_options(synchronize_session=False)
    )
    tombstone(session, asset, actor=order.actor)
    outbox.start_purge(session, services.settings, asset.id, asset.profile)
    return report


def _audit_refusal(session: Session, order: _Order, profile: str, refusal: str) -> None:
    _audit(session, order, "asset.force_delete_refused", profile, refused_by=refusal)


def _audit(session: Session, order: _Order, event_type: str, profile: str, **facts: Any) -> None:
    record_event(
        session,
        event_type,
        scope=("asset", order.asset_id),
        payload={"asset_id": order.asset_id, "reason": order.reason, "reference": order.reference, **facts},
        asset_id=order.asset_id,
        profile=profile,
        actor=order.actor,
        audit=True,
    )


def _report(order: _Order, profile: str, attachments: Sequence[MediaAttachment], **facts: bool) -> ForceDeleteReport:
    removed = Bucket.holding(RemovedAttachment(row.id, row.owner_type, row.owner_id, row.slot) for row in attachments)
    return ForceDeleteReport(
        mode=order.mode,
        asset_id=order.asset_id,
        profile=profile,
        attachments_detached=removed.count,
        attachments=removed.entries,
        purge_started=facts.get("purge_started", False),
        already_deleted=facts.get("already_deleted", False),
    )
