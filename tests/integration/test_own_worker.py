"""Rindle's workflows in a worker of the application's own (``examples/temporal/worker.py``)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.converter import DataConverter
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import Replayer, Worker

from examples.temporal.worker import PublishWorkflow, work
from rindle import TemporalConnection
from rindle.errors import InvalidArgument, Misconfigured
from rindle.worker_plugin import RindlePlugin
from tests.media.clips import Clips
from tests.patience import PATIENCE_SECONDS
from tests.stage import Stage


@activity.defn
async def broken() -> None:
    """Fail as an application's activity does."""
    raise LookupError("no such order")


@workflow.defn(sandboxed=False)  # the sandbox cannot load this module
class BrokenWorkflow:
    """Fails with its activity."""

    @workflow.run
    async def run(self) -> None:
        """Try once."""
        await workflow.execute_activity(
            broken, start_to_close_timeout=timedelta(seconds=30), retry_policy=RetryPolicy(maximum_attempts=1)
        )


@asynccontextmanager
async def working(stage: Stage) -> AsyncIterator[None]:
    """Run the example until the block is left."""
    stop = asyncio.Event()
    task = asyncio.create_task(work(stage.rindle, stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await task


async def test_a_worker_of_ones_own_does_the_whole_work(lite_stage: Stage, clips: Clips) -> None:
    stage = lite_stage
    async with working(stage):
        asset = await stage.ready("scanned")  # sent by the relay of the plug-in: this process has no other
        assert (asset.state, len(asset.variants)) == ("ready", 2)
        film = await stage.ready("held_film", clips.film(), filename="film.mp4")  # the queue of audio and video
        assert film.state == "ready"
        client = await stage.client()
        published = await client.execute_workflow(
            PublishWorkflow.run, asset.id, id=f"{stage.prefix}-publish", task_queue=stage.rindle.settings.queue()
        )
        assert published == f"published {asset.id}"

    history = await client.get_workflow_handle((await stage.outbox())[0].workflow_id).fetch_history()
    await Replayer(workflows=[PublishWorkflow], plugins=[RindlePlugin(stage.rindle)]).replay_workflow(history)


async def test_other_activities_keep_their_own_errors(lite_stage: Stage) -> None:
    stage = lite_stage
    client = await stage.client()
    queue = stage.rindle.settings.queue()
    async with Worker(
        client,
        task_queue=queue,
        workflows=[BrokenWorkflow],
        activities=[broken],
        plugins=[RindlePlugin(stage.rindle)],
    ):
        with pytest.raises(WorkflowFailureError) as caught:
            await client.execute_workflow(BrokenWorkflow.run, id=f"{stage.prefix}-broken", task_queue=queue)

    assert isinstance(caught.value.cause, ActivityError)
    cause = caught.value.cause.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.message) == ("LookupError", "no such order")


async def test_a_plug_in_of_the_client_serves_its_own_queues_only(lite_stage: Stage) -> None:
    stage = lite_stage
    plugin = RindlePlugin(stage.rindle)
    target = stage.environment["TEMPORAL_ADDRESS"]
    client = await Client.connect(target, data_converter=DataConverter.default, plugins=[plugin])

    other = Worker(client, task_queue=f"{stage.prefix}-orders", activities=[broken])
    assert other.config(active_config=True)["activities"] == [broken]

    async with Worker(client, task_queue=stage.rindle.settings.queue()):
        asset = await stage.ready("plain")
    assert asset.state == "ready"
    with pytest.raises(Misconfigured, match="make a new one"):
        Worker(client, task_queue=stage.rindle.settings.queue())


async def test_a_worker_of_another_task_queue_is_refused(lite_stage: Stage) -> None:
    queue = lite_stage.rindle.settings.queue()

    with pytest.raises(InvalidArgument, match=f"orders.*{queue}"):
        Worker(await lite_stage.client(), task_queue="orders", plugins=[RindlePlugin(lite_stage.rindle)])


async def test_a_start_that_fails_ends_the_worker(lite_stage: Stage) -> None:
    """The SDK would wait for ever for a worker whose plug-in has failed."""
    stage = lite_stage
    client = await stage.client()
    elsewhere = Client(client.service_client, namespace="elsewhere", data_converter=client.data_converter)
    stage.rindle.temporal = TemporalConnection(client=elsewhere)
    worker = Worker(client, task_queue=stage.rindle.settings.queue(), plugins=[RindlePlugin(stage.rindle)])

    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(Misconfigured, match=r"'default'.*'elsewhere'"):
            async with worker:
                await asyncio.Event().wait()
