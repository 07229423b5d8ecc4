"""Repair many assets with one call: resume, requeue and purge what one outage left behind.

A selection is bounded, and a dry run by default. Each asset is repaired in its own transaction by the call for one
asset, so that a failure is counted and never stops the others, and a run that was interrupted can be repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, or_, select
from sqlalchemy.orm import Session

from rindle.db.models import MediaAsset, MediaUploadSession, MediaVariant, utc_now
from rindle.db.session_conditions import is_live, is_unreleased
from rindle.errors import InvalidArgument, RindleError
from rindle.operations import findings
from rindle.operations.repair import requeue_variants
from rindle.operations.reports import Report
from rindle.services import Services
from rindle.states import IN_PROMOTION, OutputKind, VariantState
from rindle.uploads.sessions import resume

log = logging.getLogger(__name__)

#: Assets of one call unless another limit is given, and at most.
DEFAULT_LIMIT, MAX_LIMIT = 1_000, 100_000
#: Failures listed in a report.
MAX_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Selection:
    """Which assets a bulk repair takes; without any condition all that need it.

    Attributes:
        code: only rows with this error code.
        profile: only assets of this profile.
        since: only rows that changed at this time or later.
        limit: number of assets, 1 to 100 000.
    """

    code: str | None = None
    profile: str | None = None
    since: datetime | None = None
    limit: int = DEFAULT_LIMIT

    def check(self, services: Services) -> None:
        """Check the conditions.

        Raises:
            UnknownProfile: the profile is not registered.
            InvalidArgument: the limit is out of its range.
        """
        if self.profile is not None:
            services.profile(self.profile)
        if not 1 <= self.limit <= MAX_LIMIT:
            raise InvalidArgument(f"limit must be 1 to {MAX_LIMIT}", detail={"option": "limit"})

    def of_assets(self) -> list[ColumnElement[bool]]:
        """Return the condition on the asset's profile."""
        return [] if self.profile is None else [MediaAsset.profile == self.profile]

    def of_rows(self, row: Any, code: Any) -> list[ColumnElement[bool]]:
        """Return the conditions on the code and the time of a row."""
        found: list[ColumnElement[bool]] = [] if self.code is None else [code == self.code]
        return found if self.since is None else [*found, row.updated_at >= self.since]


@dataclass(frozen=True, slots=True)
class BulkReport(Report):
    """Outcome of a bulk repair, in numbers of assets.

    Attributes:
        found: assets that were selected.
        done: assets that were repaired; 0 in a dry run.
        enqueued: variants that were queued; of ``requeue`` only.
        errors: assets that could not be repaired; the first ones are listed in ``failures``.
        has_more: whether the limit left assets out; repeat the call for those.
    """

    found: int
    done: int
    errors: int
    has_more: bool
    dry_run: bool
    enqueued: int | None = field(default=None, metadata={"optional": True})
    failures: tuple[dict[str, str], ...] = field(default=(), metadata={"optional": True})


async def resume_many(services: Services, selection: Selection, *, dry_run: bool = True) -> BulkReport:
    """Continue the work on every selected asset that ``resume`` repairs; a run that is active is only signalled.

    Raises:
        UnknownProfile: the profile is not registered.
        InvalidArgument: the limit is out of its range.
    """
    selection.check(services)
    asset_ids = await services.database.read(_resumable, selection)
    chosen = asset_ids[: selection.limit]
    done, failures = 0, []
    for asset_id in () if dry_run else chosen:
        try:
            await resume(services, asset_id)
        except RindleError as error:
            failures.append(_failure(asset_id, error))
        else:
            done += 1
    return BulkReport(
        found=len(chosen),
        done=done,
        errors=len(failures),
        has_more=len(asset_ids) > len(chosen),
        dry_run=dry_run,
        failures=tuple(failures[:MAX_FAILURES]),
    )


async def requeue_many(
    services: Services, selection: Selection, *, dry_run: bool = True, actor: str | UUID | None = None
) -> BulkReport:
    """Queue the selected variants among the failed and cancelled ones.

    Raises:
        UnknownProfile: the profile is not registered.
        InvalidArgument: the limit is out of its range.
    """
    selection.check(services)
    variants = await services.database.read(_requeueable, selection)
    chosen = dict(list(variants.items())[: selection.limit])
    done, enqueued, failures = 0, 0, []
    for asset_id, names in () if dry_run else chosen.items():
        try:
            report = await requeue_variants(services, asset_id, names, actor=actor)
        except RindleError as error:
            failures.append(_failure(asset_id, error))
            continue
        enqueued += report.enqueued
        done += report.errors == 0
        failures += [{"asset_id": asset_id, "code": str(one["reason"])} for one in report.failures[:1]]
    return BulkReport(
        found=len(chosen),
        done=done,
        errors=len(failures),
        has_more=len(variants) > len(chosen),
        dry_run=dry_run,
        enqueued=enqueued,
        failures=tuple(failures[:MAX_FAILURES]),
    )


def _failure(asset_id: str, error: RindleError) -> dict[str, str]:
    log.warning("asset not repaired", extra={"asset_id": asset_id, "code": error.code})
    return {"asset_id": asset_id, "code": error.code}


def _resumable(session: Session, selection: Selection) -> list[str]:
    """Return the assets that ``resume`` may repair, one more than the limit; their runs are not looked up."""
    found: dict[str, None] = {}
    for statement in _resumable_rows(selection):
        found |= dict.fromkeys(session.scalars(statement.limit(selection.limit + 1)))
    return sorted(found)[: selection.limit + 1]


def _resumable_rows(selection: Selection) -> Iterable[Select[Any]]:
    now, upload, variant = utc_now(), MediaUploadSession, MediaVariant

    def ago(seconds: int) -> datetime:
        return now - timedelta(seconds=seconds)

    def of_session(*conditions: ColumnElement[bool]) -> Select[Any]:
        rows = selection.of_rows(upload, upload.release_error_code)
        of_asset = select(MediaAsset.id).join(upload, upload.asset_id == MediaAsset.id)
        return of_asset.where(*conditions, *rows, *selection.of_assets())

    of_asset = [*selection.of_rows(MediaAsset, MediaAsset.error_code), *selection.of_assets()]
    promoting = MediaAsset.state.in_(IN_PROMOTION)
    yield select(MediaAsset.id).where(promoting, MediaAsset.error_code.is_not(None), *of_asset)
    yield of_session(is_unreleased(), upload.release_error_code.is_not(None))
    if selection.code is not None:
        return  # the other rows have no code
    silent = MediaAsset.updated_at <= ago(findings.PROMOTION_SECONDS)
    yield select(MediaAsset.id).where(promoting, MediaAsset.error_code.is_(None), silent, *of_asset)
    yield of_session(is_live(), upload.expires_at <= ago(findings.SESSION_SECONDS))
    yield of_session(is_unreleased(), upload.updated_at <= ago(findings.SESSION_SECONDS))
    is_image = variant.output_kind == OutputKind.IMAGE
    late = or_(
        and_(variant.state == VariantState.QUEUED, variant.updated_at <= ago(findings.QUEUED_SECONDS)),
        and_(variant.state == VariantState.PROCESSING, is_image, variant.updated_at <= ago(findings.IMAGE_SECONDS)),
        and_(variant.state == VariantState.PROCESSING, variant.updated_at <= ago(findings.AV_SECONDS)),
    )
    rows = selection.of_rows(variant, variant.error_code)
    of_variant = select(MediaAsset.id).join(variant, variant.asset_id == MediaAsset.id)
    yield of_variant.where(late, variant.dynamic.is_(False), *rows, *selection.of_assets())


def _requeueable(session: Session, selection: Selection) -> dict[str, Sequence[str]]:
    """Return the names of the selected variants by asset, for one asset more than the limit."""
    variant = MediaVariant
    where = [
        variant.state.in_((VariantState.FAILED, VariantState.CANCELLED)),
        variant.dynamic.is_(False),
        *selection.of_rows(variant, variant.error_code),
        *selection.of_assets(),
    ]
    assets = (
        select(variant.asset_id)
        .join(MediaAsset, MediaAsset.id == variant.asset_id)
        .where(*where)
        .distinct()
        .order_by(variant.asset_id)
        .limit(selection.limit + 1)
        .subquery()
    )
    pairs = session.execute(
        select(variant.asset_id, variant.name)
        .join(assets, assets.c.asset_id == variant.asset_id)
        .join(MediaAsset, MediaAsset.id == variant.asset_id)
        .where(*where)
        .order_by(variant.asset_id, variant.name)
    )
    found: dict[str, Sequence[str]] = {}
    for asset_id, name in pairs:
        found[asset_id] = [*found.get(asset_id, ()), name]
    return found
