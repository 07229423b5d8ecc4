"""How a request is refused: a status, Mux's type of error, and sentences for people."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response


class Refusal(Exception):
    """Raised by whoever finds the fault; answered as ``{"error": {"type": ..., "messages": [...]}}``."""

    def __init__(self, status: int, kind: str, *messages: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(kind, *messages)
        self.status = status
        self.kind = kind
        self.messages = messages
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Return the answer."""
        body = {"error": {"type": self.kind, "messages": list(self.messages)}}
        return JSONResponse(body, self.status, headers=self.headers)


def invalid(*messages: str) -> Refusal:
    """Return the refusal of a body or a parameter."""
    return Refusal(400, "invalid_parameters", *messages)


def not_found() -> Refusal:
    """Return the refusal of an id that is not there; Mux does not tell it from one of another account."""
    return Refusal(404, "not_found", "The requested resource either doesn't exist or you don't have access to it.")


def answer_refusal(request: Request, refusal: Exception) -> Response:
    """Handle a refusal for Starlette."""
    assert isinstance(refusal, Refusal)
    response = refusal.response()
    if not request.url.path.startswith(("/video/", "/system/")):
        response.headers["Access-Control-Allow-Origin"] = "*"  # a player on a page must see why
    return response
