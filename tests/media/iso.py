"""ISO media files with items, put together box by box; what the items hold is not decodable."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

_BRANDS = b"heic" + bytes(4) + b"mif1heic"


def box(kind: bytes, content: bytes = b"", *, version: int | None = None) -> bytes:
    """Return a box; with ``version`` a full one, without flags."""
    head = b"" if version is None else bytes([version, 0, 0, 0])
    return struct.pack(">I", 8 + len(head) + len(content)) + kind + head + content


def heif(
    types: Mapping[int, bytes],
    places: Mapping[int, tuple[int, int]],
    *,
    primary: int | None = 1,
    references: Iterable[tuple[bytes, int, list[int]]] = (),
    alphas: Iterable[int] = (),
    size: int = 1000,
) -> bytes:
    """Return a file of ``size`` bytes: items by number with their coding type, and offset and length of their data."""
    infos = b"".join(
        box(b"infe", struct.pack(">HH4s", item, 0, kind) + b"\0", version=2) for item, kind in types.items()
    )
    locations = b"".join(struct.pack(">HHHII", item, 0, 1, at, length) for item, (at, length) in places.items())
    links = b"".join(
        box(kind, struct.pack(f">HH{len(targets)}H", source, len(targets), *targets))
        for kind, source, targets in references
    )
    auxiliary = box(b"auxC", b"urn:mpeg:hevc:2015:auxid:1\0", version=0)
    owners = list(alphas)
    associations = struct.pack(">I", len(owners)) + b"".join(struct.pack(">HBB", item, 1, 1) for item in owners)
    meta = b"".join(
        (
            box(b"hdlr", bytes(20), version=0),
            b"" if primary is None else box(b"pitm", struct.pack(">H", primary), version=0),
            box(b"iloc", bytes([0x44, 0]) + struct.pack(">H", len(places)) + locations, version=0),
            box(b"iinf", struct.pack(">H", len(types)) + infos, version=0),
            box(b"iref", links, version=0),
            box(b"iprp", box(b"ipco", auxiliary) + box(b"ipma", associations, version=0)),
        )
    )
    head = box(b"ftyp", _BRANDS) + box(b"meta", meta, version=0)
    return head + box(b"mdat", bytes(size - len(head) - 8))
