"""The text form of points in time in JSON reports and events."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_instant(moment: datetime) -> str:
    """Return an aware time in UTC with microseconds and a ``Z``, so that equal lengths sort by time.

    Source: RFC 3339 section 5.6.
    """
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
