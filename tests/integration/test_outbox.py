"""The outbox on both databases: nothing is lost between commit and Temporal, nothing is started that did not commit."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping

import psycopg
import pytest
from sqlalchemy import select, text, update

from rindle import MediaOutbox, Rindle, TemporalConnection, telemetry
from rindle.db import outbox as rows
from rindle.db.models import new_id, utc_now
from rindle.errors import TemporalUnavailable
from rindle.operations.explain import explain
from rindle.relay import Relay, coalesce
from rindle.security import actor_digest
from rindle.workflows import ids
from tests.application import SECRET
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import free_port
from tests.servers.proxy import Proxy
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, on_postgres


async def test_a_commit_wakes_the_relay_of_its_own_process(lite_stage: Stage) -> None:
    """Polling is set to an hour: only the wake-up after commit can be what dispatches."""
    async with lite_stage.application(RINDLE_RELAY_POLL_SECONDS="3600", RINDLE_RELAY_IDLE_POLL_SECONDS="3600") as web:
        session = await web.initiate_upload("avatar", filename="me.jpg")

        async def dispatched() -> bool:
            return [row.state for row in await lite_stage.outbox()] == ["dispatched"]

        await until(dispatched, what="the row to be dispatched")
        client = await lite_stage.client()
        described = await client.get_workflow_handle(lite_stage.upload_workflow(session.id)).describe()
        assert described.status is not None


@on_postgres
async def test_postgres_notify_wakes_relays_of_other_processes(stage: Stage) -> None:
    async with stage.application(RINDLE_RELAY_POLL_SECONDS="3600", RINDLE_RELAY_IDLE_POLL_SECONDS="3600"):
        await _listening(stage)
        await stage.rindle.initiate_upload("avatar", filename="me.jpg")  # this process runs no relay

        async def dispatched() -> bool:
            return [row.state for row in await stage.outbox()] == ["dispatched"]

        await until(dispatched, what="the row to be dispatched")


@on_postgres
async def test_relays_hear_whether_the_committing_process_sends_by_itself(stage: Stage) -> None:
    """What another process has in hand is left to it: looking at once would find nothing, at the price of a claim."""
    url = stage.environment["APP_DATABASE_URL"].replace("postgresql+psycopg://", "postgresql://")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as listening:
        await listening.execute(f"LISTEN {rows.CHANNEL}")
        async with stage.application() as web:
            await web.initiate_upload("avatar", filename="me.jpg")
            await stage.rindle.initiate_upload("avatar", filename="me.jpg")  # this application runs no relay
            heard = [notice.payload async for notice in listening.notifies(timeout=PATIENCE_SECONDS, stop_after=2)]
    assert sorted(heard) == ["", rows.LOCAL_RELAY]  # each application sends its own


@on_postgres
async def test_a_row_that_is_in_hand_is_sent_by_another_process_when_its_own_does_not(stage: Stage) -> None:
    async with stage.application(RINDLE_RELAY_POLL_SECONDS="1", RINDLE_RELAY_IDLE_POLL_SECONDS="3600"):
        await _listening(stage)
        await stage.rindle.database.write(
            rows.insert,
            workflow_type="rindle.UploadWorkflow",
            workflow_id=stage.upload_workflow("0"),
            task_queue=stage.prefix,
            payload={"input": {"session_id": "0"}, "facts": {"kind": "upload"}},
            has_local_relay=True,  # but the process has died since
        )

        async def dispatched() -> bool:
            return [row.state for row in await stage.outbox()] == ["dispatched"]

        await until(dispatched, what="the row to be dispatched")


@on_postgres
async def test_a_relay_that_stops_on_postgres_leaves_its_connection_without_a_complaint(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage.application():
        await _listening(stage)

    async def gone() -> bool:
        return await _listeners(stage) == []

    await until(gone, what="the listening connection to be closed")
    assert [record.getMessage() for record in caplog.records if record.name.startswith("sqlalchemy")] == []


async def _listening(stage: Stage) -> None:
    async def committed() -> bool:
        return "idle" in await _listeners(stage)

    await until(committed, what="the relay to listen")


async def _listeners(stage: Stage) -> list[str]:
    """Return the states of the connections that listen on the stage's database, of relays of any process.

    One is ``active`` until its LISTEN has committed, and hears nothing of what is committed before.
    """
    statement = text("SELECT state FROM pg_stat_activity WHERE query = :query AND datname = current_database()")
    return await stage.read(lambda s: list(s.scalars(statement, {"query": f"LISTEN {rows.CHANNEL}"})))


async def test_work_of_a_transaction_still_open_while_another_is_sent_is_not_lost(stage: Stage) -> None:
    """Both rows wake the same workflow; the second commits only after the first was sent and swallowed."""
    overlap = stage.rindle.database.dialect != "sqlite"  # one writer: there they cannot overlap
    await stage.member()
    first = await stage.ready(actor="a")
    second = await stage.ready(actor="a")
    await stage.rindle.attach(first.id, ("user", "1"), "x")
    await stage.rindle.attach(first.id, ("user", "2"), "x")
    held = stage.transaction()
    if overlap:
        await stage.rindle.detach(("user", "1"), "x", session=held)  # open: its purge row is not visible yet
    await stage.rindle.detach(("user", "2"), "x")  # sent now: the purge finds the asset still attached

    async def first_purge_ended() -> bool:
        sent = [row for row in await stage.outbox() if row.workflow_id.endswith(f"purge:{first.id}")]
        return bool(sent) and all(row.state == "dispatched" for row in sent)

    await until(first_purge_ended, what="the first purge row to be sent")
    assert (await stage.rindle.asset(first.id)).state == "ready"
    if not overlap:
        await stage.rindle.detach(("user", "1"), "x", session=held)
    await held.commit()
    await held.close()

    await stage.gone(first.id)
    assert (await stage.rindle.asset(second.id)).state == "ready"


async def test_a_rolled_back_transaction_starts_nothing(stage: Stage) -> None:
    await stage.member()
    old, new = await stage.ready(actor="a"), await stage.ready(actor="a")
    await stage.rindle.attach(old.id, ("user", "1"), "avatar")
    before = len(await stage.outbox())

    async with stage.transaction(writes=True) as session:
        await stage.rindle.attach(new.id, ("user", "1"), "avatar", session=session)
        await session.rollback()

    assert len(await stage.outbox()) == before
    kept = await stage.rindle.attachment_for(("user", "1"), "avatar")
    assert kept is not None and kept.asset_id == old.id


async def test_a_released_savepoint_inside_a_rolled_back_transaction_starts_nothing(stage: Stage) -> None:
    await stage.member()
    old, new = await stage.ready(actor="a"), await stage.ready(actor="a")
    await stage.rindle.attach(old.id, ("user", "1"), "avatar")
    before = len(await stage.outbox())

    async with stage.transaction(writes=True) as session:
        async with session.begin_nested():
            await stage.rindle.attach(new.id, ("user", "1"), "avatar", session=session)
        await session.rollback()

    assert len(await stage.outbox()) == before
    assert (await stage.rindle.asset(old.id)).state == "ready"


async def test_uploads_of_a_profile_wait_fairly_by_profile_or_by_actor(lite_stage: Stage) -> None:
    stage, client = lite_stage, await lite_stage.client()

    async def fairness_key(profile: str, actor: str | None) -> str:
        session = await stage.rindle.initiate_upload(profile, filename="me.jpg", actor=actor)
        await Relay(
            stage.rindle.database,
            stage.rindle.temporal,
            stage.rindle.settings,
            fairness_key=stage.rindle.services.fairness_key,
        ).dispatch_once()
        described = await client.get_workflow_handle(stage.upload_workflow(session.id)).describe()
        return described.raw_description.workflow_execution_info.priority.fairness_key

    actor = "ann@example.org"
    digest = actor_digest([SECRET], actor, "fairness")
    assert await fairness_key("avatar", actor) == "avatar"
    assert await fairness_key("plain", None) == "plain"
    assert [await fairness_key("plain", actor) for _ in range(2)] == [digest, digest]
    assert await fairness_key("plain", "bob@example.org") not in (digest, "plain")


async def test_two_relays_at_once_send_each_row_once(stage: Stage) -> None:
    uploads = [await stage.rindle.initiate_upload("avatar", filename="me.jpg") for _ in range(30)]
    relays = [Relay(app.database, app.temporal, app.settings) for app in (stage.application(), stage.application())]

    async def drain(relay: Relay) -> int:
        sent = 0
        while count := await relay.dispatch_once():
            sent += count
        return sent

    sent = await asyncio.gather(*(drain(relay) for relay in relays))

    assert sum(sent) == len(uploads)
    assert {row.state for row in await stage.outbox()} == {"dispatched"}


async def test_rows_of_one_workflow_are_coalesced_but_never_deduplicated(lite_stage: Stage) -> None:
    stage = lite_stage
    session = await stage.sent()
    await stage.rindle.verify_completion(session.id)
    for _ in range(3):
        await stage.rindle.resume(str(session.asset_id))

    claimed = await stage.rindle.database.write(rows.claim)

    assert len(claimed) == 5  # start, verified, three times verified again
    (call,) = coalesce(claimed)
    assert (call.signals, len(call.row_ids)) == (["verified"], 5)


async def test_a_row_the_server_refuses_is_parked_and_the_others_go_on(lite_stage: Stage) -> None:
    stage = lite_stage
    bad = await stage.rindle.initiate_upload("avatar", filename="me.jpg")
    await stage.rindle.initiate_upload("avatar", filename="me.jpg")
    await stage.rindle.database.write(
        lambda s: s.execute(
            update(MediaOutbox)
            .where(MediaOutbox.workflow_id == stage.upload_workflow(bad.id))
            .values(workflow_id="x" * 255, workflow_type="")
        )
    )
    relay = Relay(stage.rindle.database, stage.rindle.temporal, stage.rindle.settings)

    await relay.dispatch_once()

    states = {row.workflow_type: (row.state, row.last_error or "") for row in await stage.outbox()}
    assert states[""][0] == "parked"
    assert re.fullmatch("INVALID_ARGUMENT: .*workflowtype.*", states[""][1], re.IGNORECASE)
    assert states["rindle.UploadWorkflow"] == ("dispatched", "")
    backlog = await stage.read(rows.backlog)
    assert (backlog.pending, backlog.parked) == (0, 1)


async def test_a_parked_row_keeps_the_message_of_temporal_and_the_reports_show_it(lite_stage: Stage) -> None:
    stage = lite_stage
    session = await stage.rindle.initiate_upload("avatar", filename="me.jpg")
    await stage.rindle.database.write(lambda s: s.execute(update(MediaOutbox).values(workflow_type="")))
    await stage.stamp()  # the report reads only tables of this release

    await Relay(stage.rindle.database, stage.rindle.temporal, stage.rindle.settings).dispatch_once()

    explained = (await explain(stage.rindle.services, session.id)).diagnosis
    assert explained.last_error is not None and explained.last_error.reason is not None
    assert (explained.last_error.where, explained.last_error.code) == ("outbox", "invalid_argument")
    assert "workflowtype" in explained.last_error.reason.lower()
    assert explained.last_error.reason in explained.summary
    assert explained.command == "rindle outbox drain"
    [finding] = [one for one in (await stage.rindle.runtime_status()).findings if one.name == "outbox_parked"]
    assert explained.last_error.reason in str(finding.samples[0].to_dict()["last_error"])


@pytest.mark.parametrize("profile", ["Ж" * 44, "Ж" * 255, '"' * 255, "a\n\x07" * 80, "\U0001f600" * 255])
async def test_a_row_whose_profile_is_longer_in_bytes_than_in_characters_is_sent(
    lite_stage: Stage, profile: str
) -> None:
    """Such names are refused now; rows of earlier releases have them."""
    stage = lite_stage
    workflow_id = stage.upload_workflow(new_id())
    await stage.rindle.database.write(
        rows.insert,
        workflow_type="rindle.UploadWorkflow",
        workflow_id=workflow_id,
        task_queue=stage.prefix,
        payload={"input": {"session_id": "0"}, "facts": {"kind": "upload", "profile": profile}},
    )

    await Relay(stage.rindle.database, stage.rindle.temporal, stage.rindle.settings).dispatch_once()

    assert [(row.state, row.last_error) for row in await stage.outbox()] == [("dispatched", None)]
    described = (await (await stage.client()).get_workflow_handle(workflow_id).describe()).raw_description
    assert len(described.workflow_execution_info.priority.fairness_key.encode()) <= ids.FAIRNESS_KEY_BYTES
    assert len(described.execution_config.user_metadata.summary.data) <= ids.SUMMARY_BYTES


async def test_runs_start_without_search_attributes_where_the_namespace_has_none(lite_stage: Stage) -> None:
    """A namespace of its own, whose attributes nobody registered: starts are retried without them."""
    from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest

    client = await lite_stage.client()
    name = f"bare-{lite_stage.prefix}"
    request = RegisterNamespaceRequest(namespace=name)
    request.workflow_execution_retention_period.FromSeconds(86_400)
    await client.workflow_service.register_namespace(request)
    bare = lite_stage.application(TEMPORAL_NAMESPACE=name)
    relay = Relay(bare.database, bare.temporal, bare.settings)
    session = await bare.initiate_upload("avatar", filename="me.jpg")

    async def sent() -> bool:
        try:
            await relay.dispatch_once()  # the namespace cache of the server takes a moment
        except TemporalUnavailable:
            return False
        return [row.state for row in await lite_stage.outbox()] == ["dispatched"]

    await until(sent, what="the start without attributes")
    described = (
        await (await bare.temporal.client()).get_workflow_handle(lite_stage.upload_workflow(session.id)).describe()
    )
    assert len(described.typed_search_attributes) == 0


async def test_an_idle_relay_tells_how_much_waits(lite_stage: Stage) -> None:
    heard: list[Mapping[str, float]] = []
    remove = telemetry.add_handler(
        lambda name, facts, numbers: heard.append(dict(numbers)) if name == "rindle.outbox.lag" else None
    )
    patient = lite_stage.application(RINDLE_PURGE_DELAY_SECONDS="3600")
    asset = await lite_stage.verified()
    await patient.attach(asset.id, ("user", "1"), "x")
    await patient.detach(("user", "1"), "x")
    try:
        async with patient:

            async def told() -> bool:
                return bool(heard) and heard[-1]["pending"] == 1

            await until(told, what="the lag to be told")
    finally:
        remove()
    assert heard[-1] == {"pending": 1, "parked": 0, "seconds": 0.0}  # it waits on purpose: that is no lag


async def test_plain_functions_write_the_same_rows_in_a_sync_session(stage: Stage) -> None:
    """The sync forms are what Django, Flask and scripts use."""
    await stage.member()
    asset = await stage.ready(actor="alice")

    def attach_twice(session: object) -> int:
        from sqlalchemy.orm import Session

        assert isinstance(session, Session)
        calls = stage.rindle.attachments
        first = calls.attach(asset.id, ("user", "1"), "avatar", uploaded_by="alice", session=session)
        again = calls.attach(asset.id, ("user", "1"), "avatar", uploaded_by="alice", session=session)
        assert first.id == again.id
        return len(session.scalars(select(MediaOutbox).where(MediaOutbox.workflow_type.like("%Purge%"))).all())

    assert await stage.rindle.database.write(attach_twice) == 0


@pytest.mark.parametrize("steps", range(6))
async def test_a_relay_that_is_woken_and_stopped_at_once_stops(lite_stage: Stage, steps: int) -> None:
    rindle = lite_stage.rindle
    relay = Relay(rindle.database, rindle.temporal, rindle.settings)
    await relay.start()
    began = relay.last_tick

    async def idle() -> bool:
        return relay.last_tick > began

    await until(idle, what="the relay's first round")
    (running,) = [task for task in asyncio.all_tasks() if task.get_name() == "rindle-relay"]

    relay._woken.set()
    for _ in range(steps):  # turns of the event loop between being woken and being stopped
        await asyncio.sleep(0)
    running.cancel()  # once, as a caller does who is cancelled himself
    done, _ = await asyncio.wait({running}, timeout=PATIENCE_SECONDS)

    await relay.stop()
    assert running in done


# --- relays that cannot reach Temporal -----------------------------------------------------------------------------


def _relay(app: Rindle) -> Relay:
    return Relay(app.database, app.temporal, app.settings)


async def test_a_relay_that_cannot_reach_temporal_leaves_the_rows_to_those_that_can(stage: Stage) -> None:
    away = _relay(stage.application(TEMPORAL_ADDRESS=f"127.0.0.1:{free_port()}"))
    assert await away.dispatch_once() == 0  # nothing is due: it does not even try to connect
    await stage.rindle.initiate_upload("avatar", filename="me.jpg")
    with pytest.raises(TemporalUnavailable):
        await away.dispatch_once()

    assert await _relay(stage.rindle).dispatch_once() == 1
    assert [(row.state, row.attempts) for row in await stage.outbox()] == [("dispatched", 0)]


async def test_a_relay_that_loses_temporal_hands_back_what_it_has_claimed(
    stage: Stage, temporal_server: TemporalServer
) -> None:
    async with Proxy(int(temporal_server.target.rpartition(":")[2])) as proxy:
        losing = _relay(stage.application(TEMPORAL_ADDRESS=f"127.0.0.1:{proxy.port}"))
        await stage.rindle.initiate_upload("avatar", filename="me.jpg")
        assert await losing.dispatch_once() == 1
        await proxy.cut()

        await stage.rindle.initiate_upload("avatar", filename="me.jpg")
        with pytest.raises(TemporalUnavailable):
            await losing.dispatch_once()  # claims the row, and hands it back
        with pytest.raises(TemporalUnavailable):
            await losing.dispatch_once()  # claims nothing

        assert [row.attempts for row in await stage.outbox()] == [0, 1]
        assert await _relay(stage.rindle).dispatch_once() == 1
        await proxy.restore()
        await stage.rindle.initiate_upload("avatar", filename="me.jpg")

        async def sent() -> bool:
            try:
                return await losing.dispatch_once() == 1
            except TemporalUnavailable:  # its connection is being made again
                return False

        await until(sent, what="the relay to send again")


async def test_a_row_that_cannot_even_be_sent_does_not_hold_up_its_batch(lite_stage: Stage) -> None:
    stage, relay = lite_stage, _relay(lite_stage.rindle)
    bad = await stage.rindle.initiate_upload("avatar", filename="me.jpg")
    for _ in range(3):
        await stage.rindle.initiate_upload("avatar", filename="me.jpg")
    of_bad = MediaOutbox.workflow_id == stage.upload_workflow(bad.id)

    async def spoil(**values: object) -> None:
        await stage.rindle.database.write(lambda s: s.execute(update(MediaOutbox).where(of_bad).values(**values)))

    async def states() -> dict[str, int]:
        return Counter(row.state for row in await stage.outbox())

    await spoil(payload=["no mapping"])
    assert await relay.dispatch_once() == 3
    assert await states() == {"dispatched": 3, "pending": 1}

    await spoil(attempts=4, available_at=utc_now())
    assert await relay.dispatch_once() == 0
    assert await states() == {"dispatched": 3, "parked": 1}
    [parked] = [row for row in await stage.outbox() if row.state == "parked"]
    assert parked.last_error == "AttributeError"


# --- search attributes ---------------------------------------------------------------------------------------------


class CutOff(TemporalConnection):
    """Loses the server during the first registration of the search attributes."""

    proxy: Proxy
    losses = 0

    async def register_search_attributes(self) -> bool:
        if self.losses:
            return await super().register_search_attributes()
        self.losses += 1
        await self.proxy.cut()
        try:
            return await super().register_search_attributes()
        finally:
            await self.proxy.restore()


async def test_search_attributes_are_registered_later_when_temporal_was_away_at_the_start(
    lite_stage: Stage, temporal_server: TemporalServer
) -> None:
    async with Proxy(int(temporal_server.target.rpartition(":")[2])) as proxy:
        connection = CutOff(
            connect_seconds=PATIENCE_SECONDS, environment={"TEMPORAL_ADDRESS": f"127.0.0.1:{proxy.port}"}
        )
        connection.proxy = proxy
        await connection.client()

        registering = asyncio.create_task(connection.keep_registering_search_attributes())

        assert await until(lambda: connection.has_search_attributes, what="the attributes to be registered")
        await registering
        assert connection.losses == 1
