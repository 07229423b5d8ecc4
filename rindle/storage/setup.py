"""What the setup of every bucket has: a clock, signed URLs, and lifecycle rules that delete by prefix."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from rindle.errors import RindleError
from rindle.protocols import SetupFinding
from rindle.security.storage_key import INTERNAL_SEGMENT

#: Largest difference of the clocks. Stores refuse signatures that differ by 15 minutes.
MAX_SKEW = timedelta(minutes=5)

#: Objects are there that no rule may delete.
DELETES_MEDIA = SetupFinding(
    "warn",
    "a lifecycle rule deletes objects that assets still need",
    "remove the rule, or limit it to other prefixes or to noncurrent versions",
)


def signing(sign: Callable[[], object], fix: str) -> SetupFinding:
    """Return whether ``sign``, which makes a URL, works; ``fix`` is for errors that name no remedy."""
    try:
        sign()
    except RindleError as error:
        return SetupFinding("error", f"URLs cannot be signed ({error.code})", error.action or fix)
    return SetupFinding("ok", "URLs are signed")


def clock(date: str | None) -> SetupFinding:
    """Return whether this machine's clock agrees with the ``Date`` header of an answer."""
    try:
        there = parsedate_to_datetime(date or "")
    except ValueError:
        return SetupFinding("skipped", "the answer of the store has no time")
    # A date without a zone is UTC in HTTP.
    difference = datetime.now(UTC) - (there if there.tzinfo is not None else there.replace(tzinfo=UTC))
    if abs(difference) <= MAX_SKEW:
        return SetupFinding("ok", "the clock agrees with that of the store")
    seconds = round(difference.total_seconds())
    return SetupFinding(
        "error",
        f"this machine's clock is {abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'} that of the store",
        "set the clock; the store refuses URLs that are signed with a wrong one",
    )


def concerns_media(named: str, prefix: str) -> bool:
    """Whether a rule for keys that begin with ``named`` concerns objects of a store whose keys begin with ``prefix``.

    Those below ``.rindle/`` are scratch.
    """
    is_scratch = named.startswith(f"{prefix}{INTERNAL_SEGMENT}/")
    return not is_scratch and (named.startswith(prefix) or prefix.startswith(named))
