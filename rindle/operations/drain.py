"""Send the outbox on request, with the relay's own code."""

from __future__ import annotations

from dataclasses import dataclass

from rindle.db import outbox as rows
from rindle.operations.reports import Report
from rindle.relay import Relay
from rindle.services import Services


@dataclass(frozen=True, slots=True)
class DrainReport(Report):
    """Counts of rows sent, of parked rows that were retried, and of the remaining rows."""

    sent: int
    unparked: int
    pending: int
    parked: int


async def drain(services: Services) -> DrainReport:
    """Send every row, including parked and rescheduled ones; relays may run at the same time.

    Raises:
        TemporalUnavailable: Temporal does not answer; no row was changed.
    """
    database, temporal = services.database, services.temporal
    await temporal.client()  # fail before any change
    unparked = await database.write(rows.make_due)
    relay = Relay(database, temporal, services.settings, fairness_key=services.fairness_key)
    sent, parked = 0, 0
    while True:
        batch = await relay.dispatch_once()
        sent += batch
        left = await database.read(rows.backlog)
        # A batch that Temporal refused as a whole sends nothing, but its rows are parked: the next batch has others.
        if not batch and left.parked == parked:
            return DrainReport(sent=sent, unparked=unparked, pending=left.pending, parked=left.parked)
        parked = left.parked
