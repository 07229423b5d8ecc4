"""Describe runs and task queues as Temporal reports them: what a run waits for, what fails, and who polls.

``explain`` describes the runs of one asset, ``runtime_status`` those of the oldest rows, ``doctor`` the queues.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState, TaskQueueType
from temporalio.api.failure.v1 import Failure
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueue
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowExecutionDescription
from temporalio.converter import ActivitySerializationContext
from temporalio.exceptions import FailureError
from temporalio.service import RPCError, RPCStatusCode

from rindle.db.models import utc_now
from rindle.errors import TemporalUnavailable
from rindle.operations.reports import Report
from rindle.profile import Profile
from rindle.recipes import is_av_work
from rindle.security import scrub
from rindle.settings import Settings
from rindle.temporal_client import TemporalConnection

log = logging.getLogger(__name__)

#: Timeout in seconds of all requests to Temporal of one report together, once the process is connected; the connection
#: has a limit of its own (``RINDLE_TEMPORAL_CONNECT_SECONDS``).
TEMPORAL_SECONDS = 5.0
#: A poller without a poll for this many seconds is gone: a poll takes at most 60 s.
POLLER_SECONDS = 65.0
#: Seconds a task may wait before the pollers of its queue are looked up.
WAITING_SECONDS = 10.0
#: Attempts after which a step counts as one that is retried; a single failure is ordinary.
RETRIED_ATTEMPTS = 3
#: Name of the step whose code is the workflow's own.
WORKFLOW_TASK = "workflow task"

_KINDS = {
    "activity": TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
    "workflow": TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
}

#: Name of a task queue, and the kind of its tasks: ``activity`` or ``workflow``.
Queue = tuple[str, str]


@dataclass(frozen=True, slots=True)
class PendingActivity(Report):
    """A step that a run waits for.

    Attributes:
        next_attempt_at: when it is tried again; ``None`` while an attempt runs or waits for a worker.
        worker: identity of the last worker that tried it, as ``host:process:build``.
        task_queue: queue that its next attempt waits in, or waited in.
        scheduled_at: since when the current attempt waits or runs.
    """

    type: str
    state: str
    attempt: int
    last_failure: str | None
    last_failure_code: str | None
    next_attempt_at: datetime | None
    last_heartbeat_at: datetime | None
    worker: str | None
    task_queue: str
    scheduled_at: datetime | None


@dataclass(frozen=True, slots=True)
class PendingTask(Report):
    """The next task of the workflow's own code; ``state`` is ``scheduled`` until a worker starts it."""

    state: str
    attempt: int
    scheduled_at: datetime | None


@dataclass(frozen=True, slots=True)
class WorkflowFacts(Report):
    """The newest run of a workflow id."""

    id: str
    run_id: str
    namespace: str
    task_queue: str
    status: str
    started_at: datetime
    closed_at: datetime | None
    pending_activities: tuple[PendingActivity, ...]
    pending_task: PendingTask | None

    @property
    def is_running(self) -> bool:
        """Whether the run is open."""
        return self.status == "running"

    def waiting(self, now: datetime) -> set[Queue]:
        """Return the queues in which tasks of this run have waited for longer than :data:`WAITING_SECONDS`."""
        late = now - timedelta(seconds=WAITING_SECONDS)
        found = {
            (one.task_queue, "activity")
            for one in self.pending_activities
            if one.state == "scheduled" and _is_before(one.next_attempt_at or one.scheduled_at, late)
        }
        task = self.pending_task
        if task is not None and task.state == "scheduled" and _is_before(task.scheduled_at, late):
            found.add((self.task_queue, "workflow"))
        return found

    def failing(self) -> list[PendingActivity]:
        """Return the steps that have failed and are retried, also the workflow's own code."""
        found = [one for one in self.pending_activities if one.last_failure or one.last_failure_code]
        if self.pending_task is not None and self.pending_task.attempt >= RETRIED_ATTEMPTS:
            found.append(
                PendingActivity(
                    type=WORKFLOW_TASK,
                    state=self.pending_task.state,
                    attempt=self.pending_task.attempt,
                    last_failure="the workers cannot continue this run; its history has the error",
                    last_failure_code="workflow_task_failed",
                    next_attempt_at=None,
                    last_heartbeat_at=None,
                    worker=None,
                    task_queue=self.task_queue,
                    scheduled_at=self.pending_task.scheduled_at,
                )
            )
        return found


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """A task queue: whether a worker polls it, how many tasks wait in it, and for how long the oldest one has."""

    name: str
    kind: str
    is_polled: bool
    waiting: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Described:
    """Some runs, and the queues that their tasks wait in: without workers, and with busy ones."""

    workflows: tuple[WorkflowFacts, ...]
    unpolled: tuple[QueueFacts, ...]
    busy: tuple[QueueFacts, ...]


async def described_runs(temporal: TemporalConnection, workflow_ids: Iterable[str]) -> Described | None:
    """Describe the runs that exist; ``None`` when Temporal does not answer in time."""
    now = utc_now()
    try:
        client = await temporal.client()
        async with asyncio.timeout(TEMPORAL_SECONDS):
            described = await asyncio.gather(*(describe_run(client, one) for one in workflow_ids))
            found = tuple(one for one in described if one is not None)
            waiting = {queue for one in found if one.is_running for queue in one.waiting(now)}
            queues = await asyncio.gather(*(describe_queue(client, one) for one in sorted(waiting)))
    except (TemporalUnavailable, RPCError, TimeoutError):
        return None
    unpolled = tuple(one for one in queues if not one.is_polled)
    return Described(found, unpolled, busy=tuple(one for one in queues if one.is_polled))


async def describe_run(client: Client, workflow_id: str) -> WorkflowFacts | None:
    """Return the newest run of a workflow id, or ``None`` when there is none.

    Raises:
        RPCError: Temporal did not answer.
    """
    try:
        found = await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    return WorkflowFacts(
        id=found.id,
        run_id=found.run_id,
        namespace=client.namespace,
        task_queue=found.task_queue,
        status="unknown" if found.status is None else found.status.name.lower(),
        started_at=found.start_time,
        closed_at=found.close_time,
        pending_activities=tuple(
            [await _activity(client, found, one) for one in found.raw_description.pending_activities]
        ),
        pending_task=_task(found),
    )


async def _activity(client: Client, run: WorkflowExecutionDescription, one: PendingActivityInfo) -> PendingActivity:
    return PendingActivity(
        type=one.activity_type.name,
        state=PendingActivityState.Name(one.state).removeprefix("PENDING_ACTIVITY_STATE_").lower(),
        attempt=one.attempt,
        # Our messages are redacted where they are raised; those of other workers may not be.
        last_failure=scrub(await _failure_message(client, run, one))[:500] or None,
        last_failure_code=one.last_failure.application_failure_info.type or None,
        next_attempt_at=_moment(one.next_attempt_schedule_time),
        last_heartbeat_at=_moment(one.last_heartbeat_time),
        worker=one.last_worker_identity or None,
        task_queue=one.activity_options.task_queue.name or run.task_queue,
        scheduled_at=_moment(one.scheduled_time),
    )


async def _failure_message(client: Client, run: WorkflowExecutionDescription, one: PendingActivityInfo) -> str:
    """Return the message of the last failure, which the application's data converter may have encrypted."""
    if not one.HasField("last_failure"):
        return ""
    context = ActivitySerializationContext(
        namespace=client.namespace,
        activity_id=one.activity_id,
        activity_type=one.activity_type.name,
        activity_task_queue=one.activity_options.task_queue.name or None,
        workflow_id=run.id,
        workflow_type=run.workflow_type,
        is_local=False,
    )
    failure = Failure()
    failure.CopyFrom(one.last_failure)  # decoding changes it
    try:
        error = await client.data_converter.with_context(context).decode_failure(failure)
    except Exception as problem:  # a codec is the application's own code
        log.info("a failure could not be decoded", extra={"error": type(problem).__name__})
        return "its message cannot be decoded by the data converter of this process"
    return error.message if isinstance(error, FailureError) else str(error)


def _task(found: WorkflowExecutionDescription) -> PendingTask | None:
    if not found.raw_description.HasField("pending_workflow_task"):
        return None
    task = found.raw_description.pending_workflow_task
    state = PendingWorkflowTaskState.Name(task.state).removeprefix("PENDING_WORKFLOW_TASK_STATE_").lower()
    return PendingTask(state, task.attempt, _moment(task.original_scheduled_time) or _moment(task.scheduled_time))


def _moment(stamp: Timestamp) -> datetime | None:
    return stamp.ToDatetime(tzinfo=UTC) if stamp.seconds else None


def _is_before(moment: datetime | None, limit: datetime) -> bool:
    return moment is not None and moment < limit


# --- task queues -------------------------------------------------------------------------------------------------


def needed_queues(settings: Settings, profiles: Iterable[type[Profile]]) -> frozenset[Queue]:
    """Return the task queues that workers have to poll for these profiles."""
    needed = {(queue, kind) for queue in (settings.queue(), settings.maintenance_queue) for kind in _KINDS}
    needed.add((settings.image_queue, "activity"))
    builds_av = any(
        profile.processor is None and any(is_av_work(spec) for spec in profile.variants.values())
        for profile in profiles
    )
    if builds_av:
        needed.add((settings.av_queue, "activity"))
    if any(profile.delivery_policy().streaming is not None for profile in profiles):
        needed.add((settings.provider_queue, "activity"))
    return frozenset(needed)


async def describe_queue(client: Client, queue: Queue) -> QueueFacts:
    """Return who polls a task queue and what waits in it.

    Raises:
        RPCError: Temporal did not answer.
    """
    name, kind = queue
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=name),
            task_queue_type=_KINDS[kind],
            report_stats=True,
        )
    )
    return QueueFacts(
        name=name,
        kind=kind,
        is_polled=bool(_present(answer.pollers)),
        waiting=answer.stats.approximate_backlog_count,
        oldest_seconds=answer.stats.approximate_backlog_age.ToTimedelta().total_seconds(),
    )


async def pollers_of(client: Client, queue: Queue) -> list[PollerInfo]:
    """Return the workers that poll a task queue.

    Raises:
        RPCError: Temporal did not answer.
    """
    name, kind = queue
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=name), task_queue_type=_KINDS[kind]
        )
    )
    return _present(answer.pollers)


def _present(pollers: Iterable[PollerInfo]) -> list[PollerInfo]:
    oldest = datetime.now(UTC) - timedelta(seconds=POLLER_SECONDS)
    return [poller for poller in pollers if poller.last_access_time.ToDatetime(tzinfo=UTC) > oldest]


def names_of(queues: Iterable[QueueFacts]) -> str:
    """Return the names of queues in one line, each once."""
    return ", ".join(sorted({one.name for one in queues}))
