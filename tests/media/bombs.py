"""Small image files of many parts: each repeats a part of an ordinary file."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def jpeg_of_scans(count: int) -> bytes:
    """Return a progressive JPEG that ends with ``count`` more copies of its last scan."""
    whole = _saved("JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * (count + 1) + whole[-2:]


def webp_of_frames(count: int) -> bytes:
    """Return an animation of ``count`` equal frames."""
    frame = struct.pack("<3s3s3s3s3sB", bytes(3), bytes(3), _three(15), _three(15), _three(10), 0)
    frame += _saved("WEBP")[12:]
    header = _riff(b"VP8X", bytes([2, 0, 0, 0]) + _three(15) + _three(15)) + _riff(b"ANIM", bytes(6))
    return _riff(b"RIFF", b"WEBP" + header + _riff(b"ANMF", frame) * count)


def gif_of_frames(count: int) -> bytes:
    """Return an animation of ``count`` equal frames."""
    whole = _saved("GIF")
    first = whole.index(b"\x2c", 13 + (3 << ((whole[10] & 7) + 1)))
    return whole[:first] + whole[first:-1] * count + whole[-1:]


def apng_of_frames(count: int) -> bytes:
    """Return a PNG with ``count`` frame control chunks."""
    whole = _saved("PNG")
    data = whole.index(b"IDAT") - 4
    controls = (
        _chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 16, 16, 0, 0, 1, 10, 0, 0)) for number in range(count)
    )
    return whole[:data] + _chunk(b"acTL", struct.pack(">II", count, 0)) + b"".join(controls) + whole[data:]


def png_of_chunks(count: int) -> bytes:
    """Return a PNG with ``count`` empty text chunks."""
    whole = _saved("PNG")
    data = whole.index(b"IDAT") - 4
    return whole[:data] + _chunk(b"tEXt", b"a\0") * count + whole[data:]


def tiff_of_pages(count: int, *, is_big: bool = False) -> bytes:
    """Return a TIFF of ``count`` pages that share one strip of 16 × 16 grey pixels."""
    tags = [(256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (273, 16), (277, 1), (278, 16), (279, 256)]
    at = 16 + 256  # behind the header and the strip
    header = struct.pack("<2sHHHQ", b"II", 43, 8, 0, at) if is_big else struct.pack("<2sHI8x", b"II", 42, at)
    counted, entry, link = ("<Q", "<HHQQ", "<Q") if is_big else ("<H", "<HHII", "<I")
    pages = []
    for number in range(count):
        page = struct.pack(counted, len(tags)) + b"".join(struct.pack(entry, tag, 4, 1, value) for tag, value in tags)
        at += len(page) + struct.calcsize(link)
        pages.append(page + struct.pack(link, at if number + 1 < count else 0))
    return header + bytes(256) + b"".join(pages)


def tiff_in_a_circle() -> bytes:
    """Return a TIFF whose first page is also its next."""
    whole = tiff_of_pages(1)
    return whole[:-4] + struct.pack("<I", 16 + 256)


def _saved(name: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(file, name, **options)
    return file.getvalue()


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")


def _riff(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
