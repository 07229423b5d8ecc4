"""Retries what waits as soon as the database or a store answers again, instead of at the end of its pause.

A worker remembers the activities whose attempt it lost to an outage. While there are any, it checks the services every
two seconds; when one that did not answer answers again, it calls Temporal to start the remembered activities now. This
only shortens pauses: whatever is forgotten with a process is retried by its policy, after 30 s at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetActivityRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

log = logging.getLogger(__name__)

#: Seconds between two checks of the services while activities wait.
CHECK_SECONDS = 2.0
#: Seconds that a service may take to answer a check.
LIMIT_SECONDS = 3.0
#: Activities that one process remembers at most.
MAX_WAITING = 10_000
#: Activities that are started per second, so that a service which has just come back is not overrun.
STARTS_PER_SECOND = 100
#: Calls to Temporal in flight at once.
_PARALLEL_CALLS = 16

#: Returns when a service answers, and raises otherwise.
Check = Callable[[], Awaitable[object]]
#: Workflow id, run id and activity id.
Waiting = tuple[str, str, str]


class OutageWatch:
    """Remembers activities that wait for the end of an outage, and starts them when it has ended.

    Args:
        client: the client of the worker.
        checks: one check per service, by name.
        check_seconds: pause between two checks.
    """

    def __init__(self, client: Client, checks: Mapping[str, Check], *, check_seconds: float = CHECK_SECONDS) -> None:
        self._client = client
        self._checks = dict(checks)
        self._check_seconds = check_seconds
        self._waiting: dict[Waiting, None] = {}
        self._noted = asyncio.Event()
        self._down: set[str] = set()

    def note(self) -> None:
        """Remember the current activity; its attempt has just failed because of an outage."""
        info = activity.info()
        if info.workflow_id is None or info.workflow_run_id is None or len(self._waiting) >= MAX_WAITING:
            return
        self._waiting[info.workflow_id, info.workflow_run_id, info.activity_id] = None
        self._noted.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self._noted.wait()
            await asyncio.sleep(self._check_seconds)
            recovered = await self._recovered()
            if recovered:
                log.info("services answer again", extra={"action": "outage_ended", "services": sorted(recovered)})
                await self._start(list(self._waiting))
            if recovered or not self._down:
                # Without a service that is down there is nothing to wait for: it was a single failed call.
                self._waiting.clear()
                self._noted.clear()

    async def _recovered(self) -> set[str]:
        """Check all services; returns those that answer again."""
        answers = await asyncio.gather(*(self._answers(name) for name in self._checks))
        down = {name for name, answered in zip(self._checks, answers, strict=True) if not answered}
        if down - self._down:
            facts = {"action": "outage_noticed", "services": sorted(down)}
            log.warning("a service does not answer; its activities start when it does", extra=facts)
        recovered, self._down = self._down - down, down
        return recovered

    async def _answers(self, name: str) -> bool:
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                await self._checks[name]()
        except Exception as error:
            # Only the class: drivers and SDKs put hosts and credentials into their messages.
            log.debug("service does not answer", extra={"service": name, "error": type(error).__name__})
            return False
        return True

    async def _start(self, waiting: list[Waiting]) -> None:
        slots = asyncio.Semaphore(_PARALLEL_CALLS)
        jitter = Duration()
        jitter.FromTimedelta(timedelta(seconds=len(waiting) / STARTS_PER_SECOND))

        async def start(workflow_id: str, run_id: str, activity_id: str) -> None:
            request = ResetActivityRequest(
                namespace=self._client.namespace,
                execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                identity=self._client.identity,
                id=activity_id,
                jitter=jitter,
            )
            async with slots:
                try:
                    await self._client.workflow_service.reset_activity(request, timeout=timedelta(seconds=10))
                except RPCError as error:
                    # It has ended meanwhile, or the server is too old for this call: the policy's pause remains.
                    if error.status is not RPCStatusCode.NOT_FOUND:
                        log.info("activity not started", extra={"action": "outage_ended", "status": error.status.name})

        await asyncio.gather(*(start(*one) for one in waiting))
