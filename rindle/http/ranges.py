"""Parse a ``Range`` header: pure functions, no bytes and no files.

Source: RFC 9110 section 14 (range requests).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from enum import StrEnum

from rindle.errors import RangeUnparseable

_ONE_RANGE = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)", re.ASCII | re.IGNORECASE)
#: Longest number that is parsed: no file has 10**18 bytes, and long integers cost time to parse.
_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class ByteRange:
    """One satisfiable range; ``first`` and ``last`` are offsets in bytes from 0, both included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """Number of bytes in the range, at least 1."""
        return self.last - self.first + 1

    def content_range(self, size: int) -> str:
        """Return the ``Content-Range`` value, such as ``bytes 4-7/16``."""
        return f"bytes {self.first}-{self.last}/{size}"


class NoRange(StrEnum):
    """The reason why a response has no range of the file."""

    WHOLE = "whole"
    UNSATISFIABLE = "unsatisfiable"
    UNPARSEABLE = RangeUnparseable.code


def parse_range(header: str | None, size: int) -> ByteRange | NoRange:
    """Return the one range of ``size`` bytes that ``header`` requests, or the reason why there is none.

    * no header, or a well-formed one for an empty file: ``WHOLE`` (answer 200);
    * a start at or past the end, or the last zero bytes: ``UNSATISFIABLE`` (answer 416);
    * another unit, several ranges, or anything malformed: ``UNPARSEABLE`` (answer 200, or 416 when strict).

    An end past the last byte is clamped. A suffix longer than the file is the whole file as a range.

    Args:
        header: value of ``Range``; several header lines joined with commas.
        size: size of the file in bytes.
    """
    if header is None:
        return NoRange.WHOLE
    match = _ONE_RANGE.fullmatch(header.strip(" \t"))
    if match is None:
        return NoRange.UNPARSEABLE
    first, last = (_number(digits) for digits in match.groups())
    if first is None and last is None:
        return NoRange.UNPARSEABLE
    if first is not None and last is not None and first > last:
        return NoRange.UNPARSEABLE
    if size == 0:
        return NoRange.WHOLE
    if first is None:
        suffix = min(last or 0, size)
        return ByteRange(size - suffix, size - 1) if suffix else NoRange.UNSATISFIABLE
    if first >= size:
        return NoRange.UNSATISFIABLE
    return ByteRange(first, size - 1 if last is None else min(last, size - 1))


def _number(digits: str) -> int | None:
    if not digits:
        return None
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MAX_DIGITS else sys.maxsize
