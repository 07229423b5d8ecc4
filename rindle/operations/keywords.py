"""Keywords that a call does not know: refused by type checkers, and by the call with an error that has a code."""

from __future__ import annotations

from typing import TypedDict


class NoOthers(TypedDict):
    """Type of ``**others`` where no further keyword is allowed: ``**others: Unpack[NoOthers]``.

    Ignoring a mistyped filter would repair everything instead of what was meant.
    """
