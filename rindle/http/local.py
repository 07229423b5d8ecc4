"""Serve and receive the objects of a ``LocalStorage`` over HTTP: the only route of Rindle that moves bytes.

``GET`` and ``HEAD`` follow RFC 9110 (one range, conditional requests), ``PUT`` redeems upload grants. The token in the
path is the whole authorisation: the application decided when it made the URL. Error responses are plain text.

Access logs of the process are scrubbed, because they contain the path. CORS headers and rate limits belong to the
application (its middleware). Other stores serve their own bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from rindle.capabilities import require_delivery
from rindle.errors import (
    InvalidKey,
    RindleError,
    StorageConflict,
    StorageNotFound,
    TemporarySpaceFull,
    Unauthorized,
    UploadError,
    UploadRejected,
)
from rindle.http.access_log import scrub_access_logs
from rindle.http.ranges import ByteRange, NoRange, parse_range
from rindle.plugins import call_hook
from rindle.security.mime import is_active_content, mime_of_extension
from rindle.security.storage_key import validate_key

if TYPE_CHECKING:
    from rindle.storage.disk import OpenObject
    from rindle.storage.local import LocalStorage

#: Bytes read from the disk and sent at a time.
CHUNK_BYTES = 64 * 1024
#: Seconds for which a shared cache may keep a public object; a public key is never written twice.
PUBLIC_MAX_AGE_SECONDS = 3600

#: Called as ``(name, metadata, measurements)``, such as ``rindle.telemetry.emit``.
Emit = Callable[[str, Mapping[str, Any], Mapping[str, float]], object]

_DEFAULT_TYPE = "application/octet-stream"
# On every response, also errors: no sniffing, no scripts, no address in the Referer of linked pages.
_GUARDS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-site",
}


#: Returns whether the object of a storage key is public.
IsPublic = Callable[[str], bool | Awaitable[bool]]
#: Returns whether the asset of a storage key was deleted.
IsGone = Callable[[str], bool | Awaitable[bool]]


def local_router(
    storage: LocalStorage,
    *,
    is_public: IsPublic | None = None,
    is_gone: IsGone | None = None,
    emit: Emit | None = None,
    strict_range_parsing: bool = False,
) -> APIRouter:
    """Return the routes behind the URLs of ``storage``; mount them at its ``base_url``.

    ``GET|HEAD|PUT /{token}``, and ``GET|HEAD /p/{profile_segment}/{key}`` when the storage has a ``public_base_url``
    (which is then the address of ``/p``) and ``is_public`` is given.

    Args:
        storage: made with ``base_url`` and ``secrets``.
        is_public: function or coroutine function that returns whether the object of a storage key is public; other
            keys answer like missing ones.
        is_gone: function or coroutine function that returns whether the asset of a storage key was deleted. Its URLs
            then answer 404 and its tickets 403, although they have not expired.
        emit: receives ``rindle.delivery.range_request`` and ``rindle.delivery.range_fallback``.
        strict_range_parsing: answer 416 to a malformed or multiple range, instead of the whole file.

    Raises:
        CapabilityUnsupported: ``delivery_unsupported``: the storage has no ``base_url``.
    """
    require_delivery(storage, "signed_url")
    scrub_access_logs()
    never: IsPublic = lambda key: False  # noqa: E731
    endpoint = _Endpoint(storage, is_public or never, is_gone or never, emit, strict_range_parsing)
    router = APIRouter(include_in_schema=False)
    if is_public is not None and "public_url" in storage.capabilities():
        router.add_api_route("/p/{profile_segment}/{key:path}", endpoint.public, methods=["GET", "HEAD"])
    router.add_api_route("/", endpoint.without_token, methods=["GET", "HEAD", "PUT"])
    router.add_api_route("/{token}", endpoint.signed, methods=["GET", "HEAD", "PUT"])
    return router


@dataclass(frozen=True, slots=True)
class _Delivery:
    """The object of a response, with its headers."""

    key: str
    content_type: str
    disposition: str | None
    cache_control: str


class _Endpoint:
    def __init__(
        self, storage: LocalStorage, is_public: IsPublic, is_gone: IsGone, emit: Emit | None, strict: bool
    ) -> None:
        self._storage = storage
        self._is_public = is_public
        self._is_gone = is_gone
        self._emit_to = emit
        self._strict = strict

    async def without_token(self) -> Response:
        return _refusal(403, "forbidden")

    async def signed(self, request: Request, token: str) -> Response:
        try:
            grant = self._storage.grant_of(token, request.method)
            if request.method == "PUT":
                if "content-range" in request.headers:
                    # A part must not be stored as the whole (RFC 9110 section 14.5).
                    return _refusal(400, "content-range is not supported")
                grant.check_content_type(request.headers.get("content-type"))
                grant.check_body_size(_announced_bytes(request), complete="content-length" in request.headers)
                async with aclosing(self._body(request, grant.key)) as body:  # a refusal leaves the body unfinished
                    # Nothing is awaited before: requests with one ticket reach the store in the order of arrival.
                    stored = await self._storage.receive(body, grant, require=partial(self._require_asset, grant.key))
                return Response(headers={**_GUARDS, "ETag": f'"{stored.etag}"'})
            if await call_hook(self._is_gone, grant.key):
                return _refusal(404, "not found")
            served = _Delivery(
                grant.key,
                grant.mime or _DEFAULT_TYPE,
                grant.disposition,
                f"private, max-age={max(0, grant.expires_at - int(time()))}",
            )
            return await self._serve(request, served)
        except ClientDisconnect:
            return _refusal(400, "incomplete body")  # the client has disconnected
        except RindleError as error:
            return _answer_to(error)

    async def _body(self, request: Request, key: str) -> AsyncGenerator[bytes, None]:
        """Yield the body of a PUT; its asset must still exist when the last byte has arrived."""
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                yield chunk
        await self._require_asset(key)

    async def _require_asset(self, key: str) -> None:
        if await call_hook(self._is_gone, key):
            raise Unauthorized("the asset of this ticket was deleted", detail={"reason": "gone"})

    async def public(self, request: Request, profile_segment: str, key: str) -> Response:
        full_key = f"{profile_segment}/{key}"
        try:
            validate_key(full_key)  # the application's function may look the key up in a database
        except InvalidKey:
            return _refusal(404, "not found")
        if not await call_hook(self._is_public, full_key):
            return _refusal(404, "not found")
        _, dot, extension = full_key.rpartition("/")[2].rpartition(".")
        content_type = (mime_of_extension(extension) if dot else None) or _DEFAULT_TYPE
        served = _Delivery(full_key, content_type, None, f"public, max-age={PUBLIC_MAX_AGE_SECONDS}")
        try:
            return await self._serve(request, served)
        except RindleError as error:
            return _answer_to(error)

    async def _serve(self, request: Request, served: _Delivery) -> Response:
        opened = await self._storage.open(served.key)
        response: Response | None = None
        try:
            response = self._respond(request, served, opened)
            return response
        finally:
            if not isinstance(response, _ObjectResponse):  # only that one sends bytes, and closes the object itself
                await opened.close()

    def _respond(self, request: Request, served: _Delivery, opened: OpenObject) -> Response:
        headers = {
            **_GUARDS,
            "Accept-Ranges": "bytes",
            "Cache-Control": served.cache_control,
            "ETag": f'"{opened.etag}"',
            "Last-Modified": format_datetime(datetime.fromtimestamp(opened.modified_at, UTC), usegmt=True),
        }
        if _is_unchanged(request, opened):
            return Response(status_code=304, headers=headers)
        headers["Content-Type"] = served.content_type
        disposition = _safe_disposition(served)
        if disposition is not None:
            headers["Content-Disposition"] = disposition
        status, first, length = 200, 0, opened.size
        found = self._range_of(request, served.key, opened)
        if found is NoRange.UNSATISFIABLE or (found is NoRange.UNPARSEABLE and self._strict):
            refusal = _refusal(
                416, NoRange.UNPARSEABLE.value if found is NoRange.UNPARSEABLE else "range not satisfiable"
            )
            refusal.headers["Content-Range"] = f"bytes */{opened.size}"
            return refusal
        if isinstance(found, ByteRange):
            status, first, length = 206, found.first, found.length
            headers["Content-Range"] = found.content_range(opened.size)
        headers["Content-Length"] = str(length)
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        return _ObjectResponse(opened, first, length, status, headers)

    def _range_of(self, request: Request, key: str, opened: OpenObject) -> ByteRange | NoRange:
        """Return the range to send, and emit it as telemetry."""
        lines = request.headers.getlist("range")
        # Range is ignored with another method (RFC 9110 section 14.2), or when If-Range names another version.
        if request.method != "GET" or not lines or not _if_range_holds(request, opened):
            return NoRange.WHOLE
        found = parse_range(", ".join(lines), opened.size)
        facts = {"profile": key.partition("/")[0], "adapter": self._storage.adapter_name}
        if isinstance(found, ByteRange):
            numbers = {"offset": found.first, "length": found.length, "file_size": opened.size}
            self._emit("rindle.delivery.range_request", facts, numbers)
        elif found is NoRange.UNPARSEABLE:
            self._emit("rindle.delivery.range_fallback", {**facts, "reason": str(found)}, {})
        return found

    def _emit(self, name: str, metadata: Mapping[str, Any], measurements: Mapping[str, float]) -> None:
        if self._emit_to is not None:
            self._emit_to(name, metadata, measurements)


class _ObjectResponse(StreamingResponse):
    """A part of an open object, closed when sent. A client that disconnects causes no error."""

    def __init__(self, opened: OpenObject, first: int, length: int, status: int, headers: Mapping[str, str]) -> None:
        self._opened = opened
        self._pieces = opened.pieces(first, length, CHUNK_BYTES)
        super().__init__(self._pieces, status_code=status, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._pieces):  # a client that disconnects leaves it unfinished
                await super().__call__(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            await self._opened.close()


def _is_unchanged(request: Request, opened: OpenObject) -> bool:
    """Whether the client's copy is current (RFC 9110 section 13.2.2: the date counts only without an ETag)."""
    tags = request.headers.getlist("if-none-match")
    if tags:
        named = [tag.strip() for line in tags for tag in line.split(",")]
        return any(tag == "*" or tag.removeprefix("W/") == f'"{opened.etag}"' for tag in named)
    since = _moment(request.headers.get("if-modified-since"))
    return since is not None and opened.modified_at <= since


def _if_range_holds(request: Request, opened: OpenObject) -> bool:
    """Whether ``If-Range`` is absent or names exactly this version (RFC 9110 section 13.1.5: weak tags never match)."""
    condition = request.headers.get("if-range")
    if condition is None:
        return True
    if condition.strip().startswith(('"', "W/")):
        return condition.strip() == f'"{opened.etag}"'
    return _moment(condition) == opened.modified_at


def _moment(http_date: str | None) -> int | None:
    """Return an HTTP date as seconds since the epoch; ``None`` when it is missing or unreadable."""
    try:
        parsed = None if http_date is None else parsedate_to_datetime(http_date)
        # A date without a zone is GMT, as every HTTP date (RFC 9110 section 5.6.7).
        return None if parsed is None else int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _safe_disposition(served: _Delivery) -> str | None:
    """Return the disposition to send: HTML, SVG, XML and scripts are always attachments."""
    if not is_active_content(served.content_type):
        return served.disposition
    _, semicolon, parameters = (served.disposition or "").partition(";")
    return f"attachment{semicolon}{parameters}"


def _announced_bytes(request: Request) -> int:
    """Return ``Content-Length``, to refuse a body of the wrong size before it is sent; 0 when unknown."""
    announced = request.headers.get("content-length", "0")
    return int(announced) if announced.isascii() and announced.isdigit() else 0


def _answer_to(error: RindleError) -> Response:
    if isinstance(error, StorageNotFound):
        return _refusal(404, "not found")
    if isinstance(error, Unauthorized | InvalidKey):
        refusal = _refusal(403, "forbidden")
        if error.detail.get("reason") == "expired":
            refusal.headers["X-Rindle-Reason"] = "expired"
        return refusal
    if isinstance(error, UploadRejected):
        return _refusal(413 if error.code == "max_bytes_exceeded" else 400, error.code)
    if isinstance(error, StorageConflict):
        return _refusal(412, error.code)
    if isinstance(error, UploadError | TemporarySpaceFull):
        return _refusal(error.http_status, error.code)
    return _refusal(503 if error.retryable else 500, error.code)


def _refusal(status: int, text: str) -> Response:
    return PlainTextResponse(text, status, headers={**_GUARDS, "Cache-Control": "no-store"})
