"""Workflows, activities and history events of one upload with two variants, counted in real histories."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecution

from benchmarks.photo import photo
from benchmarks.report import Figure, Sample
from benchmarks.stack import running_stack

UPLOADS = 5
MAX_WORKFLOWS, MAX_ACTIVITIES, MAX_EVENTS = 2, 3, 45


async def measure() -> list[Figure]:
    """Take a few uploads to ready on a fresh server and count everything that ran there."""
    async with running_stack() as stack:
        with stack.worker():
            uploads = await stack.prepare(UPLOADS, photo())
            for upload in uploads:
                await stack.rindle.verify_completion(upload.id)
            await stack.wait_until([upload.asset_id for upload in uploads if upload.asset_id])
            runs = await _closed(stack.client)
        counted = [await _count(stack.client, run) for run in runs]
    events = Sample.of([sum(sum(count.values()) for count in counted) / UPLOADS])
    activities = Sample.of([sum(count[EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED] for count in counted) / UPLOADS])
    tasks = Sample.of([sum(count[EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED] for count in counted) / UPLOADS])
    workflows = Sample.of([len(runs) / UPLOADS])
    return [
        Figure("workflows per upload", workflows, "", f"{MAX_WORKFLOWS}", workflows.median <= MAX_WORKFLOWS),
        Figure(
            "activities per upload", activities, "", f"at most {MAX_ACTIVITIES}", activities.median <= MAX_ACTIVITIES
        ),
        Figure("history events per upload", events, "", f"at most {MAX_EVENTS}", events.median <= MAX_EVENTS),
        Figure("workflow tasks per upload", tasks, ""),
    ]


async def _closed(client: Client) -> Sequence[WorkflowExecution]:
    """Return every run of the server once none is open; visibility is written a moment after the fact."""
    while True:
        runs = [run async for run in client.list_workflows()]
        if runs and all(run.close_time for run in runs):
            return runs
        await asyncio.sleep(0.2)


async def _count(client: Client, run: WorkflowExecution) -> Counter[int]:
    history = await client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
    return Counter(event.event_type for event in history.events)
