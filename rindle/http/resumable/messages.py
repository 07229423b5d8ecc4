"""The requests and responses of resumable uploads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starlette.datastructures import Headers

from rindle.errors import InvalidArgument, RindleError
from rindle.http.resumable.fields import (
    Digest,
    Limits,
    boolean,
    byte_sequence,
    digests,
    limits,
    read_boolean,
    read_digest,
    read_integer,
    read_preference,
)
from rindle.uploads.digests import WholeDigest

#: The iteration of the draft.
INTEROP_VERSION: Final = 8
#: The content type of an append.
PARTIAL_TYPE: Final = "application/partial-upload"
#: Where the problem types are registered.
PROBLEM_TYPES: Final = "https://iana.org/assignments/http-problem-types"

#: Response headers that a CORS middleware must expose to scripts of other origins.
EXPOSE_HEADERS: Final = (
    *("Location", "Upload-Complete", "Upload-Offset", "Upload-Length", "Upload-Limit"),
    *("Content-Digest", "Repr-Digest"),
)
#: Request headers that a CORS middleware must allow scripts of other origins to send.
ALLOW_HEADERS: Final = (
    *("Authorization", "Content-Type", "Content-Disposition", "Upload-Complete", "Upload-Offset", "Upload-Length"),
    *("Upload-Draft-Interop-Version", "Content-Digest", "Repr-Digest", "Want-Content-Digest", "Want-Repr-Digest"),
)


class InconsistentLength(ValueError):
    """The lengths that a client indicates differ, or the upload is already longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What a request with content says about it.

    Attributes:
        is_complete: the content is the rest of the file.
        declared_length: ``Upload-Length`` in bytes.
        content_length: of this request, in bytes; ``None`` when it is sent in chunks.
        content_digest: of this request.
        whole_digest: of the whole file; only a creation has one.
    """

    is_complete: bool
    declared_length: int | None = None
    content_length: int | None = None
    content_digest: Digest | None = None
    whole_digest: WholeDigest | None = None

    def length(self, *, offset: int, known: int | None) -> int | None:
        """Return the length of the upload in bytes, as far as it is known after this request.

        Args:
            offset: of the upload before this request.
            known: the length that earlier requests have indicated.

        Raises:
            InconsistentLength: two indications differ, or the offset is already behind the length.
        """
        of_rest = None
        if self.is_complete and self.content_length is not None:
            of_rest = offset + self.content_length
        indicated = {length for length in (known, self.declared_length, of_rest) if length is not None}
        if len(indicated) > 1:
            raise InconsistentLength
        length = indicated.pop() if indicated else None
        if length is not None and length < offset:
            raise InconsistentLength
        return length


@dataclass(frozen=True, slots=True)
class Problem:
    """A response that is not a success, as ``application/problem+json``."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


# --- requests ----------------------------------------------------------------------------------------------------


def read_creation(headers: Headers) -> Transfer | None:
    """Return what a request that may create an upload says; ``None`` when it is a conventional one.

    Raises:
        InvalidArgument: a digest cannot be read.
    """
    is_complete = read_boolean(_field(headers, "Upload-Complete"))
    if is_complete is None:
        return None
    return replace(_transfer(headers, is_complete=is_complete), whole_digest=_whole_digest(headers))


def _whole_digest(headers: Headers) -> WholeDigest | None:
    """Return what ``Repr-Digest`` and ``Want-Repr-Digest`` say; what is compared is also what is answered.

    Only those of a creation are of the whole file: ``Repr-Digest`` of a PATCH is that of the patch document (RFC 9530,
    Using Repr-Digest in State-Changing Requests), of which ``Content-Digest`` says the same.
    """
    given = read_digest("Repr-Digest", _field(headers, "Repr-Digest"))
    if given is not None:
        return WholeDigest(given.algorithm, expected=given.value)
    wanted = read_preference(_field(headers, "Want-Repr-Digest"))
    return None if wanted is None else WholeDigest(wanted)


def wanted_content_digest(headers: Headers) -> str | None:
    """Return the algorithm of the ``Content-Digest`` that the client wants with the response; ``None`` without one."""
    return read_preference(_field(headers, "Want-Content-Digest"))


def read_append(headers: Headers) -> tuple[int, Transfer]:
    """Return the offset of an append and what it says about its content; its content type has been checked.

    Raises:
        InvalidArgument: ``Upload-Offset`` or ``Upload-Complete`` is missing, or a digest cannot be read.
    """
    offset = read_integer(_field(headers, "Upload-Offset"))
    is_complete = read_boolean(_field(headers, "Upload-Complete"))
    if offset is None:
        raise _required("Upload-Offset", "a whole number of bytes")
    if is_complete is None:
        raise _required("Upload-Complete", "?0, or ?1 for the rest of the file")
    return offset, _transfer(headers, is_complete=is_complete)


def is_partial(content_type: str | None) -> bool:
    """Whether a PATCH is an append; parameters of the type do not matter."""
    return content_type is not None and content_type.partition(";")[0].strip().lower() == PARTIAL_TYPE


def takes_interim(headers: Headers) -> bool:
    """Whether the client understands a 104 of this iteration; no other client may get one."""
    return read_integer(_field(headers, "Upload-Draft-Interop-Version")) == INTEROP_VERSION


def _transfer(headers: Headers, *, is_complete: bool) -> Transfer:
    sent = headers.get("content-length", "")
    return Transfer(
        is_complete=is_complete,
        declared_length=read_integer(_field(headers, "Upload-Length")),
        content_length=int(sent) if sent.isascii() and sent.isdigit() and len(sent) < 16 else None,
        content_digest=read_digest("Content-Digest", _field(headers, "Content-Digest")),
    )


def _field(headers: Headers, name: str) -> str | None:
    """Return a field, its lines joined by commas: an Item that is sent twice is none."""
    lines = headers.getlist(name)
    return ", ".join(lines) if lines else None


def _required(name: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{name} must be {what}", detail={"option": name})


# --- responses ---------------------------------------------------------------------------------------------------


def options_headers(found: Limits) -> dict[str, str]:
    """Return the headers of OPTIONS, by which a client discovers that uploads can be resumed."""
    return {"Upload-Limit": limits(found)}


def created_headers(location: str, found: Limits) -> dict[str, str]:
    """Return the headers of a 201: the upload exists, and is not complete."""
    return {"Location": location, "Upload-Limit": limits(found), "Upload-Complete": boolean(False)}


def status_headers(*, offset: int, is_complete: bool, length: int | None, found: Limits) -> dict[str, str]:
    """Return the headers of a successful HEAD or GET of an upload."""
    known = {} if length is None else {"Upload-Length": str(length)}
    return {
        "Upload-Offset": str(offset),
        "Upload-Complete": boolean(is_complete),
        **known,
        "Upload-Limit": limits(found),
        "Cache-Control": "no-store",
    }


def appended_headers(*, offset: int, is_complete: bool, found: Limits) -> dict[str, str]:
    """Return the headers of a successful append; with ``is_complete``, of the answer about the whole file."""
    return {"Upload-Offset": str(offset), "Upload-Complete": boolean(is_complete), "Upload-Limit": limits(found)}


def whole_digest_headers(found: WholeDigest | None) -> dict[str, str]:
    """Return ``Repr-Digest`` of a file whose client gave or wants one, once the object is made."""
    if found is None or found.found is None:
        return {}
    return {"Repr-Digest": digests([Digest(found.algorithm, found.found)])}


def interim_created(location: str, found: Limits) -> dict[str, str]:
    """Return the headers of the 104 by which a client learns where to continue."""
    return {"Location": location, "Upload-Limit": limits(found), "Upload-Draft-Interop-Version": str(INTEROP_VERSION)}


def interim_progress(offset: int) -> dict[str, str]:
    """Return the headers of a 104 about progress, which must not name the upload."""
    return {"Upload-Offset": str(offset), "Upload-Draft-Interop-Version": str(INTEROP_VERSION)}


# --- problems ----------------------------------------------------------------------------------------------------


def mismatching_offset(*, expected: int, provided: int) -> Problem:
    """Return the response to an append at an offset that the upload does not have."""
    return Problem(
        409,
        {
            "type": f"{PROBLEM_TYPES}#mismatching-upload-offset",
            "title": "the offset of the request is not the offset of the upload",
            "status": 409,
            "expected-offset": expected,
            "provided-offset": provided,
        },
        {"Upload-Offset": str(expected), "Upload-Complete": boolean(False)},
    )


def inconsistent_length() -> Problem:
    """Return the response to :class:`InconsistentLength`."""
    return Problem(
        400,
        {
            "type": f"{PROBLEM_TYPES}#inconsistent-upload-length",
            "title": "the lengths of the upload are inconsistent",
            "status": 400,
        },
        {"Upload-Complete": boolean(False)},
    )


def mismatching_digest(error: RindleError, name: str, provided: Digest, *, is_complete: bool) -> Problem:
    """Return the response to bytes that do not have the digest of the field ``name``; it does not say which they have.

    Source: draft-ietf-httpapi-digest-fields-problem-types, Mismatching Digest Values.
    """
    problem = problem_of(error)
    entry = {"algorithm": provided.algorithm, "provided-digest": byte_sequence(provided.value), "header": name}
    body = {**problem.body, "type": f"{PROBLEM_TYPES}#digest-mismatching-values", "mismatching-digests": [entry]}
    return Problem(400, {**body, "status": 400}, {**problem.headers, "Upload-Complete": boolean(is_complete)})


def too_large(found: Limits) -> Problem:
    """Return the response to a content or file over a limit, with the limits."""
    return Problem(
        413,
        {"type": "about:blank", "title": "Content Too Large", "status": 413},
        {"Upload-Limit": limits(found), "Upload-Complete": boolean(False)},
    )


def problem_of(error: RindleError) -> Problem:
    """Return the response to any other error: its code, message and detail beside the members of a problem."""
    status, facts = int(error.http_status), error.to_dict()
    body = {"type": "about:blank", "title": facts["message"], "status": status, **facts}
    return Problem(status, body, {"Upload-Complete": boolean(False)})
