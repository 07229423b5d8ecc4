"""Report stuck or degraded work and the commands that repair it. Read-only and bounded.

Counts use the index on the state up to a limit, and findings are aggregates with at most ``limit`` samples, so the cost
does not grow with the number of assets. Rows show how long something has been stuck (:mod:`.findings`); Temporal is
only queried whether a run still works on the oldest suspects, within a few seconds.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack, cast

from sqlalchemy import Select, func, literal, select, text, union_all
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session
from temporalio.client import Client
from temporalio.service import RPCError

from rindle import messages, telemetry
from rindle.db import outbox as outbox_rows
from rindle.db.models import MediaAsset, MediaProviderAsset, MediaUploadSession, MediaVariant, utc_now
from rindle.db.providers import have_table
from rindle.errors import (
    InspectionFailed,
    InvalidFilter,
    RindleError,
    TemporalUnavailable,
    UnknownFilters,
)
from rindle.operations import erasures, findings, lost_runs, provider_findings, runs, schema
from rindle.operations.findings import (
    DEFAULT_LIMIT,
    Candidate,
    Filters,
    Finding,
    Inspection,
    QueueSample,
    RetrySample,
)
from rindle.operations.keywords import NoOthers
from rindle.operations.lost_runs import OpenRun
from rindle.operations.remedies import REMEDIES
from rindle.operations.reports import Report
from rindle.operations.runs import QueueFacts, WorkflowFacts
from rindle.services import Services
from rindle.settings import Settings
from rindle.states import AssetState, ProviderState, SessionState, VariantState
from rindle.workflows import ids

#: Largest number of samples per finding.
MAX_LIMIT = 100
#: Rows of one state that are counted exactly; a larger count is an estimate of Postgres.
EXACT_ROWS = 10_000
#: Runs that are looked up in Temporal in all, and concurrently.
MAX_DESCRIBED, DESCRIBED_AT_ONCE = 200, 20
#: Seconds a task may wait in a queue without pollers: workers that restart need some.
NO_WORKER_SECONDS = 60
#: Task queues that are looked up beyond those of this application: runs may wait in queues of another prefix.
MAX_QUEUES = 10

_FORMATS = ("text", "json")

P = ParamSpec("P")
T = TypeVar("T")


# --- the report --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuntimeChecks(Report):
    """Stuck uploads and outbox rows; ``counts`` by class."""

    counts: Mapping[str, int]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class RowCounts(Report):
    """Rows by state, with their ``total``; states without rows are left out.

    ``estimated`` lists the states whose count is the planner's estimate.
    """

    counts: Mapping[str, int]
    estimated: tuple[str, ...] = field(default=(), metadata={"optional": True})


@dataclass(frozen=True, slots=True)
class RowCountsAndFindings(RowCounts):
    """Row counts, and the stuck work among the rows."""

    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class ProviderAssetsStatus(RowCounts):
    """Counts of assets at streaming providers, and what is stuck there.

    ``threshold_seconds`` is how long one may stay unchanged before it is ``provider_stuck``.
    """

    threshold_seconds: int = 0
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class OutboxStatus(Report):
    """Rows that wait for a relay, and rows that Temporal rejected."""

    pending: int
    parked: int
    oldest_age_seconds: int


@dataclass(frozen=True, slots=True)
class PurgeStatus(Report):
    """Deleted assets that still have rows."""

    pending: int
    oldest_age_seconds: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class ErasureStatus(Report):
    """Owner erasures that have not ended."""

    pending: int
    oldest_age_seconds: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class TemporalStatus(Report):
    """What Temporal answered.

    Attributes:
        running: open runs by kind.
        verified: whether the suspects could be looked up.
        truncated: whether only the oldest suspects of a class, or only a part of the open runs, were looked up.
        findings: open runs without rows, steps that are retried, queues without workers, and Temporal itself.
    """

    reachable: bool
    running: Mapping[str, int]
    verified: bool
    truncated: bool
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Recommendation(Report):
    """The repair of one class of finding; ``surface`` is a command line."""

    name: str = field(metadata={"json": "class"})
    action: str
    surface: str
    summary: str


@dataclass(frozen=True, slots=True)
class RuntimeStatus(Report):
    """What :func:`runtime_status` returns."""

    generated_at: datetime
    filters: Filters
    runtime_checks: RuntimeChecks
    assets: RowCounts
    variants: RowCountsAndFindings
    upload_sessions: RowCountsAndFindings
    provider_assets: ProviderAssetsStatus
    outbox: OutboxStatus
    purges: PurgeStatus
    erasures: ErasureStatus
    temporal: TemporalStatus
    recommendations: tuple[Recommendation, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, section by section."""
        of_rows = (self.runtime_checks, self.variants, self.upload_sessions, self.provider_assets)
        sections = (*of_rows, self.purges, self.erasures, self.temporal)
        return tuple(finding for section in sections for finding in section.findings)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The contents of the database."""

    assets: RowCounts
    variants: RowCounts
    sessions: RowCounts
    providers: RowCounts
    stuck_seconds: int
    backlog: outbox_rows.OutboxBacklog
    purges: tuple[int, datetime | None]
    erasures: tuple[int, datetime | None]
    runtime: list[Candidate]
    variant_candidates: list[Candidate]
    session_candidates: list[Candidate]
    provider_candidates: list[Candidate]
    purge_candidates: list[Candidate]
    erasure_candidates: list[Candidate]
    under_way: list[Candidate]

    def suspects(self) -> list[Candidate]:
        """Return the candidates that a running workflow would explain."""
        of_assets = (*self.runtime, *self.variant_candidates, *self.session_candidates, *self.purge_candidates)
        listed = (*of_assets, *self.erasure_candidates)
        return [candidate for candidate in listed if candidate.runs]


@dataclass(slots=True)
class _TemporalFacts:
    """The results of Temporal; of the suspects' runs that were ``checked``, the open ones are in ``alive``."""

    reachable: bool = False
    running: dict[str, int] = field(default_factory=dict)
    checked: frozenset[str] = frozenset()
    alive: Mapping[str, WorkflowFacts] = field(default_factory=dict)
    queues: tuple[QueueFacts, ...] = ()
    verified: bool = False
    truncated: bool = False
    open_runs: tuple[OpenRun, ...] = ()


async def runtime_status(
    services: Services,
    *,
    profile: str | None = None,
    older_than: int | None = None,
    limit: int = DEFAULT_LIMIT,
    format: str | None = None,
    provider_stuck: bool = False,
    **others: Unpack[NoOthers],
) -> RuntimeStatus:
    """Report what is stuck or degraded; changes nothing. A refusal emits ``rindle.runtime.refusal``.

    Args:
        profile: name of a registered profile; all when left out. The outbox is not filtered: its rows have no profile.
        older_than: report only findings unchanged for this many seconds (int >= 0); counts ignore it.
        limit: samples per finding, 1 to 100; 5 by default.
        format: ``text`` or ``json``; only repeated in the report.
        provider_stuck: also report assets that have not changed at their streaming provider for ``older_than`` seconds,
            two hours when left out.

    Returns:
        The report. Findings are ordered by class, samples by age (oldest first), then id. While Temporal is
        unreachable, ``temporal.verified`` is false, and findings that a running workflow might explain have the reason
        ``unverified``. With ``temporal.truncated`` only the oldest suspects of a class were looked up, and its count is
        projected from them. On Postgres a state with more than 10 000 rows is estimated, and listed under
        ``estimated`` beside the counts.

    Raises:
        UnknownFilters: a filter is unknown; ignoring it would match everything.
        InvalidFilter: a filter has a wrong value (``invalid_profile``, ``invalid_older_than``, ``invalid_limit``,
            ``invalid_format``, ``invalid_provider_stuck``).
        SetupIncomplete: tables or migrations are missing; nothing was counted.
        InspectionFailed: the database could not be read.
    """
    given: dict[str, Any] = {"profile": profile, "older_than": older_than, "limit": limit, "format": format}
    given["provider_stuck"] = provider_stuck
    try:
        filters = _filters(services, {**given, **others})
        now = utc_now()
        rows = await _read(services, _read_rows, services, filters, now)
    except RindleError as refusal:
        facts = {"surface": "runtime_status", "reason": refusal.code, "mode": "refuse"}
        telemetry.emit("rindle.runtime.refusal", facts)
        raise
    found = await _query(services, rows.suspects(), rows.under_way, filters, now)
    lost = await _read(services, lost_runs.without_rows, found.open_runs, filters)
    return _report(services.settings, rows, found, lost, filters, now)


async def _read(
    services: Services, query: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
) -> T:
    try:
        return await services.database.read(query, *args, **kwargs)
    except (SQLAlchemyError, OSError) as error:
        await schema.explain_failure(services)
        raise InspectionFailed(
            f"the database could not be read ({type(error).__name__}). To fix: 1. check that it is up; "
            "2. verify with: rindle doctor",
            detail={"component": "database"},
        ) from error


# --- filters -----------------------------------------------------------------------------------------------------


def _filters(services: Services, given: Mapping[str, Any]) -> Filters:
    known = tuple(Filters.__dataclass_fields__)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UnknownFilters(
            f"runtime_status has no filter {', '.join(unknown)}; choose from {', '.join(known)}",
            detail={"filters": unknown, "known": list(known)},
        )
    filters = Filters(**{name: value for name, value in given.items() if value is not None})
    names = services.profiles.names
    if filters.profile is not None and filters.profile not in names:
        raise _invalid("profile", filters.profile, f"one of {', '.join(names) or 'none'}")
    if filters.older_than is not None and not (_is_int(filters.older_than) and filters.older_than >= 0):
        raise _invalid("older_than", filters.older_than, "an integer of seconds, 0 or more")
    if not (_is_int(filters.limit) and 1 <= filters.limit <= MAX_LIMIT):
        raise _invalid("limit", filters.limit, f"an integer from 1 to {MAX_LIMIT}")
    if filters.format is not None and filters.format not in _FORMATS:
        raise _invalid("format", filters.format, " or ".join(_FORMATS))
    if not isinstance(filters.provider_stuck, bool):
        raise _invalid("provider_stuck", filters.provider_stuck, "True or False")
    return filters


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _invalid(name: str, value: Any, wanted: str) -> InvalidFilter:
    return InvalidFilter(
        f"the filter {name} is {str(value)[:64]!r}; it must be {wanted}",
        code=f"invalid_{name}",
        detail={"filter": name},
    )


# --- the database ------------------------------------------------------------------------------------------------


def _read_rows(session: Session, services: Services, filters: Filters, now: datetime) -> _Rows:
    """Read everything in one read-only transaction."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SET TRANSACTION READ ONLY"))
        session.execute(text("SET LOCAL statement_timeout = '10s'"))
    schema.require_usable(session.connection())
    inspection = Inspection(session, services.settings, filters, now)

    def found(finders: Iterable[findings.Finder]) -> list[Candidate]:
        return [candidate for find in finders for candidate in find(inspection)]

    deleted = [MediaAsset.state == AssetState.DELETED, *inspection.of_profile()]
    return _Rows(
        assets=_counts(session, AssetState, MediaAsset.state, filters),
        variants=_counts(session, VariantState, MediaVariant.state, filters),
        sessions=_counts(session, SessionState, MediaUploadSession.state, filters),
        providers=_provider_counts(session, filters),
        stuck_seconds=provider_findings.threshold_seconds(inspection),
        backlog=outbox_rows.backlog(session),
        purges=inspection.extent(select(func.count(), func.min(MediaAsset.updated_at)).where(*deleted)),
        erasures=erasures.pending_erasures(inspection),
        runtime=[*found(findings.RUNTIME), *findings.profile_unregistered(inspection, services.profiles.names)],
        variant_candidates=found(findings.VARIANTS),
        session_candidates=found(findings.SESSIONS),
        provider_candidates=provider_findings.at_providers(inspection),
        purge_candidates=found(findings.PURGES),
        erasure_candidates=erasures.erasure_stuck(inspection),
        under_way=[
            *findings.under_way(inspection),
            *provider_findings.pushes(inspection),
            *erasures.erasure_stuck(inspection, seconds=0),
        ],
    )


def _provider_counts(session: Session, filters: Filters) -> RowCounts:
    if not have_table(session):
        return RowCounts({"total": 0})
    return _counts(session, ProviderState, MediaProviderAsset.state, filters)


def _counts(session: Session, states: type[StrEnum], state: InstrumentedAttribute[str], filters: Filters) -> RowCounts:
    """Count rows by state.

    Counting a million finished rows takes longer than the rest of the report and gives an operator no information, so
    Postgres counts the rows of a state only up to :data:`EXACT_ROWS` and estimates larger counts. The rows of a profile
    without more assets than that are all counted. SQLite has no estimates and counts all rows.
    """

    def of_profile(statement: Select[Any]) -> Select[Any]:
        if filters.profile is None:
            return statement
        if state.class_ is not MediaAsset:
            statement = statement.join(MediaAsset, MediaAsset.id == state.class_.asset_id)
        return statement.where(MediaAsset.profile == filters.profile)

    large: list[str] = []
    if session.get_bind().dialect.name == "postgresql" and not _is_small(session, filters.profile):
        large = _large_states(session, states, state)
    others = [one.value for one in states if one not in large]
    rows = cast("Select[Any]", select(state, func.count())).select_from(state.class_)
    counted = session.execute(of_profile(rows.where(state.in_(others)).group_by(state)))
    found: dict[str, int] = {row[0]: row[1] for row in counted}
    least = EXACT_ROWS + 1 if filters.profile is None else 0
    for value in large:
        estimate = _estimate(session, of_profile(rows.with_only_columns(literal(1)).where(state == value)))
        found[value] = max(least, estimate)
    return RowCounts({**dict(sorted(found.items())), "total": sum(found.values())}, tuple(large))


def _is_small(session: Session, profile: str | None) -> bool:
    """Whether a profile has at most :data:`EXACT_ROWS` assets."""
    if profile is None:
        return False
    assets = select(literal(1)).select_from(MediaAsset).where(MediaAsset.profile == profile).limit(EXACT_ROWS + 1)
    return bool((session.scalar(select(func.count()).select_from(assets.subquery())) or 0) <= EXACT_ROWS)


def _large_states(session: Session, states: type[StrEnum], state: InstrumentedAttribute[str]) -> list[str]:
    """Return the states with more than :data:`EXACT_ROWS` rows, in alphabetical order."""
    rows = (
        (one.value, select(literal(1)).select_from(state.class_).where(state == one).limit(EXACT_ROWS + 1))
        for one in states
    )
    sizes = union_all(*(select(literal(value), func.count()).select_from(read.subquery()) for value, read in rows))
    return sorted(value for value, size in session.execute(sizes) if size > EXACT_ROWS)


def _estimate(session: Session, statement: Select[Any]) -> int:
    """Return the number of rows that Postgres expects from a query, by its statistics."""
    connection = session.connection()
    compiled = statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {compiled}").scalar_one()
    return int(plan[0]["Plan"]["Plan Rows"])


# --- Temporal ----------------------------------------------------------------------------------------------------


async def _query(
    services: Services,
    suspects: Sequence[Candidate],
    under_way: Sequence[Candidate],
    filters: Filters,
    now: datetime,
) -> _TemporalFacts:
    """Query Temporal for open runs and for the suspects' runs; a server that does not answer in time is no error."""
    facts = _TemporalFacts()
    wanted = list(dict.fromkeys(run for suspect in suspects for run in suspect.runs))
    others = list(dict.fromkeys(run for candidate in under_way for run in candidate.runs if run not in wanted))
    try:
        client = await services.temporal.client()
        async with asyncio.timeout(runs.TEMPORAL_SECONDS):
            facts.running = await _running(client, services.settings)
            facts.reachable = True
            facts.truncated = len(wanted) > MAX_DESCRIBED or any(one.count > len(one.runs) for one in suspects)
            facts.checked = frozenset(wanted[:MAX_DESCRIBED])
            facts.alive = await _alive(client, [*wanted, *others][:MAX_DESCRIBED])
            facts.queues = await _queues(client, services, facts.alive, now)
            facts.open_runs = await lost_runs.open_runs(client, services.settings, filters, now)
            facts.truncated |= len(facts.open_runs) == lost_runs.MAX_LISTED
            facts.verified = True
    except (TemporalUnavailable, RPCError, TimeoutError):
        pass  # reachable and verified stay false in the report
    return facts


async def _running(client: Client, settings: Settings) -> dict[str, int]:
    """Count the open runs of each kind. Visibility lags behind, so the counts are informative only."""
    kinds = {
        "upload": (messages.UPLOAD_WORKFLOW, ids.upload_id("", prefix=settings.workflow_id_prefix)),
        "variants": (messages.VARIANT_WORKFLOW, f"{settings.workflow_id_prefix}-variants:"),
        "provider_push": (
            messages.PROVIDER_PUSH_WORKFLOW,
            ids.provider_push_id("", "", prefix=settings.workflow_id_prefix).rstrip(":") + ":",
        ),
        "provider_upload": (
            messages.PROVIDER_UPLOAD_WORKFLOW,
            ids.provider_upload_id("", prefix=settings.workflow_id_prefix),
        ),
        "purge": (messages.PURGE_WORKFLOW, ids.purge_id("", prefix=settings.workflow_id_prefix)),
        "erasure": (messages.OWNER_ERASURE_WORKFLOW, ids.erasure_id("", prefix=settings.workflow_id_prefix)),
        "maintenance": (messages.MAINTENANCE_WORKFLOW, ids.maintenance_id("", prefix=settings.workflow_id_prefix)),
    }

    async def count(workflow_type: str, prefix: str) -> int:
        ours = f"WorkflowType = '{workflow_type}' AND WorkflowId STARTS_WITH '{prefix}'"
        return (await client.count_workflows(f"ExecutionStatus = 'Running' AND {ours}")).count

    counted = await asyncio.gather(*(count(*kind) for kind in kinds.values()))
    return dict(zip(kinds, counted, strict=True))


async def _alive(client: Client, workflow_ids: Iterable[str]) -> Mapping[str, WorkflowFacts]:
    """Describe the open ones of some runs."""
    slots = asyncio.Semaphore(DESCRIBED_AT_ONCE)

    async def described(workflow_id: str) -> WorkflowFacts | None:
        async with slots:
            return await runs.describe_run(client, workflow_id)

    found = await asyncio.gather(*(described(workflow_id) for workflow_id in workflow_ids))
    return {one.id: one for one in found if one is not None and one.is_running}


async def _queues(
    client: Client, services: Services, alive: Mapping[str, WorkflowFacts], now: datetime
) -> tuple[QueueFacts, ...]:
    """Describe the queues of this application, and other ones in which its runs wait."""
    needed = runs.needed_queues(services.settings, services.profiles)
    others = sorted({queue for run in alive.values() for queue in run.waiting(now)} - needed)[:MAX_QUEUES]
    return tuple(await asyncio.gather(*(runs.describe_queue(client, one) for one in [*sorted(needed), *others])))


# --- the findings ------------------------------------------------------------------------------------------------


def _finding(candidate: Candidate, facts: _TemporalFacts, limit: int, now: datetime) -> Finding | None:
    """Return a candidate as a finding, without the rows that a running workflow is still working on."""
    count, samples, oldest = candidate.count, candidate.samples, candidate.oldest
    if candidate.runs and facts.verified:
        # The checked runs represent the others: under load thousands of rows wait, and each of them has a run.
        checked = [index for index, run in enumerate(candidate.runs) if run in facts.checked]
        kept = [index for index in checked if candidate.runs[index] not in facts.alive]
        if not kept:
            return None
        count = math.ceil(count * len(kept) / len(checked))
        samples = tuple(samples[index] for index in kept)
        oldest = candidate.since[kept[0]]
    return Finding(
        name=candidate.name,
        state=candidate.state,
        count=count,
        oldest_age_seconds=_age(now, oldest),
        samples=samples[:limit],
        reason="unverified" if candidate.runs and not facts.verified else None,
    )


def _of_temporal(
    rows: _Rows, facts: _TemporalFacts, lost: Sequence[Candidate], filters: Filters, now: datetime
) -> list[Candidate]:
    """Return what Temporal shows: that it does not answer, queues without workers, retried steps, lost runs."""
    if not facts.reachable:
        return [Candidate("temporal_unreachable", 1, None, ())]
    found = list(lost)
    limit_seconds = max(filters.older_than or 0, NO_WORKER_SECONDS)
    unpolled = [one for one in facts.queues if one.waiting and not one.is_polled and one.oldest_seconds > limit_seconds]
    if unpolled:
        unpolled.sort(key=lambda one: (-one.oldest_seconds, one.name, one.kind))
        samples = tuple(QueueSample(one.name, one.kind, one.waiting) for one in unpolled)
        since = now - timedelta(seconds=unpolled[0].oldest_seconds)
        found.append(Candidate("no_worker", sum(one.waiting for one in unpolled), since, samples))
    return [*found, *_retrying((*rows.suspects(), *rows.under_way), facts, filters, now)]


def _retrying(
    candidates: Iterable[Candidate], facts: _TemporalFacts, filters: Filters, now: datetime
) -> list[Candidate]:
    """Return the steps of the described runs that fail and are retried, oldest rows first."""
    before = now - timedelta(seconds=filters.older_than or 0)
    rows: dict[str, tuple[datetime, str | None]] = {}
    for candidate in candidates:
        for run_id, since, sample in zip(candidate.runs, candidate.since, candidate.samples, strict=True):
            oldest = min(since, rows[run_id][0]) if run_id in rows else since
            rows[run_id] = (oldest, getattr(sample, "asset_id", None))
    found = []
    for run_id, (since, asset_id) in sorted(rows.items(), key=lambda row: (row[1][0], row[0])):
        described = facts.alive.get(run_id)
        for step in described.failing() if described is not None and since <= before else ():
            if step.attempt >= runs.RETRIED_ATTEMPTS:
                facts_of_step = (step.last_failure_code, step.last_failure, step.worker, step.next_attempt_at)
                found.append((since, RetrySample(run_id, asset_id, step.type, step.attempt, *facts_of_step)))
    if not found:
        return []
    return [Candidate("retrying", len(found), found[0][0], tuple(sample for _, sample in found))]


def _report(
    settings: Settings,
    rows: _Rows,
    facts: _TemporalFacts,
    lost: list[Candidate],
    filters: Filters,
    now: datetime,
) -> RuntimeStatus:
    def listed(candidates: Iterable[Candidate]) -> tuple[Finding, ...]:
        ordered = sorted(candidates, key=lambda one: (one.name, one.state or ""))
        found = (_finding(candidate, facts, filters.limit, now) for candidate in ordered)
        return tuple(finding for finding in found if finding is not None)

    runtime, variants = listed(rows.runtime), listed(rows.variant_candidates)
    sessions, purges = listed(rows.session_candidates), listed(rows.purge_candidates)
    providers = listed(rows.provider_candidates)
    of_erasures = listed(rows.erasure_candidates)
    of_temporal = listed(_of_temporal(rows, facts, lost, filters, now))
    found = (*runtime, *variants, *sessions, *providers, *purges, *of_erasures, *of_temporal)
    names = sorted({finding.name for finding in found})
    pending, oldest = rows.purges
    erasing, requested = rows.erasures
    return RuntimeStatus(
        generated_at=now,
        filters=filters,
        runtime_checks=RuntimeChecks({finding.name: finding.count for finding in runtime}, runtime),
        assets=rows.assets,
        variants=RowCountsAndFindings(rows.variants.counts, rows.variants.estimated, variants),
        upload_sessions=RowCountsAndFindings(rows.sessions.counts, rows.sessions.estimated, sessions),
        provider_assets=ProviderAssetsStatus(
            rows.providers.counts, rows.providers.estimated, rows.stuck_seconds, providers
        ),
        outbox=OutboxStatus(rows.backlog.pending, rows.backlog.parked, int(rows.backlog.oldest_age_seconds)),
        purges=PurgeStatus(pending, _age(now, oldest), purges),
        erasures=ErasureStatus(erasing, _age(now, requested), of_erasures),
        temporal=TemporalStatus(facts.reachable, facts.running, facts.verified, facts.truncated, of_temporal),
        recommendations=tuple(_recommendation(name, settings, is_reachable=facts.reachable) for name in names),
    )


def _recommendation(name: str, settings: Settings, *, is_reachable: bool) -> Recommendation:
    remedy = REMEDIES[name]
    if remedy.action == "drain" and not is_reachable:
        remedy = REMEDIES["temporal_unreachable"]  # nothing can be sent before the server answers
    return Recommendation(name, remedy.action, remedy.surface(settings), remedy.summary)


def _age(now: datetime, since: datetime | None) -> int:
    return 0 if since is None else max(0, int((now - since).total_seconds()))
