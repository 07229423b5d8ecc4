"""Unknown keywords of a call: type checkers refuse them, and the call raises an error with a code."""

from __future__ import annotations

from typing import TypedDict


class NoOthers(TypedDict):
    """Type of ``**others`` where no further keyword is allowed: ``**others: Unpack[NoOthers]``.

    A mistyped filter must not be ignored: the call would then repair everything.
    """
