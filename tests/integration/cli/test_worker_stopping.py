"""SIGTERM ends the intake of every queue at once, while running work of each queue keeps its own grace."""

from __future__ import annotations

import json
import signal
from typing import Any

from temporalio.api.enums.v1 import EventType

from tests.media.clips import Clips
from tests.patience import until
from tests.stage import SpawnedWorker, Stage


def logged(worker: SpawnedWorker, action: str) -> list[dict[str, Any]]:
    """Return the lines of a worker's log with this action."""
    lines = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("action") == action]


async def processes(stage: Stage, workflow_id: str) -> set[str]:
    """Return the process ids of the workers that took tasks of a workflow."""
    client = await stage.client()
    history = await client.get_workflow_handle(workflow_id).fetch_history()
    identities = set()
    for event in history.events:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED:
            identities.add(event.workflow_task_started_event_attributes.identity)
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            identities.add(event.activity_task_started_event_attributes.identity)
    return {identity.split(":")[1] for identity in identities}  # "host:pid:release"


async def test_a_stopping_worker_takes_no_upload_while_a_long_build_ends(lite_stage: Stage, clips: Clips) -> None:
    lite_stage.tell("processor", "hold")
    stopping = await lite_stage.worker()
    film = await lite_stage.verified("held_film", clips.silent(), filename="film.mp4")

    await until((lite_stage.home / "builds").is_file, what=lambda: f"the build to begin; log: {stopping.tail()}")
    stopping.process.send_signal(signal.SIGTERM)
    own_queue, image_queue = lite_stage.rindle.settings.queue(), lite_stage.rindle.settings.image_queue

    def stopped() -> bool:
        ended = {line["queue"] for line in logged(stopping, "queue_stopped")}
        return {own_queue, image_queue} <= ended

    await until(stopped, what=lambda: f"the other queues to stop; log: {stopping.tail()}")
    assert stopping.process.returncode is None

    other = await lite_stage.worker()
    session = await lite_stage.sent()
    photo = (await lite_stage.rindle.verify_completion(session.id)).asset

    assert (await lite_stage.settled(photo.id)).state == "ready"
    assert await processes(lite_stage, lite_stage.upload_workflow(session.id)) == {str(other.process.pid)}
    assert stopping.process.returncode is None  # the build is still within its grace

    lite_stage.tell("processor", "")
    assert await stopping.wait() == 0
    assert (await lite_stage.settled(film.id)).state == "ready"
    assert (lite_stage.home / "builds").read_text() == "build\n"


async def test_signals_are_handled_while_the_event_loop_is_blocked(lite_stage: Stage) -> None:
    """The time limit of the shutdown counts from the signal, and a second signal ends the process at once."""
    lite_stage.tell("processor", "block")
    blocked = await lite_stage.worker()
    await lite_stage.verified("held")
    await until((lite_stage.home / "builds").is_file, what=lambda: f"the build to begin; log: {blocked.tail()}")

    blocked.process.send_signal(signal.SIGTERM)
    blocked.process.send_signal(signal.SIGINT)

    assert await blocked.wait() == 1
    assert "second signal" in blocked.log.read_text()
