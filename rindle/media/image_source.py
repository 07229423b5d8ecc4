"""How the file of an image is opened for its decoder, and what an error of a decoder means.

Runs in the child processes of :mod:`rindle.media.render_pool` only, like :mod:`rindle.media.image`, which has prepared
libvips before this module is imported.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pi_heif
import pyvips

from rindle.errors import ContentRejected, ProbeFailed, RindleError
from rindle.media.completeness import ITEM_TYPES, completed_jpeg, completed_webp, shown_items

#: Coding types of items that are not coded themselves but made of others (ISO/IEC 23008-12, 6.6.2).
_DERIVED = frozenset({b"grid", b"iden", b"iovl", b"tmap"})
#: Coding types that the bundled libheif decodes.
_HEVC = frozenset({b"hvc1"})
#: Largest part of metadata behind the end of a HEIC or AVIF file for which the file is completed.
MAX_ABSENT_BYTES = 1 << 20
_ABSOLUTE_PATH = re.compile(r"(?<![\w.])/[^\s:]+")
#: What decoders report of a file that is not damaged but of a variety that they do not read. An unsupported marker of a
#: JPEG is damage: libjpeg knows all markers that there are.
_UNSUPPORTED = re.compile(
    r"not configured|unsupported(?! marker)|not supported|not implemented|bad labq format|unknown (?:compression|codec)"
    r"|no decoding plugin|not compiled in|(?:compression|colou?r ?space|photometric)\b[^.]{0,40}\bunknown",
    re.IGNORECASE,
)


def end_of_jpeg_added(path: Path) -> bytes | None:
    """Return the JPEG with its two last bytes, if it lacks only these; ``None`` for every other file.

    It is decoded once for that, with all its rows in an eighth of its size. libjpeg reports the first problem only, so
    any report means that the rows are not complete.
    """
    content = completed_jpeg(path)
    if content is None:
        return None
    pyvips.vips_lib.vips_error_clear()
    try:
        source = pyvips.Source.new_from_memory(content)
        pyvips.Operation.call("jpegload_source", source, access="sequential", fail_on="error", shrink=8).copy_memory()
    except pyvips.Error:
        return None
    is_whole = not pyvips.ffi.string(pyvips.vips_lib.vips_error_buffer())
    pyvips.vips_lib.vips_error_clear()
    return content if is_whole else None


def whole_content(path: Path, mime: str) -> bytes | None:
    """Check that the data of the image is in its file, as far as the container shows it.

    Returns:
        for a HEIC, AVIF or WebP whose metadata is cut off, what the decoder reads in place of the file; else ``None``.

    Raises:
        ContentRejected: ``decode_failed``: a HEIC or AVIF file lacks data of the image that it shows;
            ``unsupported_variant_of_format``: that image is coded in a way that no decoder here reads.
    """
    if mime == "image/webp":
        return completed_webp(path)
    if mime not in ITEM_TYPES:
        return None
    shown = shown_items(path)
    if not shown.is_whole:
        raise ContentRejected("the file ends before the data of its image", detail=_facts(mime))
    foreign = shown.codings - _DERIVED - _HEVC
    if mime != "image/avif" and foreign:
        raise _unsupported(mime, f"the image is coded as {', '.join(_printable(name) for name in sorted(foreign))}")
    if 0 < shown.absent_bytes <= MAX_ABSENT_BYTES:  # libheif refuses a file in which any item is not complete
        return path.read_bytes() + bytes(shown.absent_bytes)
    return None


def open_heic(path: Path, mime: str, content: bytes | None = None) -> pi_heif.HeifFile:
    """Open the primary image of a HEIC file, or of its ``content`` when that was completed.

    Raises:
        ContentRejected: the container cannot be read, or libheif skips its primary image.
    """
    try:
        heic = pi_heif.open_heif(str(path) if content is None else io.BytesIO(content), convert_hdr_to_8bit=True)
    except (ValueError, RuntimeError, EOFError, SyntaxError) as error:
        raise rejected(mime, reason_of(error, path)) from error
    # libheif leaves out images that it cannot decode; another one must not stand for the primary one.
    if not len(heic) or not heic.info.get("primary"):
        raise _unsupported(mime, "the decoder skips the primary image of the file")
    return heic


def rejected(mime: str | None, reason: str) -> ContentRejected:
    """Return the rejection of an image from what its decoder reports: a variety that is not read, or damage."""
    if _UNSUPPORTED.search(reason):
        return _unsupported(mime, reason)
    return ContentRejected(
        "the image cannot be decoded: it is damaged, cut off, or not what it claims to be",
        detail=_facts(mime, reason),
    )


def _unsupported(mime: str | None, reason: str) -> ContentRejected:
    return ContentRejected(
        "the file is of a variety of its format that is not read",
        code="unsupported_variant_of_format",
        detail=_facts(mime, reason),
    )


def _facts(mime: str | None, reason: str | None = None) -> dict[str, str]:
    return {**({"format": mime} if mime else {}), **({"reason": reason} if reason else {})}


@contextmanager
def rejecting_damage(path: Path, mime: str | None = None) -> Iterator[None]:
    """Translate an error of the decoder into a rejection, and a problem of the machine into a retryable error."""
    try:
        with path.open("rb"):
            yield
    except RindleError:
        raise
    except OSError as error:
        raise ProbeFailed("the file cannot be read here", retryable=True) from error
    except MemoryError as error:
        raise _out_of_memory() from error
    except pyvips.Error as error:
        reason = reason_of(error, path)
        if "out of memory" in reason:
            raise _out_of_memory() from None
        if "unix error" in reason:
            raise ProbeFailed("the file cannot be read here", detail={"reason": reason}, retryable=True) from None
        raise rejected(mime, reason) from None


def _out_of_memory() -> ProbeFailed:
    return ProbeFailed("the image did not fit into memory", detail={"memory": "exhausted"}, retryable=True)


def reason_of(error: BaseException, *paths: Path) -> str:
    """Return a library's error in one line, without any path: libvips also adds messages about earlier images."""
    text = str(error.detail) if isinstance(error, pyvips.Error) and error.detail else str(error)
    for path in paths:
        text = text.replace(str(path), "file")
    text = _ABSOLUTE_PATH.sub("file", text)
    return _printable(text)[:200]


def _printable(text: str | bytes) -> str:
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def bare(image: pyvips.Image, kept: frozenset[str] = frozenset()) -> pyvips.Image:
    """Return ``image`` without its fields, but for those ``kept``; names that are not UTF-8 are removed as well."""
    copied = image.copy()  # fields are removed in place
    for name in _field_names(copied):
        if name.decode(errors="replace") not in kept:
            pyvips.vips_lib.vips_image_remove(copied.pointer, name)
    return copied


def _field_names(image: pyvips.Image) -> list[bytes]:
    """Return the names of all fields as bytes: pyvips decodes them as UTF-8, and a PNG writes them in Latin-1."""
    names = []
    array = pyvips.vips_lib.vips_image_get_fields(image.pointer)
    index = 0
    while array[index] != pyvips.ffi.NULL:
        names.append(pyvips.ffi.string(array[index]))
        pyvips.glib_lib.g_free(array[index])
        index += 1
    pyvips.glib_lib.g_free(array)
    return names
