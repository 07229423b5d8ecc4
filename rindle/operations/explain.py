"""Explain one asset: its rows, its workflow runs, its last error, and the command that repairs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from rindle.db import uploads as upload_rows
from rindle.db.erasures import waiting_operations
from rindle.db.ids import AssetOrId, SessionOrId, id_of
from rindle.db.models import (
    MediaAsset,
    MediaAttachment,
    MediaOutbox,
    MediaProviderAsset,
    MediaUploadSession,
    MediaVariant,
    is_id,
    utc_now,
)
from rindle.db.outbox import is_unsent
from rindle.db.providers import all_of
from rindle.db.variants import group_of, is_outdated
from rindle.errors import NotFound
from rindle.operations import findings, runs, schema
from rindle.operations.remedies import FINDING_OF_VARIANT, REMEDIES
from rindle.operations.reports import Report
from rindle.operations.runs import Described, PendingActivity, WorkflowFacts, described_runs
from rindle.profile import DIRECT_CREATOR_UPLOAD
from rindle.services import Services
from rindle.settings import Settings
from rindle.states import (
    ENDED_BADLY,
    OPEN_PROVIDER_STATES,
    UNVALIDATED,
    AssetState,
    OutboxState,
    ProviderState,
    SessionState,
    VariantState,
)
from rindle.workflows import ids

#: Seconds a relay may take to send a row that is due.
RELAY_SECONDS = 10


# --- the report --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AssetFacts(Report):
    """The row of the asset."""

    id: str
    state: str
    profile: str
    kind: str
    content_type: str | None
    byte_size: int | None
    width: int | None
    height: int | None
    error_code: str | None
    error_reason: str | None
    operator_reason: str | None
    inserted_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class SessionFacts(Report):
    """The row of one of its upload sessions."""

    id: str
    state: str
    upload_strategy: str
    error_code: str | None
    failure_reason: str | None
    release_error_code: str | None
    expires_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class VariantFacts(Report):
    """The row of one of its variants."""

    name: str
    state: str
    progress: int
    attempts: int
    error_code: str | None
    error_reason: str | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ProviderFacts(Report):
    """The row of the asset at one streaming provider."""

    provider_name: str
    state: str
    playback_policy: str | None
    ingest_mode: str | None
    last_event_at: datetime | None
    last_sync_error: str | None
    cleanup_pending: bool
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class OutboxFacts(Report):
    """A request to Temporal that is not sent yet."""

    id: int
    workflow_id: str
    signal: str | None
    state: str
    attempts: int
    last_error: str | None
    available_at: datetime


@dataclass(frozen=True, slots=True)
class Reachability(Report):
    """Whether Temporal answered."""

    reachable: bool


@dataclass(frozen=True, slots=True)
class LastError(Report):
    """The newest error, and its source: ``asset``, ``upload``, ``outbox``, a variant, or the type of an activity."""

    where: str
    code: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Diagnosis(Report):
    """The condition in one sentence; ``command`` repairs it and is ``None`` when nothing needs repair."""

    summary: str
    last_error: LastError | None
    command: str | None


@dataclass(frozen=True, slots=True)
class Explanation(Report):
    """What :func:`explain` returns.

    Attributes:
        attachments: number of slots that hold the asset.
        erasures: operations of owner erasures that wait until the asset is purged; ``explain`` also takes their ids.
        workflows: empty when ``temporal.reachable`` is false.
    """

    generated_at: datetime
    asset: AssetFacts
    upload_sessions: tuple[SessionFacts, ...]
    variants: tuple[VariantFacts, ...]
    attachments: int
    outbox: tuple[OutboxFacts, ...]
    workflows: tuple[WorkflowFacts, ...]
    temporal: Reachability
    diagnosis: Diagnosis
    erasures: tuple[str, ...] = field(default=(), metadata={"optional": True})
    provider_assets: tuple[ProviderFacts, ...] = field(default=(), metadata={"optional": True})


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one asset.

    Attributes:
        runs: ids of its workflows.
        outdated: names of its ready variants whose declared recipe is another one than they were built from.
        erasures: operations that wait for its purge.
        providers: its rows at streaming providers.
    """

    asset: MediaAsset
    sessions: Sequence[MediaUploadSession]
    variants: Sequence[MediaVariant]
    attachments: int
    outbox: Sequence[MediaOutbox]
    runs: tuple[str, ...]
    is_drifted: bool
    outdated: Sequence[str]
    erasures: Sequence[str]
    providers: Sequence[MediaProviderAsset]


async def explain(services: Services, subject: AssetOrId | SessionOrId) -> Explanation:
    """Explain the state of an asset, or of the asset of an upload session; changes nothing.

    Returns:
        Its rows, the outbox rows that are not sent yet, its runs with pending activities, and a diagnosis. The result
        contains no keys, URLs, filenames or owners.

    Raises:
        NotFound: no asset or upload session has that id.
        SetupIncomplete: the tables are not those of this release; the message has the command.
    """
    subject_id = id_of("subject", subject, MediaAsset, MediaUploadSession)
    try:
        rows = await services.database.read(_read_rows, services, subject_id)
    except SQLAlchemyError:
        await schema.explain_failure(services)
        raise
    found = await described_runs(services.temporal, rows.runs)
    return Explanation(
        generated_at=utc_now(),
        asset=AssetFacts.of(rows.asset),
        upload_sessions=tuple(SessionFacts.of(one) for one in rows.sessions),
        variants=tuple(VariantFacts.of(one) for one in rows.variants),
        attachments=rows.attachments,
        outbox=tuple(OutboxFacts.of(one) for one in rows.outbox),
        workflows=() if found is None else found.workflows,
        temporal=Reachability(found is not None),
        diagnosis=_diagnose(services, rows, found),
        erasures=tuple(rows.erasures),
        provider_assets=tuple(ProviderFacts.of(one) for one in rows.providers),
    )


def _read_rows(session: Session, services: Services, subject_id: str) -> _Rows:
    asset = session.get(MediaAsset, subject_id) if is_id(subject_id) else None
    if asset is None:
        upload = upload_rows.find_upload(session, subject_id)
        if upload is None:
            raise NotFound("no asset or upload session has this id", detail={"entity": "asset"})
        asset = upload.asset
    of_asset = MediaUploadSession.asset_id == asset.id
    sessions = session.scalars(select(MediaUploadSession).where(of_asset).order_by(MediaUploadSession.id)).all()
    variants = session.scalars(
        select(MediaVariant).where(MediaVariant.asset_id == asset.id).order_by(MediaVariant.name)
    ).all()
    attached = session.scalars(select(MediaAttachment.id).where(MediaAttachment.asset_id == asset.id)).all()
    prefix = services.settings.workflow_id_prefix
    at_providers = all_of(session, asset.id)
    runs = (
        *(ids.upload_id(one.id, prefix=prefix) for one in sessions),
        *sorted({ids.variants_id(asset.id, group_of(asset.kind, one), prefix=prefix) for one in variants}),
        *(ids.provider_run_id(asset.id, one.provider_name, one.ingest_mode, prefix=prefix) for one in at_providers),
        ids.purge_id(asset.id, prefix=prefix),
    )
    waiting = session.scalars(
        select(MediaOutbox).where(MediaOutbox.workflow_id.in_(runs), is_unsent()).order_by(MediaOutbox.id)
    ).all()
    drifted = session.scalar(select(MediaAsset.id).where(MediaAsset.id == asset.id, findings.is_drifted()))
    erasures = waiting_operations(session, asset.id)
    outdated = _outdated(services, asset.profile, variants)
    return _Rows(
        asset, sessions, variants, len(attached), waiting, runs, drifted is not None, outdated, erasures, at_providers
    )


def _outdated(services: Services, profile: str, variants: Sequence[MediaVariant]) -> list[str]:
    """Return the names of the variants that the next ``regenerate-variants`` will mark as stale."""
    if profile not in services.profiles:
        return []
    declared = services.profile(profile)
    return [one.name for one in variants if is_outdated(declared, one.name, one.state, one.recipe_digest)]


# --- diagnosis ---------------------------------------------------------------------------------------------------


def _diagnose(services: Services, rows: _Rows, found: Described | None) -> Diagnosis:
    """Describe the condition in one sentence, and name the command that repairs it."""
    running = [one for one in (() if found is None else found.workflows) if one.is_running]
    failing = [step for one in running for step in one.failing()]
    summary, finding = _obstacle(services, rows, found, failing)
    if summary is None:
        summary, command = _condition(rows, bool(running), services.settings)
    else:
        command = None if finding is None else _repair(finding, rows, services.settings)
    return Diagnosis(summary, _last_error(rows, failing), command)


def _obstacle(
    services: Services, rows: _Rows, found: Described | None, failing: Sequence[PendingActivity]
) -> tuple[str | None, str | None]:
    """Return what prevents all work on the asset, and the class of finding; ``None`` when nothing does."""
    if rows.asset.profile not in services.profiles.names:
        name = rows.asset.profile[:64]
        summary = f"its profile {name!r} is not registered in this application; add it to Rindle(profiles=[...])"
        return summary, "profile_unregistered"
    if found is None:
        label = services.temporal.label
        summary = f"Temporal ({label}) does not answer, so it is unknown whether a run is active; start its server"
        return summary, "temporal_unreachable"
    if parked := _parked(rows):
        why = parked.last_error or "without a message"
        return f"Temporal rejected the request to process it as invalid ({why})", "outbox_parked"
    overdue = utc_now() - timedelta(seconds=RELAY_SECONDS)
    if any(one.attempts or one.available_at < overdue for one in rows.outbox):
        return "Temporal has no request yet: no relay has sent the outbox row", "outbox_stalled"
    if found.unpolled:
        names = runs.names_of(found.unpolled)
        return f"its next step waits in the task queue {names}, which no worker polls", "no_worker"
    # A deletion that fails is noted in the row, and has a class of its own.
    is_noted = rows.asset.state == AssetState.DELETED and rows.asset.error_code is not None
    if failing and not is_noted and not any(one.release_error_code for one in rows.sessions):
        worst = max(failing, key=lambda one: one.attempt)
        where = f" on worker {worst.worker}" if worst.worker else ""
        summary = f"{worst.type} failed{where} and is retried (attempt {worst.attempt})"
        return f"{summary}; fix the cause, and it continues", "retrying"
    if found.busy:
        return f"its next step waits for a free worker of the task queue {runs.names_of(found.busy)}", None
    return None, None


def _condition(rows: _Rows, is_running: bool, settings: Settings) -> tuple[str, str | None]:
    """Return the condition that the rows show, and the command that repairs it."""
    state = AssetState(rows.asset.state)
    if rows.erasures and state is not AssetState.DELETED and not rows.attachments and not rows.outbox:
        return "an erasure waits until it is purged, but no purge is running", _repair("erasure_stuck", rows, settings)
    if state is AssetState.DELETED:
        if rows.asset.error_code is not None:
            summary = f"its objects cannot be deleted ({rows.asset.error_code}); fix the cause, and the purge continues"
            return summary, _repair("deletion_failing", rows, settings)
        if is_running:
            return "it is being purged; while an upload ticket is valid, its rows stay", None
        return "it is deleted, but no purge is running", _repair("purge_stuck", rows, settings)
    if state is AssetState.QUARANTINED:
        return _quarantined(rows), _purge(rows)
    if state is AssetState.STAGED:
        return _staged(rows, is_running, settings)
    if state in UNVALIDATED:
        if is_running:
            return "it is being validated", None
        name = "workflow_missing" if rows.asset.error_code is None else "stuck_promotion"
        return "its validation failed or its run was lost", _repair(name, rows, settings)
    return _deliverable(rows, is_running, settings)


def _quarantined(rows: _Rows) -> str:
    summary = f"its content was rejected ({rows.asset.error_code}); upload a corrected file"
    if not any(one.state == SessionState.COMPLETED for one in rows.sessions):
        return summary  # its object is gone: there is nothing to validate again
    return f"{summary}, or after a false alarm: rindle release-quarantine {rows.asset.id} --reason TEXT"


def _staged(rows: _Rows, is_running: bool, settings: Settings) -> tuple[str, str | None]:
    upload = rows.sessions[-1] if rows.sessions else None
    if upload is None:
        return "no upload was started for it", _purge(rows)
    if upload.state in ENDED_BADLY:
        if upload.release_error_code is not None:
            summary = f"its upload is {upload.state}, but its object cannot be deleted ({upload.release_error_code})"
            return summary, _repair("release_failing", rows, settings)
        if upload.backing_released_at is None and not is_running:
            summary = f"its upload is {upload.state}, and its leftovers were not removed"
            return summary, _repair("session_residue", rows, settings)
        return f"its upload is {upload.state}; the client has to start a new one", None
    if upload.expires_at < utc_now() and not is_running:
        return "its upload is past its expiry but was not ended", _repair("session_overdue", rows, settings)
    return "it waits for the client to send the bytes and verify", None


def _deliverable(rows: _Rows, is_running: bool, settings: Settings) -> tuple[str, str | None]:
    """Return the condition of a deliverable asset, which depends on its variants only."""

    def named(*states: VariantState) -> list[str]:
        return [one.name for state in states for one in rows.variants if one.state == state]

    if waiting := named(VariantState.QUEUED, VariantState.PROCESSING):
        if is_running:
            return f"it can be delivered; being built: {', '.join(waiting)}", None
        name = "queue_starved" if named(VariantState.QUEUED) else "orphan_suspect"
        return f"no run builds {', '.join(waiting)}", _repair(name, rows, settings)
    for states, condition in _CONDITIONS.items():
        if names := named(*states):
            finding = next(FINDING_OF_VARIANT[state] for state in states if named(state))
            return f"{condition}: {', '.join(names)}", _repair(finding, rows, settings)
    if (found := _at_provider(rows, is_running, settings)) is not None:
        return found
    if rows.outdated:
        return f"built from an older recipe: {', '.join(rows.outdated)}", _repair("recipe_drift", rows, settings)
    if rows.is_drifted:
        return "its technical facts are missing or contradict its type", _repair("probe_drift", rows, settings)
    return "no problem found", None


def _at_provider(rows: _Rows, is_running: bool, settings: Settings) -> tuple[str, str | None] | None:
    """Return the condition at a streaming provider; ``None`` when nothing is to be said about it."""
    for row in rows.providers:
        name, state = row.provider_name, ProviderState(row.state)
        if row.cleanup_pending:
            return f"{name} may still have a copy of it", _repair("provider_cleanup_pending", rows, settings)
        if state is ProviderState.ERRORED:
            summary = f"{name} has not prepared it for playback ({row.last_sync_error})"
            if row.ingest_mode == DIRECT_CREATOR_UPLOAD:
                return f"{summary}; its creator has to upload it again", None
            return f"{summary}; fix the cause, then retry", f"rindle provider-sync {rows.asset.id} --retry"
        if state in OPEN_PROVIDER_STATES:
            if is_running:
                return f"it can be delivered; {name} is preparing it for playback", None
            return f"no run follows it at {name}", _repair("provider_stuck", rows, settings)
    return None


#: Conditions of variants that need an operator; both states of a condition have the same remedy.
_CONDITIONS = {
    (VariantState.FAILED, VariantState.CANCELLED): "failed or cancelled permanently",
    (VariantState.MISSING, VariantState.STALE): "missing or built from an older recipe",
}


def _parked(rows: _Rows) -> MediaOutbox | None:
    """Return the newest request that Temporal rejected as invalid."""
    return next((one for one in reversed(rows.outbox) if one.state == OutboxState.PARKED), None)


def _repair(finding: str, rows: _Rows, settings: Settings) -> str:
    return REMEDIES[finding].command_for(rows.asset.id, settings)


def _purge(rows: _Rows) -> str:
    return f"rindle purge {rows.asset.id} --execute"


def _last_error(rows: _Rows, failing: Sequence[PendingActivity]) -> LastError | None:
    """Return the newest error: of a request that Temporal rejected, of an activity that is retried, or of a row."""
    if parked := _parked(rows):
        status, _, message = (parked.last_error or "").partition(": ")
        return LastError("outbox", status.lower() or None, message or None)
    if failing:
        worst = max(failing, key=lambda one: one.attempt)
        return LastError(worst.type, worst.last_failure_code, worst.last_failure)
    marked = [(one.updated_at, f"variant {one.name}", one.error_code, one.error_reason) for one in rows.variants]
    marked += [(one.updated_at, "upload", one.error_code, one.failure_reason) for one in rows.sessions]
    marked += [
        (one.updated_at, "upload", one.release_error_code, "its object cannot be deleted") for one in rows.sessions
    ]
    marked += [
        (one.updated_at, one.provider_name, "provider_sync_failed", one.last_sync_error)
        for one in rows.providers
        if one.last_sync_error
    ]
    asset = rows.asset
    marked.append((asset.updated_at, "asset", asset.error_code, asset.operator_reason or asset.error_reason))
    with_code = [one for one in marked if one[2]]
    if not with_code:
        return None
    _, where, code, reason = max(with_code, key=lambda one: one[0])
    return LastError(where, code, reason)
