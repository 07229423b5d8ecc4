"""One process with the application's own workflows and Rindle's."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.worker import Worker

from rindle import Rindle
from rindle.worker_plugin import RindlePlugin


@activity.defn
async def announce(asset_id: str) -> str:
    """Do something of the application's own."""
    return f"published {asset_id}"


@workflow.defn
class PublishWorkflow:
    """A workflow of the application."""

    @workflow.run
    async def run(self, asset_id: str) -> str:
        """Announce an asset."""
        return await workflow.execute_activity(announce, asset_id, start_to_close_timeout=timedelta(seconds=10))


async def work(rindle: Rindle, stop: asyncio.Event) -> None:
    """Work until ``stop`` is set."""
    client = await rindle.temporal.client()
    plugin = RindlePlugin(rindle)
    mixed = Worker(
        client,
        task_queue=rindle.settings.queue(),
        workflows=[PublishWorkflow],
        activities=[announce],
        plugins=[plugin],
        graceful_shutdown_timeout=timedelta(seconds=60),
    )
    audio_and_video = Worker(
        client,
        task_queue=rindle.settings.av_queue,
        plugins=[plugin],
        graceful_shutdown_timeout=timedelta(seconds=300),
    )
    sweeps = Worker(
        client,
        task_queue=rindle.settings.maintenance_queue,
        plugins=[plugin],
        graceful_shutdown_timeout=timedelta(seconds=10),
    )
    async with mixed, audio_and_video, sweeps:
        await stop.wait()
