"""Which page of a TIFF is the image, and what its samples mean: tags are read, nothing is decoded.

A TIFF may begin with a reduced copy of its image, hold the data of a camera's sensor, or have samples that are no
colours. libvips reads the first page and takes every fourth sample for alpha, so this is decided here by the tags.

Source: TIFF 6.0, sections 2, 8, 12, 16, 18 and 21; TIFF Technical Note 1 (SubIFDs); BigTIFF; Adobe DNG 1.7.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from rindle.errors import ContentRejected

_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 254, 255, 258, 259, 262, 277
_SUB_DIRECTORIES, _INK_SET, _INKS, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 330, 332, 334, 338, 339
_PLANAR, _CFA_REPEAT, _CFA_PATTERN, _YCBCR_SUBSAMPLING, _DNG_VERSION = 284, 33421, 33422, 530, 50706
_READ: Final = frozenset(
    {
        *(_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _SUB_DIRECTORIES, _INK_SET),
        *(_INKS, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _PLANAR, _CFA_REPEAT, _CFA_PATTERN, _YCBCR_SUBSAMPLING, _DNG_VERSION),
    }
)
#: Formats of integers and offsets by the type of a tag, as ``struct`` has them.
_INTEGERS: Final = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
#: Entries of a directory, values of a tag, pages and sub-images of a page that are looked at; images need fewer.
_MAX_ENTRIES, _MAX_VALUES, _MAX_PAGES, _MAX_SUB_IMAGES = 4_096, 64, 64, 16

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_COLOURS: Final = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}
#: Photometric interpretations of sensor data: a colour filter array, and linear raw.
_SENSOR: Final = frozenset({32803, 34892})
#: Compressions that only cameras use: Sony ARW, packed raw, Samsung SRW, Nikon NEF, Kodak DCR, Pentax PEF.
_CAMERA_COMPRESSIONS: Final = frozenset({32767, 32769, 32770, 34713, 65000, 65535})
_JPEG: Final = 7
_ASSOCIATED, _UNASSOCIATED = 1, 2

#: What is raised where an offset or a size points out of the file.
_DAMAGE: Final = (struct.error, OverflowError, ValueError)
#: Tags of a directory; those that were not found are missing.
_Tags = dict[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class TiffImage:
    """Where the image of a TIFF is, and which of its samples are shown.

    Attributes:
        page: number of the page, from 0.
        sub_image: number of the sub-image of that page, from 0; ``None`` for the page itself.
        samples: samples per pixel in the file.
        colours: samples at the front that are colours.
        alpha: number of the sample that is alpha, ``None`` without one.
    """

    page: int
    sub_image: int | None
    samples: int
    colours: int
    alpha: int | None

    @property
    def load_options(self) -> dict[str, int]:
        """Options of libvips' TIFF loader that choose the image."""
        return {"page": self.page} if self.sub_image is None else {"page": self.page, "subifd": self.sub_image}


def find_image(path: Path) -> TiffImage | None:
    """Find the image of a TIFF: the first that is not marked as a reduced copy or a mask.

    Returns:
        ``None`` if the tags cannot be read or lack what every image has: the decoder rejects the file.

    Raises:
        ContentRejected: ``camera_raw``: the file holds the data of a sensor; ``unsupported_variant_of_format``: samples
            that the decoder reads wrongly or not at all, or reduced copies only.
    """
    try:
        with path.open("rb") as file:
            reader = _Reader(file)
            pages = list(reader.pages())
    except struct.error:
        return None  # not even a header
    if reader.is_canon:
        _reject_raw()
    if not pages:
        return None
    if any(_is_sensor_data(tags) for page, sub_images in pages for tags in (page, *sub_images)):
        _reject_raw()
    images: list[tuple[int, int | None, _Tags]] = [(number, None, page) for number, (page, _) in enumerate(pages)]
    images += [(number, index, tags) for number, (_, subs) in enumerate(pages) for index, tags in enumerate(subs)]
    found = next((image for image in images if _is_full_image(image[2])), None)
    if found is None:
        reject("holds only reduced copies of an image", "reduced images only")
    return _layout(*found)


def _is_sensor_data(tags: _Tags) -> bool:
    return (
        _first(tags, _PHOTOMETRIC) in _SENSOR
        or _first(tags, _COMPRESSION) in _CAMERA_COMPRESSIONS
        or any(tag in tags for tag in (_DNG_VERSION, _CFA_PATTERN, _CFA_REPEAT))
    )


def _is_full_image(tags: _Tags) -> bool:
    kind = _first(tags, _NEW_SUBFILE_TYPE)
    if kind is None:
        return bool(_first(tags, _SUBFILE_TYPE) != 2)  # the older tag, whose 2 is a reduced copy
    return not kind & 0b101  # a reduced copy, a mask


def _layout(page: int, sub_image: int | None, tags: _Tags) -> TiffImage | None:
    photometric, samples = _first(tags, _PHOTOMETRIC), _first(tags, _SAMPLES, 1)
    bits, formats = set(tags.get(_BITS, (1,))), set(tags.get(_SAMPLE_FORMAT, (1,)))
    if photometric is None or not samples:
        return None
    if not formats <= {1, 4}:
        reject(
            "holds numbers that are no brightness (floating point, signed or complex)",
            f"sample format {_list(formats)}",
        )
    if len(bits) > 1 or not bits <= {1, 2, 4, 8, 16}:
        reject(f"has {_list(bits)} bits per sample", f"bits {_list(bits)}")
    colours, [depth] = _COLOURS.get(photometric), bits
    extra = tags.get(_EXTRA_SAMPLES, ())[: max(0, samples - (colours or samples))]
    alphas = [index for index, kind in enumerate(extra) if kind in (_ASSOCIATED, _UNASSOCIATED)]
    is_planar = samples > 1 and _first(tags, _PLANAR) == 2
    is_read = (
        colours is not None
        and samples >= colours
        and not (is_planar and photometric not in (_RGB, _CMYK))
        and (depth >= 8 or (samples == 1 and photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE)))
        and not (photometric == _PALETTE and (samples > 1 or depth > 8))
        and not (photometric == _YCBCR and not _is_readable_ycbcr(tags, samples, depth))
        and not (photometric == _LAB and (depth, samples) != (16, 3))
        and not (photometric == _CMYK and not _is_plain_cmyk(tags, depth, has_alpha=bool(alphas)))
        and not (photometric == _WHITE_IS_ZERO and alphas and extra[alphas[0]] == _ASSOCIATED)
    )
    if not is_read or colours is None:
        facts = f"photometric {photometric}, {samples} samples of {depth} bits"
        reject("has a colour mode or arrangement of samples that is not read", facts)
    return TiffImage(page, sub_image, samples, colours, colours + alphas[0] if alphas else None)


def _is_readable_ycbcr(tags: _Tags, samples: int, depth: int) -> bool:
    """Whether the decoder converts the colours: not those without subsampling outside of JPEG, which it copies."""
    is_jpeg = _first(tags, _COMPRESSION) == _JPEG
    return (samples, depth) == (3, 8) and (is_jpeg or tags.get(_YCBCR_SUBSAMPLING, (2, 2)) != (1, 1))


def _is_plain_cmyk(tags: _Tags, depth: int, *, has_alpha: bool) -> bool:
    """Whether the inks are those of print; alpha beside inks of 16 bits is read as if it had 8."""
    inks = (_first(tags, _INK_SET, 1), _first(tags, _INKS, 4))
    return inks == (1, 4) and not (depth == 16 and has_alpha)


def reject(what: str, found: str) -> NoReturn:
    """Reject a TIFF that is not damaged, with advice."""
    raise ContentRejected(
        f"the TIFF {what}; export the image as JPEG or PNG, or as a TIFF of RGB with 8 or 16 bits",
        code="unsupported_variant_of_format",
        detail={"format": "image/tiff", "reason": found},
    )


def _reject_raw() -> NoReturn:
    raise ContentRejected(
        "this is the raw file of a camera; export the photo as JPEG, and send that",
        code="camera_raw",
        detail={"format": "image/tiff"},
    )


def _first(tags: _Tags, tag: int, default: Any = None) -> Any:
    return tags.get(tag, (default,))[0]


def _list(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)))


class _Reader:
    """Reads the directories of a TIFF or BigTIFF, within limits."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        head = file.read(16)
        self._order = "<" if head[:2] == b"II" else ">"
        self._is_big = struct.unpack_from(f"{self._order}H", head, 2)[0] == 43
        self._link = "Q" if self._is_big else "I"
        [self._first] = struct.unpack_from(self._order + self._link, head, 8 if self._is_big else 4)
        self.is_canon = head[8:10] == b"CR"

    def pages(self) -> Iterator[tuple[_Tags, list[_Tags]]]:
        """Yield the tags of each page, and those of its sub-images, up to the first damage."""
        at = self._first
        for _ in range(_MAX_PAGES):
            try:
                tags, at = self._directory(at)
            except _DAMAGE:
                return
            sub_images: list[_Tags] = []
            for offset in tags.get(_SUB_DIRECTORIES, ())[:_MAX_SUB_IMAGES]:
                with suppress(*_DAMAGE):
                    sub_images.append(self._directory(offset)[0])
            yield tags, sub_images
            if not at:
                return

    def _directory(self, at: int) -> tuple[_Tags, int]:
        """Return the tags of the directory at an offset, and the offset of the next one."""
        count, entry = ("Q", 20) if self._is_big else ("H", 12)
        [entries] = self._unpack(count, at)
        at += struct.calcsize(count)
        if entries > _MAX_ENTRIES:
            raise ValueError("too many entries")
        block = self._bytes(at, entries * entry)
        tags: _Tags = {}
        for start in range(0, len(block), entry):
            tag, kind, size = struct.unpack_from(f"{self._order}HH{self._link}", block, start)
            if tag in _READ and kind in _INTEGERS and size > 0:
                form = f"{min(size, _MAX_VALUES)}{_INTEGERS[kind]}"
                inline = block[start + entry - struct.calcsize(self._link) : start + entry]
                if struct.calcsize(f"={size}{_INTEGERS[kind]}") <= len(inline):
                    tags.setdefault(tag, struct.unpack_from(self._order + form, inline))
                else:
                    [offset] = struct.unpack(self._order + self._link, inline)
                    tags.setdefault(tag, self._unpack(form, offset))
        [following] = self._unpack(self._link, at + entries * entry)
        return tags, following

    def _unpack(self, form: str, at: int) -> tuple[int, ...]:
        form = self._order + form
        return struct.unpack(form, self._bytes(at, struct.calcsize(form)))

    def _bytes(self, at: int, size: int) -> bytes:
        if at + size > self._size:
            raise ValueError("the file ends before this")
        self._file.seek(at)
        return self._file.read(size)
