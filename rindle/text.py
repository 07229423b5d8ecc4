"""Text of other systems: its flaws, and copies of it that every database, header and request accepts.

Limits of other systems count bytes of UTF-8 (Temporal, file systems, index rows); the columns of PostgreSQL count
characters. Text of at most N bytes has at most N characters, so :func:`bounded` suits both. Arguments are not cut but
refused; see :mod:`rindle.arguments`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

#: What stands for a character that cannot be stored (U+FFFD).
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"

# PostgreSQL stores no NUL, and UTF-8 has no form of an unpaired surrogate.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_ELLIPSIS: Final = "…"
# Hexadecimal digits of the digest that ends a shortened key.
_DIGEST_DIGITS: Final = 16


def is_storable(text: str) -> bool:
    """Whether ``text`` has neither NUL nor unpaired surrogates."""
    return _UNSTORABLE.search(text) is None


def storable(text: str) -> str:
    """Return ``text`` with U+FFFD in the place of NUL and of unpaired surrogates."""
    return _UNSTORABLE.sub(REPLACEMENT, text)


def storable_document(value: Any) -> Any:
    """Return a JSON document whose strings, keys included, are :func:`storable`."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable(key) if isinstance(key, str) else key: storable_document(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [storable_document(part) for part in value]
    return value


def bounded(text: str, max_bytes: int) -> str:
    """Return storable text of at most ``max_bytes`` bytes of UTF-8, for people to read.

    A longer one is cut between two characters and ends with ``…``.

    Args:
        max_bytes: 3 or more, the size of the ellipsis.
    """
    valid = storable(text)
    return valid if _fits(valid, max_bytes) else _cut(valid, max_bytes, _ELLIPSIS)


def bounded_key(text: str, max_bytes: int) -> str:
    """Return storable text of at most ``max_bytes`` bytes of UTF-8 that still distinguishes what ``text`` names.

    A longer one is cut between two characters and ends with ``~`` and 16 digits of its digest.

    Args:
        max_bytes: 17 or more, the size of the ending.
    """
    valid = storable(text)
    if _fits(valid, max_bytes):
        return valid
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return _cut(valid, max_bytes, f"~{digest[:_DIGEST_DIGITS]}")


def _fits(text: str, max_bytes: int) -> bool:
    return len(text.encode()) <= max_bytes


def _cut(text: str, max_bytes: int, ending: str) -> str:
    return text.encode()[: max_bytes - len(ending.encode())].decode(errors="ignore") + ending
