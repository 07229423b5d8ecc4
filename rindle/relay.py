"""The relay: sends committed outbox rows to Temporal, as starts and signals of workflows.

A relay sends only rows that it has read on its own connection, nothing from memory. Delivery is at least once; workflow
ids, state-driven workflows and compare-and-set make duplicates harmless. :mod:`rindle.outbox` writes the rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.common import Priority, TypedSearchAttributes, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from rindle import messages, outbox, telemetry, webhooks
from rindle.crash_points import crash_point
from rindle.db import outbox as rows
from rindle.db.database import Database
from rindle.db.listening import can_listen, keep_listening
from rindle.db.models import MediaOutbox
from rindle.errors import RindleError, TemporalUnavailable
from rindle.security import scrub
from rindle.settings import Settings
from rindle.temporal_client import UNREACHABLE, TemporalConnection
from rindle.workflows import ids, policies

log = logging.getLogger(__name__)

#: Longest pause before a row that could not be sent is tried again.
_MAX_BACKOFF_SECONDS = 30.0
#: Calls to Temporal a relay has in flight at once.
_PARALLEL_SENDS = 16
_RPC_SECONDS = timedelta(seconds=10)
#: Pause before a relay reads the outbox after a commit of a process without a relay, since more commits may follow.
#: The rows of a process with its own relay are left to that relay for the length of a poll.
_NOTIFIED_PAUSE_SECONDS = 0.05
#: Pauses between two deletions of rows that were sent long ago: usually, and while there may be more of them.
_DELETION_PAUSE_SECONDS, _DELETION_GAP_SECONDS = 60.0, 0.5
#: Workflows without an execution timeout.
_NEVER_GIVEN_UP = frozenset({messages.PURGE_WORKFLOW, messages.OWNER_ERASURE_WORKFLOW})
#: gRPC statuses that a retry cannot change.
_INVALID = frozenset({RPCStatusCode.INVALID_ARGUMENT.name})
#: Attempts after which a row is parked whose call fails in this process, with an error that is not Temporal's.
_MAX_FAILURES = 5


@dataclass(slots=True)
class _Call:
    """Claimed rows of one workflow that become one call."""

    row: MediaOutbox
    signals: list[str] = field(default_factory=list)
    row_ids: list[int] = field(default_factory=list)
    #: Rows among them that hold webhooks: the argument of the signal ``provider_event``.
    webhook_ids: list[int] = field(default_factory=list)


def coalesce(claimed: Sequence[MediaOutbox]) -> list[_Call]:
    """Merge claimed rows so that each workflow receives each signal once; a signal also starts the workflow."""
    calls: dict[str, _Call] = {}
    for row in claimed:
        call = calls.setdefault(row.workflow_id, _Call(row))
        call.row_ids.append(row.id)
        if row.kind == rows.WEBHOOK:
            call.webhook_ids.append(row.id)
        if row.signal and row.signal not in call.signals:
            call.signals.append(row.signal)
    return list(calls.values())


#: Returns the fairness key of a profile's name and an uploader.
FairnessKey = Callable[[str | None, str | None], str | None]


def _is_unreachable(error: Exception | None) -> bool:
    return isinstance(error, RPCError) and error.status in UNREACHABLE


class Relay:
    """Sends outbox rows to Temporal until stopped.

    Runs inside ``async with rindle:`` (and the router's lifespan) in the application and inside every worker; any
    number of them share the work. It wakes after a local commit, on Postgres also by NOTIFY, and polls otherwise.

    Args:
        eager: request eager workflow starts; only where a worker shares this process and client.
        fairness_key: Temporal's fairness key for a profile and an uploader; ``None`` uses the profile.
    """

    def __init__(
        self,
        database: Database,
        temporal: TemporalConnection,
        settings: Settings,
        *,
        eager: bool = False,
        fairness_key: FairnessKey | None = None,
    ) -> None:
        self._database = database
        self._temporal = temporal
        self._settings = settings
        self._eager = eager
        self._fairness_key = fairness_key or (lambda profile, actor: profile)
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        #: Whether the last calls of this process reached Temporal.
        self._is_connected = False
        #: ``time.monotonic()`` of the last completed round, for the liveness probe.
        self.last_tick = time.monotonic()

    async def start(self) -> None:
        """Begin to send in the background."""
        if self._tasks:
            return
        self._loop = asyncio.get_running_loop()
        outbox.register(self)
        self._tasks = [
            asyncio.create_task(self._run(), name="rindle-relay"),
            asyncio.create_task(self._delete_dispatched(), name="rindle-relay-retention"),
        ]
        if can_listen(self._database.engine):
            self._tasks.append(asyncio.create_task(self._listen(), name="rindle-relay-listen"))
        elif self._database.dialect == "postgresql":
            log.warning(
                "this driver cannot LISTEN: other processes' commits are noticed by polling only; "
                "use postgresql+psycopg or postgresql+asyncpg",
                extra={"action": "no_notifications", "driver": self._database.engine.dialect.driver},
            )

    async def stop(self) -> None:
        """Stop sending; rows that are not sent stay in the outbox for the next relay."""
        outbox.unregister(self)
        tasks, self._tasks = self._tasks, []
        pending = set(tasks)
        while pending:
            for task in pending:
                task.cancel()
            # Repeated after a second: a driver or an SDK may swallow a cancellation.
            _, pending = await asyncio.wait(pending, timeout=1)

    def sends_for(self, pool: object) -> bool:
        """Whether this relay sends what is committed on a connection of ``pool``."""
        return pool is not None and pool is self._database.engine.pool

    def wake(self) -> None:
        """Read the outbox now; callable from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._woken.set)

    async def dispatch_once(self) -> int:
        """Claim one batch and send it; returns how many rows were sent.

        Raises:
            TemporalUnavailable: Temporal cannot be reached; the rows are sent later.
        """
        client = await self._connected()
        if client is None:
            return 0
        claimed = await self._database.write(rows.claim)
        if not claimed:
            return 0
        claimed, unknown = await self._routed(claimed)
        calls = coalesce(claimed)
        slots = asyncio.Semaphore(_PARALLEL_SENDS)
        outcomes = await asyncio.gather(*(self._send(client, call, slots) for call in calls))
        crash_point("relay.sent")
        results = list(zip(calls, outcomes, strict=True))
        sent = [row_id for call, error in results if error is None for row_id in call.row_ids]
        if sent:
            await self._database.write(rows.mark_dispatched, sent)
            telemetry.emit("rindle.outbox.delivered", {"kind": "batch"}, {"count": len(sent)})
        unreachable = [call for call, error in results if _is_unreachable(error)]
        for call, error in results:
            if error is not None and not _is_unreachable(error):
                await self._refused(call, error)
        if unreachable:
            self._is_connected = False
            # At once: another process may reach Temporal. This one claims nothing before it does.
            await self._reschedule(unreachable, "temporal_unavailable", seconds=0)
            raise TemporalUnavailable(
                f"Temporal ({self._temporal.label}) did not accept every row; the relay sends the others again"
            )
        return len(sent) + unknown

    async def _routed(self, claimed: Sequence[MediaOutbox]) -> tuple[Sequence[MediaOutbox], int]:
        """Find the workflows of webhooks; those without an asset wait, or are recorded as orphans.

        Returns:
            the rows to send, and how many orphans there were.
        """
        if not any(row.kind == rows.WEBHOOK for row in claimed):
            return claimed, 0
        found = await self._database.write(webhooks.route, [row for row in claimed if row.kind == rows.WEBHOOK])
        for row_id, seconds in found.waiting.items():
            await self._database.write(rows.reschedule, [row_id], seconds=seconds, error="orphan_event")
        if found.orphans:
            await self._database.write(rows.mark_dispatched, found.orphans)
        for row in claimed:
            if row.id in found.known:
                webhooks.address(self._settings, row, *found.known[row.id])
        return [row for row in claimed if row.kind != rows.WEBHOOK or row.id in found.known], len(found.orphans)

    async def _connected(self) -> Client | None:
        """Connect to Temporal before any row is claimed; ``None`` when no row is due.

        A process that cannot reach Temporal leaves the rows to those that can.

        Raises:
            TemporalUnavailable: it cannot be reached.
        """
        if not self._is_connected:
            if not await self._database.read(rows.has_due):
                return None
            await self._temporal.require_answer()
            self._is_connected = True
        return await self._temporal.client()

    async def _refused(self, call: _Call, error: Exception) -> None:
        """Park a call that cannot succeed, and try any other again later; the rest of the batch is not concerned."""
        status, reason = type(error).__name__, type(error).__name__
        if isinstance(error, RPCError):
            status, reason = error.status.name, scrub(f"{error.status.name}: {error.message}")
        facts = {"workflow_id": call.row.workflow_id, "reason": reason}
        is_last = not isinstance(error, RPCError) and call.row.attempts + 1 >= _MAX_FAILURES
        if status in _INVALID or is_last:
            log.error(
                "an outbox row cannot be sent; it is parked until an operator drains it",
                extra={"action": "outbox_parked", **facts},
            )
            await self._database.write(rows.park, call.row_ids, error=reason)
            return
        log.warning("an outbox row was not sent; it is tried again", extra={"action": "outbox_row_waits", **facts})
        seconds = min(0.5 * 2**call.row.attempts, _MAX_BACKOFF_SECONDS)
        code = "temporal_unavailable" if isinstance(error, RPCError) else status
        await self._reschedule([call], code, seconds=seconds)

    async def _reschedule(self, calls: Sequence[_Call], code: str, *, seconds: float) -> None:
        row_ids = [row_id for call in calls for row_id in call.row_ids]
        await self._database.write(rows.reschedule, row_ids, seconds=seconds, error=code)

    async def _send(self, client: Client, call: _Call, slots: asyncio.Semaphore) -> Exception | None:
        """Send one call; ``None`` when Temporal accepted it, else its error or that of the row."""
        async with slots:
            try:
                wanted: list[str | None] = [*call.signals] or [None]
                for signal in wanted:
                    arguments = [call.webhook_ids] if signal == "provider_event" else []
                    await self._start(client, call.row, signal, arguments)
            except WorkflowAlreadyStartedError:
                return None
            except Exception as error:
                return error
        return None

    async def _start(self, client: Client, row: MediaOutbox, signal: str | None, arguments: Sequence[Any] = ()) -> None:
        attributes = self._attributes(dict(row.payload.get("facts", {})))
        await self._temporal.with_search_attributes(
            lambda are_used: self._start_with(client, row, signal, attributes if are_used else None, arguments),
            wanted=self._settings.search_attributes,
        )

    @staticmethod
    def _attributes(facts: dict[str, Any]) -> TypedSearchAttributes:
        known = {name: facts.get(name) for name in ("profile", "asset_id", "session_id")}
        return ids.attributes(str(facts.get("kind", "work")), **known)

    async def _start_with(
        self,
        client: Client,
        row: MediaOutbox,
        signal: str | None,
        attributes: TypedSearchAttributes | None,
        arguments: Sequence[Any] = (),
    ) -> None:
        facts = row.payload.get("facts", {})
        fairness_key = self._fairness_key(facts.get("profile"), facts.get("actor"))
        options: dict[str, Any] = {
            "id": row.workflow_id,
            "task_queue": row.task_queue,
            "id_reuse_policy": WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            "id_conflict_policy": WorkflowIDConflictPolicy.USE_EXISTING,
            "static_summary": ids.summary(f"{facts.get('kind', 'work')} of {facts.get('profile') or 'an asset'}"),
            "priority": Priority(priority_key=row.priority, fairness_key=ids.fairness_key(fairness_key)),
            "rpc_timeout": _RPC_SECONDS,
        }
        if row.workflow_type not in _NEVER_GIVEN_UP:
            options["execution_timeout"] = policies.LONGEST_LIFE
        if attributes is not None:
            options["search_attributes"] = attributes
        if signal is None:
            # An open workflow counts as started; a new one begins by reading the rows.
            options["request_eager_start"] = self._eager
        else:
            options["start_signal"] = signal
            options["start_signal_args"] = list(arguments)
        await client.start_workflow(row.workflow_type, row.payload.get("input", {}), **options)

    async def _run(self) -> None:
        pause = self._settings.relay_poll_seconds
        while True:
            self._woken.clear()
            sent = 0
            try:
                sent = await self.dispatch_once()
            except TemporalUnavailable as error:
                log.warning(
                    "Temporal (%s) is unavailable; outbox rows wait",
                    self._temporal.label,
                    extra={"action": "outbox_waits", "code": error.code, "reason": error.message},
                )
            except RindleError as error:
                facts = {"action": "outbox_round", "code": error.code, "reason": error.message}
                log.warning("outbox round failed", extra=facts)
            except Exception as error:
                # A database that is unavailable for a moment must not stop the relay.
                log.exception("outbox round failed", extra={"action": "outbox_round", "error": type(error).__name__})
            self.last_tick = time.monotonic()
            if sent:
                pause = self._settings.relay_poll_seconds
                continue
            with contextlib.suppress(TimeoutError):
                # Spread the polls of many processes: random jitter, not cryptography.
                jittered = pause * random.uniform(0.8, 1.2)  # noqa: S311
                # Not wait_for, which before Python 3.12 loses a cancellation that meets the end of what it waits for:
                # the relay would never stop.
                async with asyncio.timeout(jittered):
                    await self._woken.wait()
            if self._woken.is_set():
                pause = self._settings.relay_poll_seconds
            else:
                await self._emit_lag()
                pause = min(pause * 2, self._settings.relay_idle_poll_seconds)

    async def _emit_lag(self) -> None:
        """Emit how many rows wait and for how long; only when idle, since a busy relay is not slow."""
        try:
            waiting = await self._database.read(rows.backlog)
        except Exception as error:
            log.warning("the outbox cannot be counted", extra={"error": type(error).__name__})
            return
        telemetry.emit(
            "rindle.outbox.lag",
            {},
            {"seconds": waiting.oldest_age_seconds, "pending": waiting.pending, "parked": waiting.parked},
        )

    async def _delete_dispatched(self) -> None:
        """Delete rows that were sent long ago, in small transactions that block no other work."""
        retention = self._settings.outbox_retention_seconds
        while True:
            deleted = 0
            try:
                deleted = await self._database.write(
                    rows.delete_dispatched, older_than_seconds=retention, limit=rows.DELETION_BATCH
                )
            except Exception as error:
                log.warning("sent outbox rows were not deleted", extra={"error": type(error).__name__})
            is_over = deleted < rows.DELETION_BATCH
            # Spread the deletions of many processes: random jitter, not cryptography.
            jitter = random.uniform(0.8, 1.2)  # noqa: S311
            await asyncio.sleep(jitter * (_DELETION_PAUSE_SECONDS if is_over else _DELETION_GAP_SECONDS))

    async def _listen(self) -> None:
        """Wake on NOTIFY. Polling continues, so that a lost connection costs only latency."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def receive(payload: str) -> None:
            nonlocal timer
            # The process that committed sends at once; the others send only when it does not.
            has_local_relay = payload == rows.LOCAL_RELAY
            pause = self._settings.relay_poll_seconds if has_local_relay else _NOTIFIED_PAUSE_SECONDS
            due = loop.time() + pause
            if timer is None or timer.when() <= loop.time() or due < timer.when():
                if timer is not None:
                    timer.cancel()
                timer = loop.call_later(pause, self._woken.set)

        await keep_listening(
            self._database.engine, rows.CHANNEL, receive, pause_seconds=self._settings.relay_idle_poll_seconds
        )
