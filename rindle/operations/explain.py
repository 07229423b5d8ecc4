"""Why is it stuck: rows of one asset, runs that work on it, their last error, and the command that repairs it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import select
from sqlalchemy.orm import Session
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client, WorkflowExecutionDescription
from temporalio.service import RPCError, RPCStatusCode

from rindle.db import uploads as upload_rows
from rindle.db.models import (
    MediaAsset,
    MediaAttachment,
    MediaOutbox,
    MediaUploadSession,
    MediaVariant,
    is_id,
    utc_now,
)
from rindle.db.variants import group_of
from rindle.errors import NotFound, TemporalUnavailable
from rindle.instants import iso_instant
from rindle.security import scrub
from rindle.services import Services
from rindle.settings import Settings
from rindle.states import UNJUDGED, AssetState, OutboxState, SessionState, VariantState
from rindle.temporal_client import TemporalConnection
from rindle.workflows import ids

#: Seconds for everything that is asked of Temporal.
TEMPORAL_SECONDS = 5.0
#: Seconds a relay may take to send a row that is due.
RELAY_SECONDS = 10


@dataclass(frozen=True, slots=True)
class _Rows:
    """What the database holds of one asset; ``runs`` names its workflows by id."""

    asset: MediaAsset
    sessions: Sequence[MediaUploadSession]
    variants: Sequence[MediaVariant]
    attachments: int
    outbox: Sequence[MediaOutbox]
    runs: tuple[str, ...]


async def explain(services: Services, temporal: TemporalConnection, subject_id: str) -> dict[str, Any]:
    """Tell the whole story of an asset, or of the asset an upload session brings in; changes nothing.

    Returns:
        ``asset``, ``upload_sessions``, ``variants``, ``attachments`` (a count), ``outbox`` (rows not sent yet),
        ``workflows`` (status, start, pending activities with attempt and last failure; empty when
        ``temporal.reachable`` is false), and ``diagnosis``: ``{summary, last_error, command}``, where ``command`` is
        ``None`` when nothing needs repair. No keys, URLs, filenames or owners.

    Raises:
        NotFound: neither an asset nor an upload session has that id.
    """
    rows = await services.database.read(_look, services.settings, subject_id)
    workflows = await _workflows(temporal, rows.runs)
    return {
        "generated_at": iso_instant(utc_now()),
        "asset": _facts(
            rows.asset,
            *("id", "state", "profile", "kind", "content_type", "byte_size", "width", "height"),
            *("error_code", "error_reason", "inserted_at", "updated_at"),
        ),
        "upload_sessions": [
            _facts(one, "id", "state", "upload_strategy", "error_code", "failure_reason", "expires_at", "updated_at")
            for one in rows.sessions
        ],
        "variants": [
            _facts(one, *("name", "state", "progress", "attempts", "error_code", "error_reason", "updated_at"))
            for one in rows.variants
        ],
        "attachments": rows.attachments,
        "outbox": [
            _facts(one, "id", "workflow_id", "signal", "state", "attempts", "last_error", "available_at")
            for one in rows.outbox
        ],
        "workflows": workflows or [],
        "temporal": {"reachable": workflows is not None},
        "diagnosis": _diagnose(rows, workflows),
    }


def _look(session: Session, settings: Settings, subject_id: str) -> _Rows:
    asset = session.get(MediaAsset, subject_id) if is_id(subject_id) else None
    if asset is None:
        upload = upload_rows.find_upload(session, subject_id)
        if upload is None:
            raise NotFound("could not find an asset or upload of that id: not found", detail={"entity": "asset"})
        asset = upload.asset
    of_asset = MediaUploadSession.asset_id == asset.id
    sessions = session.scalars(select(MediaUploadSession).where(of_asset).order_by(MediaUploadSession.id)).all()
    variants = session.scalars(
        select(MediaVariant).where(MediaVariant.asset_id == asset.id).order_by(MediaVariant.name)
    ).all()
    attached = session.scalars(select(MediaAttachment.id).where(MediaAttachment.asset_id == asset.id)).all()
    prefix = settings.workflow_id_prefix
    runs = (
        *(ids.upload_id(one.id, prefix=prefix) for one in sessions),
        *sorted({ids.variants_id(asset.id, group_of(asset.kind, one), prefix=prefix) for one in variants}),
        ids.purge_id(asset.id, prefix=prefix),
    )
    waiting = session.scalars(
        select(MediaOutbox)
        .where(MediaOutbox.workflow_id.in_(runs), MediaOutbox.state != OutboxState.DISPATCHED)
        .order_by(MediaOutbox.id)
    ).all()
    return _Rows(asset, sessions, variants, len(attached), waiting, runs)


# --- Temporal ------------------------------------------------------------------------------------------------------


async def _workflows(temporal: TemporalConnection, runs: Iterable[str]) -> list[dict[str, Any]] | None:
    """Describe the runs that exist; ``None`` when Temporal does not answer in time."""
    try:
        async with asyncio.timeout(TEMPORAL_SECONDS):
            client = await temporal.client()
            described = await asyncio.gather(*(_describe(client, run) for run in runs))
    except (TemporalUnavailable, RPCError, TimeoutError):
        return None
    return [one for one in described if one is not None]


async def _describe(client: Client, workflow_id: str) -> dict[str, Any] | None:
    try:
        found = await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    return {
        "id": found.id,
        "run_id": found.run_id,
        "namespace": client.namespace,
        "task_queue": found.task_queue,
        "status": "unknown" if found.status is None else found.status.name.lower(),
        "started_at": iso_instant(found.start_time),
        "closed_at": None if found.close_time is None else iso_instant(found.close_time),
        "pending_activities": _activities(found),
    }


def _activities(found: WorkflowExecutionDescription) -> list[dict[str, Any]]:
    return [
        {
            "type": one.activity_type.name,
            "state": PendingActivityState.Name(one.state).removeprefix("PENDING_ACTIVITY_STATE_").lower(),
            "attempt": one.attempt,
            # Ours are redacted where they are raised; another worker's might not be.
            "last_failure": scrub(one.last_failure.message)[:500] or None,
            "last_failure_code": one.last_failure.application_failure_info.type or None,
            "next_attempt_at": _moment(one.next_attempt_schedule_time),
            "last_heartbeat_at": _moment(one.last_heartbeat_time),
        }
        for one in found.raw_description.pending_activities
    ]


def _moment(stamp: Timestamp) -> str | None:
    return iso_instant(stamp.ToDatetime(tzinfo=UTC)) if stamp.seconds else None


# --- judgement -----------------------------------------------------------------------------------------------------


def _diagnose(rows: _Rows, workflows: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """Say in one sentence where it stands, and name the one command that helps."""
    running = [one for one in workflows or () if one["status"] == "running"]
    busy = [activity for one in running for activity in one["pending_activities"]]
    failing = [activity for activity in busy if activity["last_failure"]]
    last_error = _last_error(rows, failing)

    def answer(summary: str, command: str | None = None) -> dict[str, Any]:
        return {"summary": summary, "last_error": last_error, "command": command}

    if any(one.state == OutboxState.PARKED for one in rows.outbox):
        return answer("Temporal refused the request to work on it as invalid", "rindle outbox drain")
    overdue = utc_now() - timedelta(seconds=RELAY_SECONDS)
    if any(one.attempts or one.available_at < overdue for one in rows.outbox):
        return answer("Temporal has not been told yet: no relay has sent the outbox row", "rindle outbox drain")
    if failing:
        worst = max(failing, key=lambda one: one["attempt"])
        return answer(
            f"{worst['type']} failed and is tried again (attempt {worst['attempt']}); it goes on when the cause is gone"
        )
    if workflows is None:
        return answer("Temporal does not answer, so nobody can say whether a run is working on it", "rindle doctor")
    return answer(*_standing(rows, bool(running)))


def _standing(rows: _Rows, is_running: bool) -> tuple[str, str | None]:
    asset = rows.asset
    state = AssetState(asset.state)
    by_state = {state: sorted(one.name for one in rows.variants if one.state == state) for state in VariantState}
    if state is AssetState.DELETED:
        if is_running:
            return "it is being purged", None
        return "it is deleted, and no purge is running", "rindle purge --retry --execute"
    if state is AssetState.QUARANTINED:
        return (
            f"its content was condemned ({asset.error_code}); upload a corrected file",
            f"rindle purge {asset.id} --execute",
        )
    if state is AssetState.STAGED:
        return _staged(rows, is_running)
    if state in UNJUDGED:
        if is_running:
            return "it is being judged", None
        return "its judgement gave up or was lost", f"rindle resume {asset.id}"
    waiting = by_state[VariantState.QUEUED] + by_state[VariantState.PROCESSING]
    if waiting:
        if is_running:
            return f"it can be served; being built: {', '.join(waiting)}", None
        return f"no run builds {', '.join(waiting)}", f"rindle resume {asset.id}"
    broken = by_state[VariantState.FAILED] + by_state[VariantState.CANCELLED]
    if broken:
        return f"failed or cancelled for good: {', '.join(broken)}", f"rindle requeue {asset.id}"
    gone = by_state[VariantState.MISSING] + by_state[VariantState.STALE]
    if gone:
        named = " ".join(f"--variant {name}" for name in gone)
        return f"missing or built from an older recipe: {', '.join(gone)}", f"rindle requeue {asset.id} {named}"
    return "nothing is wrong with it", None


def _staged(rows: _Rows, is_running: bool) -> tuple[str, str | None]:
    upload = rows.sessions[-1] if rows.sessions else None
    if upload is None:
        return "no upload was ever begun for it", f"rindle purge {rows.asset.id} --execute"
    if upload.state in (SessionState.ABORTED, SessionState.EXPIRED, SessionState.FAILED):
        if upload.backing_released_at is None and not is_running:
            return f"its upload is {upload.state}, and what it left was not removed", f"rindle resume {rows.asset.id}"
        return f"its upload is {upload.state}; the client has to start a new one", None
    if upload.expires_at < utc_now() and not is_running:
        return "its upload is past its expiry and nobody has ended it", f"rindle resume {rows.asset.id}"
    return "it waits for the client to send its bytes and verify", None


def _last_error(rows: _Rows, failing: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the newest error: of an activity that is being tried again, else of a row."""
    if failing:
        worst = max(failing, key=lambda one: one["attempt"])
        return {"where": worst["type"], "code": worst["last_failure_code"], "reason": worst["last_failure"]}
    marked = [(one.updated_at, f"variant {one.name}", one.error_code, one.error_reason) for one in rows.variants]
    marked += [(one.updated_at, "upload", one.error_code, one.failure_reason) for one in rows.sessions]
    marked.append((rows.asset.updated_at, "asset", rows.asset.error_code, rows.asset.error_reason))
    told = [one for one in marked if one[2]]
    if not told:
        return None
    _, where, code, reason = max(told, key=lambda one: one[0])
    return {"where": where, "code": code, "reason": reason}


def _facts(row: Any, *names: str) -> dict[str, Any]:
    found = {name: getattr(row, name) for name in names}
    return {name: iso_instant(value) if isinstance(value, datetime) else value for name, value in found.items()}
