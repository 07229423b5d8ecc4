"""The draft at one mount: its verbs, and the problems that its refusals are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

from fastapi import Response
from pydantic import SecretStr

from rindle.app import Rindle
from rindle.errors import InvalidArgument, RindleError, TusError
from rindle.http.access import ActorFromRequest
from rindle.http.errors import translated
from rindle.http.resumable.append import patch
from rindle.http.resumable.call import Call, problem_response
from rindle.http.resumable.create import create
from rindle.http.resumable.fields import Digest, digests, read_digest
from rindle.http.resumable.messages import (
    PARTIAL_TYPE,
    InconsistentLength,
    Problem,
    inconsistent_length,
    mismatching_digest,
    mismatching_offset,
    problem_of,
    too_large,
    wanted_content_digest,
)
from rindle.http.resumable.upload import delete, head, options
from rindle.http.streams.access import StreamAccess
from rindle.http.streams.router import StreamRouter
from rindle.profile import Profile
from rindle.protocols import Authorizer
from rindle.uploads.digests import hash_name
from rindle.uploads.ietf import IetfUploads
from rindle.uploads.streams import MAX_SIZE_BYTES

Verb = Callable[[Call], Awaitable[Response]]

#: The verbs of the mount itself, and those of one upload.
_ON_MOUNT: Mapping[str, Verb] = {"OPTIONS": options, "POST": create}
_ON_UPLOAD: Mapping[str, Verb] = {"OPTIONS": options, "HEAD": head, "GET": head, "PATCH": patch, "DELETE": delete}
#: Statuses that differ from those of tus: its clients repeat 423, which those of the draft take as final.
_STATUSES: Mapping[str, int] = {"tus_locked": 503}


class ResumableRouter(StreamRouter[Call]):
    """The ASGI application that :func:`resumable_router` returns."""

    def verbs(self, call: Call) -> Mapping[str, Verb]:
        """Return the verbs of the mount or of an upload."""
        return _ON_UPLOAD if call.token else _ON_MOUNT

    def finish(self, call: Call, response: Response) -> None:
        """Add the digest of the content, if the client wants one that is known here."""
        algorithm = wanted_content_digest(call.request.headers)
        if algorithm is not None and response.status_code != 204:
            value = hashlib.new(hash_name(algorithm), response.body).digest()
            response.headers["Content-Digest"] = digests([Digest(algorithm, value)])

    def refusal(self, call: Call, error: Exception) -> Response | None:
        """Return the problem that an error is, with what the client can do instead."""
        problem = self._problem(call, error)
        return None if problem is None else problem_response(problem)

    def _problem(self, call: Call, error: Exception) -> Problem | None:
        if isinstance(error, InconsistentLength):
            return inconsistent_length()
        found = translated(error)
        if found is None:
            return None
        if isinstance(found, InvalidArgument) and found.detail.get("option") == "Upload-Length":
            return inconsistent_length()
        if isinstance(found, TusError):
            if found.code == "tus_offset_conflict":
                return mismatching_offset(expected=found.detail["server"], provided=found.detail["client"])
            if found.code == "tus_size_exceeded":
                return too_large(call.limits)
            given = read_digest("Content-Digest", call.header("content-digest"))
            if found.code == "tus_checksum_mismatch" and given is not None:
                return mismatching_digest(found, "Content-Digest", given, is_complete=False)
            found.http_status = _STATUSES.get(found.code, found.http_status)
        problem = problem_of(found)
        return Problem(problem.status, problem.body, {**problem.headers, **self._hints(call, found)})

    def _hints(self, call: Call, error: RindleError) -> dict[str, str]:
        hints = {}
        if error.retry_after is not None:
            hints["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
        if error.code == "tus_method_not_allowed":
            hints["Allow"] = ", ".join(self.verbs(call))
        if error.code == "tus_content_type_unsupported" and call.method == "PATCH":
            hints["Accept-Patch"] = PARTIAL_TYPE
        return hints


def resumable_router(
    rindle: Rindle,
    *,
    profile: str | type[Profile],
    secrets: Sequence[str | SecretStr] = (),
    max_size: int = MAX_SIZE_BYTES,
    actor_from_request: ActorFromRequest | None = None,
    authorizer: Authorizer | None = None,
    allow_anonymous: bool = False,
    path: str | None = None,
) -> ResumableRouter:
    """Return an ASGI application that takes resumable uploads of one profile.

    Mount it: ``app.mount("/uploads", resumable_router(...))``. The authorizer is called with ``ietf.create`` or
    ``ietf.resume`` and an ``UploadSubject``. Without one, whoever has the URL of an upload can continue it. Middleware
    must not read the body. The bytes pass through this process into the storage of the profile; memory does not grow
    with the file.

    Args:
        profile: the profile of all uploads of this mount.
        secrets: sign the URLs of uploads: the first signs, all verify; those of ``rindle`` by default.
        max_size: largest upload in bytes, 5 GiB by default; the profile's ``max_bytes`` may be smaller.
        actor_from_request: returns the actor, as for the other routers.
        authorizer: decides; :class:`SameActor` allows only the actor who created an upload.
        allow_anonymous: confirms that there is no authorizer.
        path: path of the mount as clients see it; by default the path at which it is mounted.

    Raises:
        CapabilityUnsupported: ``upload_unsupported``: the profile's storage takes no such uploads.
        Misconfigured: there is no secret, or neither an authorizer nor ``allow_anonymous``.

    Source: draft-ietf-httpbis-resumable-upload, interop version 8.
    """
    access = StreamAccess("ietf", actor_from_request, authorizer, allow_anonymous=allow_anonymous)
    uploads = IetfUploads(rindle.services, profile, secrets=secrets, max_size=max_size)
    return ResumableRouter(rindle, Call, uploads, access, path)
