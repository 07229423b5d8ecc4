"""The structured header fields of resumable uploads: read from requests, written into responses.

A value that is not of the type of its field is as if the field were missing, as the draft requires.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from email.message import Message
from typing import Any, Final

from rindle.errors import InvalidArgument
from rindle.uploads.digests import DIGEST_BYTES

#: Largest Integer of a structured field.
MAX_INTEGER: Final = 999_999_999_999_999
#: Longest field that is parsed, in characters.
MAX_FIELD_CHARS: Final = 4096

_KEY = r"[a-z*][a-z0-9_.*-]*"
_BYTES = r":([A-Za-z0-9+/]*={0,2}):"
_BARE_ITEM = (
    r"(?:-?\d{1,15}(?:\.\d{1,3})?|@-?\d{1,15}|\?[01]|:[A-Za-z0-9+/]*={0,2}:"
    r'|"(?:[ !#-\[\]-~]|\\["\\])*"'
    r"|[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*)"
)
_PARAMETERS = rf"(?:; *{_KEY}(?:={_BARE_ITEM})?)*"
_INTEGER = re.compile(rf" *(-?\d{{1,15}}){_PARAMETERS} *", re.ASCII)
_BOOLEAN = re.compile(rf" *\?([01]){_PARAMETERS} *", re.ASCII)
_MEMBER = re.compile(rf"({_KEY})(?:=(?:{_BYTES}|({_BARE_ITEM})))?{_PARAMETERS}", re.ASCII)
_COMMA = re.compile(r"[ \t]*,[ \t]*")
#: From 0, "not acceptable", to 10, "most preferred".
_WEIGHT = re.compile(r"\d|10", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of uploads, sizes in bytes; ``None`` is no limit.

    Attributes:
        max_size: of a whole upload.
        min_size: of a whole upload that can be resumed.
        max_append_size: of the content of one request.
        min_append_size: of the content of one request, except an empty one that creates and the one that completes.
        max_age: seconds that an upload still lives, counted from the response.
    """

    max_size: int | None = None
    min_size: int | None = None
    max_append_size: int | None = None
    min_append_size: int | None = None
    max_age: int | None = None


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest of the content of a request, or of a whole upload."""

    algorithm: str
    value: bytes


def read_integer(value: str | None) -> int | None:
    """Return a non-negative Integer, such as ``Upload-Offset``; ``None`` when it is missing or something else."""
    match = _match(_INTEGER, value)
    number = -1 if match is None else int(match[1])
    return number if number >= 0 else None


def read_boolean(value: str | None) -> bool | None:
    """Return a Boolean, such as ``Upload-Complete``; ``None`` when it is missing or something else."""
    match = _match(_BOOLEAN, value)
    return None if match is None else match[1] == "1"


def read_digest(name: str, value: str | None) -> Digest | None:
    """Return the strongest known digest of ``Content-Digest`` or ``Repr-Digest``; ``None`` when there is none.

    Digests of other algorithms are ignored, as RFC 9530 allows. A field that cannot be parsed is refused and not
    ignored: its sender wants the bytes to be compared.

    Args:
        name: of the field, for the error.
        value: of the field.

    Raises:
        InvalidArgument: it is not a dictionary of byte sequences, or a known digest has another length.
    """
    if value is None:
        return None
    found: dict[str, bytes] = {}
    for match in _members(value):
        if match is None or match[2] is None:
            raise _bad_digest(name)
        try:
            found[match[1]] = base64.b64decode(match[2], validate=True)
        except binascii.Error as error:
            raise _bad_digest(name) from error
    for algorithm, size in DIGEST_BYTES.items():
        if algorithm in found:
            if len(found[algorithm]) != size:
                raise _bad_digest(name)
            return Digest(algorithm, found[algorithm])
    return None


def read_preference(value: str | None) -> str | None:
    """Return the preferred known algorithm of ``Want-Content-Digest`` or ``Want-Repr-Digest``; ``None`` without one.

    The field is a hint (RFC 9530, Integrity Preference Fields): one that cannot be read is ignored, and so are other
    algorithms.
    """
    weights: dict[str, int] = {}
    for match in () if value is None else _members(value):
        if match is None or match[3] is None or not _WEIGHT.fullmatch(match[3]):
            return None
        weights[match[1]] = int(match[3])
    wanted = [algorithm for algorithm in DIGEST_BYTES if weights.get(algorithm, 0) > 0]
    return max(wanted, key=lambda algorithm: weights[algorithm], default=None)


def read_filename(disposition: str | None) -> str | None:
    """Return the file name of ``Content-Disposition``, also of its extended form; ``None`` when it has none."""
    if disposition is None or len(disposition) > MAX_FIELD_CHARS:
        return None
    message = Message()
    message["Content-Disposition"] = re.sub(r"[\r\n]", " ", disposition)
    # The extended form wins (RFC 6266), wherever it is.
    names: list[Any] = [
        value
        for name, value in message.get_params(failobj=[], header="content-disposition")
        if name.lower() == "filename"
    ]
    for name in names:
        if isinstance(name, tuple):
            charset, _, text = name
            with suppress(LookupError, UnicodeError):
                return str(text).encode("latin-1").decode(charset or "ascii") or None
    return next((name or None for name in names if isinstance(name, str)), None)


def boolean(value: bool) -> str:
    """Return a Boolean as a field."""
    return f"?{int(value)}"


def limits(found: Limits) -> str:
    """Return ``Upload-Limit``; without any limit ``min-size=0``, because an empty field says nothing."""
    named = [(field.name.replace("_", "-"), getattr(found, field.name)) for field in fields(found)]
    written = [f"{name}={min(max(0, value), MAX_INTEGER)}" for name, value in named if value is not None]
    return ", ".join(written) or "min-size=0"


def digests(found: Sequence[Digest]) -> str:
    """Return ``Repr-Digest`` or ``Content-Digest``."""
    return ", ".join(f"{one.algorithm}={byte_sequence(one.value)}" for one in found)


def byte_sequence(value: bytes) -> str:
    """Return a Byte Sequence as a field has it."""
    return f":{base64.b64encode(value).decode()}:"


def _members(value: str) -> Iterator[re.Match[str] | None]:
    """Yield the members of a Dictionary, ``None`` for one that cannot be read."""
    members = _COMMA.split(value.strip(" ")) if len(value) <= MAX_FIELD_CHARS else [""]
    return (_MEMBER.fullmatch(member) for member in members)


def _match(pattern: re.Pattern[str], value: str | None) -> re.Match[str] | None:
    return None if value is None or len(value) > MAX_FIELD_CHARS else pattern.fullmatch(value)


def _bad_digest(name: str) -> InvalidArgument:
    return InvalidArgument(
        f"{name} must be a list such as sha-256=:base64:, with digests of the right length", detail={"option": name}
    )
