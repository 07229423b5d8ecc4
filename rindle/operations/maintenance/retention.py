"""Delete events that are older than their retention; audit events are kept for ever.

The relays delete outbox rows that were sent (``RINDLE_OUTBOX_RETENTION_SECONDS``), so this sweep does not.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from rindle.db import events as rows
from rindle.db.outbox import WEBHOOK_SECONDS
from rindle.events import PROGRESS_TYPES, STATE_TYPES, WEBHOOK_TYPES
from rindle.operations.maintenance.sweep import Page, Sweep, SweepOptions, SweepReport, SweepRun, run_here
from rindle.services import Services

#: Events that one page deletes, in a transaction of its own.
BATCH = 1_000
#: Events that one page of a dry run counts.
COUNTED = 10_000
#: The types that expire, in the order of the pages.
TYPES = tuple(sorted(STATE_TYPES | PROGRESS_TYPES | WEBHOOK_TYPES))


class RetentionOptions(SweepOptions):
    """Options of the sweep.

    Attributes:
        dry_run: only count the events.
    """

    dry_run: bool = True


class RetentionReport(SweepReport):
    """Number of events of state changes and of progress that were deleted, or in a dry run found."""

    events: int = 0
    progress_events: int = 0
    error_counters: ClassVar[tuple[str, ...]] = ()


class Retention(Sweep[RetentionOptions, RetentionReport]):
    """Deletes events of state changes after 90 days, and events of progress after an hour.

    A page deletes the oldest expired events of one type; the cursor is the type. The index on type and time has them
    first, so that the audit events are not read. A page of a dry run counts them; its cursor is ``type|time|id``.
    """

    name = "retention"
    title = "Retention of events"
    options, report = RetentionOptions, RetentionReport

    async def page(self, run: SweepRun[RetentionOptions], cursor: str) -> Page[RetentionReport]:
        """Delete one batch of one type, or count that type."""
        database, settings = run.services.database, run.services.settings
        event_type, _, counted = (cursor or TYPES[0]).partition("|")
        is_progress = event_type in PROGRESS_TYPES
        kept_seconds = settings.progress_retention_seconds if is_progress else settings.event_retention_seconds
        if event_type in WEBHOOK_TYPES:
            kept_seconds = WEBHOOK_SECONDS
        before = run.started_at - timedelta(seconds=kept_seconds)
        if run.options.dry_run:
            after = _place(counted)
            found, last = await database.read(rows.count_expired, event_type, before, limit=COUNTED, after=after)
            next_cursor = None if last is None else f"{event_type}|{last[0].isoformat()}|{last[1]}"
        else:
            found = await database.write(rows.delete_expired, event_type, before, limit=BATCH)
            next_cursor = event_type if found == BATCH else None
        next_type = next((one for one in TYPES if one > event_type), None)
        report = RetentionReport(progress_events=found) if is_progress else RetentionReport(events=found)
        return Page(report, next_cursor or next_type)


def _place(counted: str) -> tuple[datetime, int] | None:
    """Return time and id of the last counted event; ``None`` at the beginning of a type."""
    occurred_at, _, event_id = counted.partition("|")
    return (datetime.fromisoformat(occurred_at), int(event_id)) if counted else None


async def retention(services: Services, *, dry_run: bool = True) -> RetentionReport:
    """Delete expired events in this process; only count them in a dry run, the default.

    Raises:
        RindleError: the database could not be read.
    """
    return (await run_here(services, Retention(), RetentionOptions(dry_run=dry_run))).report
