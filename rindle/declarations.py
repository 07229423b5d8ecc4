"""Checks of declared options: each returns its problems as ``option: problem``, and an empty list when there are none.

The rules of one kind of declaration are elsewhere: those of recipes in :mod:`rindle.recipes`, those of profiles in
:mod:`rindle.profile`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rindle.arguments import MAX_TEXT_CHARS
from rindle.errors import ProfileError


def declaration_error(subject: str, problems: list[str]) -> ProfileError:
    """Return the error that lists all problems of one declaration, also in ``detail["problems"]``."""
    listed = "".join(f"\n- {problem}" for problem in problems)
    return ProfileError(f"{subject} is not valid:{listed}", detail={"subject": subject, "problems": problems})


def not_one_of(option: str, value: Any, choices: Iterable[str]) -> list[str]:
    """Return the problem of a required option that must be one of ``choices``."""
    listed = list(choices)
    if value is None:
        return [f"{option}: is required, one of {', '.join(listed)}"]
    if isinstance(value, str) and value in listed:
        return []
    return [f"{option}: must be one of {', '.join(listed)}, not {value!r}"]


def not_positive(option: str, value: Any) -> list[str]:
    """Return the problem of an optional whole number that must be above 0."""
    if value is None or (is_whole(value) and value > 0):
        return []
    return [f"{option}: must be a whole number above 0, not {value!r}"]


def not_flags(subject: Any, *options: str) -> list[str]:
    """Return the problems of attributes of ``subject`` that must be ``True`` or ``False``."""
    return [
        f"{option}: must be True or False, not {value!r}"
        for option in options
        if not isinstance(value := getattr(subject, option), bool)
    ]


def name_flaw(name: Any) -> str | None:
    """Return what is wrong with a permanent name, of a profile or an owner type; ``None`` when it is valid.

    Names are printable ASCII, so that they have as many bytes as characters: keys, index rows, search attributes and
    labels in Temporal are limited in bytes, columns in characters.
    """
    if not isinstance(name, str):
        return "must be a string"
    if not 1 <= len(name) <= MAX_TEXT_CHARS or not name.isascii() or not name.isprintable() or not name.strip():
        return f"must be 1 to {MAX_TEXT_CHARS} printable ASCII characters"
    return None


def is_whole(value: Any) -> bool:
    """Whether the value is a whole number; ``True`` and ``False`` are not."""
    return isinstance(value, int) and not isinstance(value, bool)
