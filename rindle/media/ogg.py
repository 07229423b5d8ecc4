"""Ogg files that were joined: one after the other, each with a clock of its own.

Internet radio recorders and editors write them. ffprobe states the duration of the last one only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_CAPTURE: Final = b"OggS"
#: Bytes of a page before its list of segments.
_HEADER_BYTES: Final = 27
#: Longest page (RFC 3533).
_MAX_PAGE_BYTES: Final = 65_307
_BEGINS: Final = 0x02


def is_chained(path: Path) -> bool:
    """Whether the last page of an Ogg file belongs to a stream that does not begin at the start of the file.

    Source: RFC 3533, sections 4 and 6.
    """
    with path.open("rb") as file:
        head = file.read(_MAX_PAGE_BYTES)
        size = file.seek(0, 2)
        file.seek(max(0, size - 2 * _MAX_PAGE_BYTES))
        tail = file.read()
    last = tail.rfind(_CAPTURE, 0, max(0, len(tail) - _HEADER_BYTES + len(_CAPTURE)))
    first = _serials_at_the_start(head)
    return last >= 0 and bool(first) and tail[last + 14 : last + 18] not in first


def _serials_at_the_start(head: bytes) -> set[bytes]:
    serials: set[bytes] = set()
    at = 0
    while head[at : at + 4] == _CAPTURE and len(head) > at + _HEADER_BYTES and head[at + 5] & _BEGINS:
        serials.add(head[at + 14 : at + 18])
        count = head[at + 26]
        at += _HEADER_BYTES + count + sum(head[at + _HEADER_BYTES : at + _HEADER_BYTES + count])
    return serials
