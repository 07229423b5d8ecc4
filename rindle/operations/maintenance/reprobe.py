"""Read the technical facts of one asset again and correct its row."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from rindle import telemetry
from rindle.db.assets import no_such_asset
from rindle.db.database import Database
from rindle.db.events import record_event
from rindle.db.ids import AssetOrId, id_of_asset
from rindle.db.models import MediaAsset, is_id
from rindle.db.transitions import lock_asset, set_fields
from rindle.errors import (
    InvalidTransition,
    MaintenanceRunning,
    NotSettled,
    ProbeFailed,
    Quarantined,
    RindleError,
    StateConflict,
)
from rindle.messages import MaintenanceResult, SweepFailure
from rindle.operations.maintenance import runs
from rindle.operations.maintenance.originals import Originals, ReadElsewhere
from rindle.operations.maintenance.sweep import Outcome, Page, Sweep, SweepOptions, SweepReport, SweepRun, run_here
from rindle.operations.reports import Report
from rindle.services import Services
from rindle.states import DELIVERABLE, AssetState

#: The columns that are rewritten, in the order of the report.
FIELDS = ("content_type", "kind", "width", "height", "duration_ms", "has_video_track", "has_audio_track")
#: Longest time in seconds that ``reprobe`` waits for a worker.
TIMEOUT_SECONDS = 300.0
#: How often an original is read at most because its row changes meanwhile, for example by a build that measures it.
_READS = 3


@dataclass(frozen=True, slots=True)
class ReprobeReport(Report):
    """Outcome of ``reprobe``; a probe that fails raises instead, and changes nothing.

    Attributes:
        refreshed_fields: columns that now have a value, in the order of :data:`FIELDS`.
        cleared_fields: columns that have none: they do not apply to this kind, or the file does not state them.
        updated_at: when the row was written.
    """

    asset_id: str
    attempted: int
    refreshed: int
    errors: int
    failures: tuple[Mapping[str, Any], ...]
    refreshed_fields: tuple[str, ...]
    cleared_fields: tuple[str, ...]
    content_type: str | None
    kind: str
    updated_at: datetime


class ReprobeOptions(SweepOptions):
    """The asset."""

    asset_id: str


class ReprobeCounts(SweepReport):
    """Numbers of assets: one."""

    attempted: int = 0
    refreshed: int = 0
    errors: int = 0


class Reprobe(Sweep[ReprobeOptions, ReprobeCounts]):
    """Reads one original again; the one page of a run that is named after the asset.

    It is a sweep because only workers have the programs that read media, confined.
    """

    name = "reprobe"
    title = "Reprobe"
    options, report = ReprobeOptions, ReprobeCounts

    def __init__(self, originals: Originals | None = None) -> None:
        self._originals: Originals = originals or ReadElsewhere()

    async def page(self, run: SweepRun[ReprobeOptions], cursor: str) -> Page[ReprobeCounts]:
        """Read the original and write its facts, again when the row has changed; a failure changes nothing."""
        asset_id = run.options.asset_id
        try:
            for left in reversed(range(_READS)):
                try:
                    await self._refreshed(run.services.database, asset_id)
                    break
                except StateConflict:
                    if left == 0:
                        raise
        except RindleError as error:
            failures = (SweepFailure(item=asset_id, code=error.code),)
            return Page(ReprobeCounts(attempted=1, errors=1), failures=failures)
        return Page(ReprobeCounts(attempted=1, refreshed=1))

    async def _refreshed(self, database: Database, asset_id: str) -> None:
        asset = await database.read(_readable, asset_id)
        facts = await self._originals.facts(asset)
        await database.write(_refresh, asset, facts)


async def reprobe(
    services: Services,
    asset: AssetOrId,
    *,
    wait_seconds: float = TIMEOUT_SECONDS,
    originals: Originals | None = None,
    on_silence: Callable[[], object] = lambda: None,
) -> ReprobeReport:
    """Let a worker read the technical facts of an asset again; see ``Rindle.reprobe``.

    Args:
        originals: reads them in this process instead, without Temporal.
        on_silence: called once when no worker polls the queue of sweeps.
    """
    asset_id = id_of_asset(asset)
    await services.database.read(_readable, asset_id)
    started = time.monotonic()
    facts = {"operation": "reprobe", "scope": "asset", "dry_run": False}
    telemetry.emit("rindle.repair.start", {**facts, "result": "started"})
    options = ReprobeOptions(asset_id=asset_id)
    try:
        if originals is not None:
            outcome = await run_here(services, Reprobe(originals), options)
        else:
            outcome = await _by_a_worker(services, options, wait_seconds, on_silence)
    except Exception:
        telemetry.emit("rindle.repair.exception", {**facts, "result": "exception"}, _took(started))
        raise
    counts = outcome.report
    result = "error" if counts.errors else "ok"
    telemetry.emit("rindle.repair.stop", {**facts, "result": result}, {**_took(started), **counts.to_dict()})
    if outcome.failures:
        raise _failed(outcome.failures[0].code)
    return await services.database.read(_report, asset_id)


async def _by_a_worker(
    services: Services, options: ReprobeOptions, wait_seconds: float, on_silence: Callable[[], object]
) -> Outcome[ReprobeCounts]:
    """Run the sweep as a workflow of its own for the asset, or follow the one that runs already."""
    sweep = Reprobe()
    try:
        handle = await runs.start(services, sweep, options, row_id=options.asset_id)
    except MaintenanceRunning as running:
        client = await services.temporal.client()
        handle = client.get_workflow_handle(
            running.detail["workflow_id"], run_id=running.detail["run_id"], result_type=MaintenanceResult
        )
    try:
        async with asyncio.timeout(wait_seconds):
            return await runs.follow(services, handle, sweep, on_silence=on_silence)
    except TimeoutError as error:
        raise NotSettled(
            f"the asset was not read within {wait_seconds:g} seconds; it is read when a worker of the queue "
            f"{services.settings.maintenance_queue} is free: {handle.id}. Verify with: rindle doctor --only "
            "temporal.pollers",
            detail={"asset_id": options.asset_id, "workflow_id": handle.id},
        ) from error


def _failed(code: str) -> ProbeFailed:
    return ProbeFailed(
        f"the original could not be read ({code}); the facts of the asset did not change", detail={"reason": code}
    )


def _took(started: float) -> dict[str, float]:
    return {"duration_us": (time.monotonic() - started) * 1e6}


def _readable(session: Session, asset_id: str) -> MediaAsset:
    """Return an asset whose original may be read again.

    Raises:
        NotFound: there is none.
        Quarantined: its content was rejected, so that no decoder opens it.
        InvalidTransition: its validation has not ended, which reads the facts itself.
    """
    asset = session.get(MediaAsset, asset_id, populate_existing=True) if is_id(asset_id) else None
    if asset is None or asset.state == AssetState.DELETED:
        raise no_such_asset()
    if asset.state == AssetState.QUARANTINED:
        raise Quarantined(
            "the content of the asset was rejected and is not read again; see rindle release-quarantine",
            detail={"asset_id": asset_id, "reason": asset.error_code},
        )
    if AssetState(asset.state) not in DELIVERABLE:
        raise InvalidTransition(
            f"the asset is {asset.state}; its facts are read when its validation ends",
            detail={"entity": "MediaAsset", "from": asset.state, "to": asset.state},
        )
    return asset


def _refresh(session: Session, read: MediaAsset, facts: Mapping[str, Any]) -> None:
    """Write the facts of the bytes that were read.

    Raises:
        StateConflict: the asset has other bytes or other facts by now. A build may have measured the duration, which
            the header of the file states wrongly.
    """
    asset = lock_asset(session, read.id)
    if (
        asset is None
        or AssetState(asset.state) not in DELIVERABLE
        or any(getattr(asset, name) != getattr(read, name) for name in ("storage_key", "stored_etag", *FIELDS))
    ):
        raise StateConflict("the asset changed while it was read", detail={"entity": "asset"})
    changed = [name for name in FIELDS if getattr(asset, name) != facts[name]]
    set_fields(session, asset, **{name: facts[name] for name in FIELDS})
    record_event(
        session,
        "asset.reprobed",
        scope=("asset", asset.id),
        payload={"asset_id": asset.id, "changed": changed},
        asset_id=asset.id,
        profile=asset.profile,
        audit=True,
    )


def _report(session: Session, asset_id: str) -> ReprobeReport:
    asset = _readable(session, asset_id)
    return ReprobeReport(
        asset_id=asset.id,
        attempted=1,
        refreshed=1,
        errors=0,
        failures=(),
        refreshed_fields=tuple(name for name in FIELDS if getattr(asset, name) is not None),
        cleared_fields=tuple(name for name in FIELDS if getattr(asset, name) is None),
        content_type=asset.content_type,
        kind=asset.kind,
        updated_at=asset.updated_at,
    )
