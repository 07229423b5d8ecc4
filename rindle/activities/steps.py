"""Which step of which workflow an activity is: what the rows keep of it, so that a repetition changes nothing."""

from __future__ import annotations

from typing import Any

from temporalio import activity


def step_id() -> str:
    """Name the step of the workflow that this activity is, the same in every attempt: run and activity."""
    info = activity.info()
    return f"{info.workflow_run_id}:{info.activity_id}"[:64]


def attempt_facts() -> dict[str, Any]:
    """Return the columns of ``media_processing_runs`` that name this attempt of this activity."""
    info = activity.info()
    return {
        "worker": info.activity_type,
        "attempt": info.attempt,
        "workflow_id": info.workflow_id,
        "run_id": step_id(),  # one audit row per attempt
    }
