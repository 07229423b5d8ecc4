"""Find stuck work in the rows: one function per class of finding, each with its threshold.

A finding is a count, an age and a few samples. Where a running workflow would explain it, the functions also return the
ids of the runs. ``runtime_status`` queries Temporal about them; ``remedies`` has the command for each class.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Boolean, ColumnElement, and_, func, literal_column, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from rindle.db.direct_uploads import is_stored
from rindle.db.models import MediaAsset, MediaOutbox, MediaUploadSession, MediaVariant
from rindle.db.outbox import in_state
from rindle.db.probe_drift import PROBE_DRIFT
from rindle.db.session_conditions import is_live, is_unreleased
from rindle.db.variants import group_of
from rindle.operations.remedies import FINDING_OF_VARIANT
from rindle.operations.reports import Report
from rindle.settings import Settings
from rindle.states import (
    ENDED_BADLY,
    IN_PROMOTION,
    AssetState,
    OutboxState,
    OutputKind,
    VariantState,
)
from rindle.workflows import ids

#: Samples per finding.
DEFAULT_LIMIT = 5
#: Seconds a row may stay in a state that a run should be working on before it becomes a suspect.
PROMOTION_SECONDS, QUEUED_SECONDS, IMAGE_SECONDS, AV_SECONDS = 300, 300, 900, 1200
#: Seconds after its expiry until a live session is overdue, and after its end until its leftovers are.
SESSION_SECONDS = 300
#: Seconds a tombstone may wait for its purge, and an outbox row for a relay.
PURGE_SECONDS, OUTBOX_SECONDS = 3600, 60
#: Assets of one unregistered profile that are counted, and profiles that are listed.
COUNTED_ASSETS, MAX_PROFILES = 10_000, 20
#: Runs of one class that are described one by one, unless more samples are requested.
CLASS_DESCRIBED = 10


@dataclass(frozen=True, slots=True)
class Filters(Report):
    """The filters of a report; see ``runtime_status``."""

    profile: str | None = None
    older_than: int | None = None
    limit: int = DEFAULT_LIMIT
    format: str | None = None
    provider_stuck: bool = False


# --- samples -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AssetSample(Report):
    """One stuck asset."""

    asset_id: str
    profile: str
    state: str
    error_code: str | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class VariantSample(Report):
    """One stuck variant."""

    variant_id: str
    asset_id: str
    variant_name: str
    profile: str
    state: str
    attempts: int
    error_code: str | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class SessionSample(Report):
    """One upload session that was not ended, or that may have left bytes."""

    session_id: str
    asset_id: str | None
    state: str
    failure_reason: str | None
    release_error_code: str | None = field(default=None, metadata={"optional": True})


@dataclass(frozen=True, slots=True)
class OutboxSample(Report):
    """One row that was not sent to Temporal."""

    outbox_id: int
    workflow_id: str
    attempts: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class RunSample(Report):
    """One open run whose rows are gone."""

    workflow_id: str
    run_id: str
    workflow_type: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class QueueSample(Report):
    """One task queue without workers; ``waiting`` counts its tasks."""

    task_queue: str
    kind: str
    waiting: int


@dataclass(frozen=True, slots=True)
class RetrySample(Report):
    """One step that fails and is retried, and the worker that tried it last.

    Attributes:
        next_attempt_at: when it is tried again; ``None`` while an attempt runs or waits for a worker.
    """

    workflow_id: str
    asset_id: str | None
    activity: str
    attempt: int
    error_code: str | None
    last_error: str | None
    worker: str | None
    next_attempt_at: datetime | None


@dataclass(frozen=True, slots=True)
class ProfileSample(Report):
    """One profile that is not registered; ``assets`` counts its rows up to a limit."""

    profile: str
    assets: int


@dataclass(frozen=True, slots=True)
class ErasureSample(Report):
    """One owner erasure that has not ended; ``pending`` counts its purges."""

    operation_id: str
    pending: int
    detached_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ProviderSample(Report):
    """One asset at a streaming provider; ``provider_asset_id`` shows its last four characters."""

    asset_id: str
    provider_asset_id: str | None
    profile: str
    provider: str
    state: str
    updated_at: datetime
    last_event_at: datetime | None
    last_sync_error: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class OrphanSample(Report):
    """One webhook of a streaming provider that no asset belonged to; ``event_id`` is its row in ``media_events``."""

    event_id: int
    provider: str | None
    kind: str | None
    occurred_at: datetime


Sample = (
    AssetSample
    | VariantSample
    | SessionSample
    | OutboxSample
    | RunSample
    | QueueSample
    | RetrySample
    | ProfileSample
    | ErasureSample
    | ProviderSample
    | OrphanSample
)


@dataclass(frozen=True, slots=True)
class Finding(Report):
    """One class of stuck work.

    Attributes:
        name: the class.
        state: state of the sessions, where a class has several.
        count: number of rows; projected from the oldest ones when not all could be verified.
        oldest_age_seconds: how long the oldest one has been stuck.
        samples: oldest first.
        reason: ``unverified`` when Temporal did not answer whether a run is still working on them.
    """

    name: str = field(metadata={"json": "class"})
    state: str | None = field(metadata={"optional": True})
    count: int
    oldest_age_seconds: int
    samples: tuple[Sample, ...]
    reason: str | None = field(metadata={"optional": True})


@dataclass(frozen=True, slots=True)
class Candidate:
    """One class as the rows show it, before Temporal is queried.

    Attributes:
        oldest: time since which the oldest one has been stuck.
        runs: for each sample the run that should be working on it; a running one explains the sample. Empty for classes
            without runs.
        since: for each of the runs, the time since which its sample has been stuck.
    """

    name: str
    count: int
    oldest: datetime | None
    samples: tuple[Sample, ...]
    state: str | None = None
    runs: tuple[str, ...] = ()
    since: tuple[datetime, ...] = ()


@dataclass(frozen=True, slots=True)
class Inspection:
    """One read-only transaction and the filters of the report."""

    session: Session
    settings: Settings
    filters: Filters
    now: datetime

    def cutoff(self, at_least_seconds: int = 0) -> datetime:
        """Return the newest change a finding may have; ``older_than`` never shortens a threshold."""
        return self.now - timedelta(seconds=max(self.filters.older_than or 0, at_least_seconds))

    @property
    def examined(self) -> int:
        """Number of suspects of a class to read, oldest first, and to look up in Temporal."""
        return max(self.filters.limit, CLASS_DESCRIBED)

    def of_profile(self) -> list[ColumnElement[bool]]:
        """Return the condition that restricts a query to the requested profile."""
        return [] if self.filters.profile is None else [MediaAsset.profile == self.filters.profile]

    def extent(self, statement: Any) -> tuple[int, datetime | None]:
        """Execute a query for a count and an oldest time."""
        count, oldest = self.session.execute(statement).one()
        return count, oldest


# --- assets ------------------------------------------------------------------------------------------------------


def stuck_promotion(inspection: Inspection) -> list[Candidate]:
    """Uploads whose validation failed."""
    gave_up = and_(MediaAsset.error_code.is_not(None), MediaAsset.updated_at <= inspection.cutoff())
    return _assets(inspection, "stuck_promotion", [MediaAsset.state.in_(IN_PROMOTION), gave_up])


def workflow_missing(inspection: Inspection) -> list[Candidate]:
    """Uploads in validation that have not changed for a while."""
    silent = and_(MediaAsset.error_code.is_(None), MediaAsset.updated_at <= inspection.cutoff(PROMOTION_SECONDS))
    return _assets(inspection, "workflow_missing", [MediaAsset.state.in_(IN_PROMOTION), silent], is_suspect=True)


def purge_stuck(inspection: Inspection) -> list[Candidate]:
    """Tombstones whose purge is overdue; one that waits for the end of an upload ticket is not."""
    late = inspection.cutoff(PURGE_SECONDS)
    ticket = (
        select(MediaUploadSession.id)
        .where(
            MediaUploadSession.asset_id == MediaAsset.id,
            MediaUploadSession.url_expires_at > late - timedelta(seconds=inspection.settings.late_put_seconds),
        )
        .exists()
    )
    overdue = and_(MediaAsset.updated_at <= late, MediaAsset.error_code.is_(None), ~ticket)
    return _assets(inspection, "purge_stuck", [MediaAsset.state == AssetState.DELETED, overdue])


def deletion_failing(inspection: Inspection) -> list[Candidate]:
    """Tombstones whose objects could not be deleted at the last attempts."""
    failing = and_(MediaAsset.error_code.is_not(None), MediaAsset.updated_at <= inspection.cutoff())
    return _assets(inspection, "deletion_failing", [MediaAsset.state == AssetState.DELETED, failing])


def probe_drift(inspection: Inspection) -> list[Candidate]:
    """Assets whose technical facts are missing or contradict each other."""
    return _assets(inspection, "probe_drift", [is_drifted(), MediaAsset.updated_at <= inspection.cutoff()])


def is_drifted() -> ColumnElement[bool]:
    """Return the condition of ``probe_drift``. Nobody here has the bytes of an asset that only a provider has."""
    return and_(literal_column(f"({PROBE_DRIFT})", Boolean), is_stored())


def _assets(
    inspection: Inspection, name: str, conditions: Iterable[ColumnElement[bool]], *, is_suspect: bool = False
) -> list[Candidate]:
    where = [*conditions, *inspection.of_profile()]
    count, oldest = inspection.extent(select(func.count(), func.min(MediaAsset.updated_at)).where(*where))
    if not count:
        return []
    statement = select(MediaAsset).where(*where).order_by(MediaAsset.updated_at, MediaAsset.id)
    if not is_suspect:
        rows = inspection.session.scalars(statement.limit(inspection.filters.limit))
        return [Candidate(name, count, oldest, tuple(_asset_sample(asset) for asset in rows))]
    suspects = inspection.session.execute(
        statement.add_columns(MediaUploadSession.id)
        .outerjoin(MediaUploadSession, MediaUploadSession.asset_id == MediaAsset.id)
        .limit(inspection.examined)
    ).all()
    return [
        Candidate(
            name,
            count,
            oldest,
            samples=tuple(_asset_sample(asset) for asset, _ in suspects),
            runs=tuple(
                ids.upload_id(session_id or "", prefix=inspection.settings.workflow_id_prefix)
                for _, session_id in suspects
            ),
            since=tuple(asset.updated_at for asset, _ in suspects),
        )
    ]


def _asset_sample(asset: MediaAsset) -> AssetSample:
    return AssetSample(
        asset_id=asset.id,
        profile=asset.profile,
        state=asset.state,
        error_code=asset.error_code,
        updated_at=asset.updated_at,
    )


# --- the outbox --------------------------------------------------------------------------------------------------


def outbox_parked(inspection: Inspection) -> list[Candidate]:
    """Rows that Temporal rejected as invalid."""
    parked = and_(in_state(OutboxState.PARKED), MediaOutbox.updated_at <= inspection.cutoff())
    return _outbox(inspection, "outbox_parked", parked)


def outbox_stalled(inspection: Inspection) -> list[Candidate]:
    """Rows that no relay has sent."""
    # A claimed row is rescheduled by 30 s, so a row that is just being sent is never due for that long.
    due = inspection.cutoff(OUTBOX_SECONDS)
    stalled = and_(
        in_state(OutboxState.PENDING),
        MediaOutbox.inserted_at <= due,
        or_(MediaOutbox.available_at <= due, MediaOutbox.attempts > 0),
    )
    return _outbox(inspection, "outbox_stalled", stalled)


def _outbox(inspection: Inspection, name: str, condition: ColumnElement[bool]) -> list[Candidate]:
    count, oldest = inspection.extent(select(func.count(), func.min(MediaOutbox.inserted_at)).where(condition))
    if not count:
        return []
    rows = inspection.session.scalars(
        select(MediaOutbox)
        .where(condition)
        .order_by(MediaOutbox.inserted_at, MediaOutbox.id)
        .limit(inspection.filters.limit)
    )
    samples = tuple(OutboxSample(row.id, row.workflow_id, row.attempts, row.last_error) for row in rows)
    return [Candidate(name, count, oldest, samples)]


# --- variants ----------------------------------------------------------------------------------------------------


def cancelled_work(inspection: Inspection) -> list[Candidate]:
    """Variants whose build was cancelled lately."""
    within = inspection.settings.cancelled_work_seconds
    return _of_state(inspection, VariantState.CANCELLED, within_seconds=within)


def failed_work(inspection: Inspection) -> list[Candidate]:
    """Variants that could not be built, unless that is long ago."""
    within = inspection.settings.failed_work_seconds
    return _of_state(inspection, VariantState.FAILED, within_seconds=within)


def storage_drift(inspection: Inspection) -> list[Candidate]:
    """Variants whose object is missing from the store."""
    return _of_state(inspection, VariantState.MISSING)


def recipe_drift(inspection: Inspection) -> list[Candidate]:
    """Variants that were built from an older recipe."""
    return _of_state(inspection, VariantState.STALE)


def queue_starved(inspection: Inspection) -> list[Candidate]:
    """Variants that have been waiting for a build for too long."""
    queued = MediaVariant.updated_at <= inspection.cutoff(QUEUED_SECONDS)
    condition = and_(MediaVariant.state == VariantState.QUEUED, queued)
    return _variants(inspection, "queue_starved", condition, is_suspect=True)


def orphan_suspect(inspection: Inspection) -> list[Candidate]:
    """Variants that have been in processing for longer than a build takes."""
    image = MediaVariant.output_kind == OutputKind.IMAGE
    late = or_(
        and_(image, MediaVariant.updated_at <= inspection.cutoff(IMAGE_SECONDS)),
        and_(~image, MediaVariant.updated_at <= inspection.cutoff(AV_SECONDS)),
    )
    condition = and_(MediaVariant.state == VariantState.PROCESSING, late)
    return _variants(inspection, "orphan_suspect", condition, is_suspect=True)


def _of_state(inspection: Inspection, state: VariantState, *, within_seconds: int | None = None) -> list[Candidate]:
    """Variants in a state that only an operator changes; with ``within_seconds`` only those that reached it lately."""
    condition = and_(MediaVariant.state == state, MediaVariant.updated_at <= inspection.cutoff())
    if within_seconds is not None:
        lately = inspection.now - timedelta(seconds=within_seconds)
        condition = and_(condition, MediaVariant.updated_at >= lately)
    return _variants(inspection, FINDING_OF_VARIANT[state], condition)


def _variants(
    inspection: Inspection, name: str, condition: ColumnElement[bool], *, is_suspect: bool = False
) -> list[Candidate]:
    where = [condition, MediaVariant.dynamic.is_(False), *inspection.of_profile()]
    extent = select(func.count(), func.min(MediaVariant.updated_at)).select_from(MediaVariant).where(*where)
    if inspection.filters.profile is not None:
        extent = extent.join(MediaAsset, MediaAsset.id == MediaVariant.asset_id)
    count, oldest = inspection.extent(extent)
    if not count:
        return []
    rows = inspection.session.execute(
        select(MediaVariant, MediaAsset.kind, MediaAsset.profile)
        .join(MediaAsset, MediaAsset.id == MediaVariant.asset_id)
        .where(*where)
        .order_by(MediaVariant.updated_at, MediaVariant.id)
        .limit(inspection.examined if is_suspect else inspection.filters.limit)
    ).all()
    samples = tuple(_variant_sample(variant, profile) for variant, _, profile in rows)
    if not is_suspect:
        return [Candidate(name, count, oldest, samples)]
    prefix = inspection.settings.workflow_id_prefix
    return [
        Candidate(
            name,
            count,
            oldest,
            samples,
            runs=tuple(
                ids.variants_id(variant.asset_id, group_of(kind, variant), prefix=prefix) for variant, kind, _ in rows
            ),
            since=tuple(variant.updated_at for variant, _, _ in rows),
        )
    ]


def _variant_sample(variant: MediaVariant, profile: str) -> VariantSample:
    return VariantSample(
        variant_id=variant.id,
        asset_id=variant.asset_id,
        variant_name=variant.name,
        profile=profile,
        state=variant.state,
        attempts=variant.attempts,
        error_code=variant.error_code,
        updated_at=variant.updated_at,
    )


# --- upload sessions ---------------------------------------------------------------------------------------------


def session_overdue(inspection: Inspection) -> list[Candidate]:
    """Live sessions that were not ended in time."""
    since = MediaUploadSession.expires_at
    overdue = and_(is_live(), since <= inspection.cutoff(SESSION_SECONDS))
    return _sessions(inspection, "session_overdue", "open", overdue, since)


def session_residue(inspection: Inspection) -> list[Candidate]:
    """Ended sessions whose bytes were not released, by their state."""
    since = MediaUploadSession.updated_at
    found = []
    for state in ENDED_BADLY:
        left = and_(
            is_unreleased(),
            MediaUploadSession.state == state,
            MediaUploadSession.release_error_code.is_(None),
            since <= inspection.cutoff(SESSION_SECONDS),
        )
        found += _sessions(inspection, "session_residue", state.value, left, since)
    return found


def release_failing(inspection: Inspection) -> list[Candidate]:
    """Ended sessions whose objects could not be deleted at the last attempts; their runs continue to try."""
    since = MediaUploadSession.updated_at
    found = []
    for state in ENDED_BADLY:
        failing = and_(
            is_unreleased(),
            MediaUploadSession.state == state,
            MediaUploadSession.release_error_code.is_not(None),
            since <= inspection.cutoff(),
        )
        found += _sessions(inspection, "release_failing", state.value, failing, since, is_suspect=False)
    return found


def _sessions(
    inspection: Inspection,
    name: str,
    state: str,
    condition: ColumnElement[bool],
    since: InstrumentedAttribute[datetime],
    *,
    is_suspect: bool = True,
) -> list[Candidate]:
    where = [condition, *inspection.of_profile()]
    extent = select(func.count(), func.min(since)).select_from(MediaUploadSession).where(*where)
    statement = (
        select(MediaUploadSession).where(*where).order_by(since, MediaUploadSession.id).limit(inspection.examined)
    )
    if inspection.filters.profile is not None:
        of_session = MediaAsset.id == MediaUploadSession.asset_id
        extent, statement = extent.join(MediaAsset, of_session), statement.join(MediaAsset, of_session)
    count, oldest = inspection.extent(extent)
    if not count:
        return []
    rows = inspection.session.scalars(statement).all()
    return [
        Candidate(
            name,
            count,
            oldest,
            samples=tuple(
                SessionSample(row.id, row.asset_id, row.state, row.failure_reason, row.release_error_code)
                for row in rows
            ),
            state=state,
            runs=tuple(ids.upload_id(row.id, prefix=inspection.settings.workflow_id_prefix) for row in rows)
            if is_suspect
            else (),
            since=tuple(getattr(row, since.key) for row in rows),
        )
    ]


# --- work that a run should be doing -----------------------------------------------------------------------------


def under_way(inspection: Inspection) -> list[Candidate]:
    """Rows that a run works on now, at any age: the oldest of each state. Their runs show what is retried.

    One query per state, so that each of them reads an index in its order.
    """
    prefix, limit = inspection.settings.workflow_id_prefix, inspection.examined
    found: list[tuple[str, datetime, Sample]] = []
    for promoting in IN_PROMOTION:
        pairs = inspection.session.execute(
            select(MediaAsset, MediaUploadSession.id)
            .join(MediaUploadSession, MediaUploadSession.asset_id == MediaAsset.id)
            .where(MediaAsset.state == promoting, *inspection.of_profile())
            .order_by(MediaAsset.updated_at)
            .limit(limit)
        )
        found += [(ids.upload_id(key, prefix=prefix), row.updated_at, _asset_sample(row)) for row, key in pairs]
    for building in (VariantState.QUEUED, VariantState.PROCESSING):
        rows = inspection.session.execute(
            select(MediaVariant, MediaAsset.kind, MediaAsset.profile)
            .join(MediaAsset, MediaAsset.id == MediaVariant.asset_id)
            .where(MediaVariant.state == building, *inspection.of_profile())
            .order_by(MediaVariant.updated_at)
            .limit(limit)
        )
        for row, kind, profile in rows:
            run = ids.variants_id(row.asset_id, group_of(kind, row), prefix=prefix)
            found.append((run, row.updated_at, _variant_sample(row, profile)))
    if not found:
        return []
    return [
        Candidate(
            "retrying",
            len(found),
            min(since for _, since, _ in found),
            samples=tuple(sample for _, _, sample in found),
            runs=tuple(run for run, _, _ in found),
            since=tuple(since for _, since, _ in found),
        )
    ]


def profile_unregistered(inspection: Inspection, known: Collection[str]) -> list[Candidate]:
    """Profiles of assets that the application does not register, each with its number of assets."""
    if inspection.filters.profile is not None:
        return []
    samples = unregistered_profiles(inspection.session, known)
    if not samples:
        return []
    total = sum(sample.assets for sample in samples)
    return [Candidate("profile_unregistered", total, None, tuple(samples[: inspection.filters.limit]))]


def unregistered_profiles(session: Session, known: Collection[str]) -> list[ProfileSample]:
    """Return the profiles that assets have and the application does not register, at most 20.

    Each query reads the next name from the index on the profile, so the cost grows with the number of profiles only.
    """
    found: list[ProfileSample] = []
    last = ""
    while len(found) < MAX_PROFILES:
        last = session.scalar(select(func.min(MediaAsset.profile)).where(MediaAsset.profile > last)) or ""
        if not last:
            break
        if last not in known:
            some = select(MediaAsset.id).where(MediaAsset.profile == last).limit(COUNTED_ASSETS).subquery()
            found.append(ProfileSample(last, session.scalar(select(func.count()).select_from(some)) or 0))
    return found


#: The functions by section of the report.
Finder = Callable[[Inspection], list[Candidate]]
RUNTIME: tuple[Finder, ...] = (stuck_promotion, workflow_missing, probe_drift, outbox_parked, outbox_stalled)
VARIANTS: tuple[Finder, ...] = (
    cancelled_work,
    failed_work,
    storage_drift,
    recipe_drift,
    queue_starved,
    orphan_suspect,
)
SESSIONS: tuple[Finder, ...] = (session_overdue, session_residue, release_failing)
PURGES: tuple[Finder, ...] = (purge_stuck, deletion_failing)
