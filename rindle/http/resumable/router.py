"""The ASGI application of one mount: which verb handles a request, and what a refusal looks like.

It is not made of FastAPI routes: a body is never read before the upload, the actor and the headers are known, and never
as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import quote

from fastapi import Request, Response
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from rindle.app import Rindle
from rindle.errors import InvalidArgument, RindleError, TusError
from rindle.http.access import ActorFromRequest
from rindle.http.access_log import scrub_access_logs
from rindle.http.errors import translated
from rindle.http.resumable.append import patch
from rindle.http.resumable.call import Call, problem_response
from rindle.http.resumable.create import create
from rindle.http.resumable.messages import (
    PARTIAL_TYPE,
    InconsistentLength,
    Problem,
    inconsistent_length,
    mismatching_offset,
    problem_of,
    too_large,
)
from rindle.http.resumable.upload import delete, head, options
from rindle.http.streams.access import StreamAccess
from rindle.http.streams.body import RequestBody
from rindle.profile import Profile
from rindle.protocols import Authorizer
from rindle.uploads.ietf import IetfUploads
from rindle.uploads.streams import MAX_SIZE_BYTES

Verb = Callable[[Call], Awaitable[Response]]

#: The verbs of the mount itself, and those of one upload.
_ON_MOUNT: Mapping[str, Verb] = {"OPTIONS": options, "POST": create}
_ON_UPLOAD: Mapping[str, Verb] = {"OPTIONS": options, "HEAD": head, "GET": head, "PATCH": patch, "DELETE": delete}
#: On every response, also errors.
_GUARDS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
#: Statuses that differ from those of tus: its clients repeat 423, which those of the draft take as final, and 460 is
#: its own.
_STATUSES: Mapping[str, int] = {"tus_locked": 503, "tus_checksum_mismatch": 400}


class ResumableRouter:
    """The ASGI application that :func:`resumable_router` returns."""

    def __init__(self, rindle: Rindle, uploads: IetfUploads, access: StreamAccess, path: str | None) -> None:
        self._rindle = rindle
        self._uploads = uploads
        self._access = access
        self._path = None if path is None else path.rstrip("/")

    @property
    def uploads(self) -> IetfUploads:
        """The uploads of this mount."""
        return self._uploads

    @property
    def access(self) -> StreamAccess:
        """Who may create and continue them."""
        return self._access

    @property
    def path(self) -> str | None:
        """Where clients reach the mount, if the application has said so."""
        return self._path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
            return
        request = Request(scope, receive)
        body = RequestBody(receive, request.headers)
        root = scope.get("root_path", "")
        call = Call(
            request=request,
            token=scope["path"].removeprefix(root).strip("/"),
            mount=quote(root.rstrip("/")) if self._path is None else self._path,
            body=body,
            uploads=self._uploads,
            access=self._access,
            scratch=self._rindle.settings.scratch,
            send=send,
        )
        try:
            response = await _answered(call)
        except Exception as error:
            problem = _problem(call, error)
            if problem is None:
                raise
            response = problem_response(problem)
            await body.drain()
        for name, value in _GUARDS.items():
            response.headers[name] = value
        await response(scope, receive, send)


async def _answered(call: Call) -> Response:
    verbs = _ON_UPLOAD if call.token else _ON_MOUNT
    verb = verbs.get(call.request.method)
    if verb is None:
        method = call.request.method[:20]
        raise TusError(f"{method} is not a request of this address", code="tus_method_not_allowed")
    return await verb(call)


def _problem(call: Call, error: Exception) -> Problem | None:
    """Return the response to an error, ``None`` when it is the application's own."""
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
        found.http_status = _STATUSES.get(found.code, found.http_status)
    problem = problem_of(found)
    return Problem(problem.status, problem.body, {**problem.headers, **_hints(call, found)})


def _hints(call: Call, error: RindleError) -> dict[str, str]:
    """Return the headers by which a client learns what to do instead."""
    hints = {}
    if error.retry_after is not None:
        hints["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.code == "tus_method_not_allowed":
        hints["Allow"] = ", ".join(_ON_UPLOAD if call.token else _ON_MOUNT)
    if error.code == "tus_content_type_unsupported" and call.request.method == "PATCH":
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
    scrub_access_logs()
    return ResumableRouter(rindle, uploads, access, path)
