"""List filters for the runs of this application, as the Temporal UI and the Temporal CLI accept them.

Temporal is not needed to make them. They use the start time, the status and the search attributes of runs, which its
visibility store has; whether a step is retried is shown by ``explain`` and ``runtime_status`` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rindle import messages
from rindle.arguments import canonical_id
from rindle.db.ids import AssetOrId, id_of_asset
from rindle.db.models import utc_now
from rindle.errors import InvalidArgument
from rindle.instants import iso_instant
from rindle.operations.findings import AV_SECONDS, PURGE_SECONDS, SESSION_SECONDS
from rindle.operations.reports import Report
from rindle.services import Services
from rindle.settings import Settings
from rindle.workflows import ids

#: The conditions of runs that have filters; ``all`` lists every run, in any condition.
STATES = ("all", "open", "stuck", "failed", "unusual")
#: How far back ended runs are listed.
ENDED_WITHIN = timedelta(days=7)
#: Seconds after which a sweep counts as stuck: its schedule is due again.
SWEEP_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class ListFilter(Report):
    """One filter: its ``state`` of :data:`STATES`, which runs it lists, and the query."""

    state: str
    name: str
    summary: str
    query: str


def list_filters(
    services: Services,
    *,
    state: str | None = None,
    asset: AssetOrId | None = None,
    profile: str | None = None,
    now: datetime | None = None,
) -> list[ListFilter]:
    """Return the filters for one state, or for all of them.

    Args:
        state: ``all``, ``open``, ``stuck`` (open for longer than such a run usually takes), ``failed`` or ``unusual``
            (ended otherwise than usual, such as a quarantined upload).
        asset: only runs of this asset.
        profile: only runs of the assets of this profile.
        now: the time from which ages count; the current time when left out.

    Raises:
        InvalidArgument: the state is unknown, the asset is not an id, or the search attributes that ``asset`` and
            ``profile`` need are switched off.
        UnknownProfile: the profile is not registered.
    """
    if state is not None and state not in STATES:
        raise InvalidArgument(f"state must be one of {', '.join(STATES)}", detail={"option": "state"})
    narrowed = _narrowed(services, asset, profile)
    found = _filters(services.settings, utc_now() if now is None else now)
    return [
        ListFilter(one, name, summary, " AND ".join([query, *narrowed]))
        for one, name, summary, query in found
        if state in (None, one)
    ]


def _narrowed(services: Services, asset: AssetOrId | None, profile: str | None) -> list[str]:
    """Return the conditions on the search attributes of one asset or profile."""
    if (asset is not None or profile is not None) and not services.settings.search_attributes:
        raise InvalidArgument(
            "runs are found by asset and profile through search attributes, which RINDLE_SEARCH_ATTRIBUTES=false "
            "switches off. To fix: leave the option out, and use rindle explain ASSET",
            detail={"option": "asset" if asset is not None else "profile"},
        )
    found: list[str] = []
    if asset is not None:
        asset_id = canonical_id(id_of_asset(asset))
        if asset_id is None:
            raise InvalidArgument("asset must be the id of an asset, a UUID", detail={"option": "asset"})
        found.append(f"{ids.ASSET_ID.name} = '{asset_id}'")
    if profile is not None:
        found.append(f"{ids.PROFILE.name} = '{services.profile(profile).name}'")
    return found


def _filters(settings: Settings, now: datetime) -> Iterator[tuple[str, str, str, str]]:
    prefix = settings.workflow_id_prefix
    ours = f"WorkflowId STARTS_WITH '{prefix}-' AND WorkflowType IN ({_listed(_TYPES)})"
    # Sweeps too: the run that read the facts of an asset again belongs to the story of the asset.
    yield "all", "all", "all runs, open and ended", f"WorkflowId STARTS_WITH '{prefix}-'"
    yield "open", "open", "all open runs", f"ExecutionStatus = 'Running' AND {ours}"
    for name, workflow_type, kind, seconds, summary in (
        (
            "stuck-uploads",
            messages.UPLOAD_WORKFLOW,
            "upload",
            settings.upload_session_ttl_seconds + SESSION_SECONDS,
            "uploads that are open for longer than an upload session lives",
        ),
        ("stuck-builds", messages.VARIANT_WORKFLOW, "variants", AV_SECONDS, "builds that have taken 20 minutes"),
        (
            "stuck-purges",
            messages.PURGE_WORKFLOW,
            "purge",
            PURGE_SECONDS,
            "purges that are open for an hour; some wait for the end of an upload ticket",
        ),
        (
            "stuck-erasures",
            messages.OWNER_ERASURE_WORKFLOW,
            "erasure",
            PURGE_SECONDS,
            "erasures that wait for purges for an hour",
        ),
        (
            "stuck-sweeps",
            messages.MAINTENANCE_WORKFLOW,
            "maintenance",
            SWEEP_SECONDS,
            "maintenance sweeps that have taken a day",
        ),
    ):
        before = iso_instant(now - timedelta(seconds=seconds))
        of_kind = f"WorkflowType = '{workflow_type}' AND WorkflowId STARTS_WITH '{prefix}-{kind}:'"
        yield "stuck", name, summary, f"ExecutionStatus = 'Running' AND {of_kind} AND StartTime < '{before}'"
    since = iso_instant(now - ENDED_WITHIN)
    ended = f"{ours} AND CloseTime > '{since}'"
    broken = f"ExecutionStatus IN ({_listed(('Failed', 'TimedOut', 'Terminated', 'Canceled'))})"
    yield "failed", "failed", "runs of the last 7 days that failed or were ended from outside", f"{broken} AND {ended}"
    if settings.search_attributes:
        yield (
            "unusual",
            "unusual",
            "runs of the last 7 days that ended otherwise than usual, such as quarantined uploads",
            f"{ids.STATE.name} IS NOT NULL AND {ended}",
        )


_TYPES = (
    messages.UPLOAD_WORKFLOW,
    messages.VARIANT_WORKFLOW,
    messages.PURGE_WORKFLOW,
    messages.OWNER_ERASURE_WORKFLOW,
    messages.MAINTENANCE_WORKFLOW,
)


def _listed(values: Sequence[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)
