"""Checks of call arguments that every adapter makes the same way, before it touches its store."""

from __future__ import annotations

from collections.abc import Mapping

from rindle.errors import InvalidArgument
from rindle.protocols import MAX_RANGE_BYTES, MAX_URL_SECONDS
from rindle.security.storage_key import validate_key

#: Life of a signed URL when the caller names none.
DEFAULT_URL_SECONDS = 900
#: Type of the answer to a signed URL that was made without one.
DEFAULT_TYPE = "application/octet-stream"
#: Largest page of ``list_keys`` (S3 API, ListObjectsV2).
MAX_PAGE = 1000


def check_lifetime(seconds: int | None) -> int:
    """Return the life of a grant in seconds: 1 to 604800, 900 for ``None``.

    Raises:
        InvalidArgument: out of range or no integer.

    Source: AWS Signature Version 4, query authentication: X-Amz-Expires is at most seven days.
    """
    if seconds is None:
        return DEFAULT_URL_SECONDS
    return _whole("expires_in", seconds, 1, MAX_URL_SECONDS)


def check_range(start: int, length: int) -> None:
    """Refuse a negative offset (base 0) and a ``length`` over 1 MiB."""
    _whole("start", start, 0, None)
    _whole("length", length, 0, MAX_RANGE_BYTES)


def check_limit(limit: int) -> int:
    """Return the page size of ``list_keys``, 1 to 1000."""
    return _whole("limit", limit, 1, MAX_PAGE)


def check_prefix(prefix: str) -> str:
    """Return ``prefix``: empty, or a valid key with or without a ``/`` at its end; it may end within a segment.

    Raises:
        InvalidKey: anything else, such as a ``..`` segment.
    """
    if prefix:
        validate_key(prefix.removesuffix("/"))
    return prefix


def check_size(option: str, size: int | None) -> int | None:
    """Return a size in bytes, or ``None`` for unknown."""
    return None if size is None else _whole(option, size, 0, None)


def check_header(option: str, value: str | None) -> str | None:
    """Return ``value`` if it can be sent as an HTTP header value: printable ASCII, no line break.

    Other characters go through RFC 5987 (``filename*=UTF-8''...``), which the caller has already done.

    Source: RFC 9110 section 5.5.
    """
    if value is not None and not (value.isascii() and value.isprintable()):
        raise InvalidArgument(f"{option} must be printable ASCII", detail={"option": option})
    return value


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return a copy of ``metadata`` whose names and values can travel as headers."""
    facts = dict(metadata or {})
    for name, value in facts.items():
        check_header("metadata", name)
        check_header("metadata", value)
    return facts


def _whole(option: str, value: int, low: int, high: int | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        upto = "" if high is None else f" to {high}"
        raise InvalidArgument(
            f"{option} must be a whole number from {low}{upto}",
            detail={"option": option, "min": low, "max": high, "value": repr(value)[:40]},
        )
    return value
