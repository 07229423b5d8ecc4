"""The check of worker deployments: whether the workers that poll have the version that gets new work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from temporalio.api.enums.v1 import WorkerDeploymentVersionStatus, WorkerVersioningMode
from temporalio.api.workflowservice.v1 import DescribeWorkerDeploymentRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from rindle.operations.checks.report import Result, Subject
from rindle.operations.runs import Queue, needed_queues, pollers_of

#: Builds that one message lists.
_SHOWN = 5
_BOTH = "set RINDLE_DEPLOYMENT_NAME and RINDLE_BUILD_ID for every worker"


@dataclass(frozen=True, slots=True, order=True)
class Build:
    """The version of a worker: its deployment and its build id; both are empty for an unversioned worker."""

    deployment: str = ""
    build_id: str = ""

    @property
    def is_versioned(self) -> bool:
        """Whether workers of this build take part in worker versioning."""
        return bool(self.deployment)

    def __str__(self) -> str:
        return f"{self.deployment}:{self.build_id}" if self.is_versioned else "unversioned"


@dataclass(frozen=True, slots=True)
class Routing:
    """Where the server sends new work of a deployment, and the status of each of its builds (``current`` ...)."""

    current: Build | None
    status: Mapping[str, str]


async def worker_versions(subject: Subject) -> Result:
    """Compare the builds of polling workers with the versions that get new work."""
    client = await subject.services.temporal.client()
    settings = subject.services.settings
    queues = sorted(needed_queues(settings, subject.profiles))
    found = dict(zip(queues, await asyncio.gather(*(_builds(client, queue) for queue in queues)), strict=True))
    if settings.deployment_name and not settings.build_id:
        return Result("warn", "RINDLE_DEPLOYMENT_NAME is set without RINDLE_BUILD_ID: workers are unversioned", _BOTH)
    names = {build.deployment for builds in found.values() for build in builds if build.is_versioned}
    if settings.deployment_name and settings.build_id:
        names.add(settings.deployment_name)
    try:
        routings = {name: await _routing(client, name) for name in sorted(names)}
    except RPCError as error:
        return Result(
            "warn",
            f"the worker deployments cannot be read ({error.status.name})",
            "give these credentials the right to read the namespace",
        )
    return compare(found, routings)


def compare(found: Mapping[Queue, frozenset[Build]], routings: Mapping[str, Routing | None]) -> Result:
    """Return the result of the check.

    Args:
        found: the builds that poll each needed queue.
        routings: the routing of each deployment that workers or settings name; ``None`` for one that the server does
            not know.
    """
    polling = sorted({build for builds in found.values() for build in builds})
    detail = {
        "polling": [str(build) for build in polling],
        "current": {name: None if one is None else str(one.current or "") for name, one in routings.items()},
    }
    if not routings:
        summary = "workers are unversioned" if polling else "no worker polls"
        return Result("ok", summary, detail=detail)
    problems, fixes = [], []
    for name, routing in routings.items():
        own = [build for build in polling if build.deployment == name]
        if routing is None or routing.current is None:
            problems.append(f"the deployment {name} has no current version, so its workers get no work")
            fixes.append(_promotion(own[-1] if own else Build(name, "BUILD")))
            continue
        waiting = [build for build in own if routing.status.get(build.build_id, "") in ("", "inactive", "created")]
        if waiting:
            problems.append(f"{_listed(waiting)} polls, but gets no new work: {routing.current} is current")
            fixes.append(_promotion(waiting[-1]))
        unpolled = sorted({queue for (queue, _), builds in found.items() if builds and routing.current not in builds})
        if unpolled:
            problems.append(f"no worker of {routing.current}, which is current, polls {', '.join(unpolled)}")
            fixes.append(f"start workers with RINDLE_BUILD_ID={routing.current.build_id}")
        if Build() in polling:
            problems.append("some workers are unversioned and get no new work")
            fixes.append(_BOTH)
    if problems:
        return Result("warn", "; ".join(problems), "; ".join(dict.fromkeys(fixes)), detail)
    return Result("ok", _summary(polling, routings), detail=detail)


def _summary(polling: Iterable[Build], routings: Mapping[str, Routing | None]) -> str:
    current = ", ".join(str(one.current) for one in routings.values() if one is not None)
    drained = [
        build
        for build in polling
        for routing in (routings.get(build.deployment),)
        if routing is not None and routing.status.get(build.build_id) == "drained"
    ]
    return f"current: {current}" + (f"; {_listed(drained)} has no runs left and can stop" if drained else "")


def _listed(builds: list[Build]) -> str:
    more = f" and {len(builds) - _SHOWN} more" if len(builds) > _SHOWN else ""
    return ", ".join(str(build) for build in builds[:_SHOWN]) + more


def _promotion(build: Build) -> str:
    return (
        "temporal worker deployment set-current-version "
        f"--deployment-name {build.deployment} --build-id {build.build_id}"
    )


async def _builds(client: Client, queue: Queue) -> frozenset[Build]:
    versioned = WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
    return frozenset(
        Build(options.deployment_name, options.build_id) if options.worker_versioning_mode == versioned else Build()
        for options in (poller.deployment_options for poller in await pollers_of(client, queue))
    )


async def _routing(client: Client, name: str) -> Routing | None:
    try:
        answer = await client.workflow_service.describe_worker_deployment(
            DescribeWorkerDeploymentRequest(namespace=client.namespace, deployment_name=name)
        )
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    info = answer.worker_deployment_info
    status: dict[str, str] = {}
    for one in info.version_summaries:
        label = WorkerDeploymentVersionStatus.Name(one.status).removeprefix("WORKER_DEPLOYMENT_VERSION_STATUS_")
        status[one.deployment_version.build_id] = label.lower()
    current = info.routing_config.current_deployment_version  # empty until somebody has made a version current
    return Routing(Build(current.deployment_name, current.build_id) if current.build_id else None, status)
