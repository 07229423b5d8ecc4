"""tus 1.0.0 at one mount: its verbs, its version header, its refusals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ClassVar

from fastapi import Request, Response
from pydantic import SecretStr

from rindle.app import Rindle
from rindle.errors import TusError
from rindle.http.access import ActorFromRequest
from rindle.http.errors import error_response, translated
from rindle.http.streams.access import StreamAccess
from rindle.http.streams.router import StreamRouter
from rindle.http.tus.call import TusCall
from rindle.http.tus.create import create
from rindle.http.tus.delete import delete
from rindle.http.tus.head import head
from rindle.http.tus.headers import VERSION
from rindle.http.tus.options import options
from rindle.http.tus.patch import patch
from rindle.profile import Profile
from rindle.protocols import Authorizer
from rindle.uploads.streams import MAX_SIZE_BYTES
from rindle.uploads.tus import TusUploads

Verb = Callable[[TusCall], Awaitable[Response]]

#: The verbs of the mount itself, and those of one upload.
_ON_MOUNT: Mapping[str, Verb] = {"OPTIONS": options, "POST": create}
_ON_UPLOAD: Mapping[str, Verb] = {"OPTIONS": options, "HEAD": head, "PATCH": patch, "DELETE": delete}


class TusRouter(StreamRouter[TusCall]):
    """The ASGI application that :func:`tus_router` returns."""

    guards: ClassVar[Mapping[str, str]] = {"Tus-Resumable": VERSION, **StreamRouter.guards}

    def verbs(self, call: TusCall) -> Mapping[str, Verb]:
        """Return the verbs of the mount or of an upload."""
        return _ON_UPLOAD if call.token else _ON_MOUNT

    def method_of(self, request: Request) -> str:
        """Return the method after the override that the protocol has for clients which can only send POST."""
        override = request.headers.get("x-http-method-override")
        method = override.upper() if override is not None and request.method == "POST" else request.method
        # Proxies turn HEAD into GET; nothing else of the protocol is a GET.
        return "HEAD" if method == "GET" and "tus-resumable" in request.headers else method

    def check(self, call: TusCall) -> None:
        """Refuse another version of the protocol.

        Raises:
            TusError: ``tus_version_unsupported``.
        """
        if call.method != "OPTIONS" and call.header("tus-resumable") != VERSION:
            raise TusError(f"send Tus-Resumable: {VERSION}", code="tus_version_unsupported")

    def refusal(self, call: TusCall, error: Exception) -> Response | None:
        """Return the response to an error: the body of all routes, and the version where another one was sent."""
        found = translated(error)
        if found is None:
            return None
        response = error_response(found)
        if found.code == "tus_version_unsupported":
            response.headers["Tus-Version"] = VERSION
        return response


def tus_router(
    rindle: Rindle,
    *,
    profile: str | type[Profile],
    secrets: Sequence[str | SecretStr] = (),
    max_size: int = MAX_SIZE_BYTES,
    actor_from_request: ActorFromRequest | None = None,
    authorizer: Authorizer | None = None,
    allow_anonymous: bool = False,
    path: str | None = None,
) -> TusRouter:
    """Return an ASGI application that takes tus uploads of one profile: ``app.mount("/files", tus_router(...))``.

    The authorizer is called with ``tus.create`` or ``tus.resume`` and an ``UploadSubject``. Without one, whoever has
    the URL of an upload can continue it. Middleware must not read the body. The bytes pass through this process into
    the storage of the profile; memory does not grow with the file.

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

    Source: tus resumable upload protocol 1.0.0.
    """
    access = StreamAccess("tus", actor_from_request, authorizer, allow_anonymous=allow_anonymous)
    uploads = TusUploads(rindle.services, profile, secrets=secrets, max_size=max_size)
    return TusRouter(rindle, TusCall, uploads, access, path)
