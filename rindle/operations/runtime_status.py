"""What is stuck or degraded right now, and which command repairs it. Read-only and bounded.

Counts go over indexed states, to an end, and findings are aggregates with at most ``limit`` samples, so the cost grows
neither with the library nor with what is asked for. Rows say since when something stands still; Temporal is asked only
whether somebody still works on it, within a few seconds and about the oldest.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, inspect, literal, or_, select, text, union_all
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from rindle import messages
from rindle.db import migrate
from rindle.db import outbox as outbox_rows
from rindle.db.models import TABLES, MediaAsset, MediaOutbox, MediaUploadSession, MediaVariant, utc_now
from rindle.db.variants import group_of
from rindle.errors import InspectionFailed, InvalidFilter, SetupIncomplete, TemporalUnavailable, UnknownFilters
from rindle.instants import iso_instant
from rindle.services import Services
from rindle.settings import Settings
from rindle.states import (
    ENDED_SESSIONS,
    AssetState,
    OutboxState,
    OutputKind,
    SessionState,
    VariantState,
)
from rindle.temporal_client import TemporalConnection
from rindle.workflows import ids

#: Samples per finding, and the most that may be asked for.
DEFAULT_LIMIT, MAX_LIMIT = 5, 100
#: Seconds a row may stand in a state that a run should be working on before it is suspected.
PROMOTION_SECONDS, QUEUED_SECONDS, IMAGE_SECONDS, AV_SECONDS = 300, 300, 900, 1200
#: Seconds past its expiry after which a live session, and past its end after which what it left, is overdue.
SESSION_SECONDS = 300
#: Seconds a tombstone may wait for its purge, and an outbox row for a relay.
PURGE_SECONDS, OUTBOX_SECONDS = 3600, 60
#: Rows of one state that are counted one by one; what is more than that is an estimate of Postgres.
EXACT_ROWS = 10_000
#: Runs looked at one by one: of one class (or ``limit``, when that is more), in all, and how many at once.
CLASS_DESCRIBED, MAX_DESCRIBED, DESCRIBED_AT_ONCE = 10, 200, 20
#: Seconds for everything that is asked of Temporal.
TEMPORAL_SECONDS = 5.0

_PROMOTING = (AssetState.VALIDATING, AssetState.ANALYZING, AssetState.PROMOTING)
_LIVE_SESSIONS = tuple(sorted(set(SessionState) - ENDED_SESSIONS))
_RESIDUAL_SESSIONS = (SessionState.ABORTED, SessionState.EXPIRED, SessionState.FAILED)
_FORMATS = ("text", "json")

#: What each class of finding means and what an operator does about it: ``(action, command, summary)``.
REMEDIES: Mapping[str, tuple[str, str, str]] = {
    "cancelled_work": ("requeue", "rindle requeue ASSET", "builds were cancelled and stay so until they are requeued"),
    "failed_work": ("requeue", "rindle requeue ASSET", "builds failed for good; mend the cause, then requeue"),
    "orphan_suspect": ("resume", "rindle resume ASSET", "builds look busy, but no run works on them"),
    "outbox_parked": ("drain", "rindle outbox drain", "Temporal refused these rows as invalid; drain tries them again"),
    "outbox_stalled": ("drain", "rindle outbox drain", "no relay has sent these rows; start a worker or drain by hand"),
    "purge_stuck": ("purge", "rindle purge --retry --execute", "deleted assets still have rows and maybe objects"),
    "queue_starved": ("resume", "rindle resume ASSET", "builds wait, but no run is there to take them"),
    "recipe_drift": ("regenerate", "rindle regenerate-variants", "variants were built from an older recipe"),
    "session_overdue": ("resume", "rindle resume ASSET", "uploads are past their expiry and nobody has ended them"),
    "session_residue": ("resume", "rindle resume ASSET", "ended uploads may have left bytes in the store"),
    "storage_drift": ("regenerate", "rindle regenerate-variants", "objects of variants are gone from the store"),
    "stuck_promotion": ("resume", "rindle resume ASSET", "judging the upload gave up; mend the cause, then resume"),
    "workflow_missing": ("resume", "rindle resume ASSET", "uploads wait for judgement, but no run is there to do it"),
}

#: Variant states that are findings by themselves, however old.
_VARIANT_CLASSES = {
    VariantState.CANCELLED: "cancelled_work",
    VariantState.FAILED: "failed_work",
    VariantState.MISSING: "storage_drift",
    VariantState.STALE: "recipe_drift",
}


@dataclass(frozen=True, slots=True)
class _Filters:
    profile: str | None = None
    older_than: int | None = None
    limit: int = DEFAULT_LIMIT
    format: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"profile": self.profile, "older_than": self.older_than, "limit": self.limit, "format": self.format}


@dataclass(slots=True)
class _Finding:
    """One class: how many, since when, and samples with the oldest first.

    ``runs`` maps a sample's position to the run that should be working on it; a running one clears the sample.
    """

    name: str
    count: int
    oldest: datetime | None
    samples: list[dict[str, Any]]
    runs: list[str] = field(default_factory=list)
    ages: list[datetime] = field(default_factory=list)
    state: str | None = None
    unverified: bool = False

    def to_dict(self, now: datetime, limit: int) -> dict[str, Any]:
        found: dict[str, Any] = {"class": self.name}
        if self.state is not None:
            found["state"] = self.state
        found |= {"count": self.count, "oldest_age_seconds": _age(now, self.oldest), "samples": self.samples[:limit]}
        if self.unverified:
            found["reason"] = "unverified"
        return found


@dataclass(slots=True)
class _Seen:
    """What the database says."""

    assets: tuple[dict[str, int], list[str]]
    variants: tuple[dict[str, int], list[str]]
    sessions: tuple[dict[str, int], list[str]]
    backlog: outbox_rows.OutboxBacklog
    purges: tuple[int, datetime | None]
    runtime: list[_Finding]
    variant_findings: list[_Finding]
    session_findings: list[_Finding]
    purge_findings: list[_Finding]

    def suspects(self) -> list[_Finding]:
        """Return the findings that a running workflow would explain."""
        listed = (*self.runtime, *self.variant_findings, *self.session_findings, *self.purge_findings)
        return [finding for finding in listed if finding.runs]


@dataclass(slots=True)
class _Temporal:
    """What Temporal says; of the suspects' runs that were ``asked`` about those are ``alive`` that are running."""

    reachable: bool = False
    running: dict[str, int] = field(default_factory=dict)
    asked: frozenset[str] = frozenset()
    alive: frozenset[str] = frozenset()
    verified: bool = False
    truncated: bool = False


async def runtime_status(services: Services, temporal: TemporalConnection, **filters: Any) -> dict[str, Any]:
    """Report what is stuck or degraded; changes nothing.

    Args:
        profile: name of a registered profile; all when left out. The outbox is not filtered: its rows have no profile.
        older_than: findings only of what has not changed for so many seconds (int >= 0); counts ignore it.
        limit: samples per finding, 1 to 100; 5 by default.
        format: ``text`` or ``json``; only repeated in the answer.

    Returns:
        ``generated_at``, ``filters``, ``runtime_checks``, ``assets``, ``variants``, ``upload_sessions``, ``outbox``,
        ``purges``, ``temporal`` and ``recommendations``. A finding is ``{class, count, oldest_age_seconds, samples}``;
        findings are ordered by class, samples by age (oldest first), then id. States nobody is in are left out,
        ``total`` never is. With Temporal away the answer is the same but ``temporal.verified`` is false, and findings
        that a running workflow might explain say ``reason: unverified``. With ``temporal.truncated`` only the oldest
        suspects of a class were asked about, and its count is projected from them. On Postgres a state with more than
        10 000 rows is estimated, and listed under ``estimated`` beside the counts.

    Raises:
        UnknownFilters: a filter is not known; ignoring it would match everything.
        InvalidFilter: a filter has a wrong value (``invalid_profile``, ``invalid_older_than``, ``invalid_limit``,
            ``invalid_format``).
        SetupIncomplete: tables or migrations are missing; nothing was counted.
        InspectionFailed: the database could not be read.
    """
    wanted = _filters(services, filters)
    now = utc_now()
    try:
        seen = await services.database.read(_look, services.settings, wanted, now)
    except (SQLAlchemyError, OSError) as error:
        raise InspectionFailed(
            f"the database could not be read ({type(error).__name__}). To fix: 1. see whether it is up; "
            "2. verify with: rindle doctor",
            detail={"component": "database"},
        ) from error
    heard = await _ask(temporal, services.settings, seen.suspects())
    for finding in seen.suspects():
        _clear(finding, heard)
    return _report(seen, heard, wanted, now)


# --- filters -------------------------------------------------------------------------------------------------------


def _filters(services: Services, given: Mapping[str, Any]) -> _Filters:
    known = tuple(_Filters.__dataclass_fields__)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UnknownFilters(
            f"runtime_status knows no filter {', '.join(unknown)}; it knows {', '.join(known)}",
            detail={"filters": unknown, "known": list(known)},
        )
    filters = _Filters(**{name: value for name, value in given.items() if value is not None})
    names = services.profiles.names
    if filters.profile is not None and filters.profile not in names:
        raise _invalid("profile", filters.profile, f"one of {', '.join(names) or 'none'}")
    if filters.older_than is not None and not (_is_int(filters.older_than) and filters.older_than >= 0):
        raise _invalid("older_than", filters.older_than, "an integer of seconds, 0 or more")
    if not (_is_int(filters.limit) and 1 <= filters.limit <= MAX_LIMIT):
        raise _invalid("limit", filters.limit, f"an integer from 1 to {MAX_LIMIT}")
    if filters.format is not None and filters.format not in _FORMATS:
        raise _invalid("format", filters.format, " or ".join(_FORMATS))
    return filters


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _invalid(name: str, value: Any, wanted: str) -> InvalidFilter:
    return InvalidFilter(
        f"the filter {name} is {str(value)[:64]!r}, not {wanted}", code=f"invalid_{name}", detail={"filter": name}
    )


# --- the database --------------------------------------------------------------------------------------------------


def _look(session: Session, settings: Settings, filters: _Filters, now: datetime) -> _Seen:
    """Read everything in one read-only transaction."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SET TRANSACTION READ ONLY"))
        session.execute(text("SET LOCAL statement_timeout = '10s'"))
    _refuse_incomplete(session)
    return _Seen(
        assets=_counts(session, AssetState, MediaAsset.state, filters),
        variants=_counts(session, VariantState, MediaVariant.state, filters),
        sessions=_counts(session, SessionState, MediaUploadSession.state, filters),
        backlog=outbox_rows.backlog(session),
        purges=_tombstones(session, filters),
        runtime=[*_promotions(session, settings, filters, now), *_outbox(session, filters, now)],
        variant_findings=_variants(session, settings, filters, now),
        session_findings=_sessions(session, settings, filters, now),
        purge_findings=_purges(session, settings, filters, now),
    )


def _refuse_incomplete(session: Session) -> None:
    connection = session.connection()
    tables = set(inspect(connection).get_table_names())
    found = migrate.current(connection) if migrate.VERSION_TABLE in tables else None
    if found != migrate.head() or not tables.issuperset(TABLES):
        raise SetupIncomplete(
            "Rindle's tables are missing or not at this release's migration. To fix: 1. rindle db upgrade; "
            "2. verify with: rindle doctor",
            detail={"component": "rindle_tables", "found": found, "needed": migrate.head()},
        )


def _counts(
    session: Session, states: type[StrEnum], state: InstrumentedAttribute[str], filters: _Filters
) -> tuple[dict[str, int], list[str]]:
    """Count rows by state; returns the counts and the states whose count is the planner's estimate.

    Counting a million finished rows takes longer than everything else here together and tells an operator nothing, so
    Postgres counts at most :data:`EXACT_ROWS` per state through the index. SQLite, which has no estimates, counts all.
    """

    def rows_in(value: str) -> Select[Any]:
        of_state = select(literal(1)).select_from(state.class_).where(state == value)
        if filters.profile is None:
            return of_state
        if state.class_ is not MediaAsset:
            of_state = of_state.join(MediaAsset, MediaAsset.id == state.class_.asset_id)
        return of_state.where(MediaAsset.profile == filters.profile)

    limit = EXACT_ROWS + 1 if session.get_bind().dialect.name == "postgresql" else None
    counted = union_all(
        *(select(literal(one.value), func.count()).select_from(rows_in(one).limit(limit).subquery()) for one in states)
    )
    found = {value: count for value, count in session.execute(counted) if count}
    estimated = sorted(value for value, count in found.items() if limit is not None and count >= limit)
    for value in estimated:
        found[value] = max(found[value], _estimate(session, rows_in(value)))
    return {**dict(sorted(found.items())), "total": sum(found.values())}, estimated


def _estimate(session: Session, statement: Select[Any]) -> int:
    """Return how many rows Postgres expects of a query, from its statistics."""
    connection = session.connection()
    asked = statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {asked}").scalar_one()
    return int(plan[0]["Plan"]["Plan Rows"])


def _cutoff(filters: _Filters, now: datetime, at_least_seconds: int = 0) -> datetime:
    """Return the newest change a finding may have: ``older_than`` never loosens a threshold."""
    return now - timedelta(seconds=max(filters.older_than or 0, at_least_seconds))


def _examined(filters: _Filters) -> int:
    """Return how many suspects of a class are read, oldest first, to be asked about."""
    return max(filters.limit, CLASS_DESCRIBED)


def _of_profile(filters: _Filters) -> list[ColumnElement[bool]]:
    return [] if filters.profile is None else [MediaAsset.profile == filters.profile]


def _promotions(session: Session, settings: Settings, filters: _Filters, now: datetime) -> list[_Finding]:
    """Uploads between arrival and judgement: given up, or with nobody working on them."""
    gave_up = and_(MediaAsset.error_code.is_not(None), MediaAsset.updated_at <= _cutoff(filters, now))
    silent = and_(MediaAsset.error_code.is_(None), MediaAsset.updated_at <= _cutoff(filters, now, PROMOTION_SECONDS))
    found = []
    for name, condition, suspected in (("stuck_promotion", gave_up, False), ("workflow_missing", silent, True)):
        where = [MediaAsset.state.in_(_PROMOTING), condition, *_of_profile(filters)]
        count, oldest = _extent(session, select(func.count(), func.min(MediaAsset.updated_at)).where(*where))
        if not count:
            continue
        rows = session.execute(
            select(MediaAsset, MediaUploadSession.id)
            .outerjoin(MediaUploadSession, MediaUploadSession.asset_id == MediaAsset.id)
            .where(*where)
            .order_by(MediaAsset.updated_at, MediaAsset.id)
            .limit(_examined(filters) if suspected else filters.limit)
        )
        finding = _Finding(name, count, oldest, [])
        for asset, session_id in rows:
            finding.samples.append(_asset_sample(asset))
            if suspected:
                finding.runs.append(ids.upload_id(session_id or "", prefix=settings.workflow_id_prefix))
                finding.ages.append(asset.updated_at)
        found.append(finding)
    return found


def _outbox(session: Session, filters: _Filters, now: datetime) -> list[_Finding]:
    """Rows Temporal has not been told: refused by it, or sent by nobody."""
    parked = and_(MediaOutbox.state == OutboxState.PARKED, MediaOutbox.updated_at <= _cutoff(filters, now))
    # A claimed row is put off for 30 s, so a row that is merely being sent is never due for so long.
    due = _cutoff(filters, now, OUTBOX_SECONDS)
    stalled = and_(
        MediaOutbox.state == OutboxState.PENDING,
        MediaOutbox.inserted_at <= due,
        or_(MediaOutbox.available_at <= due, MediaOutbox.attempts > 0),
    )
    found = []
    for name, condition in (("outbox_parked", parked), ("outbox_stalled", stalled)):
        count, oldest = _extent(session, select(func.count(), func.min(MediaOutbox.inserted_at)).where(condition))
        if not count:
            continue
        rows = session.scalars(
            select(MediaOutbox).where(condition).order_by(MediaOutbox.inserted_at, MediaOutbox.id).limit(filters.limit)
        )
        samples = [
            {
                "outbox_id": row.id,
                "workflow_id": row.workflow_id,
                "attempts": row.attempts,
                "last_error": row.last_error,
            }
            for row in rows
        ]
        found.append(_Finding(name, count, oldest, samples))
    return found


def _variants(session: Session, settings: Settings, filters: _Filters, now: datetime) -> list[_Finding]:
    """Variants that stay as they are until somebody acts, and those that nobody seems to build."""
    image = MediaVariant.output_kind == OutputKind.IMAGE
    classes: list[tuple[str, ColumnElement[bool], bool]] = [
        (name, and_(MediaVariant.state == state, MediaVariant.updated_at <= _cutoff(filters, now)), False)
        for state, name in _VARIANT_CLASSES.items()
    ]
    queued = _cutoff(filters, now, QUEUED_SECONDS)
    waiting = and_(MediaVariant.state == VariantState.QUEUED, MediaVariant.updated_at <= queued)
    lost = and_(
        MediaVariant.state == VariantState.PROCESSING,
        or_(
            and_(image, MediaVariant.updated_at <= _cutoff(filters, now, IMAGE_SECONDS)),
            and_(~image, MediaVariant.updated_at <= _cutoff(filters, now, AV_SECONDS)),
        ),
    )
    classes += [("queue_starved", waiting, True), ("orphan_suspect", lost, True)]
    found = []
    for name, condition, suspected in classes:
        where = [condition, MediaVariant.dynamic.is_(False), *_of_profile(filters)]
        extent = select(func.count(), func.min(MediaVariant.updated_at)).select_from(MediaVariant).where(*where)
        if filters.profile is not None:
            extent = extent.join(MediaAsset, MediaAsset.id == MediaVariant.asset_id)
        count, oldest = _extent(session, extent)
        if not count:
            continue
        rows = session.execute(
            select(MediaVariant, MediaAsset.kind, MediaAsset.profile)
            .join(MediaAsset, MediaAsset.id == MediaVariant.asset_id)
            .where(*where)
            .order_by(MediaVariant.updated_at, MediaVariant.id)
            .limit(_examined(filters) if suspected else filters.limit)
        )
        finding = _Finding(name, count, oldest, [])
        for variant, kind, profile in rows:
            finding.samples.append(_variant_sample(variant, profile))
            if suspected:
                group = group_of(kind, variant)
                finding.runs.append(ids.variants_id(variant.asset_id, group, prefix=settings.workflow_id_prefix))
                finding.ages.append(variant.updated_at)
        found.append(finding)
    return found


def _sessions(session: Session, settings: Settings, filters: _Filters, now: datetime) -> list[_Finding]:
    """Sessions nobody ended in time, and ended ones whose bytes nobody has released."""
    late = _cutoff(filters, now, SESSION_SECONDS)
    overdue = and_(MediaUploadSession.state.in_(_LIVE_SESSIONS), MediaUploadSession.expires_at <= late)
    classes: list[tuple[str, str, ColumnElement[bool], InstrumentedAttribute[datetime]]] = [
        ("session_overdue", "open", overdue, MediaUploadSession.expires_at)
    ]
    classes += [
        (
            "session_residue",
            state.value,
            and_(
                MediaUploadSession.state == state,
                MediaUploadSession.backing_released_at.is_(None),
                MediaUploadSession.updated_at <= late,
            ),
            MediaUploadSession.updated_at,
        )
        for state in _RESIDUAL_SESSIONS
    ]
    found = []
    for name, state, condition, since in classes:
        where = [condition, *_of_profile(filters)]
        extent = select(func.count(), func.min(since)).select_from(MediaUploadSession).where(*where)
        if filters.profile is not None:
            extent = extent.join(MediaAsset, MediaAsset.id == MediaUploadSession.asset_id)
        count, oldest = _extent(session, extent)
        if not count:
            continue
        statement = (
            select(MediaUploadSession).where(*where).order_by(since, MediaUploadSession.id).limit(_examined(filters))
        )
        if filters.profile is not None:
            statement = statement.join(MediaAsset, MediaAsset.id == MediaUploadSession.asset_id)
        finding = _Finding(name, count, oldest, [], state=state)
        for row in session.scalars(statement):
            finding.samples.append(
                {
                    "session_id": row.id,
                    "asset_id": row.asset_id,
                    "state": row.state,
                    "failure_reason": row.failure_reason,
                }
            )
            finding.runs.append(ids.upload_id(row.id, prefix=settings.workflow_id_prefix))
            finding.ages.append(row.expires_at if since is MediaUploadSession.expires_at else row.updated_at)
        found.append(finding)
    return found


def _tombstones(session: Session, filters: _Filters) -> tuple[int, datetime | None]:
    statement = select(func.count(), func.min(MediaAsset.updated_at)).where(
        MediaAsset.state == AssetState.DELETED, *_of_profile(filters)
    )
    return _extent(session, statement)


def _purges(session: Session, settings: Settings, filters: _Filters, now: datetime) -> list[_Finding]:
    """Tombstones whose purge should long be over; one that still retries a failing store is stuck all the same."""
    where = [
        MediaAsset.state == AssetState.DELETED,
        MediaAsset.updated_at <= _cutoff(filters, now, PURGE_SECONDS),
        *_of_profile(filters),
    ]
    count, oldest = _extent(session, select(func.count(), func.min(MediaAsset.updated_at)).where(*where))
    if not count:
        return []
    rows = session.scalars(
        select(MediaAsset).where(*where).order_by(MediaAsset.updated_at, MediaAsset.id).limit(filters.limit)
    )
    return [_Finding("purge_stuck", count, oldest, [_asset_sample(asset) for asset in rows])]


def _extent(session: Session, statement: Any) -> tuple[int, datetime | None]:
    count, oldest = session.execute(statement).one()
    return count, oldest


def _asset_sample(asset: MediaAsset) -> dict[str, Any]:
    return {
        "asset_id": asset.id,
        "profile": asset.profile,
        "state": asset.state,
        "error_code": asset.error_code,
        "updated_at": iso_instant(asset.updated_at),
    }


def _variant_sample(variant: MediaVariant, profile: str) -> dict[str, Any]:
    return {
        "variant_id": variant.id,
        "asset_id": variant.asset_id,
        "variant_name": variant.name,
        "profile": profile,
        "state": variant.state,
        "attempts": variant.attempts,
        "error_code": variant.error_code,
        "updated_at": iso_instant(variant.updated_at),
    }


# --- Temporal ------------------------------------------------------------------------------------------------------


async def _ask(temporal: TemporalConnection, settings: Settings, suspects: Sequence[_Finding]) -> _Temporal:
    """Ask Temporal how much is running and whether the suspects' runs are; always answers, within its budget."""
    heard = _Temporal()
    wanted = list(dict.fromkeys(run for finding in suspects for run in finding.runs))
    try:
        async with asyncio.timeout(TEMPORAL_SECONDS):
            client = await temporal.client()
            heard.running = await _running(client, settings)
            heard.reachable = True
            heard.truncated = len(wanted) > MAX_DESCRIBED or any(one.count > len(one.runs) for one in suspects)
            heard.asked = frozenset(wanted[:MAX_DESCRIBED])
            heard.alive = await _alive(client, heard.asked)
            heard.verified = True
    except (TemporalUnavailable, RPCError, TimeoutError):
        pass  # the report says so: reachable and verified stay false
    return heard


async def _running(client: Client, settings: Settings) -> dict[str, int]:
    """Count the open runs of each kind. Visibility lags behind, so this is for the eye and decides nothing."""
    kinds = {
        "upload": (messages.UPLOAD_WORKFLOW, ids.upload_id("", prefix=settings.workflow_id_prefix)),
        "variants": (messages.VARIANT_WORKFLOW, f"{settings.workflow_id_prefix}-variants:"),
        "purge": (messages.PURGE_WORKFLOW, ids.purge_id("", prefix=settings.workflow_id_prefix)),
    }

    async def count(workflow_type: str, prefix: str) -> int:
        ours = f"WorkflowType = '{workflow_type}' AND WorkflowId STARTS_WITH '{prefix}'"
        return (await client.count_workflows(f"ExecutionStatus = 'Running' AND {ours}")).count

    counted = await asyncio.gather(*(count(*facts) for facts in kinds.values()))
    return dict(zip(kinds, counted, strict=True))


async def _alive(client: Client, workflow_ids: Collection[str]) -> frozenset[str]:
    slots = asyncio.Semaphore(DESCRIBED_AT_ONCE)

    async def look(workflow_id: str) -> str | None:
        async with slots:
            try:
                described = await client.get_workflow_handle(workflow_id).describe()
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return None
                raise
            return workflow_id if described.status is WorkflowExecutionStatus.RUNNING else None

    looked = await asyncio.gather(*(look(workflow_id) for workflow_id in workflow_ids))
    return frozenset(workflow_id for workflow_id in looked if workflow_id is not None)


def _clear(finding: _Finding, heard: _Temporal) -> None:
    """Take out of a finding what a running workflow is still working on."""
    if not heard.verified:
        finding.unverified = True
        return
    # The runs that were asked about stand for the rest: under load thousands wait, and all of them have a run.
    asked = [index for index, run in enumerate(finding.runs) if run in heard.asked]
    kept = [index for index in asked if finding.runs[index] not in heard.alive]
    finding.count = math.ceil(finding.count * len(kept) / len(asked)) if asked else 0
    finding.samples = [finding.samples[index] for index in kept]
    if kept:
        finding.oldest = finding.ages[kept[0]]


# --- the answer ----------------------------------------------------------------------------------------------------


def _report(seen: _Seen, heard: _Temporal, filters: _Filters, now: datetime) -> dict[str, Any]:
    def listed(findings: Iterable[_Finding]) -> list[dict[str, Any]]:
        left = sorted((one for one in findings if one.count > 0), key=lambda one: (one.name, one.state or ""))
        return [finding.to_dict(now, filters.limit) for finding in left]

    runtime, variants = listed(seen.runtime), listed(seen.variant_findings)
    sessions, purges = listed(seen.session_findings), listed(seen.purge_findings)
    found = sorted({finding["class"] for finding in (*runtime, *variants, *sessions, *purges)})
    pending, oldest = seen.purges
    return {
        "generated_at": iso_instant(now),
        "filters": filters.to_dict(),
        "runtime_checks": {"counts": {one["class"]: one["count"] for one in runtime}, "findings": runtime},
        "assets": _counted(seen.assets),
        "variants": {**_counted(seen.variants), "findings": variants},
        "upload_sessions": {**_counted(seen.sessions), "findings": sessions},
        "outbox": {
            "pending": seen.backlog.pending,
            "parked": seen.backlog.parked,
            "oldest_age_seconds": int(seen.backlog.oldest_age_seconds),
        },
        "purges": {"pending": pending, "oldest_age_seconds": _age(now, oldest), "findings": purges},
        "temporal": {
            "reachable": heard.reachable,
            "running": heard.running,
            "verified": heard.verified,
            "truncated": heard.truncated,
        },
        "recommendations": [
            dict(zip(("class", "action", "surface", "summary"), (name, *REMEDIES[name]), strict=True)) for name in found
        ],
    }


def _counted(counts: tuple[dict[str, int], list[str]]) -> dict[str, Any]:
    exact, estimated = counts
    return {"counts": exact, "estimated": estimated} if estimated else {"counts": exact}


def _age(now: datetime, since: datetime | None) -> int:
    return 0 if since is None else max(0, int((now - since).total_seconds()))
