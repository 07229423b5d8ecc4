"""Interim responses under uvicorn, which by itself sends no other than 100.

ASGI has no message for a response with status 104. This protocol of uvicorn adds one, by the extension
``rindle.http.interim``; the routes use it where it is offered. Without it, clients that send the whole file with the
creation do not learn where to continue, and everything else is the same.
"""

from __future__ import annotations

from typing import Any, Final

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from rindle.http.resumable.call import INTERIM

_REASONS: Final = {104: b"Upload Resumption Supported"}


class InterimProtocol(H11Protocol):
    """HTTP/1.1 of uvicorn, with interim responses: ``uvicorn --http rindle.http.resumable.interim:InterimProtocol``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.app: Any = self._offering(self.app)

    def _offering(self, app: ASGIApp) -> ASGIApp:
        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["http_version"] == "1.0":  # whose clients understand no 1xx
                await app(scope, receive, send)
                return
            cycle = self.cycle

            async def sending(message: Message) -> None:
                if message["type"] != INTERIM:
                    await send(message)
                elif not cycle.disconnected and not cycle.response_started and not self.transport.is_closing():
                    status = message["status"]
                    headers = message["headers"]
                    event = h11.InformationalResponse(
                        status_code=status, headers=headers, reason=_REASONS.get(status, b"")
                    )
                    self.transport.write(self.conn.send(event) or b"")

            await app({**scope, "extensions": {**(scope.get("extensions") or {}), INTERIM: {}}}, receive, sending)

        return run
