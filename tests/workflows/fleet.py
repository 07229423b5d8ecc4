"""Workers inside the test's process, places at which a test can hold their tasks, and replay of what they did."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any, Self

from temporalio import activity, client, workflow
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHandle, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import CancelledError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    Interceptor,
    Replayer,
    SignalExternalWorkflowInput,
    StartActivityInput,
    StartChildWorkflowInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from rindle import Rindle, Settings, TemporalConnection, workflows
from rindle.bootstrap import WorkerProcess, workflow_interceptors, workflow_runner
from rindle.cli.temporal_server import find_temporal_cli
from rindle.messages import READ_GROUP, READ_UPLOAD, StatusView
from tests import application
from tests.patience import PATIENCE_SECONDS, until
from tests.stage import Stage

#: Longest time for which the server waits for a held workflow task; it allows no more. Its default of ten seconds is
#: too short for a busy machine: a task that takes longer is done again, and then the deed was done before it. Only the
#: runs whose tasks are held have this limit, because the task of a killed worker is done again as late.
TASK_LIMIT = timedelta(minutes=2)
#: Longest pause of a held workflow task. The SDK, which takes two seconds for a deadlock, is told to wait
#: (``tests/patience.py``).
HOLD_SECONDS = 110.0

Deed = Callable[[], Awaitable[Any]]


class Interruption(Interceptor):
    """Does something at a named place inside a workflow task, while the server waits for that task.

    Places are ``closing`` (the run has decided to end, the server does not know yet), ``signalling`` (before another
    workflow is signalled), ``starting`` (before a child is started) and, inside an activity, ``reading`` (before the
    rows of an upload or of a group are read). Each deed is done once per workflow: the task that follows is left alone.

    What may be held has more time than in production: child workflows and reads through this interceptor of the worker,
    other runs through the client that :meth:`Fleet.start` makes.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._deeds: dict[tuple[str, str], Deed] = {}
        self._lock = threading.Lock()
        #: Places that were passed, as ``(place, workflow id)``.
        self.done: list[tuple[str, str]] = []

    def at(self, place: str, workflow_id: str, deed: Deed) -> None:
        """Do ``deed`` the first time ``workflow_id`` comes to ``place``; it has :data:`HOLD_SECONDS`."""
        self._deeds[place, workflow_id] = deed

    def pass_by(self, place: str) -> None:
        """Called inside the workflow task."""
        key = (place, workflow.info().workflow_id)
        with self._lock:
            deed = None if workflow.unsafe.is_replaying() else self._deeds.pop(key, None)
        if deed is None:
            return
        with workflow.unsafe.sandbox_unrestricted():
            asyncio.run_coroutine_threadsafe(_do(deed), self._loop).result(HOLD_SECONDS)
        self.done.append(key)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Return the interceptor of every activity of the worker."""
        places = self

        class Activity(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                key = ("reading", str(activity.info().workflow_id))
                if activity.info().activity_type in (READ_UPLOAD, READ_GROUP) and key in places._deeds:
                    await places._deeds.pop(key)()
                    places.done.append(key)
                return await super().execute_activity(input)

        return Activity(next)

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor] | None:
        """Return the interceptor of every workflow of the worker."""
        places = self

        class Outbound(WorkflowOutboundInterceptor):
            async def signal_external_workflow(self, input: SignalExternalWorkflowInput) -> None:
                places.pass_by("signalling")
                await super().signal_external_workflow(input)

            async def start_child_workflow(
                self, input: StartChildWorkflowInput
            ) -> workflow.ChildWorkflowHandle[Any, Any]:
                places.pass_by("starting")
                input.task_timeout = TASK_LIMIT
                return await super().start_child_workflow(input)

            def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
                if input.activity in (READ_UPLOAD, READ_GROUP):
                    input.start_to_close_timeout = timedelta(seconds=PATIENCE_SECONDS)
                return super().start_activity(input)

        class Inbound(WorkflowInboundInterceptor):
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(Outbound(outbound))

            async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
                try:
                    result = await super().execute_workflow(input)
                except CancelledError:  # the end of a run that was asked to cancel; not asyncio's, which also evicts
                    places.pass_by("closing")
                    raise
                places.pass_by("closing")
                return result

        return Inbound


async def _do(deed: Deed) -> None:
    await deed()


class _LongTasks(client.Interceptor):
    """Starts runs whose tasks may be held."""

    def intercept_client(self, next: client.OutboundInterceptor) -> client.OutboundInterceptor:
        class Outbound(client.OutboundInterceptor):
            async def start_workflow(self, input: client.StartWorkflowInput) -> WorkflowHandle[Any, Any]:
                input.task_timeout = TASK_LIMIT
                return await super().start_workflow(input)

        return Outbound(next)


class Fleet:
    """The workers of one test; leaving the block stops them.

    Args:
        stage: the stage they work on.
        cached_workflows: see ``WorkerProcess``; 0 replays every workflow task from its history.
    """

    def __init__(self, stage: Stage, *, cached_workflows: int = 1_000) -> None:
        self.stage = stage
        self._cached_workflows = cached_workflows
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop all workers; more may be started afterwards."""
        await self._stack.aclose()

    async def start(self, rindle: Rindle | None = None, *, interruption: Interruption | None = None) -> Rindle:
        """Run a worker and return its application: ``rindle``, or one of its own."""
        rindle = rindle or self.stage.application()
        interceptors = () if interruption is None else (interruption,)
        if interruption is not None:
            self.stage.rindle.temporal = rindle.temporal = TemporalConnection(
                connect_seconds=application.CONNECT_SECONDS,
                environment=self.stage.environment,
                interceptors=[_LongTasks()],
            )
            await self.stage.client()  # a deed has no time to connect
        member = WorkerProcess(
            rindle, grace_seconds=5, cached_workflows=self._cached_workflows, interceptors=interceptors
        )
        await self._stack.enter_async_context(_working(member))
        return rindle


@asynccontextmanager
async def _working(member: WorkerProcess) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(member.run(stop))

    async def polling() -> bool:
        if task.done():
            await task
        return member.is_polling

    try:
        await until(polling, what="the fleet member to poll")
        yield
    finally:
        stop.set()
        await task


# --- looking at workflows -------------------------------------------------------------------------------------------


async def runs_of(stage: Stage, workflow_id: str) -> list[WorkflowHandle[Any, Any]]:
    """Return a handle on each run of a workflow, the newest first; visibility lags, so that others may be missing yet.

    A workflow may have more runs than a test wants: the outbox delivers at least once, and a message that arrives a
    second time after the run has ended starts one more, which finds nothing to do.
    """
    connected = await stage.client()
    newest = (await connected.get_workflow_handle(workflow_id).describe()).run_id
    listed = [run.run_id async for run in connected.list_workflows(f"WorkflowId = '{workflow_id}'")]
    others = [run_id for run_id in listed if run_id != newest]
    return [connected.get_workflow_handle(workflow_id, run_id=run_id) for run_id in (newest, *others)]


async def handle_of(stage: Stage, workflow_id: str) -> WorkflowHandle[Any, Any]:
    """Return a handle on the newest run of a workflow."""
    return (await stage.client()).get_workflow_handle(workflow_id)


async def in_stage(stage: Stage, workflow_id: str, wanted: str) -> None:
    """Wait until a workflow is there and its query ``status`` answers with the stage ``wanted``."""
    handle = await handle_of(stage, workflow_id)

    async def look() -> bool:
        try:
            view: StatusView = await handle.query("status", result_type=StatusView)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return view.stage == wanted

    await until(look, what=f"{workflow_id} to be {wanted}")


async def closed(stage: Stage, workflow_id: str) -> str:
    """Wait until the newest run of a workflow has ended; returns how (``COMPLETED``, ``CANCELED``, ...)."""
    handle = await handle_of(stage, workflow_id)

    async def look() -> str:
        described = await handle.describe()
        assert described.status is not None
        return "" if described.status.name == "RUNNING" else described.status.name

    try:
        return await until(look, what=f"{workflow_id} to end")
    except AssertionError as late:
        late.add_note(f"its history: {list(marks(await handle.fetch_history()))}")
        raise


async def at_rest(stage: Stage) -> None:
    """Wait until nothing is on its way to Temporal and every run has ended, also the builds that uploads abandon.

    A stage is left while nothing of it works any more: workers that stop would otherwise interrupt it.
    """
    told: set[str] = set()
    while True:
        await dispatched(stage)
        new = {row.workflow_id for row in await stage.outbox() if row.kind != "provider_webhook"} - told
        if not new:
            return
        for workflow_id in sorted(new):
            await closed(stage, workflow_id)
            for child in _children(await (await handle_of(stage, workflow_id)).fetch_history()):
                await closed(stage, child)
        told |= new


async def dispatched(stage: Stage) -> None:
    """Wait until the relays have sent every outbox row."""

    async def look() -> bool:
        return all(row.state == "dispatched" for row in await stage.outbox())

    await until(look, what="the outbox to be empty")


def _children(history: WorkflowHistory) -> set[str]:
    """Return the ids of the workflows that a run has started."""
    started = EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED
    return {
        event.child_workflow_execution_started_event_attributes.workflow_execution.workflow_id
        for event in history.events
        if event.event_type == started
    }


def marks(history: WorkflowHistory) -> Iterator[str]:
    """Describe the events of a history that tell its branches apart, one short text each."""
    names: dict[int, str] = {}
    for event in history.events:
        mark = _mark(event, names)
        if mark:
            yield mark


def _mark(event: HistoryEvent, names: dict[int, str]) -> str | None:
    match event.event_type:
        case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            name = event.activity_task_scheduled_event_attributes.activity_type.name.removeprefix("rindle.")
            names[event.event_id] = name
            return name
        case EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED:
            return f"{names[event.activity_task_failed_event_attributes.scheduled_event_id]} failed"
        case EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
            return f"{names[event.activity_task_canceled_event_attributes.scheduled_event_id]} canceled"
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
            return f"signal {event.workflow_execution_signaled_event_attributes.signal_name}"
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
            request = event.workflow_execution_update_accepted_event_attributes.accepted_request
            return f"update {request.input.name}"
        case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
            outcome = event.workflow_execution_update_completed_event_attributes.outcome
            return "update refused" if outcome.HasField("failure") else "update answered"
        case EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
            cause = event.workflow_task_failed_event_attributes.cause
            return f"task failed: {WorkflowTaskFailedCause.Name(cause).rpartition('CAUSE_')[2].lower()}"
        case _:
            return _PLAIN.get(event.event_type)


_PLAIN = {
    EventType.EVENT_TYPE_TIMER_STARTED: "timer",
    EventType.EVENT_TYPE_TIMER_FIRED: "timer fired",
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED: "child started",
    EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED: "child refused",
    EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED: "running child signalled",
    EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED: "running child gone",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED: "cancel requested",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED: "completed",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED: "canceled",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW: "continued as new",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED: "failed",
}


async def temporal(stage: Stage, *command: str, fails: bool | None = False) -> str:
    """Run the Temporal CLI as an operator would and return what it prints; ``fails=None`` allows either outcome."""
    process = await asyncio.create_subprocess_exec(
        str(find_temporal_cli()),
        *command,
        *("--address", stage.environment["TEMPORAL_ADDRESS"], "--namespace", stage.environment["TEMPORAL_NAMESPACE"]),
        *("--client-connect-timeout", f"{PATIENCE_SECONDS:.0f}s"),  # of its first request; five seconds by default
        env={"HOME": str(stage.home), "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert fails is None or (process.returncode != 0) is fails, output.decode()
    return output.decode()


# --- replay ---------------------------------------------------------------------------------------------------------


def replayer(workflow_classes: tuple[type, ...] = workflows.ALL, *, heartbeat_seconds: float | None = 2) -> Replayer:
    """Return a replayer with the converter, the sandbox and the interceptors of a worker."""
    return Replayer(
        workflows=workflow_classes,
        data_converter=pydantic_data_converter,
        workflow_runner=workflow_runner(),
        interceptors=workflow_interceptors(Settings(heartbeat_seconds=heartbeat_seconds, retry_initial_seconds=0.2)),
    )


async def histories_of(stage: Stage) -> AsyncGenerator[WorkflowHistory, None]:
    """Yield the history of every run the stage's application started."""
    client = await stage.client()
    seen = set()
    for row in await stage.outbox():  # visibility lags: the newest runs are found by their ids
        run = client.get_workflow_handle(row.workflow_id)
        if row.state == "dispatched" and row.kind != "provider_webhook":  # a webhook has no workflow of its own
            seen.add((row.workflow_id, (await run.describe()).run_id))
    async for found in client.list_workflows(f"WorkflowId STARTS_WITH '{stage.prefix}'"):
        seen.add((found.id, found.run_id))
    for workflow_id, run_id in sorted(seen):
        yield await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()


async def replay_all(stage: Stage) -> None:
    """Replay every history the stage has made; raises when one of them no longer replays."""
    async with aclosing(histories_of(stage)) as histories:
        await replayer().replay_workflows(histories)


__all__ = [
    "Fleet",
    "Interruption",
    "at_rest",
    "closed",
    "dispatched",
    "handle_of",
    "histories_of",
    "in_stage",
    "marks",
    "replay_all",
    "replayer",
    "runs_of",
    "temporal",
]
