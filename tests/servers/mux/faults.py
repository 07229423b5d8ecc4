"""Requests that go wrong on purpose: too many, a broken server, no answer, an answer that gets lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TYPES = {401: "unauthorized", 403: "forbidden", 404: "not_found", 429: "too_many_requests"}


@dataclass
class Fault:
    """A fault that is due.

    Attributes:
        method: of the requests it meets.
        path: their path; ``*`` stands for anything.
        times: how often it happens yet.
        status: of the answer; ``None`` for the server's own, which then only comes late.
        headers: of the answer.
        is_done_first: the request has its effect, and only the answer is lost.
        is_silent: no answer comes before :meth:`Faults.answer_the_silent`.
    """

    method: str
    path: str
    times: int
    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_done_first: bool = False
    is_silent: bool = False


class Faults:
    """ASGI middleware that answers in the place of the server, and remembers every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._due: list[Fault] = []
        self._awake = asyncio.Event()
        #: Method and path of every request, in the order they came.
        self.requests: list[tuple[str, str]] = []

    def plan(self, fault: Fault) -> None:
        """Let the next requests that fit meet ``fault``; faults that fit the same request come one after another."""
        self._due.append(fault)

    def forget(self) -> None:
        """Let no further request fail."""
        self._due.clear()

    def answer_the_silent(self) -> None:
        """Answer all requests that wait for their silent fault to end."""
        self._awake.set()
        self._awake = asyncio.Event()

    def _next(self, method: str, path: str) -> Fault | None:
        for fault in self._due:
            if fault.times and fault.method == method and fnmatchcase(path, fault.path):
                fault.times -= 1
                return fault
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self.requests.append((scope["method"], scope["path"]))
        fault = self._next(scope["method"], scope["path"])
        if fault is None:
            await self._app(scope, receive, send)
            return
        if fault.is_done_first:
            await self._app(scope, receive, _nowhere)
        if fault.is_silent:
            await self._awake.wait()
        if fault.status is None:
            await self._app(scope, receive, send)
            return
        kind = _TYPES.get(fault.status, "server_error")
        body = {"error": {"type": kind, "messages": ["This request was made to fail."]}}
        headers = dict(fault.headers)
        origin = Headers(scope=scope).get("origin")
        if origin and not scope["path"].startswith(("/video/", "/system/")):
            # Stores and players' servers let a page read their errors too; without this a browser sees no status.
            headers["Access-Control-Allow-Origin"] = origin
        await JSONResponse(body, fault.status, headers=headers)(scope, receive, send)


async def _nowhere(message: Message) -> None:
    """Lose an answer."""
