"""Sending the outbox by hand: the relay's own code, for an operator who wants it done now."""

from __future__ import annotations

from dataclasses import dataclass

from rindle.db import outbox as rows
from rindle.operations.reports import Report
from rindle.relay import Relay
from rindle.services import Services


@dataclass(frozen=True, slots=True)
class DrainReport(Report):
    """Rows sent, rows that were parked and tried again, and what is left."""

    sent: int
    unparked: int
    pending: int
    parked: int


async def drain(services: Services) -> DrainReport:
    """Send every row that can be sent, parked and put-off ones included; running relays do no harm.

    Raises:
        TemporalUnavailable: Temporal does not answer; all rows are still there.
    """
    database, temporal = services.database, services.temporal
    await temporal.client()  # before anything is changed
    unparked = await database.write(rows.make_due)
    relay = Relay(database, temporal, services.settings)
    sent, parked = 0, 0
    while True:
        batch = await relay.dispatch_once()
        sent += batch
        left = await database.read(rows.backlog)
        # A batch that was refused as a whole sends nothing and still makes room for the next one.
        if not batch and left.parked == parked:
            return DrainReport(sent=sent, unparked=unparked, pending=left.pending, parked=left.parked)
        parked = left.parked
