"""Start lost purges again: those of deleted assets without an open run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import ClassVar

from sqlalchemy import or_, select
from sqlalchemy.orm import Session
from temporalio.client import Client
from temporalio.service import RPCError

from rindle import outbox
from rindle.db.models import MediaAsset, MediaOutbox
from rindle.db.outbox import in_state
from rindle.errors import TemporalUnavailable
from rindle.operations.maintenance.sweep import (
    PAGE,
    Page,
    Sweep,
    SweepOptions,
    SweepReport,
    SweepRun,
    for_each,
    run_here,
)
from rindle.operations.runs import describe_run
from rindle.services import Services
from rindle.states import AssetState, OutboxState
from rindle.workflows import ids

#: Seconds a deleted asset may wait for its purge before the purge counts as lost.
GRACE_SECONDS = 300

#: An asset, and its profile.
Tombstone = tuple[str, str]


class PurgeRetryOptions(SweepOptions):
    """Options of the sweep.

    Attributes:
        dry_run: only count the lost purges.
    """

    dry_run: bool = True


class PurgeRetryReport(SweepReport):
    """Numbers of deleted assets: all of them, those with an open run, and purges that were started.

    The purges of the others wait in the outbox; in a dry run none is started.
    """

    found: int = 0
    running: int = 0
    started: int = 0
    error_counters: ClassVar[tuple[str, ...]] = ()


class PurgeRetry(Sweep[PurgeRetryOptions, PurgeRetryReport]):
    """Starts the purge of every deleted asset that has no open run and no request in the outbox.

    Assets whose profile is not registered are left out: their store is unknown. The cursor is the id of an asset.
    """

    name = "purge-retry"
    title = "Retry of purges"
    options, report = PurgeRetryOptions, PurgeRetryReport

    async def page(self, run: SweepRun[PurgeRetryOptions], cursor: str) -> Page[PurgeRetryReport]:
        """Look up the runs of one page of deleted assets, and start the missing ones."""
        services, before = run.services, run.started_at - timedelta(seconds=GRACE_SECONDS)
        found = await services.database.read(_tombstones, cursor, before, services.profiles.names)
        if not found:
            return Page(PurgeRetryReport())
        running = await _running(services, found)
        lost = [one for one in found if one[0] not in running]
        started = 0
        if lost and not run.options.dry_run:
            started = await services.database.write(_start, services, lost)
        report = PurgeRetryReport(found=len(found), running=len(running), started=started)
        return Page(report, found[-1][0] if len(found) == PAGE else None)


async def purge_retry(services: Services, *, dry_run: bool = True) -> PurgeRetryReport:
    """Start lost purges in this process; only count them in a dry run, the default.

    Raises:
        TemporalUnavailable: the runs could not be looked up.
    """
    return (await run_here(services, PurgeRetry(), PurgeRetryOptions(dry_run=dry_run))).report


def _tombstones(session: Session, after: str, before: datetime, profiles: Sequence[str]) -> list[Tombstone]:
    statement = select(MediaAsset.id, MediaAsset.profile).where(
        MediaAsset.state == AssetState.DELETED, MediaAsset.updated_at <= before, MediaAsset.profile.in_(profiles)
    )
    if after:
        statement = statement.where(MediaAsset.id > after)
    rows = session.execute(statement.order_by(MediaAsset.id).limit(PAGE))
    return [(row.id, row.profile) for row in rows]


async def _running(services: Services, found: Sequence[Tombstone]) -> set[str]:
    """Return the assets whose purge has an open run.

    Raises:
        TemporalUnavailable: Temporal did not answer.
    """
    client, prefix = await services.temporal.client(), services.settings.workflow_id_prefix
    purges = [ids.purge_id(asset_id, prefix=prefix) for asset_id, _ in found]
    try:
        are_open = await for_each(purges, lambda purge: _is_open(client, purge))
    except RPCError as error:
        raise TemporalUnavailable(
            f"Temporal ({services.temporal.label}) did not answer: {error.status.name}; verify with: rindle doctor",
            retry_after=5,
        ) from error
    return {asset_id for (asset_id, _), is_open in zip(found, are_open, strict=True) if is_open}


async def _is_open(client: Client, workflow_id: str) -> bool:
    described = await describe_run(client, workflow_id)
    return described is not None and described.is_running


def _start(session: Session, services: Services, lost: Sequence[Tombstone]) -> int:
    """Write the requests that the outbox does not have yet; returns how many."""
    prefix = services.settings.workflow_id_prefix
    requested = {ids.purge_id(asset_id, prefix=prefix): (asset_id, profile) for asset_id, profile in lost}
    unsent = or_(in_state(OutboxState.PENDING), in_state(OutboxState.PARKED))
    for waiting in session.scalars(
        select(MediaOutbox.workflow_id).where(MediaOutbox.workflow_id.in_(list(requested)), unsent).distinct()
    ):
        del requested[waiting]
    outbox.start_purges(session, services.settings, requested.values())
    return len(requested)
