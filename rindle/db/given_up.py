"""SQL of steps that give up work on a whole asset, each applied once; those of variants are in ``db/variants``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from rindle.db.models import MediaProcessingRun, utc_now
from rindle.messages import Failure
from rindle.states import RunState


def note_once(session: Session, asset_id: str, failure: Failure, step: Mapping[str, Any]) -> bool:
    """Record that a step of a workflow gives up work on an asset; ``False`` when this step was recorded before.

    Temporal runs a step again when its completion was lost. Without the record the repetition would undo what an
    operator has done in between, for example fail what was resumed. The caller holds the lock of the asset.

    Args:
        step: the columns that name the attempt.
    """
    run = MediaProcessingRun
    recorded = select(run.id).where(run.asset_id == asset_id, run.variant_name.is_(None), run.run_id == step["run_id"])
    if session.scalar(recorded.limit(1)) is not None:
        return False
    now = utc_now()
    made = run(
        asset_id=asset_id,
        state=RunState.FAILED.value,
        started_at=now,
        finished_at=now,
        error_code=failure.code,
        error_reason=failure.message or None,
        **step,
    )
    session.add(made)
    return True
