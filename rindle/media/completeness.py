"""Whether all coded data of the wanted image is in its file, whatever is missing or added around it.

Some decoders answer this wrongly. libheif fills tiles whose data is missing with grey and reports success, so the
places of the data are compared with the size of the file; bytes behind the last box do not matter, and neither do the
data of other items. libjpeg reports a JPEG without its two last bytes like one without half of its rows, so such a file
is decoded with these bytes added, and any complaint then counts. libwebp refuses a file whose metadata is cut off.
Files that cannot be parsed are left to their decoder.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rindle.media.image_formats import MAX_SEGMENTS

#: Types whose container is ISO media with items (ISO/IEC 23008-12).
ITEM_TYPES: Final = frozenset({"image/heic", "image/heif", "image/heic-sequence", "image/heif-sequence", "image/avif"})
#: The end of a JPEG (ITU-T T.81, B.1.1.3).
_END_OF_IMAGE: Final = b"\xff\xd9"
#: A marker within the compressed data of a scan: not a stuffed byte (00), a restart (D0 to D7) or padding (FF).
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
#: Markers of a progressive frame: Huffman or arithmetic coding, alone or in a hierarchy (ITU-T T.81, table B.1).
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
#: Frame markers: C0 to CF without DHT (C4), JPG (C8) and DAC (CC).
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: Auxiliary images that are the alpha of another one (ISO/IEC 23008-12; for AVIF ISO/IEC 23001-8).
_ALPHA: Final = (b"urn:mpeg:hevc:2015:auxid:1\x00", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\x00")
#: References deep that are followed: a grid of tiles has one, with an overlay or a rotation two.
_MAX_DEPTH: Final = 8


def completed_jpeg(path: Path) -> bytes | None:
    """Return the JPEG at ``path`` with its end marker, if that is all it lacks; ``None`` for every other file.

    The rows of the last scan are not counted: a decoder that gets these bytes complains when some are missing.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < 4:
            return None
        file.seek(-2, 2)
        if file.read(2) == _END_OF_IMAGE:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                is_whole = _lacks_only_its_end(content)
            except (IndexError, struct.error):  # the file ends within a header
                return None
            return content[:] + _END_OF_IMAGE if is_whole else None


def _lacks_only_its_end(content: mmap.mmap) -> bool:
    """Whether the data of a scan reach to the end of the file, and no later scan is missing."""
    at = 2
    frame = 0
    wanted: set[int] = set()
    missing: dict[tuple[int, int], int] = {}
    while content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        if marker == 0xD9:
            return False
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a length
            at += 2
            continue
        if marker in _FRAMES:
            frame = marker
            wanted = {content[at + 10 + 3 * number] for number in range(content[at + 9])}
        if marker == 0xDA:
            _note_scan(content, at, missing, is_progressive=frame in _PROGRESSIVE)
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
        if marker == 0xDA:
            found = _MARKER.search(content, at)
            if found is None:
                coefficients = range(64) if frame in _PROGRESSIVE else range(1)
                return bool(wanted) and all(missing.get((one, k), 1) == 0 for one in wanted for k in coefficients)
            at = found.start()
    return False


def _note_scan(content: mmap.mmap, at: int, missing: dict[tuple[int, int], int], *, is_progressive: bool) -> None:
    """Note how many low bits of which coefficients are still missing after the scan whose header is at ``at``.

    Source: ITU-T T.81, B.2.3 (scan header) and G.1.1.1 (spectral selection, successive approximation).
    """
    count = content[at + 4]
    components = [content[at + 5 + 2 * number] for number in range(count)]
    first, last, bits = content[at + 5 + 2 * count], content[at + 6 + 2 * count], content[at + 7 + 2 * count] & 15
    for one in components:
        for coefficient in range(first, min(last, 63) + 1) if is_progressive else range(1):
            missing[(one, coefficient)] = bits if is_progressive else 0


def completed_webp(path: Path) -> bytes | None:
    """Return the still WebP at ``path`` without the chunk that the file's end cuts off, if that is not its image.

    ``None`` for every other file. Source: RFC 9649, 2.3 to 2.7.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or int.from_bytes(head[4:8], "little") + 8 <= size:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at, has_image = 12, False
            while at + 8 <= size:
                kind, length = struct.unpack_from("<4sI", content, at)
                after = at + 8 + length + length % 2
                if after > size:
                    break
                has_image = has_image or kind in (b"VP8 ", b"VP8L")
                at = after
            return b"RIFF" + struct.pack("<I", at - 8) + content[8:at] if has_image else None


# --- items of ISO media ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Items:
    """The parts of a ``meta`` box that name the data of its items (ISO/IEC 14496-12, 8.11)."""

    primary: int | None = None
    types: dict[int, bytes] = field(default_factory=dict)
    #: Ranges of bytes of the file by item: offset and length.
    extents: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    #: References by type: from item, to items.
    references: list[tuple[bytes, int, list[int]]] = field(default_factory=list)
    #: Properties that state the type of an auxiliary image, and the properties of each item, both from 1.
    alpha_properties: set[int] = field(default_factory=set)
    properties: dict[int, set[int]] = field(default_factory=dict)

    def needed(self) -> set[int]:
        """The items that the primary one is made of: itself, its tiles, and its alpha with its tiles."""
        if self.primary is None:
            return set()
        found, new = set[int](), {self.primary}
        new |= {
            source
            for kind, source, targets in self.references
            if kind == b"auxl"
            and self.primary in targets
            and self.properties.get(source, set()) & self.alpha_properties
        }
        for _ in range(_MAX_DEPTH):
            found |= new
            new = {one for kind, source, parts in self.references if kind == b"dimg" and source in new for one in parts}
            if new <= found:
                break
        return found


@dataclass(frozen=True, slots=True)
class ShownItems:
    """What an ISO media file shows.

    Attributes:
        codings: coding types of the primary item and of those it is made of; none where the file names no primary item,
            as a sequence may, or cannot be parsed. Such a file counts as complete, and its decoder decides.
        is_whole: whether all their data is in the file.
        absent_bytes: how far the data of other items, such as metadata, reaches past the end of the file.
    """

    codings: frozenset[bytes] = frozenset()
    is_whole: bool = True
    absent_bytes: int = 0


def shown_items(path: Path) -> ShownItems:
    """Return what the HEIC or AVIF file at ``path`` shows, from the places of its items."""
    size = path.stat().st_size
    if size == 0:
        return ShownItems()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            items = _items(content)
        except (IndexError, struct.error, ValueError):
            return ShownItems()
    needed = items.needed()
    ends = {item: max((at + length for at, length in places), default=0) for item, places in items.extents.items()}
    return ShownItems(
        codings=frozenset(items.types[item] for item in needed if item in items.types),
        is_whole=all(ends.get(item, 0) <= size for item in needed),
        absent_bytes=max(0, max(ends.values(), default=0) - size),
    )


def _items(content: mmap.mmap) -> _Items:
    items = _Items()
    for kind, start, end in _boxes(content, 0, len(content)):
        if kind == b"meta":
            for name, at, stop in _boxes(content, start + 4, end):
                reader = _READERS.get(name)
                if reader is not None:
                    reader(content, at, stop, items)
            break
    return items


def _boxes(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, the start of the content and the end of every box (ISO/IEC 14496-12, 4.2).

    What is no box ends the search: programs add bytes of their own behind the last one.
    """
    for _ in range(MAX_SEGMENTS):
        if start + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", content, start)
        at = start + 8
        if size == 1:
            [size] = struct.unpack_from(">Q", content, at)
            at += 8
        elif size == 0:  # to the end
            size = end - start
        if size < at - start:
            return
        yield kind, at, min(start + size, end)
        start += size


def _read_primary(content: mmap.mmap, at: int, end: int, items: _Items) -> None:
    [items.primary] = struct.unpack_from(">H" if content[at] == 0 else ">I", content, at + 4)


def _read_types(content: mmap.mmap, at: int, end: int, items: _Items) -> None:
    for kind, start, _ in _boxes(content, at + (6 if content[at] == 0 else 8), end):
        if kind == b"infe" and content[start] in (2, 3):
            number = ">H" if content[start] == 2 else ">I"
            [item] = struct.unpack_from(number, content, start + 4)
            place = start + 4 + struct.calcsize(number) + 2
            items.types[item] = content[place : place + 4]


def _read_locations(content: mmap.mmap, at: int, end: int, items: _Items) -> None:
    version, sizes, more = content[at], content[at + 4], content[at + 5]
    offset_size, length_size, base_size = sizes >> 4, sizes & 15, more >> 4
    index_size = more & 15 if version in (1, 2) else 0
    wide = version == 2
    count = int.from_bytes(content[at + 6 : at + (10 if wide else 8)])
    at += 10 if wide else 8
    for _ in range(count):
        if at >= end:
            return
        item = int.from_bytes(content[at : at + (4 if wide else 2)])
        at += 4 if wide else 2
        in_file = True
        if version in (1, 2):
            in_file = content[at + 1] & 15 == 0
            at += 2
        at += 2  # data reference
        base = int.from_bytes(content[at : at + base_size])
        at += base_size
        extent_count = int.from_bytes(content[at : at + 2])
        at += 2
        extent_size = index_size + offset_size + length_size
        if in_file and extent_size:
            items.extents[item] = [
                (
                    base + _number(content, place + index_size, offset_size),
                    _number(content, place + index_size + offset_size, length_size),
                )
                for place in range(at, min(at + extent_count * extent_size, end), extent_size)
            ]
        at += extent_count * extent_size


def _number(content: mmap.mmap, at: int, size: int) -> int:
    return int.from_bytes(content[at : at + size])


def _read_references(content: mmap.mmap, at: int, end: int, items: _Items) -> None:
    number = ">H" if content[at] == 0 else ">I"
    width = struct.calcsize(number)
    for kind, start, stop in _boxes(content, at + 4, end):
        [source] = struct.unpack_from(number, content, start)
        [count] = struct.unpack_from(">H", content, start + width)
        first = start + width + 2
        places = range(first, min(first + count * width, stop), width)
        items.references.append((kind, source, [struct.unpack_from(number, content, at)[0] for at in places]))


def _read_properties(content: mmap.mmap, at: int, end: int, items: _Items) -> None:
    for kind, start, stop in _boxes(content, at, end):
        if kind == b"ipco":
            for index, (name, place, ending) in enumerate(_boxes(content, start, stop), start=1):
                if name == b"auxC" and content[place + 4 : min(ending, place + 80)].startswith(_ALPHA):
                    items.alpha_properties.add(index)
        elif kind == b"ipma":
            _read_associations(content, start, stop, items)


def _read_associations(content: mmap.mmap, at: int, end: int, items: _Items) -> None:
    number = ">H" if content[at] == 0 else ">I"
    index_size = 2 if content[at + 3] & 1 else 1
    [count] = struct.unpack_from(">I", content, at + 4)
    at += 8
    for _ in range(count):
        if at >= end:
            return
        [item] = struct.unpack_from(number, content, at)
        at += struct.calcsize(number)
        indexes = range(at + 1, at + 1 + content[at] * index_size, index_size)
        mask = 0x7FFF if index_size == 2 else 0x7F
        items.properties[item] = {int.from_bytes(content[one : one + index_size]) & mask for one in indexes}
        at += 1 + content[at] * index_size


_READERS: Final = {
    b"pitm": _read_primary,
    b"iinf": _read_types,
    b"iloc": _read_locations,
    b"iref": _read_references,
    b"iprp": _read_properties,
}
