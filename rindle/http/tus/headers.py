"""The headers of tus 1.0.0: read from requests, and written into responses."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Final
from urllib.parse import urlsplit

from rindle.arguments import MAX_FILENAME_CHARS, MAX_TEXT_CHARS
from rindle.errors import InvalidArgument, TusError
from rindle.text import storable

#: The version of the protocol.
VERSION: Final = "1.0.0"
#: The only content type of bytes.
BYTES_TYPE: Final = "application/offset+octet-stream"
#: Algorithms of ``Upload-Checksum``.
CHECKSUM_ALGORITHMS: Final = ("sha1", "sha256")
#: Largest ``Upload-Metadata`` in bytes.
MAX_METADATA_BYTES: Final = 8 * 1024
# A length or offset of a request has at most as many digits as 2^63.
_MAX_DIGITS = 19
_MAX_INTEGER = 2**63 - 1

#: Response headers that a CORS middleware must expose to scripts of other origins.
TUS_EXPOSE_HEADERS: Final = (
    "Location",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Expires",
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
)
#: Request headers that a CORS middleware must allow scripts of other origins to send.
TUS_ALLOW_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Checksum",
    "Tus-Resumable",
    "X-HTTP-Method-Override",
)


@dataclass(frozen=True, slots=True)
class Checksum:
    """The checksum of one body."""

    algorithm: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is read of ``Upload-Metadata``: a name and a type, both as the client declares them.

    ``header`` is the header itself; ``None`` when the client sent none.
    """

    header: str | None
    filename: str | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A source of a concatenation: the token in its URL, and what comes before it."""

    prefix: str
    token: str


def whole_number(value: str | None) -> int | None:
    """Return a header of decimal digits as a number; ``None`` when it is missing or something else."""
    if value is None or not value.isascii() or not value.isdigit() or len(value) > _MAX_DIGITS:
        return None
    number = int(value)
    return number if number <= _MAX_INTEGER else None


def read_offset(value: str | None) -> int:
    """Return ``Upload-Offset`` in bytes.

    Raises:
        InvalidArgument: it is missing or not a whole number.
    """
    return _required("Upload-Offset", value)


def read_length(length: str | None, deferred: str | None) -> int | None:
    """Return ``Upload-Length`` in bytes, or ``None`` when it is deferred: exactly one of the two is there.

    Raises:
        InvalidArgument: both or none are there, or one of them has another value.
    """
    if deferred is not None:
        if length is not None or deferred != "1":
            raise _invalid("Upload-Defer-Length", "must be 1, without Upload-Length")
        return None
    return _required("Upload-Length", length)


def read_declared_length(value: str | None) -> int | None:
    """Return the ``Upload-Length`` of a PATCH, ``None`` when there is none.

    Raises:
        InvalidArgument: it is not a whole number.
    """
    return None if value is None else _required("Upload-Length", value)


def require_bytes_type(content_type: str | None) -> None:
    """Refuse a body of another type; parameters do not matter.

    Raises:
        TusError: ``tus_content_type_unsupported``.
    """
    if (content_type or "").partition(";")[0].strip().lower() != BYTES_TYPE:
        raise TusError(f"send the bytes with Content-Type: {BYTES_TYPE}", code="tus_content_type_unsupported")


def read_checksum(value: str | None) -> Checksum | None:
    """Return ``Upload-Checksum``, ``None`` when there is none.

    Raises:
        InvalidArgument: unknown algorithm, or no Base64 of a digest.
    """
    if value is None:
        return None
    algorithm, _, encoded = value.partition(" ")
    if algorithm not in CHECKSUM_ALGORITHMS:
        raise _invalid("Upload-Checksum", f"must begin with one of: {', '.join(CHECKSUM_ALGORITHMS)}")
    digest = _decoded(encoded)
    if not digest:
        raise _invalid("Upload-Checksum", "must be an algorithm, a space and the Base64 of a digest")
    return Checksum(algorithm, digest)


def read_metadata(value: str | None) -> Metadata:
    """Return what ``Upload-Metadata`` says of the file; pairs that cannot be read are ignored.

    The file name may be anything, also a path; it is sanitised where it is used.

    Raises:
        InvalidArgument: it is larger than 8 KiB, or has control characters.
    """
    if value is None:
        return Metadata(None)
    if len(value.encode(errors="replace")) > MAX_METADATA_BYTES:
        raise _invalid("Upload-Metadata", f"must have at most {MAX_METADATA_BYTES} bytes")
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise _invalid("Upload-Metadata", "must not contain control characters")
    pairs: dict[str, str] = {}
    for pair in value.split(","):
        key, _, encoded = pair.strip().partition(" ")
        decoded = _decoded(encoded.strip())
        if key and decoded:
            try:
                pairs.setdefault(key, storable(decoded.decode()))
            except UnicodeDecodeError:
                continue
    name = pairs.get("filename") or pairs.get("name")
    mime = pairs.get("filetype") or pairs.get("type")
    return Metadata(
        value, None if name is None else name[-MAX_FILENAME_CHARS:], None if mime is None else mime[:MAX_TEXT_CHARS]
    )


def read_concat(value: str | None) -> tuple[bool, list[Source]]:
    """Return whether ``Upload-Concat`` makes a partial upload, and the sources of a final one.

    Raises:
        InvalidArgument: it is neither ``partial`` nor ``final;`` with URLs.
    """
    if value is None:
        return False, []
    if value == "partial":
        return True, []
    kind, _, listed = value.partition(";")
    urls = listed.split()
    if kind != "final" or not urls:
        raise _invalid("Upload-Concat", "must be partial, or final; and the URLs of partial uploads")
    sources = []
    for url in urls:
        prefix, slash, token = url.rpartition("/")
        if not token or urlsplit(url).query or urlsplit(url).fragment:
            raise _invalid("Upload-Concat", "must list URLs of partial uploads")
        sources.append(Source(prefix + slash, token))
    return False, sources


def http_date(moment: datetime) -> str:
    """Return a time as ``Upload-Expires`` has it (RFC 9110, IMF-fixdate)."""
    return format_datetime(moment, usegmt=True)


def _required(name: str, value: str | None) -> int:
    number = whole_number(value)
    if number is None:
        raise _invalid(name, "must be a whole number of bytes, 0 or more")
    return number


def _decoded(encoded: str) -> bytes:
    """Return the bytes of Base64 with or without padding; none when it is something else."""
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (ValueError, binascii.Error):
        return b""


def _invalid(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{name} {problem}", detail={"option": name})
