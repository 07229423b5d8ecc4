"""Rindle's workflows and activities inside a Temporal worker of the application's own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Awaitable, Callable

from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter
from temporalio.plugin import SimplePlugin
from temporalio.worker import Worker, WorkerConfig, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from rindle import workflows
from rindle.app import Rindle
from rindle.bootstrap import (
    HEARTBEAT_THROTTLE,
    WorkerParts,
    activity_slots,
    deployment_of,
    queues_of,
    warn_of_runtime,
    workflow_interceptors,
    workflows_of,
)
from rindle.cancellation import run_to_end
from rindle.errors import InvalidArgument, Misconfigured
from rindle.relay import Relay
from rindle.temporal_client import client_for_messages, converter_for_messages

log = logging.getLogger(__name__)


class RindlePlugin(SimplePlugin):
    """Adds Rindle's workflows and activities to Temporal workers that the application makes itself.

    Pass it to each ``Worker`` that polls one of the application's task queues: ``rindle.settings.queue()`` has the
    workflows, image builds and most other activities, ``rindle.settings.av_queue`` the audio and video builds,
    ``rindle.settings.maintenance_queue`` the sweeps. Other workflows and activities may share such a worker, and keep
    their own error handling and policies. On a client, the plug-in sets the data converter and leaves workers of other
    task queues as they are.

    While its workers run, the plug-in also runs what ``python worker.py`` runs: the relay, the render children, the
    registration of search attributes and, beside sweeps, that of their schedules. It serves the workers of one process,
    once; it does not close the application. Set ``graceful_shutdown_timeout`` on the workers: the SDK's default of zero
    repeats running builds after a restart.

    Args:
        rindle: the application. Its :class:`~rindle.TemporalConnection` must lead to the namespace of the workers.

    Example:
        client = await rindle.temporal.client()
        worker = Worker(client, task_queue=rindle.settings.queue(), plugins=[RindlePlugin(rindle)])
    """

    def __init__(self, rindle: Rindle) -> None:
        def suited(converter: DataConverter | None) -> DataConverter:
            return converter_for_messages(converter or pydantic_data_converter)

        super().__init__(
            "rindle.RindlePlugin",
            data_converter=suited,
            # Of clients and replayers: those of workers depend on the task queue.
            workflows=list(workflows.ALL),
            workflow_runner=_with_rindle,
            interceptors=workflow_interceptors(rindle.settings),
        )
        self._rindle = rindle
        self._parts = WorkerParts(rindle)
        self._activities = self._parts.activities()
        self._queues: set[str] = set()
        self._lock = asyncio.Lock()
        self._running = 0
        self._opened: contextlib.AsyncExitStack | None = None
        self._has_stopped = False

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Add what the worker's task queue needs; see :class:`temporalio.worker.Plugin`.

        Raises:
            InvalidArgument: the worker polls a task queue that is not one of the application's.
            Misconfigured: the workers of this plug-in have stopped; each start needs a new one.
        """
        settings, queue, client = self._rindle.settings, config["task_queue"], config["client"]
        known = queues_of(settings)
        if queue not in known:
            if self in client.config()["plugins"]:  # a plug-in of a client sees all of its workers
                return config
            raise InvalidArgument(
                f"RindlePlugin has no work for the task queue {queue!r}; this application has {', '.join(known)}. "
                "To fix: Worker(client, task_queue=rindle.settings.queue(), ...), or set RINDLE_TASK_QUEUE_PREFIX",
                detail={"option": "task_queue", "found": [queue], "known": known},
            )
        if self._has_stopped:
            raise Misconfigured("the workers of this RindlePlugin have stopped; make a new one for new workers")
        self._queues.add(queue)
        config["client"] = client_for_messages(client)
        config["activities"] = [*config.get("activities", ()), *self._activities[queue]]
        interceptors = [*config.get("interceptors", ()), self._parts.failures]
        deployment = config.get("deployment_config") or deployment_of(settings)
        is_versioned = deployment is not None and deployment.use_worker_versioning
        if added := workflows_of(settings, queue, is_versioned=is_versioned):
            config["workflows"] = [*config.get("workflows", ()), *added]
            config["workflow_runner"] = _with_rindle(config.get("workflow_runner"))
            interceptors += workflow_interceptors(settings)
        config["interceptors"] = interceptors
        config["deployment_config"] = deployment
        config["max_heartbeat_throttle_interval"] = min(
            config.get("max_heartbeat_throttle_interval", HEARTBEAT_THROTTLE), HEARTBEAT_THROTTLE
        )
        if config.get("tuner") is None and config.get("max_concurrent_activities") is None:
            config["max_concurrent_activities"] = activity_slots(settings, queue)
        return config

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:
        """Run a worker between the start and the end of what all workers share."""
        if worker.task_queue not in self._queues:
            await next(worker)
            return
        try:
            await self._enter(worker)
        except BaseException:
            # A worker whose plug-in fails never counts as stopped, and its ``async with`` would wait for ever. It runs
            # and stops at once instead.
            stopping = asyncio.create_task(worker.shutdown())
            await next(worker)
            await stopping
            raise
        has_sweeps = worker.task_queue == self._rindle.settings.maintenance_queue
        try:
            async with self._parts.scheduling() if has_sweeps else contextlib.nullcontext():
                await next(worker)
        finally:
            await run_to_end(self._leave())

    async def _enter(self, worker: Worker) -> None:
        async with self._lock:
            if self._opened is None:
                async with contextlib.AsyncExitStack() as stack:
                    await self._open(worker, stack)
                    self._opened = stack.pop_all()
            self._running += 1

    async def _open(self, worker: Worker, stack: contextlib.AsyncExitStack) -> None:
        rindle = self._rindle
        own = await rindle.temporal.client()
        if own.namespace != worker.client.namespace:
            raise Misconfigured(
                f"the worker polls the namespace {worker.client.namespace!r}, but Rindle starts workflows in "
                f"{own.namespace!r}. To fix: make the worker with `await rindle.temporal.client()`, or pass "
                "Rindle(temporal=TemporalConnection(connect=...)) that connects as the worker does"
            )
        warn_of_runtime(rindle, self._queues)
        stack.push_async_callback(self._parts.close)
        await self._parts.open()
        await stack.enter_async_context(self._parts.watching(own))
        await stack.enter_async_context(self._parts.cleaning())
        if rindle.settings.search_attributes:
            await rindle.temporal.register_search_attributes()
        await stack.enter_async_context(self._parts.registering())
        relay = Relay(
            rindle.database,
            rindle.temporal,
            rindle.settings,
            # Eager starts need the worker's own connection.
            eager=rindle.settings.queue() in self._queues and own.service_client is worker.client.service_client,
            fairness_key=rindle.services.fairness_key,
        )
        stack.push_async_callback(relay.stop)
        await relay.start()
        log.info("rindle runs in this worker", extra={"action": "worker_up", "temporal": rindle.temporal.label})

    async def _leave(self) -> None:
        async with self._lock:
            self._running -= 1
            if self._running == 0 and self._opened is not None:
                self._has_stopped = True
                await self._opened.aclose()


def _with_rindle(runner: WorkflowRunner | None) -> WorkflowRunner:
    """Return the workflow runner, whose sandbox lets the modules of this library pass."""
    if not isinstance(runner, SandboxedWorkflowRunner | None):
        return runner
    runner = runner or SandboxedWorkflowRunner()
    return dataclasses.replace(runner, restrictions=runner.restrictions.with_passthrough_modules("rindle"))
