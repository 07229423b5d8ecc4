"""Temporal Schedules of the sweeps: which there are, and how they are brought into the namespace.

Ids begin with ``workflow_id_prefix``, so that two applications may share a namespace. Applying is idempotent and may
run in several processes at once. It keeps an operator's pause, and touches only schedules with the memo ``rindle=1``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from rindle import messages
from rindle.arguments import check_text
from rindle.errors import InvalidArgument, NotFound, RindleError, TemporalUnavailable
from rindle.operations.maintenance.abort_incomplete_uploads import AbortIncompleteUploads
from rindle.operations.maintenance.cleanup_orphans import CleanupOrphans
from rindle.operations.maintenance.provider_sync import ProviderSync
from rindle.operations.maintenance.purge_retry import PurgeRetry
from rindle.operations.maintenance.retention import Retention
from rindle.operations.maintenance.runs import order_of, start_options
from rindle.operations.maintenance.sweep import Sweep, for_each
from rindle.operations.maintenance.verify_storage import VerifyStorage
from rindle.operations.reports import Report
from rindle.services import Services
from rindle.settings import Settings
from rindle.workflows import ids

log = logging.getLogger(__name__)

#: Memo of the schedules that this library made, and may change and delete. It is not encrypted, so that every process
#: and operator can read whose they are.
MEMO_KEY = "rindle"
_MEMO = Payload(metadata={"encoding": b"json/plain"}, data=b"1")
#: A run that was missed for longer, for example in an outage, is left out; the server's own default is a year.
CATCHUP_WINDOW = timedelta(hours=1)
#: Daily runs start at a random time within this span, so that applications do not start together.
JITTER = timedelta(minutes=10)

_RPC_SECONDS = timedelta(seconds=10)
#: Pause in seconds of a worker before it tries again, at first and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


@dataclass(frozen=True, slots=True)
class Rule:
    """When a sweep runs by itself, and with which options; ``setting`` switches it, and ``executes`` its dry run.

    One that ``needs_providers`` is on where streaming providers are registered.
    """

    sweep: Sweep[Any, Any]
    spec: ScheduleSpec
    when: str
    setting: str | None = None
    executes: str | bool | None = None
    needs_providers: bool = False

    @property
    def verb(self) -> str:
        """Name of the sweep."""
        return self.sweep.name

    def is_on(self, services: Services) -> bool:
        """Whether this application wants the schedule."""
        is_set = self.setting is None or bool(getattr(services.settings, self.setting))
        return is_set and (bool(services.providers) or not self.needs_providers)

    def options(self, settings: Settings) -> dict[str, Any]:
        """Return the options of its runs."""
        if self.executes is None:
            return {}
        executes = getattr(settings, self.executes) if isinstance(self.executes, str) else self.executes
        return {"dry_run": not executes}


def _daily(hour: int) -> ScheduleSpec:
    """Return a spec of an hour in UTC on every day."""
    return ScheduleSpec(calendars=[ScheduleCalendarSpec(hour=[ScheduleRange(hour)])], jitter=JITTER)


def _on_sunday(hour: int) -> ScheduleSpec:
    calendar = ScheduleCalendarSpec(hour=[ScheduleRange(hour)], day_of_week=[ScheduleRange(0)])
    return ScheduleSpec(calendars=[calendar])


def _every(**span: float) -> ScheduleSpec:
    return ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(**span))])


#: All schedules of this release.
RULES: tuple[Rule, ...] = (
    Rule(AbortIncompleteUploads(), _daily(1), "daily at 01:00 UTC"),
    Rule(CleanupOrphans(), _daily(2), "daily at 02:00 UTC", executes="schedules_cleanup_execute"),
    Rule(ProviderSync(), _every(minutes=10), "every 10 minutes", needs_providers=True),
    Rule(PurgeRetry(), _every(minutes=30), "every 30 minutes", executes=True),
    Rule(Retention(), _every(hours=1), "every hour", executes=True),
    Rule(VerifyStorage(), _on_sunday(4), "on Sunday at 04:00 UTC", setting="schedules_verify_storage"),
)


@dataclass(frozen=True, slots=True)
class ApplyReport(Report):
    """Outcome of :func:`apply`: ids of schedules. ``foreign`` ones have the id of ours, but others made them."""

    created: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LastRun(Report):
    """The newest run that a schedule started; ``status`` is ``None`` when its history is gone."""

    workflow_id: str
    started_at: datetime
    status: str | None


@dataclass(frozen=True, slots=True)
class ScheduleFacts(Report):
    """One schedule as Temporal has it.

    Attributes:
        when: the times at which it should run.
        state: ``active``, ``paused``, ``missing``, ``off`` (switched off, or not needed), ``outdated`` (its times or
            options are not those of this release and its settings) or ``foreign``.
        dry_run: whether its runs only count; ``None`` for sweeps without a dry run.
        note: what was noted when it was paused or resumed.
    """

    id: str
    verb: str
    when: str
    state: str
    dry_run: bool | None
    note: str | None
    next_run_at: datetime | None
    last_run: LastRun | None


async def apply(services: Services) -> ApplyReport:
    """Create the missing schedules, update those that differ, and delete those that a setting has switched off.

    A paused schedule stays paused. Schedules that this library did not make are left as they are.

    Raises:
        TemporalUnavailable: Temporal did not answer; the schedules until then are applied.
    """
    outcomes: dict[str, list[str]] = {}
    with _answered(services):
        for target in await _targets(services, RULES):
            outcome = await target.apply()
            if outcome is not None:
                outcomes.setdefault(outcome, []).append(target.id)
    for schedule_id in outcomes.get("foreign", ()):
        log.warning(
            "a schedule has an id of ours, but this library did not make it",
            extra={"action": "foreign_schedule", "schedule": schedule_id},
        )
    return ApplyReport(**{outcome: tuple(found) for outcome, found in outcomes.items()})


async def keep_applying(services: Services) -> None:
    """Apply the schedules; try again, with growing pauses, until it succeeds once. What fails is logged once."""
    pause, has_logged = _FIRST_PAUSE, False
    while True:
        try:
            found = await apply(services)
        except Exception as error:  # a codec and interceptors are the application's own code
            if not has_logged:
                code = error.code if isinstance(error, RindleError) else type(error).__name__
                facts = {"action": "schedules_failed", "code": code}
                log.warning("the schedules of sweeps could not be applied; trying again", extra=facts)
            has_logged = True
        else:
            counts = {f"schedules_{outcome}": len(names) for outcome, names in found.to_dict().items()}
            log.info("schedules of sweeps applied", extra={"action": "schedules_applied", **counts})
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def list_schedules(services: Services) -> list[ScheduleFacts]:
    """Return all schedules of this release, with their state in Temporal.

    Raises:
        TemporalUnavailable: Temporal did not answer.
    """
    with _answered(services):
        return await for_each(await _targets(services, RULES), lambda target: target.facts())


async def pause(services: Services, names: Sequence[str] = (), *, note: str | None = None) -> list[str]:
    """Pause schedules, all of them when none is named; returns their ids. Running sweeps go on.

    Args:
        names: names of sweeps or ids of schedules.
        note: why, for those who look at the schedule later; at most 255 characters.

    Raises:
        InvalidArgument: a name is unknown, or the note is too long or has characters that cannot be stored.
        NotFound: a named schedule does not exist; nothing was paused.
        TemporalUnavailable: Temporal did not answer.
    """
    return await _switch(services, names, ScheduleHandle.pause, note=note or "paused by an operator")


async def resume(services: Services, names: Sequence[str] = (), *, note: str | None = None) -> list[str]:
    """Resume paused schedules, as :func:`pause` does; missed runs are not repeated."""
    return await _switch(services, names, ScheduleHandle.unpause, note=note or "resumed by an operator")


async def _switch(
    services: Services, names: Sequence[str], switch: Callable[..., Awaitable[None]], *, note: str
) -> list[str]:
    """Pause or resume the named schedules, or all that exist; returns their ids."""
    check_text("note", note)
    with _answered(services):
        chosen = await _existing(services, names)
        for target in chosen:
            await switch(target.handle, note=note, rpc_timeout=_RPC_SECONDS)
    return [target.id for target in chosen]


async def _targets(services: Services, rules: Iterable[Rule]) -> list[_Target]:
    client = await services.temporal.client()
    return [_Target(services, client, rule) for rule in rules]


async def _existing(services: Services, names: Sequence[str]) -> list[_Target]:
    """Return the named schedules, or all that exist when none is named."""
    found = []
    for target in await _targets(services, _chosen(services.settings, names)):
        if await target.is_there():
            found.append(target)
        elif names:
            raise NotFound(
                f"there is no schedule {target.id} of this application. To fix: rindle schedules apply",
                detail={"entity": "schedule", "schedule": target.id},
            )
    return found


def _chosen(settings: Settings, names: Iterable[str]) -> list[Rule]:
    known = {rule.verb: rule for rule in RULES}
    wanted = {name.removeprefix(f"{settings.workflow_id_prefix}-") for name in names} or set(known)
    unknown = sorted(wanted - set(known))
    if unknown:
        raise InvalidArgument(
            f"unknown schedule {', '.join(unknown)}; choose from {', '.join(known)}",
            detail={"option": "names", "unknown": unknown, "known": list(known)},
        )
    return [rule for verb, rule in known.items() if verb in wanted]


@contextlib.contextmanager
def _answered(services: Services) -> Iterator[None]:
    """Translate what Temporal refuses."""
    try:
        yield
    except RPCError as error:
        raise TemporalUnavailable(
            f"Temporal ({services.temporal.label}) refused a call about schedules: {error.status.name}. To fix: 1. "
            "start the server or check its address, namespace and permissions; 2. verify with: rindle doctor",
            retry_after=5,
        ) from error


class _Target:
    """One schedule: as this application wants it, and as Temporal has it."""

    def __init__(self, services: Services, client: Client, rule: Rule) -> None:
        self._services, self._client, self._rule = services, client, rule
        self.id = ids.schedule_id(rule.verb, prefix=services.settings.workflow_id_prefix)

    @property
    def handle(self) -> ScheduleHandle:
        return self._client.get_schedule_handle(self.id)

    async def is_there(self) -> bool:
        found = await self._describe()
        return found is not None and _is_ours(found)

    async def apply(self) -> str | None:
        """Create, update or delete it; returns what was done, ``None`` when there was nothing to do."""
        found = await self._describe()
        is_wanted = self._rule.is_on(self._services)
        if found is None and is_wanted:
            if await self._create():
                return "created"
            found = await self._describe()  # another process was first
        if found is None:
            return None
        if not _is_ours(found):
            return "foreign"
        if is_wanted:
            return "updated" if await self._update(found) else "unchanged"
        with _none_is_fine():  # another process was first
            await self.handle.delete(rpc_timeout=_RPC_SECONDS)
        return "deleted"

    async def facts(self) -> ScheduleFacts:
        settings, found = self._services.settings, await self._describe()
        facts = ScheduleFacts(
            id=self.id,
            verb=self._rule.verb,
            when=self._rule.when,
            state="missing" if self._rule.is_on(self._services) else "off",
            dry_run=self._rule.options(settings).get("dry_run"),
            note=None,
            next_run_at=None,
            last_run=None,
        )
        if found is None:
            return facts
        if not _is_ours(found):
            return replace(facts, state="foreign")
        return replace(
            facts,
            state=self._state(found),
            note=found.schedule.state.note or None,
            next_run_at=next(iter(found.info.next_action_times), None),
            last_run=await self._last_run(found),
        )

    def _state(self, found: ScheduleDescription) -> str:
        if not self._rule.is_on(self._services):
            return "outdated"
        if found.schedule.state.paused:
            return "paused"
        # Whether the namespace has the search attributes is known only to processes that have registered them.
        is_known = self._services.temporal.has_search_attributes is True
        wanted = self._wanted(with_attributes=is_known and self._services.settings.search_attributes)
        is_current = self._is_current(found.schedule, wanted, compares_attributes=is_known)
        return "active" if is_current else "outdated"

    async def _describe(self) -> ScheduleDescription | None:
        with _none_is_fine():
            return await self.handle.describe(rpc_timeout=_RPC_SECONDS)
        return None

    async def _last_run(self, found: ScheduleDescription) -> LastRun | None:
        newest = next(reversed(found.info.recent_actions), None)
        if newest is None or not isinstance(newest.action, ScheduleActionExecutionStartWorkflow):
            return None
        workflow_id, status = newest.action.workflow_id, None
        with _none_is_fine():
            # The newest run of the id: a sweep that continued as new has several.
            run = await self._client.get_workflow_handle(workflow_id).describe(rpc_timeout=_RPC_SECONDS)
            status = None if run.status is None else run.status.name.lower()
        return LastRun(workflow_id, newest.started_at, status)

    async def _create(self) -> bool:
        """Create it; returns whether it did not exist."""

        async def create(are_used: bool) -> bool:
            wanted = self._wanted(with_attributes=are_used)
            await self._client.create_schedule(self.id, wanted, memo={MEMO_KEY: _MEMO}, rpc_timeout=_RPC_SECONDS)
            return True

        try:
            return await self._with_attributes(create)
        except ScheduleAlreadyRunningError:
            return False

    async def _update(self, found: ScheduleDescription) -> bool:
        """Update it; returns whether it differed."""

        async def update(are_used: bool) -> bool:
            wanted = self._wanted(with_attributes=are_used)
            if self._is_current(found.schedule, wanted, compares_attributes=are_used):
                return False

            def updated(given: ScheduleUpdateInput) -> ScheduleUpdate:
                return ScheduleUpdate(replace(wanted, state=given.description.schedule.state))

            await self.handle.update(updated, rpc_timeout=_RPC_SECONDS)
            return True

        return await self._with_attributes(update)

    async def _with_attributes(self, call: Callable[[bool], Awaitable[bool]]) -> bool:
        wanted = self._services.settings.search_attributes
        return await self._services.temporal.with_search_attributes(call, wanted=wanted)

    def _wanted(self, *, with_attributes: bool) -> Schedule:
        settings, sweep = self._services.settings, self._rule.sweep
        options = sweep.options(**self._rule.options(settings))
        started = start_options(self._services, sweep, options, with_attributes=with_attributes)
        if attributes := started.pop("search_attributes", None):
            started["typed_search_attributes"] = attributes
        # The server appends the time to the id of the workflow. A codec that binds payloads to the id of their workflow
        # could never decode the input of such a run, so that it is not encrypted: it holds a name and flags.
        [order] = self._client.data_converter.payload_converter.to_payloads([order_of(sweep, options)])
        return Schedule(
            action=ScheduleActionStartWorkflow(
                messages.MAINTENANCE_WORKFLOW,
                order,
                id=ids.maintenance_id(sweep.name, prefix=settings.workflow_id_prefix),
                **started,
            ),
            spec=self._rule.spec,
            policy=SchedulePolicy(
                overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCHUP_WINDOW, pause_on_failure=False
            ),
        )

    def _is_current(self, found: Schedule, wanted: Schedule, *, compares_attributes: bool) -> bool:
        action, has = wanted.action, found.action
        if not (isinstance(action, ScheduleActionStartWorkflow) and isinstance(has, ScheduleActionStartWorkflow)):
            return False
        same_action = (has.workflow, has.id, has.task_queue, list(has.args)) == (
            *(action.workflow, action.id, action.task_queue),
            list(action.args),
        )
        compares_attributes = compares_attributes or not self._services.settings.search_attributes
        same_attributes = not compares_attributes or _attributes(found) == _attributes(wanted)
        same_policy = found.policy == wanted.policy
        return same_action and same_attributes and same_policy and _times(found.spec) == _times(wanted.spec)


@contextlib.contextmanager
def _none_is_fine() -> Iterator[None]:
    """Leave the block quietly when Temporal does not have the schedule."""
    try:
        yield
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise


def _is_ours(found: ScheduleDescription) -> bool:
    memo = found.raw_description.memo.fields
    return MEMO_KEY in memo and memo[MEMO_KEY].data == _MEMO.data


def _attributes(found: Schedule) -> dict[str, Any]:
    """Return the search attributes of a schedule's runs."""
    action = found.action
    if not isinstance(action, ScheduleActionStartWorkflow):
        return {}
    return {pair.key.name: pair.value for pair in action.typed_search_attributes}


def _times(spec: ScheduleSpec) -> tuple[Any, ...]:
    """Return a spec in one form: servers fill in defaults of ranges and write zeros for what is left out."""

    def ranges(found: Sequence[ScheduleRange]) -> tuple[tuple[int, int, int], ...]:
        return tuple((one.start, max(one.start, one.end), one.step or 1) for one in found)

    calendars = [
        (
            *(ranges(part) for part in (one.second, one.minute, one.hour, one.day_of_month, one.month)),
            *(ranges(part) for part in (one.day_of_week, one.year)),
        )
        for one in spec.calendars
    ]
    intervals = [(one.every, one.offset or timedelta()) for one in spec.intervals]
    return calendars, intervals, spec.jitter or timedelta(), spec.time_zone_name or "", spec.start_at, spec.end_at
