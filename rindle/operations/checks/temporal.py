"""Checks of Temporal: server, polling workers, schedules, search attributes; versions in ``worker_versions``."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, GetSystemInfoRequest
from temporalio.service import RPCError, RPCStatusCode

from rindle.errors import TemporalUnavailable
from rindle.operations.checks.report import Planned, Result, Subject, version_of
from rindle.operations.checks.worker_versions import worker_versions
from rindle.operations.remedies import REMEDIES
from rindle.operations.runs import describe_queue, needed_queues
from rindle.operations.schedules import ScheduleFacts, list_schedules
from rindle.workflows import ids

#: Oldest supported Temporal server.
TEMPORAL_FLOOR = (1, 29)
#: Shortest retention with which a finished upload can still be inspected on the next day.
RETENTION_FLOOR = timedelta(days=1)

_FIX = "start the server (rindle dev, docker compose) or check TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE"


def planned(subject: Subject, *, workers: bool) -> list[Planned]:
    """Return the checks of Temporal; ``workers`` requires polling workers."""
    pollers, versions = (_temporal_pollers, worker_versions) if workers else (_no_workers, _no_workers)
    return [
        Planned("temporal.reachable", "temporal", _temporal_reachable, leaves_process=True, fix=_FIX),
        Planned("temporal.pollers", "temporal", pollers, leaves_process=True, patience=2, fix=_FIX),
        Planned("temporal.schedules", "temporal", _schedules, leaves_process=True, patience=2, fix=_FIX),
        Planned("temporal.search_attributes", "temporal", _search_attributes, leaves_process=True, fix=_FIX),
        Planned("temporal.worker_versions", "temporal", versions, leaves_process=True, patience=2, fix=_FIX),
    ]


async def _temporal_reachable(subject: Subject) -> Result:
    label = subject.services.temporal.label
    try:
        client = await subject.services.temporal.client()
        info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
        namespace = await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace)
        )
    except TemporalUnavailable:
        return Result("error", f"the connection failed ({label})", _FIX)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return Result(
                "error", f"the namespace does not exist ({label})", "create it: temporal operator namespace create"
            )
        return Result("error", f"the server answered {error.status.name} ({label})", _FIX)
    retention = namespace.config.workflow_execution_retention_ttl.ToTimedelta()
    detail = {"server": info.server_version, "retention_seconds": retention.total_seconds()}
    if retention and retention < RETENTION_FLOOR:
        return Result(
            "error",
            f"finished runs are kept for only {retention.total_seconds() / 3600:.1f} h",
            "temporal operator namespace update --retention 7d",
            detail,
        )
    if version_of(info.server_version) < TEMPORAL_FLOOR:
        return Result("warn", f"server {info.server_version} is older than 1.29", "upgrade the server", detail)
    return Result("ok", f"server {info.server_version}", detail=detail)


async def _no_workers(subject: Subject) -> Result:
    return Result("skipped", "no workers are expected")


async def _temporal_pollers(subject: Subject) -> Result:
    client = await subject.services.temporal.client()
    needed = sorted(needed_queues(subject.services.settings, subject.profiles))
    queues = await asyncio.gather(*(describe_queue(client, queue) for queue in needed))
    unpolled = [f"{queue.name} ({queue.kind})" for queue in queues if not queue.is_polled]
    if unpolled:
        command = REMEDIES["no_worker"].surface(subject.services.settings)
        return Result(
            "error",
            f"no worker polls {', '.join(unpolled)}",
            f"start one: {command} (or rindle dev); use --no-workers if none is expected",
            {"queues": unpolled},
        )
    return Result("ok", f"polled: {', '.join(sorted({queue.name for queue in queues}))}")


async def _schedules(subject: Subject) -> Result:
    if not subject.services.settings.schedules:
        return Result("ok", "switched off")
    found = await list_schedules(subject.services)
    problems = {one.id: problem for one in found if (problem := _problem_of(one)) is not None}
    if not problems:
        wanted = [one for one in found if one.state != "off"]
        return Result("ok", f"{len(wanted)} schedules are active")
    listed = ", ".join(f"{schedule_id} {problem}" for schedule_id, (problem, _) in sorted(problems.items()))
    fixes = dict.fromkeys(fix for _, fix in problems.values())
    return Result("warn", listed, "; ".join(fixes), {"schedules": {one: text for one, (text, _) in problems.items()}})


def _problem_of(one: ScheduleFacts) -> tuple[str, str] | None:
    """Return what is wrong with a schedule, and what to do; ``None`` when nothing is."""
    apply = "rindle schedules apply (a worker of the maintenance queue does the same at its start)"
    if one.state == "missing":
        return "is missing", apply
    if one.state == "outdated":
        return "differs from this release and its settings", apply
    if one.state == "foreign":
        return "was made by another program", f"delete it, then apply: temporal schedule delete --schedule-id {one.id}"
    if one.state == "paused":
        return "is paused" + (f" ({one.note})" if one.note else ""), f"rindle schedules resume {one.verb}"
    if one.last_run is not None and one.last_run.status in ("failed", "timed_out", "terminated"):
        run = one.last_run.workflow_id
        return f"ended its last run as {one.last_run.status}", f"temporal workflow show --workflow-id {run}"
    return None


async def _search_attributes(subject: Subject) -> Result:
    if not subject.services.settings.search_attributes:
        return Result("ok", "switched off")
    client = await subject.services.temporal.client()
    try:
        listed = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
    except RPCError as error:
        return Result(
            "warn",
            f"search attributes cannot be listed ({error.status.name})",
            "let the cluster's operator add them, or set RINDLE_SEARCH_ATTRIBUTES=false",
        )
    missing = [key.name for key in ids.SEARCH_ATTRIBUTES if key.name not in listed.custom_attributes]
    if missing:
        return Result(
            "warn",
            f"missing, so runs cannot be found by them: {', '.join(missing)}",
            "start a worker, which registers them, or use: temporal operator search-attribute create --type Keyword",
            {"missing": missing},
        )
    return Result("ok", f"{len(ids.SEARCH_ATTRIBUTES)} registered")
