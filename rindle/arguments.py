"""Checks of text arguments and ids, where they enter: the same for calls and for HTTP, on every database.

Without them a NUL in a key is an error of one database and an unknown key of the other, and an overlong actor is stored
by one and refused by the other. An id in upper case is found by one and not by the other.
"""

from __future__ import annotations

import re
from typing import Any, Final
from uuid import UUID

from rindle.errors import InvalidArgument
from rindle.text import is_storable

#: Longest text of a column, in characters: actors, idempotency keys, media types, owner ids, slots, profile names.
MAX_TEXT_CHARS: Final = 255
#: Longest accepted file name in characters; at most 255 bytes of it are kept.
MAX_FILENAME_CHARS: Final = 1024
_CANONICAL_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def text_flaw(value: Any, *, max_chars: int = MAX_TEXT_CHARS, min_chars: int = 0) -> str | None:
    """Return what is wrong with a text argument, as the end of a sentence about it; ``None`` when it is valid."""
    if not isinstance(value, str):
        return "must be a string"
    if not is_storable(value):
        return "must not contain NUL or unpaired surrogates"
    if not min_chars <= len(value) <= max_chars:
        return f"must have {min_chars} to {max_chars} characters" if min_chars else f"has over {max_chars} characters"
    return None


def check_text(option: str, value: Any, *, max_chars: int = MAX_TEXT_CHARS) -> None:
    """Refuse a text argument that cannot be stored; ``None``, an argument that was left out, is valid.

    Args:
        option: name of the argument.
        max_chars: its longest value in characters.

    Raises:
        InvalidArgument: it is not a string, is too long, or contains NUL or unpaired surrogates. The message names the
            argument and does not repeat its value.
    """
    flaw = None if value is None else text_flaw(value, max_chars=max_chars)
    if flaw is not None:
        raise InvalidArgument(f"{option} {flaw}", detail={"option": option, "max_chars": max_chars})


def actor_text(option: str, actor: str | UUID | None) -> str | None:
    """Return the actor of a call as rows store it; ``None`` for an anonymous one.

    Raises:
        InvalidArgument: see :func:`check_text`.
    """
    named = str(actor) if isinstance(actor, UUID) else actor
    check_text(option, named)
    return named


def canonical_id(value: object) -> str | None:
    """Return the text of an id as rows store it (lower case, with hyphens); ``None`` for anything that is not a UUID.

    Args:
        value: a ``UUID``, or its text in any form that ``UUID`` reads.
    """
    if isinstance(value, UUID):
        return str(value)
    if not isinstance(value, str):
        return None
    if _CANONICAL_ID.fullmatch(value):  # nearly all: parsing takes seven times as long
        return value
    try:
        return str(UUID(value))
    except ValueError:
        return None
