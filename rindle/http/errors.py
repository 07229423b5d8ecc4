"""Error responses: one shape, ``{"error": {"code", "message", "detail"}}``, with the HTTP status of the code.

The route class makes them, not an exception handler of the application, so a router also works when it is included
into a host application, whose own error responses stay as they are.
"""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message

from rindle.errors import CODES, InspectionFailed, InvalidArgument, RindleError, UploadRejected, http_status_of
from rindle.security import scrub

log = logging.getLogger(__name__)

#: Largest body of a JSON route in bytes: real bodies have a few hundred bytes, and they are read into memory.
MAX_JSON_BYTES = 64 * 1024
#: ``Retry-After`` in seconds of a retryable error without a wait of its own.
RETRY_SECONDS = 5

#: Error codes of every route with arguments and an actor.
COMMON_CODES = ("invalid_argument", "unauthorized", "unauthenticated", "unexpected", "inspection_failed")

#: Responses belong to one actor and may hold a signed URL.
NO_STORE = {"Cache-Control": "no-store"}


class ErrorFacts(BaseModel):
    """What went wrong."""

    code: str = Field(description="Stable identifier of the error, for programs.", examples=["not_found"])
    message: str = Field(description="Sentence for people; its wording may change.")
    detail: dict[str, Any] = Field(description="Facts such as the limit, the value found and the state.")


class ErrorAnswer(BaseModel):
    """Body of every error response."""

    error: ErrorFacts


def documented(*codes: str, common: Collection[str] = COMMON_CODES) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a route: its error codes and the common ones, by status.

    ``common`` replaces the common codes on routes without arguments and actor.
    """
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*codes, *common)):
        if code not in CODES:
            raise ValueError(f"unknown error code {code!r}")
        by_status.setdefault(http_status_of(code), []).append(f"`{code}`")
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted(by_status):
        described: dict[str, Any] = {"model": ErrorAnswer, "description": ", ".join(by_status[status])}
        if status == 503:
            described["headers"] = {
                "Retry-After": {"description": "Seconds to wait before a retry.", "schema": {"type": "integer"}}
            }
        found[status] = described
    # This also removes FastAPI's own 422 from the description; these routes never return it.
    found["default"] = {"model": ErrorAnswer, "description": "Any other error."}
    return found


def error_response(error: RindleError, **beside: Any) -> Response:
    """Return the response to an error: its status, code, message and detail, never its cause.

    ``beside`` are further fields of the body.
    """
    status = int(error.http_status)
    headers = dict(NO_STORE)
    if error.retry_after is not None or (error.retryable and status in (429, 503)):
        wait = RETRY_SECONDS if error.retry_after is None else error.retry_after
        headers["Retry-After"] = str(max(1, math.ceil(wait)))
    return JSONResponse({"error": error.to_dict(), **beside}, status, headers)


class RindleRoute(APIRoute):
    """A route with our error responses, and with responses that are not cached.

    An ``HTTPException`` of the application's own callables is left to the application.
    """

    #: Largest request body in bytes; ``None`` when the endpoint limits it itself.
    max_body_bytes: int | None = MAX_JSON_BYTES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                if self.max_body_bytes is not None:
                    request = limited(request, self.max_body_bytes)
                response = await handle(request)
            except Exception as error:
                found = translated(error)
                if found is None:
                    raise
                return self.refusal(found)
            response.headers.setdefault("Cache-Control", "no-store")
            return response

        return answer

    def refusal(self, error: RindleError) -> Response:
        """Return the response to an error."""
        return error_response(error)


def limited(request: Request, max_bytes: int) -> Request:
    """Return ``request`` with a body that raises ``max_bytes_exceeded`` once it is longer than ``max_bytes``.

    Raises:
        UploadRejected: ``max_bytes_exceeded``, at once when ``Content-Length`` is larger.
    """
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit():
        _check_length(int(announced[:19]), max_bytes)
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            _check_length(received, max_bytes)
        return message

    return Request(request.scope, receive)


def _check_length(found: int, max_bytes: int) -> None:
    if found > max_bytes:
        raise UploadRejected(
            f"the request body is larger than the limit of {max_bytes} bytes",
            code="max_bytes_exceeded",
            detail={"limit": max_bytes},
        )


def translated(error: Exception) -> RindleError | None:
    """Return the error of the response, or ``None`` when it is the application's own."""
    if isinstance(error, RindleError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        return _unreadable(error)
    if isinstance(error, ClientDisconnect):
        # The client has disconnected: the response is not read.
        return InvalidArgument("the body is incomplete", detail={"option": "body"})
    _log(error)
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        return InspectionFailed("the database did not answer; try again")
    return _UnexpectedError(error)


class _UnexpectedError(RindleError):
    """The response to an unexpected exception: its class, none of its text."""

    def __init__(self, error: Exception) -> None:
        super().__init__("an unexpected error occurred", detail={"error": type(error).__name__})


def _unreadable(error: HTTPException) -> RindleError | None:
    """Return the cause of FastAPI's "error parsing the body", or ``None`` for any other ``HTTPException``."""
    if error.status_code != 400 or error.detail != "There was an error parsing the body":
        return None
    if isinstance(error.__cause__, RindleError):
        return error.__cause__
    return InvalidArgument("the body cannot be read", detail={"option": "body"})


def _invalid(error: RequestValidationError) -> InvalidArgument:
    """Describe the problem of each invalid option; values are left out, they may be secrets or very long."""
    problems = [_problem(found) for found in error.errors()[:20]]
    summary = "; ".join(f"{one['option']}: {one['problem']}" for one in problems)
    return InvalidArgument(
        f"the request is invalid: {summary}",
        detail={"option": problems[0]["option"] if problems else "body", "problems": problems},
    )


def _problem(found: Mapping[str, Any]) -> dict[str, str]:
    # A key of a JSON body may hold half of a surrogate pair, which no response can encode.
    where = [str(part).encode(errors="replace").decode() for part in found.get("loc", ())]
    # The first part is the location (body, query, path, header).
    named = where[1:] if len(where) > 1 and found.get("type") != "json_invalid" else where[:1]
    return {"option": ".".join(named)[:200] or "body", "problem": str(found.get("msg", ""))[:200]}


def _log(error: Exception) -> None:
    # The whole traceback, without the credentials that a driver may have put into its text.
    trace = scrub("".join(traceback.format_exception(error)))
    log.error("unexpected error in a route\n%s", trace, extra={"error": type(error).__name__})
