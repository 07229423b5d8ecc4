"""Find open runs whose rows are gone: nothing in the database leads to them, and they do nothing any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session
from temporalio.client import Client

from rindle import messages
from rindle.db.erasures import have_tables
from rindle.db.models import MediaAsset, MediaErasure, MediaUploadSession
from rindle.operations.findings import Candidate, Filters, RunSample
from rindle.settings import Settings
from rindle.workflows import ids

#: Seconds a run may be open before it becomes a suspect: a purge deletes the rows, and then its run ends.
RUN_SECONDS = 300
#: Open runs whose rows are looked up.
MAX_LISTED = 5_000
#: Ids per query: old releases of SQLite allow 999 parameters.
_IDS_PER_QUERY = 500

_TYPES = (
    messages.UPLOAD_WORKFLOW,
    messages.VARIANT_WORKFLOW,
    messages.PROVIDER_PUSH_WORKFLOW,
    messages.PURGE_WORKFLOW,
    messages.OWNER_ERASURE_WORKFLOW,
)


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run, and the id of the session, asset or erasure that it works on."""

    sample: RunSample
    row_id: str


async def open_runs(client: Client, settings: Settings, filters: Filters, now: datetime) -> tuple[OpenRun, ...]:
    """Return the open runs of this application, at most :data:`MAX_LISTED`.

    With ``filters.profile`` only runs that have it as search attribute; ``filters.older_than`` counts from their start.

    Raises:
        RPCError: Temporal did not answer.
    """
    prefix = settings.workflow_id_prefix
    before = now - timedelta(seconds=max(filters.older_than or 0, RUN_SECONDS))
    types = ", ".join(f"'{name}'" for name in _TYPES)
    query = (
        f"ExecutionStatus = 'Running' AND WorkflowType IN ({types}) AND WorkflowId STARTS_WITH '{prefix}-' "
        f"AND StartTime < '{before.isoformat()}'"
    )
    found: list[OpenRun] = []
    async for run in client.list_workflows(query):
        row_id = ids.row_of(run.id, prefix=prefix)
        of_profile = filters.profile in (None, run.typed_search_attributes.get(ids.PROFILE))
        if row_id is not None and of_profile:
            found.append(OpenRun(RunSample(run.id, run.run_id, run.workflow_type, run.start_time), row_id))
        if len(found) == MAX_LISTED:
            break
    return tuple(found)


def without_rows(session: Session, runs: Sequence[OpenRun], filters: Filters) -> list[Candidate]:
    """Return the runs that have no row as one class, or nothing when all have theirs."""
    wanted = sorted({run.row_id for run in runs})
    known: set[str] = set()
    # Their ids are UUIDs and never equal.
    models: list[type[MediaAsset | MediaUploadSession | MediaErasure]] = [MediaAsset, MediaUploadSession]
    if have_tables(session):
        models.append(MediaErasure)
    for start in range(0, len(wanted), _IDS_PER_QUERY):
        for model in models:
            some = wanted[start : start + _IDS_PER_QUERY]
            known |= set(session.scalars(select(model.id).where(model.id.in_(some))))
    lost = [run.sample for run in runs if run.row_id not in known]
    lost.sort(key=lambda sample: (sample.started_at, sample.workflow_id))
    if not lost:
        return []
    return [Candidate("run_without_rows", len(lost), lost[0].started_at, tuple(lost[: filters.limit]))]
