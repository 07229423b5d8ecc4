"""Activities of an owner erasure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy.orm import Session
from temporalio import activity

from rindle import messages, telemetry
from rindle.activities.liveness import heartbeating
from rindle.crash_points import crash_point
from rindle.db.database import Database
from rindle.messages import ErasureCounts, ErasureInput, ErasureProgress, SettleOrder


class Erasures(Protocol):
    """The transactions of erasures, which the composition provides (:class:`rindle.erasure.steps.ErasureSteps`)."""

    def detach(self, session: Session, operation_id: str) -> ErasureCounts:
        """Remove the attachments of an operation's owner."""

    def settle(self, session: Session, order: SettleOrder) -> ErasureProgress:
        """Count the purges that have not ended."""

    def kept(self, session: Session, asset_id: str) -> None:
        """Record that a purge found its asset attached."""

    def deleted(
        self,
        session: Session,
        asset_id: str,
        objects: Any,
        uploads_end_at: datetime | None,
        *,
        is_final: bool,
    ) -> None:
        """Record the deleted objects of an asset."""


class ErasureActivities:
    """Activities of ``OwnerErasureWorkflow``."""

    def __init__(self, database: Database, erasures: Erasures) -> None:
        self._database = database
        self._erasures = erasures

    def all(self) -> list[Callable[..., Any]]:
        """Return the activities to register."""
        return [self.detach_owner, self.settle_erasure]

    @activity.defn(name=messages.DETACH_OWNER)
    async def detach_owner(self, order: ErasureInput) -> ErasureCounts:
        """Remove every attachment of the owner and store the report; a repetition returns the stored one."""
        async with heartbeating():
            crash_point("erasure.before")
            counts = await self._database.write(self._erasures.detach, order.operation_id)
            crash_point("erasure.detached")
        if counts.outcome == "detached" and activity.info().attempt == 1:
            telemetry.emit("rindle.owner.erased", {}, counts.model_dump(exclude={"operation_id", "outcome"}))
        return counts

    @activity.defn(name=messages.SETTLE_ERASURE)
    async def settle_erasure(self, order: SettleOrder) -> ErasureProgress:
        """Count the purges that have not ended, start a page of them again on request, and complete the erasure."""
        async with heartbeating():
            progress = await self._database.write(self._erasures.settle, order)
            crash_point("erasure.settled")
        return progress
