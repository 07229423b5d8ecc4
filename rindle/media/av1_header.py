"""The range of a monochrome AVIF from its AV1 sequence header, for files without an nclx box.

Source: AV1 Bitstream and Decoding Process, 5.3 to 5.5; AV1 in ISO Base Media File Format, 2.3 (``av1C``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: Bytes at the front of a file in which the description of the image, and the first bytes of its data, are looked for.
_HEAD_BYTES: Final = 1 << 16
_SEQUENCE_HEADER: Final = 1


def grey_is_limited(path: Path) -> bool:
    """Whether the first AV1 image of an AVIF is monochrome and of limited range, as far as its header is found."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    at = head.find(b"av1C")
    record = head[at + 4 : at - 4 + int.from_bytes(head[max(0, at - 4) : at])] if at >= 4 else b""
    if len(record) < 4 or not record[2] & 0x10:  # the bit of monochrome
        return False
    data = head.find(b"mdat")
    units = record[4:] or (head[data + 4 :] if data >= 0 else b"")
    try:
        return _is_limited(_sequence_header(units))
    except (IndexError, ValueError):
        return False


def _sequence_header(units: bytes) -> bytes:
    """Return the payload of the first sequence header in a row of OBUs."""
    at = 0
    for _ in range(4):
        kind, has_extension, has_size = units[at] >> 3 & 15, units[at] >> 2 & 1, units[at] >> 1 & 1
        if units[at] & 0x80 or not has_size:
            break
        at += 1 + has_extension
        size = shift = 0
        while units[at] & 0x80 and shift < 28:
            size, shift, at = size | (units[at] & 0x7F) << shift, shift + 7, at + 1
        size, at = size | units[at] << shift, at + 1
        if kind == _SEQUENCE_HEADER:
            return units[at : at + size]
        at += size
    raise ValueError("no sequence header")


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data[:256])
        self._at = 0

    def __call__(self, count: int = 1) -> int:
        self._at += count
        if self._at > len(self._bits):
            raise ValueError("the header ends early")
        return int(self._bits[self._at - count : self._at], 2)

    def skip_variable(self) -> None:
        """Skip a number of variable length (``uvlc``)."""
        zeros = 0
        while not self():
            zeros += 1
        self(zeros) if zeros else None


def _is_limited(header: bytes) -> bool:
    bits = _Bits(header)
    profile, _, is_reduced = bits(3), bits(), bits()
    if is_reduced:
        bits(5)  # level
    else:
        _skip_operating_points(bits)
    across, down = bits(4) + 1, bits(4) + 1
    bits(across), bits(down)
    if not is_reduced and bits():  # frame numbers
        bits(7)
    bits(3)  # superblock size, filter intra, intra edge filter
    if not is_reduced:
        _skip_tools(bits)
    bits(3)  # super resolution, CDEF, restoration
    if bits() and profile == 2:  # more than 8 bits
        bits()  # 12 bits
    is_monochrome = profile != 1 and bits()
    if bits():  # colours are described
        bits(24)
    return bool(is_monochrome and not bits())


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits():  # timing
        bits(64)
        if bits():
            bits.skip_variable()
        if bits():  # decoder model
            delay_bits = bits(5) + 1
            bits(42)
    has_display_delay = bits()
    for _ in range(bits(5) + 1):
        bits(12)
        if bits(5) > 7:  # level
            bits()
        if delay_bits and bits():
            bits(2 * delay_bits + 1)
        if has_display_delay and bits():
            bits(4)


def _skip_tools(bits: _Bits) -> None:
    bits(4)
    has_order_hint = bits()
    if has_order_hint:
        bits(2)
    forces_screen_tools = bits() or bits()  # chosen per frame, or fixed
    if forces_screen_tools and not bits():
        bits()
    if has_order_hint:
        bits(3)
