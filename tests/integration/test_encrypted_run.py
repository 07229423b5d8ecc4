"""Every payload of a whole run is encrypted, and everything that reads payloads decrypts them."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.failure.v1 import Failure
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.workflowservice.v1 import QueryWorkflowRequest

from rindle import messages
from rindle.messages import StatusView, VerifyAnswer
from rindle.operations.explain import explain
from rindle.workflows import ids
from tests import encrypted
from tests.encrypted import encodable, parts
from tests.patience import until
from tests.servers import free_port
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, staged

#: What a history shows without encryption: fields of messages, summaries and texts of failures.
PLAIN = (b"session_id", b"asset_id", b"wait_seconds", b"validate the bytes", b"upload of", b"scanner", b"outcome")


@pytest.fixture
async def sealed_stage(tmp_path: Path, temporal_server: TemporalServer) -> AsyncIterator[Stage]:
    """A stage whose application encrypts; its workers have to be started with ``RINDLE_APP`` as it has."""
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, temporal_server.target, {"RINDLE_APP": "tests.encrypted:make"}) as stage:
        stage.rindle.temporal = encrypted.connection(stage.environment)
        yield stage


def assert_sealed(message: Message) -> int:
    """Check that each payload is ciphertext and each failure hides its message; return the number of payloads."""
    payloads = [part for part in parts(message) if isinstance(part, Payload)]
    assert {part.metadata["encoding"] for part in payloads} <= {b"binary/encrypted"}
    for part in parts(message):
        if isinstance(part, Failure) and part.HasField("application_failure_info"):
            assert (part.message, part.stack_trace) == ("Encoded failure", "")
    bare = type(message)()
    bare.CopyFrom(message)
    for part in parts(bare):
        for name in ("search_attributes", "indexed_fields"):
            if name in part.DESCRIPTOR.fields_by_name:
                part.ClearField(name)
    # The names of activities are in clear and contain some of the words.
    raw = bare.SerializeToString().replace(b"rindle.", b"")
    for name in (messages.SCAN, messages.VERIFY_UPLOAD, messages.READ_UPLOAD):
        raw = raw.replace(name.removeprefix("rindle.").encode(), b"")
    assert [word for word in PLAIN if word in raw] == []
    return len(payloads)


async def history_is_sealed(stage: Stage, workflow_id: str) -> int:
    """Check the history, the description and the live details of a run."""
    client = await stage.client()
    handle = client.get_workflow_handle(workflow_id)
    found = sum([assert_sealed(event) for event in encodable(await handle.fetch_history())])
    assert_sealed((await handle.describe()).raw_description)
    for query in ("status", "__temporal_workflow_metadata"):
        answer = await client.workflow_service.query_workflow(
            QueryWorkflowRequest(
                namespace=client.namespace,
                execution=WorkflowExecution(workflow_id=workflow_id),
                query=WorkflowQuery(query_type=query),
            )
        )
        assert assert_sealed(answer) == 1
    return found


async def test_a_run_from_the_ticket_to_the_purge_leaves_only_ciphertext(sealed_stage: Stage) -> None:
    stage = sealed_stage
    metrics = f"127.0.0.1:{free_port()}"
    worker = await stage.worker(APP_CONNECT="1", RINDLE_METRICS_ADDRESS=metrics)

    async def counts_pollers() -> bool:
        # The worker's runtime serves also a connection that the application makes.
        served = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{metrics}/metrics").read())
        return b"temporal_num_pollers" in served

    # They are counted a moment after the worker reports ready.
    await until(counts_pollers, what="the worker's pollers to be in its metrics")
    async with stage.rindle:
        session = await stage.sent("scanned")
        upload_id = stage.upload_workflow(session.id)
        handle = (await stage.client()).get_workflow_handle(upload_id)

        async def waits() -> bool:
            try:
                view: Any = await handle.query("status", result_type=StatusView)
            except Exception:  # not started yet
                return False
            return bool(view.stage == "waiting")

        await until(waits, what="the upload to wait for its bytes")
        stage.tell("scanner", "hang")  # else the run may end before it gets the signal
        answer = await handle.execute_update("verify", result_type=VerifyAnswer)
        assert (answer.session_state, answer.asset_id) == ("completed", session.asset_id)
        await handle.signal("touch")
        stage.tell("scanner", "")
        asset = await stage.settled(str(session.asset_id))
        assert (asset.state, len(asset.variants)) == ("ready", 2)

        await stage.rindle.purge_asset(asset)
        await stage.gone(asset.id)
        purge_id = ids.purge_id(asset.id, prefix=stage.prefix)
        await (await stage.client()).get_workflow_handle(purge_id).result()

        for workflow_id in (upload_id, stage.variants_workflow(asset.id), purge_id):
            assert await history_is_sealed(stage, workflow_id) > 5
    assert await worker.stop() == 0


async def test_an_encrypted_failure_is_explained_in_clear_to_its_owner_only(sealed_stage: Stage) -> None:
    stage = sealed_stage
    stage.tell("scanner", "down")
    await stage.member()
    asset = await stage.verified("scanned")
    services = stage.rindle.services

    async def failing() -> Any:
        found = await explain(services, asset.id)
        pending = [one for run in found.workflows for one in run.pending_activities if one.last_failure]
        return pending[0] if pending else None

    pending = await until(failing, what="the scanner's failure to be explained")
    assert (pending.type, pending.last_failure_code) == (messages.SCAN, "scanner_unavailable")
    assert "scanner" in pending.last_failure
    run = (await stage.client()).get_workflow_handle((await explain(services, asset.id)).workflows[0].id)
    assert_sealed((await run.describe()).raw_description)

    stage.rindle.temporal = encrypted.connection(stage.environment, key_id="2027")
    await stage.client()  # a report connects only once, and has no runs when that fails
    foreign = (await explain(stage.rindle.services, asset.id)).workflows[0].pending_activities[0]
    assert foreign.last_failure == "its message cannot be decoded by the data converter of this process"
    assert foreign.last_failure_code == "scanner_unavailable"
    stage.tell("scanner", "")
