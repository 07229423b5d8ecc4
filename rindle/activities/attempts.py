"""How often an activity has failed for a reason of its own, counted across its attempts.

Temporal's attempt number cannot be used for that: outages and deploys cost attempts too.
"""

from __future__ import annotations

import logging

from temporalio import activity

from rindle.db.database import outage_of
from rindle.errors import RindleError, Unexpected

log = logging.getLogger(__name__)

#: Unforeseen errors of one activity after which the next one is not retried; see :func:`unforeseen`.
UNFORESEEN_LIMIT = 3
_UNFORESEEN = "unforeseen"


class FailureCounts:
    """Counts of failures by kind, which go from attempt to attempt as the details of the heartbeats.

    Made at the start of each attempt. The activity needs a heartbeat timeout, and :meth:`details` in every heartbeat.
    """

    def __init__(self) -> None:
        details = activity.info().heartbeat_details
        self._counts: dict[str, int] = dict(details[0]) if details else {}

    def details(self) -> dict[str, int]:
        """Return the counts, as the details of a heartbeat."""
        return dict(self._counts)

    def add(self, kind: str) -> int:
        """Count one failure of ``kind`` for the next attempt; returns the count."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        activity.heartbeat(self.details())
        return self._counts[kind]


def unforeseen(error: Exception, counts: FailureCounts, doing: str, *, asset_id: str) -> RindleError:
    """Return what an activity raises for an exception that is not Rindle's.

    An outage of the database is retried within the budget of the activity. Any other exception is logged and counted;
    the third one is final.

    Args:
        doing: what failed, for the message: ``validating the upload``.
    """
    outage = outage_of(error)
    if outage is not None:
        return outage
    log.exception("activity failed unexpectedly", extra={"asset_id": asset_id, "error": type(error).__name__})
    is_last = counts.add(_UNFORESEEN) >= UNFORESEEN_LIMIT
    return Unexpected(f"unexpected {type(error).__name__} while {doing}", retryable=not is_last)
