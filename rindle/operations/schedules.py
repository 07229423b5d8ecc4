"""Temporal Schedules of the sweeps: which there are, and how they are brought into the namespace.

Ids begin with ``workflow_id_prefix``, so that two applications may share a namespace. Applying is idempotent and may
run in several processes at once. It keeps an operator's pause, and touches only schedules with the memo ``rindle=1``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

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
from temporalio.converter import WorkflowSerializationContext
from temporalio.service import RPCError, RPCStatusCode

from rindle import messages
from rindle.errors import InvalidArgument, NotFound, TemporalUnavailable
from rindle.messages import MaintenanceInput
from rindle.operations.maintenance.registry import SWEEPS
from rindle.operations.maintenance.runs import is_unmapped, order_of, start_options
from rindle.operations.maintenance.sweep import Sweep
from rindle.operations.reports import Report
from rindle.services import Services
from rindle.settings import Settings
from rindle.workflows import ids

log = logging.getLogger(__name__)

#: Memo of the schedules that this library made, and may change and delete.
MEMO_KEY, MEMO_VALUE = "rindle", 1
#: A run that was missed for longer, for example in an outage, is left out; the server's own default is a year.
CATCHUP_WINDOW = timedelta(hours=1)
#: Daily and weekly runs start at a random time within this span, so that applications do not start together.
JITTER = timedelta(minutes=10)

_RPC_SECONDS = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Rule:
    """When a sweep runs by itself, and with which options; ``setting`` switches it, and ``executes`` its dry run."""

    verb: str
    spec: ScheduleSpec
    when: str
    setting: str | None = None
    executes: str | bool | None = None

    def is_on(self, settings: Settings) -> bool:
        """Whether this application wants the schedule."""
        return self.setting is None or bool(getattr(settings, self.setting))

    def options(self, settings: Settings) -> dict[str, Any]:
        """Return the options of its runs."""
        if self.executes is None:
            return {}
        executes = getattr(settings, self.executes) if isinstance(self.executes, str) else self.executes
        return {"dry_run": not executes}


def _at(hour: int, *, weekday: int | None = None) -> ScheduleSpec:
    """Return a spec of a day, or of one day of the week (0 is Sunday), at an hour in UTC."""
    days = {} if weekday is None else {"day_of_week": [ScheduleRange(weekday)]}
    return ScheduleSpec(calendars=[ScheduleCalendarSpec(hour=[ScheduleRange(hour)], **days)], jitter=JITTER)


def _every(**span: float) -> ScheduleSpec:
    return ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(**span))])


#: All schedules; those of a sweep that this release does not have are left out.
RULES: tuple[Rule, ...] = (
    Rule("abort-incomplete-uploads", _at(1), "daily at 01:00 UTC"),
    Rule("cleanup-orphans", _at(2), "daily at 02:00 UTC", executes="schedules_cleanup_execute"),
    Rule("purge-retry", _every(minutes=30), "every 30 minutes", executes=True),
    Rule("retention", _every(hours=1), "every hour", executes=True),
    Rule("verify-storage", _at(4, weekday=0), "on Sunday at 04:00 UTC", setting="schedules_verify_storage"),
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
        state: ``active``, ``paused``, ``missing``, ``off`` (a setting switches it off), ``outdated`` (its times or
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
        client = await services.temporal.client()
        for rule, sweep in _known():
            found = _Target(services, client, rule, sweep)
            outcome = await (found.apply() if rule.is_on(services.settings) else found.remove())
            if outcome is not None:
                outcomes.setdefault(outcome, []).append(found.id)
    for schedule_id in outcomes.get("foreign", ()):
        log.warning(
            "a schedule has an id of ours, but this library did not make it",
            extra={"action": "foreign_schedule", "schedule": schedule_id},
        )
    return ApplyReport(**{outcome: tuple(found) for outcome, found in outcomes.items()})


async def list_schedules(services: Services) -> list[ScheduleFacts]:
    """Return all schedules of this release, with their state in Temporal.

    Raises:
        TemporalUnavailable: Temporal did not answer.
    """
    with _answered(services):
        client = await services.temporal.client()
        return [await _Target(services, client, rule, sweep).facts() for rule, sweep in _known()]


async def pause(services: Services, names: Sequence[str] = (), *, note: str | None = None) -> list[str]:
    """Pause schedules, all of them when none is named; returns their ids. Running sweeps go on.

    Args:
        names: names of sweeps or ids of schedules.
        note: why, for those who look at the schedule later; at most 255 characters.

    Raises:
        InvalidArgument: a name is unknown, or the note is too long.
        NotFound: a named schedule does not exist.
        TemporalUnavailable: Temporal did not answer.
    """
    return await _switch(services, names, note or "paused by an operator", pauses=True)


async def resume(services: Services, names: Sequence[str] = (), *, note: str | None = None) -> list[str]:
    """Resume paused schedules, as :func:`pause` does; missed runs are not repeated."""
    return await _switch(services, names, note or "resumed by an operator", pauses=False)


async def _switch(services: Services, names: Sequence[str], note: str, *, pauses: bool) -> list[str]:
    if len(note) > 255:
        raise InvalidArgument("note must have at most 255 characters", detail={"option": "note"})
    chosen = _chosen(services.settings, names)
    done = []
    with _answered(services):
        client = await services.temporal.client()
        for rule, sweep in chosen:
            target = _Target(services, client, rule, sweep)
            found = await target.describe()
            if found is None or not await _is_ours(found):
                if not names:
                    continue
                raise NotFound(
                    f"there is no schedule {target.id} of this application. To fix: rindle schedules apply",
                    detail={"entity": "schedule", "schedule": target.id},
                )
            if pauses:
                await target.handle.pause(note=note, rpc_timeout=_RPC_SECONDS)
            else:
                await target.handle.unpause(note=note, rpc_timeout=_RPC_SECONDS)
            done.append(target.id)
    return done


def _known() -> list[tuple[Rule, Sweep[Any, Any]]]:
    sweeps = {sweep.name: sweep for sweep in SWEEPS}
    return [(rule, sweeps[rule.verb]) for rule in RULES if rule.verb in sweeps]


def _chosen(settings: Settings, names: Iterable[str]) -> list[tuple[Rule, Sweep[Any, Any]]]:
    known = {rule.verb: (rule, sweep) for rule, sweep in _known()}
    wanted = {name.removeprefix(f"{settings.workflow_id_prefix}-") for name in names} or set(known)
    unknown = sorted(wanted - set(known))
    if unknown:
        raise InvalidArgument(
            f"unknown schedule {', '.join(unknown)}; choose from {', '.join(known)}",
            detail={"option": "names", "unknown": unknown, "known": list(known)},
        )
    return [pair for verb, pair in known.items() if verb in wanted]


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

    def __init__(self, services: Services, client: Client, rule: Rule, sweep: Sweep[Any, Any]) -> None:
        self._services, self._client, self._rule, self._sweep = services, client, rule, sweep
        self.id = ids.schedule_id(rule.verb, prefix=services.settings.workflow_id_prefix)

    @property
    def handle(self) -> ScheduleHandle:
        return self._client.get_schedule_handle(self.id)

    async def describe(self) -> ScheduleDescription | None:
        try:
            return await self.handle.describe(rpc_timeout=_RPC_SECONDS)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise

    async def apply(self) -> str:
        """Create or update it; returns what was done."""
        found = await self.describe()
        if found is None:
            try:
                await self._create()
            except ScheduleAlreadyRunningError:  # another process was first
                found = await self.describe()
            else:
                return "created"
        if found is None or not await _is_ours(found):
            return "foreign"
        if await self._is_current(found):
            return "unchanged"
        await self.handle.update(self._updated, rpc_timeout=_RPC_SECONDS)
        return "updated"

    async def remove(self) -> str | None:
        """Delete it when this library made it; returns what was done."""
        found = await self.describe()
        if found is None:
            return None
        if not await _is_ours(found):
            return "foreign"
        await self.handle.delete(rpc_timeout=_RPC_SECONDS)
        return "deleted"

    async def facts(self) -> ScheduleFacts:
        found = await self.describe()
        is_ours = found is not None and await _is_ours(found)
        return ScheduleFacts(
            id=self.id,
            verb=self._rule.verb,
            when=self._rule.when,
            state=await self._state(found if is_ours else None) if is_ours or found is None else "foreign",
            dry_run=self._rule.options(self._services.settings).get("dry_run"),
            note=found.schedule.state.note or None if found is not None and is_ours else None,
            next_run_at=next(iter(found.info.next_action_times), None) if found is not None and is_ours else None,
            last_run=await self._last_run(found) if found is not None and is_ours else None,
        )

    async def _state(self, found: ScheduleDescription | None) -> str:
        if not self._rule.is_on(self._services.settings):
            return "off" if found is None else "outdated"
        if found is None:
            return "missing"
        if found.schedule.state.paused:
            return "paused"
        return "active" if await self._is_current(found) else "outdated"

    async def _last_run(self, found: ScheduleDescription) -> LastRun | None:
        newest = next(reversed(found.info.recent_actions), None)
        if newest is None or not isinstance(newest.action, ScheduleActionExecutionStartWorkflow):
            return None
        status = None
        try:
            # The newest run of the id: a sweep that continued as new has several.
            described = await self._client.get_workflow_handle(newest.action.workflow_id).describe()
            status = None if described.status is None else described.status.name.lower()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
        return LastRun(newest.action.workflow_id, newest.started_at, status)

    async def _create(self) -> None:
        """Create it; without search attributes where the namespace does not have them."""
        for is_last in (False, True):
            try:
                await self._client.create_schedule(
                    self.id, self._wanted(), memo={MEMO_KEY: MEMO_VALUE}, rpc_timeout=_RPC_SECONDS
                )
            except RPCError as error:
                if is_last or not is_unmapped(error):
                    raise
                self._services.temporal.note_unmapped()
            else:
                return

    def _updated(self, given: ScheduleUpdateInput) -> ScheduleUpdate:
        return ScheduleUpdate(replace(self._wanted(), state=given.description.schedule.state))

    def _wanted(self) -> Schedule:
        settings = self._services.settings
        options = self._sweep.options(**self._rule.options(settings))
        started = start_options(self._services, self._sweep, options)
        if attributes := started.pop("search_attributes", None):
            started["typed_search_attributes"] = attributes
        return Schedule(
            action=ScheduleActionStartWorkflow(
                messages.MAINTENANCE_WORKFLOW,
                order_of(self._sweep, options),
                id=ids.maintenance_id(self._rule.verb, prefix=settings.workflow_id_prefix),
                **started,
            ),
            spec=self._rule.spec,
            policy=SchedulePolicy(
                overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCHUP_WINDOW, pause_on_failure=False
            ),
        )

    async def _is_current(self, found: ScheduleDescription) -> bool:
        wanted = self._wanted()
        action, has = wanted.action, found.schedule.action
        if not (isinstance(action, ScheduleActionStartWorkflow) and isinstance(has, ScheduleActionStartWorkflow)):
            return False
        same_action = (
            (has.workflow, has.id, has.task_queue) == (action.workflow, action.id, action.task_queue)
            and set(has.typed_search_attributes) == set(action.typed_search_attributes)
            and await self._input(has) == action.args[0]
        )
        same_policy = found.schedule.policy == wanted.policy
        return same_action and same_policy and _times(found.schedule.spec) == _times(wanted.spec)

    async def _input(self, action: ScheduleActionStartWorkflow) -> MaintenanceInput | None:
        """Return the decoded input of an action that was described; ``None`` when it has none of ours."""
        context = WorkflowSerializationContext(namespace=self._client.namespace, workflow_id=action.id)
        converter = self._client.data_converter.with_context(context)
        try:
            [found] = await converter.decode(list(action.args), [MaintenanceInput])
        except Exception as error:  # a codec is the application's own code
            log.info("the input of a schedule could not be decoded", extra={"error": type(error).__name__})
            return None
        return found if isinstance(found, MaintenanceInput) else None


async def _is_ours(found: ScheduleDescription) -> bool:
    try:
        return bool(await found.memo_value(MEMO_KEY, None) == MEMO_VALUE)
    except Exception as error:  # a codec is the application's own code
        log.info("the memo of a schedule could not be decoded", extra={"error": type(error).__name__})
        return False


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
