"""Colours that a file names by numbers instead of an embedded profile, and profiles that nobody can use.

An image is converted to sRGB through the ICC profile that is attached to its pixels. Here the numbers of a file become
such a profile: ``cICP``, ``gAMA`` and ``cHRM`` of PNG, and the ``colr`` box (nclx) of HEIC and AVIF. Runs in render
children only.

Source: ITU-T H.273 (code points); PNG, third edition, 4.3 (which chunk wins); ICC.1:2010 (profiles).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyvips

PROFILE_FIELD: Final = "icc-profile-data"
#: Chromaticities of white, red, green and blue.
_Primaries = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
_D65 = (0.3127, 0.3290)
_SRGB: Final[_Primaries] = (_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_P3: Final[_Primaries] = (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
#: Colour primaries of H.273 that are wider than sRGB. The others are taken for sRGB: they hardly differ from it.
_PRIMARIES: Final[dict[int, _Primaries]] = {
    1: _SRGB,
    9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: _P3,
}
#: Transfer characteristics of H.273 that are a plain power. PQ and HLG are not SDR; all others are shown as sRGB.
_GAMMAS: Final = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
_HDR_TRANSFERS: Final = frozenset({16, 18})
#: Relative difference up to which a power is sRGB's curve (libpng's threshold; 1 / 2.2 is the value that PNG recommends
#: for sRGB), and the difference up to which chromaticities are sRGB's.
_GAMMA_TOLERANCE, _CHROMATICITY_TOLERANCE = 0.05, 0.005
#: Powers that images have; others are mistakes of a writer.
_PLAUSIBLE_GAMMAS: Final = (0.2, 8.0)
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class ColourSpace:
    """An RGB colour space: its primaries and the power of its curve, ``None`` for the curve of sRGB."""

    primaries: _Primaries
    gamma: float | None


SRGB: Final = ColourSpace(_SRGB, None)


def space_of_codes(primaries: int, transfer: int) -> ColourSpace | None:
    """Return the colour space of H.273 code points, ``None`` for those that are unspecified, unknown or HDR."""
    found = _PRIMARIES.get(primaries)
    if found is None or transfer in _HDR_TRANSFERS:
        return None
    return ColourSpace(found, _GAMMAS.get(transfer))


def space_of_nclx(nclx: dict[str, Any] | None) -> ColourSpace | None:
    """Return the colour space of the ``nclx_profile`` that pi-heif reports."""
    if nclx is None:
        return None
    return space_of_codes(int(nclx["color_primaries"]), int(nclx["transfer_characteristics"]))


def space_of_png(path: Path) -> ColourSpace | None:
    """Return the colour space that the chunks of a PNG name, ``None`` where its ICC profile decides or nothing does."""
    chunks = dict(_colour_chunks(path))
    if b"cICP" in chunks:
        codes = chunks[b"cICP"]
        named = space_of_codes(codes[0], codes[1])
        if named is not None and codes[2:] == b"\0\1":  # RGB of full range
            return named
    if b"iCCP" in chunks or b"sRGB" in chunks:
        return None
    space = ColourSpace(_chromaticities(chunks.get(b"cHRM")) or _SRGB, _gamma(chunks.get(b"gAMA")))
    return None if space == SRGB else space


def attach(image: pyvips.Image, space: ColourSpace | None) -> pyvips.Image:
    """Return the image with the profile of ``space`` in place of its own; with ``None`` the image as it is."""
    if space is None:
        return image
    image = image.copy()  # fields are set in place
    if space == SRGB:
        image.remove(PROFILE_FIELD)
    else:
        image.set_type(pyvips.GValue.blob_type, PROFILE_FIELD, _profile(space, is_grey=image.bands < 3))
    return image


def without_profile(image: pyvips.Image) -> pyvips.Image:
    """Return the image without its profile: its numbers count as sRGB, or as plain CMYK."""
    image = image.copy()
    image.remove(PROFILE_FIELD)
    return image


def can_be_linked(image: pyvips.Image) -> bool:
    """Whether the attached profile can be used: lcms refuses those with damaged tables, and device links."""
    pixel = pyvips.Image.black(1, 1, bands=image.bands).copy(interpretation=image.interpretation)
    pixel.set_type(pyvips.GValue.blob_type, PROFILE_FIELD, image.get(PROFILE_FIELD))
    try:
        pixel.icc_transform("srgb", embedded=True)
    except pyvips.Error:
        return False
    return True


def full_range(grey: pyvips.Image) -> pyvips.Image:
    """Expand grey pixels of limited range (16 to 235 of 255); alpha stays.

    libheif expands the range of colour images only (github.com/strukturag/libheif, issue 580): it takes the samples of
    a monochrome image as they are. When a release expands them, ``test_grey_has_the_full_range`` fails, and this goes.
    """
    colours = grey.extract_band(0, n=grey.bands - 1) if grey.hasalpha() else grey
    scale, top = (1, 255) if grey.format == "uchar" else (256, 65_535)
    expanded = (colours * (top / (219 * scale)) - 16 * top / 219 + 0.5).cast(grey.format)  # a cast cuts and clips
    expanded = expanded.copy(interpretation=grey.interpretation)
    return expanded.bandjoin(grey.extract_band(grey.bands - 1)) if grey.hasalpha() else expanded


# --- PNG ---------------------------------------------------------------------------------------------------------


def _colour_chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks about colour; the body of an ICC profile is left out."""
    lengths = {b"cICP": 4, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1}
    seen: set[bytes] = set()
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if kind in (b"IDAT", b"IEND"):  # all of them come before
                return
            if kind in seen or (kind != b"iCCP" and lengths.get(kind) != size):
                file.seek(size + 4, 1)
                continue
            seen.add(kind)
            if kind == b"iCCP":
                file.seek(size + 4, 1)
                yield kind, b""
                continue
            body = file.read(size)
            if len(body) == size:
                yield kind, body
            file.seek(4, 1)


def _gamma(body: bytes | None) -> float | None:
    value = int.from_bytes(body or b"")
    gamma = 100_000 / value if value else 0.0
    least, most = _PLAUSIBLE_GAMMAS
    if not least <= gamma <= most or abs(gamma / 2.2 - 1) <= _GAMMA_TOLERANCE:
        return None
    return gamma


def _chromaticities(body: bytes | None) -> _Primaries | None:
    if body is None:
        return None
    numbers = [value / 100_000 for value in struct.unpack(">8I", body)]
    found = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    named = [value for pair in _SRGB for value in pair]
    if all(abs(one - other) <= _CHROMATICITY_TOLERANCE for one, other in zip(numbers, named, strict=True)):
        return None
    (xr, yr), (xg, yg), (xb, yb) = found[1:]
    area = abs((xg - xr) * (yb - yr) - (xb - xr) * (yg - yr)) / 2
    is_sane = area > 0.02 and all(0 <= x <= 1 and 0 < y <= 1 for x, y in found)
    return (found[0], found[1], found[2], found[3]) if is_sane and found[0][1] > 0.1 else None


# --- profiles ----------------------------------------------------------------------------------------------------


def _profile(space: ColourSpace, *, is_grey: bool) -> bytes:
    """Return an ICC profile (version 4) of the colour space, with the curve alone for grey images."""
    if space == ColourSpace(_P3, None) and not is_grey:
        return bytes(pyvips.Operation.call("profile_load", "p3"))
    curve = _curve(space.gamma)
    tags = {b"desc": _text("Rindle"), b"cprt": _text("CC0"), b"wtpt": _xyz(_D50)}
    if is_grey:
        tags[b"kTRC"] = curve
    else:
        matrix = _rgb_to_d50(space.primaries)
        for index, name in enumerate(b"rgb"):
            tags[bytes([name]) + b"XYZ"] = _xyz(tuple(row[index] for row in matrix))
            tags[bytes([name]) + b"TRC"] = curve
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for kind, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", kind, at + len(body), len(content))
        body += content
    size = at + len(body)
    model = b"GRAY" if is_grey else b"RGB "
    head = struct.pack(">I4sI4s4s4s12s4s", size, b"", 0x04300000, b"mntr", model, b"XYZ ", b"", b"acsp")
    illuminant = b"".join(map(_fixed, _D50))
    header = head.ljust(68, b"\0") + illuminant
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"para" + bytes(4) + struct.pack(">HH", 0, 0) + _fixed(gamma)
    parameters = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + b"".join(map(_fixed, parameters))


def _text(text: str) -> bytes:
    body = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(body), 28) + body


def _xyz(value: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, value))


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65_536))


def _rgb_to_d50(primaries: _Primaries) -> _Matrix:
    """Return the matrix from linear RGB to XYZ, adapted from the white of the space to D50 (Bradford)."""
    white, *rest = (_xyz_of(x, y) for x, y in primaries)
    columns = tuple(zip(*rest, strict=True))
    strengths = _times(_inverse(columns), white)
    scaled = tuple(tuple(row[i] * strengths[i] for i in range(3)) for row in columns)
    source, target = _times(_BRADFORD, white), _times(_BRADFORD, _D50)
    adapted = tuple(tuple(_BRADFORD[i][j] * target[i] / source[i] for j in range(3)) for i in range(3))
    adaption = _product(_inverse(_BRADFORD), adapted)
    return _product(adaption, scaled)


def _xyz_of(x: float, y: float) -> tuple[float, float, float]:
    return (x / y, 1.0, (1 - x - y) / y)


def _dot(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _times(matrix: _Matrix, vector: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(_dot(row, vector) for row in matrix)


def _product(one: _Matrix, other: _Matrix) -> _Matrix:
    columns = tuple(zip(*other, strict=True))
    return tuple(tuple(_dot(row, column) for column in columns) for row in one)


def _inverse(matrix: _Matrix) -> _Matrix:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    rows = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    determinant = a * rows[0][0] + b * rows[1][0] + c * rows[2][0]
    return tuple(tuple(value / determinant for value in row) for row in rows)
