"""HEIC files made of raw pixels: ffmpeg encodes HEVC, the boxes around it are written here (ISO/IEC 23008-12)."""

from __future__ import annotations

import re
import struct
import subprocess
from dataclasses import dataclass

#: ITU-T H.273 code points and the range flag, as a ``colr`` box of the type nclx has them.
SRGB_FULL = (1, 13, 6, 1)
SRGB_LIMITED = (1, 13, 6, 0)
P3_FULL = (12, 13, 6, 1)
_ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"
_PARAMETER_SETS = (32, 33, 34)


@dataclass(frozen=True, slots=True)
class Coded:
    """Pixels to be coded: ``pixel_format`` is one of ffmpeg's, ``data`` its raw bytes."""

    pixel_format: str
    width: int
    height: int
    data: bytes

    @property
    def depth(self) -> int:
        return 12 if "12" in self.pixel_format else 10 if "10" in self.pixel_format else 8

    @property
    def channels(self) -> int:
        return 1 if self.pixel_format.startswith("gray") else 3


def heic(image: Coded, colour: tuple[int, int, int, int] | None = SRGB_FULL, *, alpha: Coded | None = None) -> bytes:
    """Return a HEIC file of one still image, with an alpha plane if there is one."""
    items = [image] if alpha is None else [image, alpha]
    coded = [_hevc(item) for item in items]
    properties: list[bytes] = []
    associations = b""
    for number, (item, units) in enumerate(zip(items, coded, strict=True), start=1):
        own = [_box(b"hvcC", _configuration(item, units)), _full(b"ispe", struct.pack(">II", item.width, item.height))]
        own.append(_full(b"pixi", bytes([item.channels, *[item.depth] * item.channels])))
        if number == 1 and colour is not None:
            own.append(_box(b"colr", b"nclx" + struct.pack(">HHHB", *colour[:3], colour[3] << 7)))
        if number == 2:
            own.append(_full(b"auxC", _ALPHA))
        numbers = range(len(properties) + 1, len(properties) + 1 + len(own))
        associations += struct.pack(">HB", number, len(own)) + bytes(0x80 | index for index in numbers)
        properties += own
    bodies = [b"".join(struct.pack(">I", len(unit)) + unit for unit in units if _kind(unit) < 32) for units in coded]

    def meta(at: int) -> bytes:
        """Return the box for data that begins at this offset of the file."""
        locations = b""
        for number, body in enumerate(bodies, start=1):
            locations += struct.pack(">HHHII", number, 0, 1, at, len(body))
            at += len(body)
        entries = [
            _full(b"infe", struct.pack(">HH4s", n + 1, 0, b"hvc1") + b"\0", version=2) for n in range(len(items))
        ]
        parts = [
            _full(b"hdlr", bytes(4) + b"pict" + bytes(13)),
            _full(b"pitm", struct.pack(">H", 1)),
            _full(b"iinf", struct.pack(">H", len(items)) + b"".join(entries)),
            _full(b"iloc", struct.pack(">BBH", 0x44, 0, len(items)) + locations),
            _box(
                b"iprp",
                _box(b"ipco", b"".join(properties)) + _full(b"ipma", struct.pack(">I", len(items)) + associations),
            ),
        ]
        if alpha is not None:
            parts.append(_full(b"iref", _box(b"auxl", struct.pack(">HHH", 2, 1, 1))))
        return _full(b"meta", b"".join(parts))

    head = _box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")
    return head + meta(len(head) + len(meta(0)) + 8) + _box(b"mdat", b"".join(bodies))


def _hevc(image: Coded) -> list[bytes]:
    """Return the NAL units of one intra picture, almost without loss."""
    size = f"{image.width}x{image.height}"
    raw = ["-f", "rawvideo", "-pix_fmt", image.pixel_format, "-s", size, "-i", "-"]
    coder = ["-c:v", "libx265", "-x265-params", "log-level=none:keyint=1:crf=4:info=0", "-pix_fmt", image.pixel_format]
    stream = subprocess.run(
        ["ffmpeg", "-v", "error", *raw, *coder, "-frames:v", "1", "-f", "hevc", "-"],
        input=image.data,
        capture_output=True,
        check=True,
    ).stdout
    return [unit for unit in re.split(rb"\x00\x00\x00?\x01", stream) if unit]


def _kind(unit: bytes) -> int:
    return unit[0] >> 1 & 0x3F


def _configuration(image: Coded, units: list[bytes]) -> bytes:
    """Return the body of an ``hvcC`` box (ISO/IEC 14496-15, 8.3.3.1)."""
    [sequence] = [unit for unit in units if _kind(unit) == 33]
    profile = sequence.replace(b"\x00\x00\x03", b"\x00\x00")[3:15]
    chroma = 0 if image.channels == 1 else 3 if "444" in image.pixel_format else 1
    depth = 0xF8 | (image.depth - 8)
    body = b"\x01" + profile + struct.pack(">HBBBBHB", 0xF000, 0xFC, 0xFC | chroma, depth, depth, 0, 0x0F)
    sets = [unit for unit in units if _kind(unit) in _PARAMETER_SETS]
    body += bytes([len(sets)])
    for unit in sets:
        body += struct.pack(">BHH", 0x80 | _kind(unit), 1, len(unit)) + unit
    return body


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full(kind: bytes, body: bytes, *, version: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", version << 24) + body)
