"""The ASGI application of one mount: which verb handles a request, and what a refusal looks like.

It is not made of FastAPI routes: a body is never read before the upload, the actor and the headers are known, and never
as a whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import quote

from fastapi import Request, Response
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from rindle.app import Rindle
from rindle.errors import TusError
from rindle.http.access import ActorFromRequest
from rindle.http.access_log import scrub_access_logs
from rindle.http.errors import error_response, translated
from rindle.http.streams.access import StreamAccess
from rindle.http.streams.body import RequestBody
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
#: On every response, also errors.
_GUARDS = {"Tus-Resumable": VERSION, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class TusRouter:
    """The ASGI application that :func:`tus_router` returns."""

    def __init__(self, rindle: Rindle, uploads: TusUploads, access: StreamAccess, path: str | None) -> None:
        self._rindle = rindle
        self._uploads = uploads
        self._access = access
        self._path = None if path is None else path.rstrip("/")

    @property
    def uploads(self) -> TusUploads:
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
        try:
            response = await self._response(request, body)
        except Exception as error:
            found = translated(error)
            if found is None:
                raise
            response = error_response(found)
            if isinstance(error, TusError) and error.code == "tus_version_unsupported":
                response.headers["Tus-Version"] = VERSION
            await body.drain()
        for name, value in _GUARDS.items():
            response.headers[name] = value
        await response(scope, receive, send)

    async def _response(self, request: Request, body: RequestBody) -> Response:
        root = request.scope.get("root_path", "")
        rest = request.scope["path"].removeprefix(root).strip("/")
        method = self._method(request)
        if method != "OPTIONS" and request.headers.get("tus-resumable") != VERSION:
            raise TusError(f"send Tus-Resumable: {VERSION}", code="tus_version_unsupported")
        verb = (_ON_UPLOAD if rest else _ON_MOUNT).get(method)
        if verb is None:
            raise TusError(f"{method[:20]} is not a request of this address", code="tus_method_not_allowed")
        call = TusCall(
            request=request,
            method=method,
            token=rest,
            mount=quote(root.rstrip("/")) if self._path is None else self._path,
            body=body,
            uploads=self._uploads,
            access=self._access,
            scratch=self._rindle.settings.scratch,
        )
        return await verb(call)

    def _method(self, request: Request) -> str:
        override = request.headers.get("x-http-method-override")
        method = override.upper() if override is not None and request.method == "POST" else request.method
        # Proxies turn HEAD into GET; nothing else of the protocol is a GET.
        return "HEAD" if method == "GET" and "tus-resumable" in request.headers else method


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
    scrub_access_logs()
    return TusRouter(rindle, uploads, access, path)
