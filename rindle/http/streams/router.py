"""The ASGI application of one mount: which verb handles a request, and how a refusal becomes a response.

It is not made of FastAPI routes: a body is never read before the upload, the actor and the headers are known, and never
as a whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from rindle.app import Rindle
from rindle.errors import TusError
from rindle.http.access_log import scrub_access_logs
from rindle.http.streams.access import StreamAccess
from rindle.http.streams.body import RequestBody
from rindle.http.streams.call import StreamCall
from rindle.uploads.streams import StreamUploads

C = TypeVar("C", bound=StreamCall[Any])


class StreamRouter(ABC, Generic[C]):
    """The ASGI application of one mount. A subclass is one protocol: its verbs, its headers, its refusals.

    Args:
        rindle: the application.
        call: makes the call of a request from the attributes of :class:`StreamCall`.
        uploads: the uploads of the mount.
        access: its access rules.
        path: path of the mount as clients see it, without a slash at the end; ``None`` for the path at which it is
            mounted.
    """

    #: Headers of every response, also of errors.
    guards: ClassVar[Mapping[str, str]] = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

    def __init__(
        self, rindle: Rindle, call: Callable[..., C], uploads: StreamUploads, access: StreamAccess, path: str | None
    ) -> None:
        self._rindle = rindle
        self._call = call
        self.uploads = uploads
        self.access = access
        self.path = None if path is None else path.rstrip("/")
        scrub_access_logs()

    @abstractmethod
    def verbs(self, call: C) -> Mapping[str, Callable[[C], Awaitable[Response]]]:
        """Return the verbs of the address of a request, by method."""

    @abstractmethod
    def refusal(self, call: C, error: Exception) -> Response | None:
        """Return the response to an error, ``None`` when it is the application's own."""

    def method_of(self, request: Request) -> str:
        """Return the method of a request."""
        return request.method

    def check(self, call: C) -> None:
        """Refuse a request that is not one of the protocol.

        Raises:
            TusError: it is none.
        """

    def finish(self, call: C, response: Response) -> None:
        """Add what a response has beside :attr:`guards`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
            return
        request, root = Request(scope, receive), scope.get("root_path", "")
        call = self._call(
            request=request,
            method=self.method_of(request),
            token=scope["path"].removeprefix(root).strip("/"),
            mount=quote(root.rstrip("/")) if self.path is None else self.path,
            body=RequestBody(receive, request.headers),
            uploads=self.uploads,
            access=self.access,
            scratch=self._rindle.settings.scratch,
            send=send,
        )
        try:
            response = await self._answered(call)
        except Exception as error:
            refused = self.refusal(call, error)
            if refused is None:
                raise
            response = refused
            await call.body.drain()
        response.headers.update(self.guards)
        self.finish(call, response)
        await response(scope, receive, send)

    async def _answered(self, call: C) -> Response:
        self.check(call)
        verb = self.verbs(call).get(call.method)
        if verb is None:
            raise TusError(f"{call.method[:20]} is not a request of this address", code="tus_method_not_allowed")
        return await verb(call)
