"""Find what is stuck at streaming providers: the classes of ``runtime_status`` about their rows and webhooks."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, and_, func, or_, select

from rindle.db.models import MediaEvent, MediaProviderAsset
from rindle.db.providers import have_table
from rindle.operations.findings import Candidate, Inspection, OrphanSample, ProviderSample
from rindle.profile import DIRECT_CREATOR_UPLOAD
from rindle.security.redaction import redact_id
from rindle.states import ProviderState
from rindle.workflows import ids

#: How long a webhook without an asset is a finding, in seconds.
ORPHAN_SECONDS = 86_400


def at_providers(inspection: Inspection) -> list[Candidate]:
    """Return all findings about streaming providers; none before their table exists."""
    if not have_table(inspection.session):
        return []
    return [*_stuck(inspection), *_to_clean(inspection), *_orphans(inspection)]


def threshold_seconds(inspection: Inspection) -> int:
    """Return how long an asset may stay unchanged at its provider."""
    older_than = inspection.filters.older_than
    return inspection.settings.provider_stuck_seconds if older_than is None else older_than


def _stuck(inspection: Inspection) -> list[Candidate]:
    """Assets that have not changed at their provider for hours, if the report was requested to look for them."""
    if not inspection.filters.provider_stuck:
        return []
    row = MediaProviderAsset
    late = row.updated_at <= inspection.now - timedelta(seconds=threshold_seconds(inspection))
    # A browser may take days for an upload to the provider itself.
    has_bytes = or_(
        row.ingest_mode.is_(None), row.ingest_mode != DIRECT_CREATOR_UPLOAD, row.provider_asset_id.is_not(None)
    )
    is_open = row.state.in_((ProviderState.UPLOADING, ProviderState.PROCESSING))
    return _rows(inspection, "provider_stuck", and_(is_open, late, has_bytes), "no change at the provider")


def _to_clean(inspection: Inspection) -> list[Candidate]:
    """Rows that are deleted, and of which the provider may still have a copy."""
    row = MediaProviderAsset
    left = and_(
        row.state == ProviderState.DELETED, row.cleanup_pending.is_(True), row.updated_at <= inspection.cutoff()
    )
    return _rows(inspection, "provider_cleanup_pending", left, "still to be deleted at the provider")


def _rows(inspection: Inspection, name: str, condition: ColumnElement[bool], reason: str) -> list[Candidate]:
    row = MediaProviderAsset
    where = [condition, *_of_profile(inspection)]
    count, oldest = inspection.extent(select(func.count(), func.min(row.updated_at)).where(*where))
    if not count:
        return []
    found = inspection.session.scalars(
        select(row).where(*where).order_by(row.updated_at, row.id).limit(inspection.filters.limit)
    )
    return [Candidate(name, count, oldest, tuple(_sample(one, reason) for one in found))]


def _sample(row: MediaProviderAsset, reason: str) -> ProviderSample:
    return ProviderSample(
        asset_id=row.asset_id,
        provider_asset_id=redact_id(row.provider_asset_id),
        profile=row.profile,
        provider=row.provider_name,
        state=row.state,
        updated_at=row.updated_at,
        last_event_at=row.last_event_at,
        last_sync_error=row.last_sync_error,
        reason=reason,
    )


def _orphans(inspection: Inspection) -> list[Candidate]:
    """Webhooks of the last day that no row belonged to."""
    if inspection.filters.profile is not None:
        return []
    lately = inspection.now - timedelta(seconds=ORPHAN_SECONDS)
    where = [
        MediaEvent.type == "orphan_event",
        MediaEvent.occurred_at >= lately,
        MediaEvent.occurred_at <= inspection.cutoff(),
    ]
    count, oldest = inspection.extent(select(func.count(), func.min(MediaEvent.occurred_at)).where(*where))
    if not count:
        return []
    found = inspection.session.scalars(
        select(MediaEvent).where(*where).order_by(MediaEvent.occurred_at, MediaEvent.id).limit(inspection.filters.limit)
    )
    samples = tuple(
        OrphanSample(one.id, one.payload.get("provider"), one.payload.get("kind"), one.occurred_at) for one in found
    )
    return [Candidate("orphan_event", count, oldest, samples)]


def pushes(inspection: Inspection) -> list[Candidate]:
    """Return the oldest rows that a push works on now, at any age: their runs show what is retried."""
    if not have_table(inspection.session):
        return []
    row = MediaProviderAsset
    found: list[MediaProviderAsset] = []
    for state in (ProviderState.PENDING, ProviderState.UPLOADING, ProviderState.PROCESSING):
        statement = select(row).where(row.state == state, *_of_profile(inspection))
        found += inspection.session.scalars(statement.order_by(row.updated_at).limit(inspection.examined)).all()
    if not found:
        return []
    prefix = inspection.settings.workflow_id_prefix
    return [
        Candidate(
            "retrying",
            len(found),
            min(one.updated_at for one in found),
            samples=tuple(_sample(one, "") for one in found),
            runs=tuple(
                ids.provider_run_id(one.asset_id, one.provider_name, one.ingest_mode, prefix=prefix) for one in found
            ),
            since=tuple(one.updated_at for one in found),
        )
    ]


def _of_profile(inspection: Inspection) -> list[ColumnElement[bool]]:
    wanted = inspection.filters.profile
    return [] if wanted is None else [MediaProviderAsset.profile == wanted]
