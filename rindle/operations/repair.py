"""Repair the variants of one asset: requeue, cancel; purge one asset.

One transaction changes the rows and wakes the workflow. Rows, events and audit records are the same as when an
operator signals the workflow with the Temporal CLI.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack
from uuid import UUID

from sqlalchemy.orm import Session

from rindle import outbox, telemetry
from rindle.arguments import actor_text
from rindle.db import purge as purge_rows
from rindle.db import variants as rows
from rindle.db.assets import no_such_asset
from rindle.db.ids import AssetOrId, id_of_asset
from rindle.db.models import MediaAsset, MediaVariant, is_id
from rindle.db.transitions import lock_asset
from rindle.errors import (
    NotProcessing,
    StillAttached,
    UnknownOptions,
    UnknownVariantNames,
)
from rindle.operations.keywords import NoOthers
from rindle.operations.reports import Report
from rindle.services import Services
from rindle.states import DELIVERABLE, OPEN_VARIANTS, AssetState, VariantState

log = logging.getLogger(__name__)

_REPAIRABLE = frozenset({VariantState.FAILED, VariantState.CANCELLED})
#: States a variant that was named explicitly may be queued from.
_REPAIRABLE_BY_NAME = _REPAIRABLE | {VariantState.STALE, VariantState.MISSING}
_UNDER_WAY = frozenset({VariantState.PLANNED, VariantState.QUEUED, VariantState.PROCESSING})


@dataclass(frozen=True, slots=True)
class RequeueReport(Report):
    """Outcome of ``requeue_variants``; ``failures`` has the reason for each selected variant that was not queued."""

    asset_id: str
    selected: int = 0
    enqueued: int = 0
    skipped: int = 0
    errors: int = 0
    failures: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class CancelReport(Report):
    """Outcome of ``cancel_processing``: number of builds cancelled."""

    asset_id: str
    cancelled: int


async def requeue_variants(
    services: Services,
    asset: AssetOrId,
    variant_names: Iterable[str] | None = None,
    *,
    actor: str | UUID | None = None,
    **others: Unpack[NoOthers],
) -> RequeueReport:
    """Build failed and cancelled variants again; see ``Rindle.requeue_variants``."""
    if others:
        raise UnknownOptions(
            f"requeue_variants has no option {', '.join(sorted(others))}", detail={"options": sorted(others)}
        )
    named = actor_text("actor", actor)
    asset_id = id_of_asset(asset)
    names = None if variant_names is None else sorted(set(variant_names))
    started = time.monotonic()
    facts = {"operation": "requeue", "scope": "asset", "dry_run": False}
    telemetry.emit("rindle.repair.start", {**facts, "result": "started"})

    def requeue(session: Session) -> RequeueReport:
        return _requeue(session, services, asset_id, names, named)

    try:
        report = await services.database.write(requeue)
    except Exception:
        telemetry.emit("rindle.repair.exception", {**facts, "result": "exception"}, _took(started))
        raise
    result = "ok" if not report.errors else "partial" if report.enqueued else "error"
    counters = {
        "selected": report.selected,
        "enqueued": report.enqueued,
        "skipped": report.skipped,
        "errors": report.errors,
    }
    telemetry.emit("rindle.repair.stop", {**facts, "result": result}, {**_took(started), **counters})
    return report


def _took(started: float) -> dict[str, float]:
    return {"duration_us": (time.monotonic() - started) * 1e6}


def _requeue(
    session: Session, services: Services, asset_id: str, names: list[str] | None, actor: str | None
) -> RequeueReport:
    if names == []:
        return RequeueReport(asset_id=asset_id)
    asset = _asset(session, asset_id)
    profile = services.profile(asset.profile)
    if names is not None:
        rows.detect_drift(session, asset, profile)  # readers see these variants as stale already
    present = {row.name: row for row in rows.variants_of(session, asset_id)}
    unknown = sorted(set(names or ()) - present.keys())
    if unknown:
        raise UnknownVariantNames(
            f"asset {asset_id} has no variant {', '.join(unknown)}; it has {', '.join(present) or 'none'}",
            detail={"unknown": unknown, "known": sorted(present)},
        )
    if names is None:
        selected = [row for row in present.values() if row.state in _REPAIRABLE]
    else:
        selected = [present[name] for name in names]
    wanted: list[MediaVariant] = []
    failures: list[Mapping[str, Any]] = []
    skipped = 0
    for row in selected:
        if row.state in _UNDER_WAY:
            skipped += 1
        elif row.name not in profile.variants:
            reason, message = "variant_definition_missing", "the profile no longer declares this variant"
            failures.append(_failure(row, "configuration", reason, message))
        elif row.state not in _REPAIRABLE_BY_NAME or AssetState(asset.state) not in DELIVERABLE:
            reason, message = "state_not_repairable", f"a variant in state {row.state} cannot be requeued"
            failures.append(_failure(row, "state_conflict", reason, message))
        else:
            wanted.append(row)
    queued = rows.requeue_rows(session, asset, wanted, profile, actor=actor)
    for group in sorted({rows.group_of(asset.kind, row) for row in wanted}):
        outbox.wake_group(session, services.settings, asset, group)
    return RequeueReport(
        asset_id=asset_id,
        selected=len(selected),
        enqueued=len(queued),
        skipped=skipped,
        errors=len(failures),
        failures=tuple(failures),
    )


def _failure(row: MediaVariant, failure_class: str, reason: str, message: str) -> dict[str, Any]:
    return {
        "asset_id": row.asset_id,
        "variant_id": row.id,
        "variant_name": row.name,
        "state": row.state,
        "failure_class": failure_class,
        "reason": reason,
        "message": message,
    }


async def cancel_processing(services: Services, asset: AssetOrId, *, actor: str | UUID | None = None) -> CancelReport:
    """Stop all open builds of an asset; see ``Rindle.cancel_processing``."""
    named = actor_text("actor", actor)
    asset_id = id_of_asset(asset)

    def cancel(session: Session) -> int:
        found = lock_asset(session, asset_id) if is_id(asset_id) else None
        present = [] if found is None else rows.variants_of(session, asset_id)
        active = [row for row in present if VariantState(row.state) in OPEN_VARIANTS]
        if found is None or not active:
            raise NotProcessing("this asset has no open builds", detail={"asset_id": asset_id})
        rows.cancel_rows(session, found, active, actor=named)
        for group in sorted({rows.group_of(found.kind, row) for row in active}):
            outbox.wake_group(session, services.settings, found, group)
        return len(active)

    return CancelReport(asset_id=asset_id, cancelled=await services.database.write(cancel))


async def purge_asset(services: Services, asset: AssetOrId) -> None:
    """Purge an unattached asset; see ``Rindle.purge_asset``."""
    asset_id = id_of_asset(asset)

    def purge(session: Session) -> None:
        found = _asset(session, asset_id)
        services.profile(found.profile)  # which names the store of its objects
        attached = purge_rows.attachment_count(session, asset_id)
        if attached:
            raise StillAttached(
                f"the asset is attached in {attached} place(s); detach it first",
                detail={"asset_id": asset_id, "attachments": attached},
            )
        outbox.start_purge(session, services.settings, asset_id, found.profile)

    await services.database.write(purge)


def _asset(session: Session, asset_id: str) -> MediaAsset:
    found = lock_asset(session, asset_id) if is_id(asset_id) else None
    if found is None or found.state == AssetState.DELETED:
        raise no_such_asset()
    return found
