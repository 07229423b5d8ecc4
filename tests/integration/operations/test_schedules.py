"""Temporal Schedules of the sweeps: applied again and again, by several workers, beside what others made."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from temporalio.api.common.v1 import Payload
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import (
    Client,
    CreateScheduleInput,
    Interceptor,
    OutboundInterceptor,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    ScheduleSpec,
    ScheduleUpdate,
    WorkflowExecutionStatus,
)
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import PayloadCodec, WithSerializationContext
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from rindle import MediaEvent, Rindle, TemporalConnection, messages
from rindle.db.models import utc_now
from rindle.errors import InvalidArgument, NotFound
from rindle.operations import schedules
from rindle.operations.checks.report import Check
from rindle.operations.schedules import ScheduleFacts
from rindle.streaming.memory import InMemoryProvider
from rindle.worker_plugin import RindlePlugin
from rindle.workflows import ids
from tests.patience import until
from tests.servers.temporal import TemporalServer
from tests.stage import Stage

#: The sweeps that have a schedule unless a setting says otherwise.
USUAL = ["abort-incomplete-uploads", "cleanup-orphans", "purge-retry", "retention"]


@pytest.fixture
async def stage(lite_stage: Stage) -> AsyncIterator[Stage]:
    """The application; its schedules are deleted at the end, for the server is shared."""
    yield lite_stage
    client = await lite_stage.client()
    for verb in (rule.verb for rule in schedules.RULES):
        try:
            await client.get_schedule_handle(schedule_id(lite_stage, verb)).delete()
        except RPCError as error:
            assert error.status is RPCStatusCode.NOT_FOUND


def schedule_id(stage: Stage, verb: str) -> str:
    """Return the id of a sweep's schedule."""
    return ids.schedule_id(verb, prefix=stage.prefix)


def named(stage: Stage, *verbs: str) -> tuple[str, ...]:
    """Return the ids of the schedules of sweeps."""
    return tuple(schedule_id(stage, verb) for verb in verbs)


async def handle(stage: Stage, verb: str) -> ScheduleHandle:
    """Return the handle of a sweep's schedule."""
    return (await stage.client()).get_schedule_handle(schedule_id(stage, verb))


async def facts(rindle: Rindle) -> dict[str, ScheduleFacts]:
    """Return the schedules by the name of their sweep."""
    return {one.verb: one for one in await schedules.list_schedules(rindle.services)}


async def states(rindle: Rindle) -> dict[str, str]:
    """Return the states of the schedules by the name of their sweep."""
    return {verb: one.state for verb, one in (await facts(rindle)).items()}


async def scheduled(stage: Stage, *, usual: str = "active") -> None:
    """Wait until a worker has applied the schedules."""

    async def all_there() -> bool:
        found = await states(stage.rindle)
        return all(found[verb] == usual for verb in USUAL)

    await until(all_there, what="the schedules")


async def checked(rindle: Rindle) -> Check:
    """Return the check of ``rindle doctor``."""
    [found] = (await rindle.doctor(only=["temporal.schedules"], timeout=60)).checks
    return found


async def foreign(stage: Stage, verb: str) -> ScheduleHandle:
    """Make a schedule with an id of ours, as another program might."""
    return await (await stage.client()).create_schedule(
        schedule_id(stage, verb),
        Schedule(
            action=ScheduleActionStartWorkflow("theirs", id="theirs", task_queue="theirs"),
            spec=ScheduleSpec(cron_expressions=["0 0 1 1 *"]),
        ),
        memo={"rindle": "2"},
    )


async def test_the_reconciliation_with_providers_is_scheduled_where_there_are_providers(stage: Stage) -> None:
    streams = stage.application(providers=[InMemoryProvider()])
    assert (await schedules.apply(streams.services)).created == named(stage, *sorted([*USUAL, "provider-sync"]))
    described = await (await handle(stage, "provider-sync")).describe()
    assert [one.every for one in described.schedule.spec.intervals] == [timedelta(minutes=10)]
    assert (await states(streams))["provider-sync"] == "active"
    assert (await schedules.apply(stage.rindle.services)).deleted == named(stage, "provider-sync")


async def test_what_is_applied_is_the_table_of_the_specification(stage: Stage) -> None:
    report = await schedules.apply(stage.rindle.services)

    assert report == schedules.ApplyReport(created=named(stage, *USUAL))
    wanted: dict[str, tuple[dict[str, Any], str, timedelta | None]] = {
        "abort-incomplete-uploads": ({"profile": None}, "01:00", timedelta(minutes=10)),
        "cleanup-orphans": ({"profile": None, "dry_run": True}, "02:00", timedelta(minutes=10)),
        "purge-retry": ({"dry_run": False}, "30 min", None),
        "retention": ({"dry_run": False}, "60 min", None),
    }
    for verb, (options, when, jitter) in wanted.items():
        described = await (await handle(stage, verb)).describe()
        assert await described.memo() == {"rindle": 1}
        action, spec, policy = described.schedule.action, described.schedule.spec, described.schedule.policy
        assert isinstance(action, ScheduleActionStartWorkflow)
        assert (action.workflow, action.id, action.task_queue) == (
            "rindle.MaintenanceWorkflow",
            f"{stage.prefix}-maintenance:{verb}",
            f"{stage.prefix}-maintenance",
        )
        assert action.typed_search_attributes.get(ids.KIND) == "maintenance"
        order = json.loads(action.args[0].data)
        assert (order["verb"], order["options"]) == (verb, options)
        assert policy.overlap is ScheduleOverlapPolicy.SKIP
        assert (policy.catchup_window, policy.pause_on_failure) == (timedelta(hours=1), False)
        found = [
            *(f"{one.hour[0].start:02}:{one.minute[0].start:02}" for one in spec.calendars),
            *(f"{one.every // timedelta(minutes=1)} min" for one in spec.intervals),
        ]
        assert (found, spec.jitter or None, spec.time_zone_name or "UTC") == ([when], jitter, "UTC")
        assert [len(one.day_of_week) for one in spec.calendars] in ([], [1])


async def test_applying_again_changes_nothing(stage: Stage) -> None:
    services = stage.rindle.services
    await schedules.apply(services)
    before = [(await (await handle(stage, verb)).describe()).info for verb in USUAL]

    again = await schedules.apply(services)
    by_another_process = await schedules.apply(stage.application().services)

    assert again == by_another_process == schedules.ApplyReport(unchanged=named(stage, *USUAL))
    after = [(await (await handle(stage, verb)).describe()).info for verb in USUAL]
    assert [one.last_updated_at for one in after] == [one.last_updated_at for one in before] == [None] * len(USUAL)
    off = dict.fromkeys(("provider-sync", "verify-storage"), "off")
    assert await states(stage.rindle) == {**dict.fromkeys(USUAL, "active"), **off}


async def test_settings_update_create_and_delete(stage: Stage) -> None:
    await schedules.apply(stage.rindle.services)
    other = stage.application(RINDLE_SCHEDULES_CLEANUP_EXECUTE="true", RINDLE_SCHEDULES_VERIFY_STORAGE="true")
    assert (await states(other))["cleanup-orphans"] == "outdated"

    changed = await schedules.apply(other.services)

    assert changed.updated == named(stage, "cleanup-orphans")
    assert changed.created == named(stage, "verify-storage")
    assert {verb for verb, state in (await states(other)).items() if state != "active"} == {"provider-sync"}
    described = await (await handle(stage, "verify-storage")).describe()
    [calendar] = described.schedule.spec.calendars
    assert (calendar.day_of_week[0].start, calendar.hour[0].start, len(calendar.day_of_week)) == (0, 4, 1)
    assert (await facts(other))["cleanup-orphans"].dry_run is False
    assert (await states(stage.rindle))["verify-storage"] == "outdated"

    back = await schedules.apply(stage.rindle.services)

    assert (back.updated, back.deleted) == (named(stage, "cleanup-orphans"), named(stage, "verify-storage"))
    assert (await states(stage.rindle))["verify-storage"] == "off"
    assert (await facts(stage.rindle))["cleanup-orphans"].dry_run is True


async def test_what_somebody_edited_is_put_back(stage: Stage) -> None:
    await schedules.apply(stage.rindle.services)

    def never(given: Any) -> ScheduleUpdate:
        changed = dataclasses.replace(given.description.schedule, spec=ScheduleSpec(cron_expressions=["0 0 1 1 *"]))
        return ScheduleUpdate(changed)

    await (await handle(stage, "retention")).update(never)
    assert (await checked(stage.application(RINDLE_SCHEDULES="true"))).summary == (
        f"{schedule_id(stage, 'retention')} differs from this release and its settings"
    )

    assert (await schedules.apply(stage.rindle.services)).updated == named(stage, "retention")
    assert (await states(stage.rindle))["retention"] == "active"


@pytest.mark.usefixtures("quiet_log")
async def test_many_processes_at_once_create_each_schedule_once(stage: Stage) -> None:
    applications = [stage.application() for _ in range(6)]

    reports = await asyncio.gather(*(schedules.apply(one.services) for one in applications))

    assert sorted(one for report in reports for one in report.created) == sorted(named(stage, *USUAL))
    assert not any(report.foreign or report.updated or report.deleted for report in reports)
    assert await schedules.apply(stage.rindle.services) == schedules.ApplyReport(unchanged=named(stage, *USUAL))


async def test_workers_of_the_queue_of_sweeps_apply_at_their_start(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rindle")
    one, other = (stage.application(RINDLE_SCHEDULES="true") for _ in range(2))

    await asyncio.gather(stage.member(one), stage.member(other))
    await scheduled(stage)

    async def both() -> bool:
        return [record.message for record in caplog.records].count("schedules of sweeps applied") == 2

    await until(both, what="both workers to have applied them")
    said = [record for record in caplog.records if record.message == "schedules of sweeps applied"]
    assert sum(vars(record)["schedules_created"] for record in said) == len(USUAL)
    assert (await checked(one)).status == "ok"


async def test_a_worker_of_the_applications_own_applies_too(stage: Stage) -> None:
    rindle = stage.application(RINDLE_SCHEDULES="true")
    client = await rindle.temporal.client()

    async with Worker(client, task_queue=rindle.settings.maintenance_queue, plugins=[RindlePlugin(rindle)]):
        await scheduled(stage)


async def test_no_other_worker_applies(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    applied = []
    monkeypatch.setattr("rindle.bootstrap.keep_applying", lambda services: applied.append(services))

    await stage.member()  # RINDLE_SCHEDULES=false
    await stage.member(stage.application(RINDLE_SCHEDULES="true"), queues=[stage.prefix, f"{stage.prefix}-av"])

    assert applied == []
    assert set((await states(stage.rindle)).values()) == {"missing", "off"}


async def test_an_operators_pause_survives_workers_and_updates(stage: Stage) -> None:
    await schedules.apply(stage.rindle.services)
    paused = await schedules.pause(stage.rindle.services, ["cleanup-orphans"], note="moving the bucket")
    assert paused == list(named(stage, "cleanup-orphans"))
    await (await handle(stage, "retention")).pause(note="by the Temporal CLI")

    changed = stage.application(RINDLE_SCHEDULES="true", RINDLE_SCHEDULES_CLEANUP_EXECUTE="true")
    await stage.member(changed)

    async def updated() -> bool:
        described = await (await handle(stage, "cleanup-orphans")).describe()
        return described.info.last_updated_at is not None and b"false" in described.schedule.action.args[0].data  # type: ignore[attr-defined]

    await until(updated, what="the worker to update the schedule")
    found = await facts(changed)
    assert (found["cleanup-orphans"].state, found["cleanup-orphans"].note) == ("paused", "moving the bucket")
    assert (found["retention"].state, found["retention"].note) == ("paused", "by the Temporal CLI")
    check = await checked(changed)
    assert check.status == "warn"
    assert check.summary == (
        f"{schedule_id(stage, 'cleanup-orphans')} is paused (moving the bucket), "
        f"{schedule_id(stage, 'retention')} is paused (by the Temporal CLI)"
    )
    assert check.fix == "rindle schedules resume cleanup-orphans; rindle schedules resume retention"

    assert await schedules.resume(changed.services) == list(named(stage, *USUAL))
    assert set((await states(changed)).values()) == {"active", "off"}
    assert (await facts(changed))["retention"].note == "resumed by an operator"


async def test_schedules_that_others_made_are_left_alone(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    theirs = [await foreign(stage, "retention"), await foreign(stage, "verify-storage")]
    rindle = stage.application(RINDLE_SCHEDULES="true")

    report = await schedules.apply(rindle.services)

    assert report.foreign == named(stage, "retention", "verify-storage")
    assert "a schedule has an id of ours, but this library did not make it" in caplog.text
    for one in theirs:
        described = await one.describe()
        assert described.info.last_updated_at is None
        assert described.schedule.action.workflow == "theirs"  # type: ignore[attr-defined]
    with pytest.raises(NotFound, match="there is no schedule"):
        await schedules.pause(rindle.services, ["purge-retry", "retention"])
    assert len(await schedules.pause(rindle.services)) == 3
    assert not any([(await one.describe()).schedule.state.paused for one in theirs])
    await schedules.resume(rindle.services)
    check = await checked(rindle)
    assert (check.status, check.summary) == (
        "warn",
        f"{schedule_id(stage, 'retention')} was made by another program, "
        f"{schedule_id(stage, 'verify-storage')} was made by another program",
    )
    assert f"temporal schedule delete --schedule-id {schedule_id(stage, 'retention')}" in str(check.fix)


async def test_names_and_notes_are_checked_before_anything_is_paused(stage: Stage) -> None:
    services = stage.rindle.services
    await schedules.apply(services)

    with pytest.raises(InvalidArgument, match="unknown schedule retentoin; choose from abort-incomplete-uploads"):
        await schedules.pause(services, ["retention", "retentoin"])
    for unfit in ("x" * 256, "\udcff"):
        with pytest.raises(InvalidArgument, match="note"):
            await schedules.resume(services, note=unfit)
        with pytest.raises(InvalidArgument, match="note"):
            await schedules.pause(services, note=unfit)
    with pytest.raises(NotFound, match="verify-storage"):
        await schedules.pause(services, ["retention", "verify-storage"])

    assert set((await states(stage.rindle)).values()) == {"active", "off"}
    by_id = schedule_id(stage, "retention")
    assert await schedules.pause(services, [by_id]) == [by_id]


# --- runs ----------------------------------------------------------------------------------------------------------


async def old_event(stage: Stage) -> None:
    """Write an event of progress that expired yesterday."""

    def write(session: Session) -> None:
        about = {"scope_key": "asset", "scope_id": "1", "asset_id": None, "payload": {}}
        session.add(MediaEvent(type="variant_progress", occurred_at=utc_now() - timedelta(days=1), **about))

    await stage.rindle.database.write(write)


async def started_by(schedule: ScheduleHandle) -> dict[str, str]:
    """Return the runs that a schedule has started, each with the id of its workflow: those of one second share it."""
    actions = [one.action for one in (await schedule.describe()).info.recent_actions]
    found = [one for one in actions if isinstance(one, ScheduleActionExecutionStartWorkflow)]
    return {one.first_execution_run_id: one.workflow_id for one in found}


async def run_of(stage: Stage, verb: str) -> str:
    """Trigger a schedule and return the id of the workflow that it starts."""
    schedule = await handle(stage, verb)

    async def at_rest() -> bool:
        return not (await schedule.describe()).info.running_actions

    await until(at_rest, what="the schedule to know that its last run has ended: beside it no other one starts")
    earlier = await started_by(schedule)
    await schedule.trigger()

    async def started() -> list[str]:
        return [workflow_id for run_id, workflow_id in (await started_by(schedule)).items() if run_id not in earlier]

    [found] = await until(started, what="the schedule to start a run")
    return found


@pytest.fixture
def far_from_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every schedule run half an hour from now: a run of its own would do the work of the one that is triggered."""
    offset = timedelta(minutes=(utc_now().minute + 30) % 60)
    spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(hours=1), offset=offset)])
    monkeypatch.setattr(schedules, "RULES", tuple(dataclasses.replace(rule, spec=spec) for rule in schedules.RULES))


@pytest.mark.usefixtures("far_from_now")
async def test_a_triggered_schedule_runs_its_sweep(stage: Stage) -> None:
    await old_event(stage)
    rindle = stage.application(RINDLE_SCHEDULES="true")
    await stage.member(rindle)
    await scheduled(stage)

    workflow_id = await run_of(stage, "retention")
    result: messages.MaintenanceResult = await (
        (await stage.client()).get_workflow_handle(workflow_id, result_type=messages.MaintenanceResult).result()
    )

    assert workflow_id.startswith(f"{stage.prefix}-maintenance:retention-2")
    assert result.progress.counters == {"events": 0, "progress_events": 1}
    assert await stage.read(lambda session: list(session.scalars(select(MediaEvent)))) == []
    described = await (await stage.client()).get_workflow_handle(workflow_id).describe()
    assert described.typed_search_attributes.get(ids.KIND) == "maintenance"
    assert await described.static_summary() == "retention"
    last = (await facts(rindle))["retention"].last_run
    assert last is not None
    assert (last.workflow_id, last.status) == (workflow_id, "completed")
    assert (await checked(rindle)).status == "ok"


@pytest.mark.usefixtures("far_from_now")
async def test_a_run_that_failed_is_a_warning_until_one_succeeds(stage: Stage) -> None:
    rindle = stage.application(RINDLE_SCHEDULES="true")
    await schedules.apply(rindle.services)
    workflow_id = await run_of(stage, "retention")
    await (await stage.client()).get_workflow_handle(workflow_id).terminate()

    check = await checked(rindle)
    assert check.status == "warn"
    assert check.summary == f"{schedule_id(stage, 'retention')} ended its last run as terminated"
    assert check.fix == f"temporal workflow show --workflow-id {workflow_id}"

    await stage.member(rindle)
    await (await stage.client()).get_workflow_handle(await run_of(stage, "retention")).result()
    assert (await checked(rindle)).status == "ok"


@pytest.mark.usefixtures("far_from_now")
async def test_a_scheduled_cleanup_does_not_start_while_an_abort_run_is_in_progress(stage: Stage) -> None:
    await schedules.apply(stage.rindle.services)
    session = await stage.sent()
    await stage.rindle.cancel_upload(session.id)
    await stage.let_tickets_expire(session.id, hours=1)
    execute = stage.application(RINDLE_SCHEDULES_CLEANUP_EXECUTE="true")
    await schedules.apply(execute.services)
    client = await stage.client()
    # The run of a schedule, on a queue without workers: it stays in progress.
    abort = await client.start_workflow(
        messages.MAINTENANCE_WORKFLOW,
        messages.MaintenanceInput(verb="abort-incomplete-uploads"),
        id=f"{ids.maintenance_id('abort-incomplete-uploads', prefix=stage.prefix)}-2026-11-29T01:00:00Z",
        task_queue=f"{stage.prefix}-nobody",
    )

    async def listed() -> bool:
        query = f"WorkflowId = '{abort.id}' AND ExecutionStatus = 'Running'"
        return [run.id async for run in client.list_workflows(query)] == [abort.id]

    await until(listed, what="visibility to list the abort run")
    cleanup = await run_of(stage, "cleanup-orphans")
    await stage.member(queues=[f"{stage.prefix}-maintenance"])

    async def waits() -> str | None:
        found = (await client.get_workflow_handle(cleanup).describe()).raw_description.pending_activities
        return found[0].last_failure.application_failure_info.type if found else None

    assert await until(waits, what="the cleanup to be refused") == "maintenance_running"
    assert (await client.get_workflow_handle(cleanup).describe()).status is WorkflowExecutionStatus.RUNNING
    assert await stage.keys() == {session.upload_key}
    await abort.terminate()
    await client.get_workflow_handle(cleanup).terminate()


# --- namespaces and converters ---------------------------------------------------------------------------------------


async def test_search_attributes_that_are_switched_off_are_removed(stage: Stage) -> None:
    await schedules.apply(stage.rindle.services)
    without = stage.application(RINDLE_SEARCH_ATTRIBUTES="false")
    assert (await states(without))["retention"] == "outdated"

    assert (await schedules.apply(without.services)).updated == named(stage, *USUAL)

    assert (await states(without))["retention"] == "active"
    action = (await (await handle(stage, "retention")).describe()).schedule.action
    assert isinstance(action, ScheduleActionStartWorkflow)
    assert list(action.typed_search_attributes) == []


async def test_a_namespace_without_search_attributes(stage: Stage, temporal_server: TemporalServer) -> None:
    name = f"bare-{uuid.uuid4().hex[:8]}"
    request = RegisterNamespaceRequest(namespace=name)
    request.workflow_execution_retention_period.FromTimedelta(timedelta(days=1))
    await temporal_server.client.workflow_service.register_namespace(request)
    there = {"RINDLE_SCHEDULES": "true", "TEMPORAL_NAMESPACE": name}
    rindle = stage.application(**there)

    async def applied() -> schedules.ApplyReport | None:
        try:
            return await schedules.apply(rindle.services)
        except Exception:  # a new namespace is not known everywhere at once
            return None

    first = await until(applied, what="the namespace")
    assert first is not None
    assert len(first.created + first.unchanged) == len(USUAL)
    described = await (await rindle.temporal.client()).get_schedule_handle(schedule_id(stage, "retention")).describe()
    assert isinstance(described.schedule.action, ScheduleActionStartWorkflow)
    assert list(described.schedule.action.typed_search_attributes) == []

    # A process that does not know yet what the namespace lacks.
    fresh = stage.application(**there)
    assert (await states(fresh))["retention"] == "active"
    assert (await checked(fresh)).status == "ok"
    assert (await schedules.apply(fresh.services)).unchanged == named(stage, *USUAL)

    assert await fresh.temporal.register_search_attributes()

    async def added() -> bool:
        found = await schedules.apply(stage.application(**there).services)
        return found.updated == named(stage, *USUAL)

    await until(added, what="the namespace to have the attributes, and the schedules too")
    assert (await states(fresh))["retention"] == "active"


class BindingCodec(PayloadCodec, WithSerializationContext):
    """Binds every payload to its workflow; reads plain ones, as codecs do."""

    def __init__(self, workflow_id: str = "") -> None:
        self._workflow_id = workflow_id

    def with_context(self, context: Any) -> BindingCodec:
        """Return the codec of one workflow."""
        return BindingCodec(context.workflow_id)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Bind."""
        bound = {"encoding": b"bound", "to": self._workflow_id.encode()}
        return [Payload(metadata=bound, data=each.SerializeToString()) for each in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Open."""
        return [self._opened(each) for each in payloads]

    def _opened(self, payload: Payload) -> Payload:
        if payload.metadata["encoding"] != b"bound":
            return payload
        assert payload.metadata["to"].decode() == self._workflow_id
        return Payload.FromString(payload.data)


@pytest.mark.usefixtures("far_from_now")
async def test_runs_of_schedules_work_with_a_codec_that_binds_payloads_to_their_workflow(stage: Stage) -> None:
    converter = dataclasses.replace(pydantic_data_converter, payload_codec=BindingCodec())
    bound = await Client.connect(stage.environment["TEMPORAL_ADDRESS"], data_converter=converter)
    rindle = stage.application(RINDLE_SCHEDULES="true")
    rindle.temporal = TemporalConnection(client=bound)
    await old_event(stage)
    await stage.member(rindle)
    await scheduled(stage)

    workflow_id = await run_of(stage, "retention")
    result: messages.MaintenanceResult = await bound.get_workflow_handle(
        workflow_id, result_type=messages.MaintenanceResult
    ).result()

    assert result.progress.counters["progress_events"] == 1
    assert (await schedules.apply(rindle.services)).unchanged == named(stage, *USUAL)


class Unwilling(Interceptor, OutboundInterceptor):
    """Refuses to create a schedule, the first few times."""

    def __init__(self, times: int) -> None:
        self._left = times

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        """Stand in front of the client."""
        self.next = next
        return self

    async def create_schedule(self, input: CreateScheduleInput) -> ScheduleHandle:
        """Refuse, or pass on."""
        if self._left:
            self._left -= 1
            raise RPCError("no", RPCStatusCode.PERMISSION_DENIED, b"")
        return await self.next.create_schedule(input)


async def test_a_worker_tries_again_until_its_schedules_are_applied(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(schedules, "_FIRST_PAUSE", 0.01)
    unwilling = await Client.connect(
        stage.environment["TEMPORAL_ADDRESS"],
        data_converter=pydantic_data_converter,
        interceptors=[Unwilling(2)],
    )
    rindle = stage.application(RINDLE_SCHEDULES="true")
    rindle.temporal = TemporalConnection(client=unwilling)

    await stage.member(rindle)
    await scheduled(stage)

    said = [one.getMessage() for one in caplog.records if "schedules of sweeps could not" in one.getMessage()]
    assert said == ["the schedules of sweeps could not be applied; trying again"]
