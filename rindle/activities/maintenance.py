"""Activity of ``MaintenanceWorkflow``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from temporalio import activity

from rindle import messages
from rindle.activities.liveness import heartbeating
from rindle.messages import SweepOrder, SweepPage


class Sweeps(Protocol):
    """The sweeps, which the composition provides (:class:`rindle.operations.maintenance.steps.SweepSteps`)."""

    async def page(self, order: SweepOrder) -> SweepPage:
        """Do one page of a sweep."""


class MaintenanceActivities:
    """Runs the pages of sweeps."""

    def __init__(self, sweeps: Sweeps) -> None:
        self._sweeps = sweeps

    def all(self) -> list[Callable[..., Any]]:
        """Return the activities to register."""
        return [self.sweep_page]

    @activity.defn(name=messages.SWEEP_PAGE)
    async def sweep_page(self, order: SweepOrder) -> SweepPage:
        """Do one page of a sweep; running it again is harmless.

        Raises:
            RindleError: the items of the page could not be read.
        """
        async with heartbeating():
            return await self._sweeps.page(order)
