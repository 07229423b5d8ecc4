"""Owner erasures that have not ended: find those without a run, explain one, start them again.

Reports name operations, never owners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, defer

from rindle import outbox
from rindle.db.erasures import PENDING, have_tables
from rindle.db.ids import id_of
from rindle.db.models import MediaAsset, MediaErasure, MediaErasureAsset, MediaOutbox, is_id, utc_now
from rindle.db.outbox import is_unsent
from rindle.errors import NotFound
from rindle.operations import schema
from rindle.operations.findings import Candidate, ErasureSample, Inspection
from rindle.operations.remedies import REMEDIES
from rindle.operations.reports import Report
from rindle.operations.runs import Described, WorkflowFacts, described_runs, names_of
from rindle.services import Services
from rindle.states import AssetState, OutboxState
from rindle.workflows import ids

#: Seconds without progress after which the run of an erasure is looked up.
ERASURE_SECONDS = 300
#: Rows of one page and transaction of a retry.
PAGE = 500
#: Assets that an explanation lists.
MAX_ASSETS = 20
#: Seconds a relay may take to send a row that is due.
_RELAY_SECONDS = 10


# --- finding -----------------------------------------------------------------------------------------------------


def erasure_stuck(inspection: Inspection, *, seconds: int = ERASURE_SECONDS) -> list[Candidate]:
    """Erasures that have not ended and made no progress; an open run explains one: it waits for purges."""
    if inspection.filters.profile is not None or not have_tables(inspection.session):
        return []  # an erasure has no profile
    where = [MediaErasure.completed_at.is_(None), MediaErasure.updated_at <= inspection.cutoff(seconds)]
    count, oldest = inspection.extent(select(func.count(), func.min(MediaErasure.updated_at)).where(*where))
    if not count:
        return []
    rows = inspection.session.scalars(
        select(MediaErasure)
        .options(defer(MediaErasure.report))
        .where(*where)
        .order_by(MediaErasure.updated_at, MediaErasure.id)
        .limit(inspection.examined)
    ).all()
    prefix = inspection.settings.workflow_id_prefix
    return [
        Candidate(
            "erasure_stuck",
            count,
            oldest,
            samples=tuple(ErasureSample(row.id, row.pending, row.detached_at, row.updated_at) for row in rows),
            runs=tuple(ids.erasure_id(row.id, prefix=prefix) for row in rows),
            since=tuple(row.updated_at for row in rows),
        )
    ]


def pending_erasures(inspection: Inspection) -> tuple[int, datetime | None]:
    """Return how many erasures have not ended, and the time of the oldest request among them."""
    if inspection.filters.profile is not None or not have_tables(inspection.session):
        return 0, None
    open_ones = MediaErasure.completed_at.is_(None)
    return inspection.extent(select(func.count(), func.min(MediaErasure.inserted_at)).where(open_ones))


# --- explaining --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ErasureFacts(Report):
    """The row of an operation; ``pending`` counts the purges that have not ended."""

    id: str
    pending: int
    inserted_at: datetime
    detached_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class WaitingAsset(Report):
    """An asset whose purge has not ended; ``state`` is ``None`` when its rows are gone."""

    asset_id: str
    profile: str
    state: str | None
    error_code: str | None


@dataclass(frozen=True, slots=True)
class ErasureDiagnosis(Report):
    """The condition in one sentence; ``command`` repairs it and is ``None`` when nothing needs repair."""

    summary: str
    command: str | None


@dataclass(frozen=True, slots=True)
class ErasureExplanation(Report):
    """What :func:`explain_erasure` returns; ``waiting_for`` lists some of the assets whose purge has not ended."""

    generated_at: datetime
    erasure: ErasureFacts
    waiting_for: tuple[WaitingAsset, ...]
    workflows: tuple[WorkflowFacts, ...]
    reachable: bool
    diagnosis: ErasureDiagnosis


@dataclass(frozen=True, slots=True)
class _Rows:
    erasure: MediaErasure
    waiting: tuple[WaitingAsset, ...]
    unsent: Sequence[MediaOutbox]
    workflow_id: str


async def explain_erasure(services: Services, operation_id: str | UUID) -> ErasureExplanation:
    """Explain the state of an owner erasure; changes nothing.

    Raises:
        NotFound: there is no erasure of this id.
        InvalidArgument: the id is neither text nor a ``UUID``.
        SetupIncomplete: the tables are not those of this release; the message has the command.
    """
    known = id_of("operation_id", operation_id)
    try:
        rows = await services.database.read(_read, known, services.settings.workflow_id_prefix)
    except SQLAlchemyError:
        await schema.explain_failure(services)
        raise
    found = await described_runs(services.temporal, [rows.workflow_id])
    summary, finding = _condition(services, rows, found)
    return ErasureExplanation(
        generated_at=utc_now(),
        erasure=ErasureFacts.of(rows.erasure),
        waiting_for=rows.waiting,
        workflows=() if found is None else found.workflows,
        reachable=found is not None,
        diagnosis=ErasureDiagnosis(summary, None if finding is None else REMEDIES[finding].surface(services.settings)),
    )


def _read(session: Session, operation_id: str, prefix: str) -> _Rows:
    without_report = [defer(MediaErasure.report)]  # megabytes, for an owner of many assets
    is_known = is_id(operation_id) and have_tables(session)
    erasure = session.get(MediaErasure, operation_id, options=without_report) if is_known else None
    if erasure is None:
        raise NotFound("no asset, upload session or erasure has this id", detail={"entity": "erasure"})
    waiting = session.execute(
        select(MediaErasureAsset.asset_id, MediaErasureAsset.profile, MediaAsset.state, MediaAsset.error_code)
        .outerjoin(MediaAsset, MediaAsset.id == MediaErasureAsset.asset_id)
        .where(MediaErasureAsset.erasure_id == erasure.id, MediaErasureAsset.outcome == PENDING)
        .order_by(MediaErasureAsset.asset_id)
        .limit(MAX_ASSETS)
    )
    workflow_id = ids.erasure_id(erasure.id, prefix=prefix)
    unsent = session.scalars(
        select(MediaOutbox).where(MediaOutbox.workflow_id == workflow_id, is_unsent()).order_by(MediaOutbox.id)
    ).all()
    return _Rows(erasure, tuple(WaitingAsset(*row) for row in waiting), unsent, workflow_id)


def _condition(services: Services, rows: _Rows, found: Described | None) -> tuple[str, str | None]:
    """Return the condition in one sentence, and the class of finding that has its command."""
    erasure = rows.erasure
    if erasure.completed_at is not None:
        return f"it has ended; its evidence: rindle erasure-certificate {erasure.id}", None
    if found is None:
        label = services.temporal.label
        summary = f"Temporal ({label}) does not answer, so it is unknown whether a run is active; start its server"
        return summary, "temporal_unreachable"
    if any(one.state == OutboxState.PARKED for one in rows.unsent):
        return "Temporal rejected the request to continue it as invalid", "outbox_parked"
    overdue = utc_now() - timedelta(seconds=_RELAY_SECONDS)
    if any(one.attempts or one.available_at < overdue for one in rows.unsent):
        return "Temporal has no request yet: no relay has sent the outbox row", "outbox_stalled"
    if found.unpolled:
        return f"its next step waits in the task queue {names_of(found.unpolled)}, which no worker polls", "no_worker"
    running = [one for one in found.workflows if one.is_running]
    if failing := [step for one in running for step in one.failing()]:
        worst = max(failing, key=lambda one: one.attempt)
        code = worst.last_failure_code or "unexpected"
        return f"{worst.type} failed ({code}) and is retried (attempt {worst.attempt}); fix the cause", "retrying"
    if not running:
        if rows.unsent:
            return "its run is requested", None
        begun = "its attachments are removed" if erasure.detached_at else "nothing was removed"
        return f"no run works on it; {begun}", "erasure_stuck"
    if erasure.detached_at is None:
        return "its attachments are being removed", None
    refused = [one for one in rows.waiting if one.state == AssetState.DELETED and one.error_code]
    if refused:
        summary = f"objects of {refused[0].asset_id} cannot be deleted ({refused[0].error_code}); fix the cause"
        return summary, "deletion_failing"
    return f"it waits for {erasure.pending} purges; while an upload ticket is valid, the rows of an asset stay", None


# --- retrying ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ErasureRetryReport(Report):
    """Number of erasures that have not ended, and of runs that were requested."""

    found: int
    started: int
    dry_run: bool


async def retry_erasures(services: Services, *, dry_run: bool = True) -> ErasureRetryReport:
    """Start the run of every erasure that has not ended; a running one is only signalled, and counts its purges.

    Pages of 500, each in a transaction of its own, so that a call can be interrupted and repeated. An erasure that was
    requested but has removed nothing begins.
    """
    found, after = 0, ""
    run = services.database.read if dry_run else services.database.write
    while True:

        def page(session: Session, after: str = after) -> list[str]:
            if not have_tables(session):
                return []
            statement: Any = select(MediaErasure.id).where(MediaErasure.completed_at.is_(None))
            if after:
                statement = statement.where(MediaErasure.id > after)
            operations = list(session.scalars(statement.order_by(MediaErasure.id).limit(PAGE)))
            for operation_id in () if dry_run else operations:
                outbox.wake_erasure(session, services.settings, operation_id)
            return operations

        operations = await run(page)
        found += len(operations)
        if len(operations) < PAGE:
            return ErasureRetryReport(found=found, started=0 if dry_run else found, dry_run=dry_run)
        after = operations[-1]
