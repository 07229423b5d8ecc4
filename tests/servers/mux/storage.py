"""The URLs of direct uploads, which are Google Cloud Storage's resumable sessions: one PUT, or one for each chunk.

Source: Google's guide on resumable uploads (308 with ``Range``, multiples of 256 KiB, ``bytes */total`` asks where it
stands) and Mux's guide on direct uploads (``cors_origin``; a cancelled upload that still arrives becomes no asset).
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tests.servers.mux.account import Account, Upload

#: Bytes are kept in multiples of this, but for the last ones.
QUANTUM_BYTES = 256 * 1024

_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-(?P<last>\d+)|\*)/(?P<total>\d+|\*)")
#: How many bytes a browser may read of an answer besides the simple ones.
_EXPOSED = "Content-Length, Content-Type, Range, X-GUploader-UploadID"


class UploadUrls:
    """The answers.

    Args:
        account: whose uploads.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def routes(self) -> list[Route]:
        """Return the path."""
        return [Route("/mux-uploads/{upload_id}", self.answer, methods=["PUT", "OPTIONS"])]

    async def answer(self, request: Request) -> Response:
        """Take bytes, say how many there are, or answer the question of a browser."""
        upload = self._account.upload_by_url(
            request.path_params["upload_id"],
            request.query_params.get("Expires", ""),
            request.query_params.get("Signature", ""),
        )
        if upload is None:
            return _xml(403, "SignatureDoesNotMatch", "Access denied.")
        if request.method == "OPTIONS":
            response = Response(status_code=200)
            response.headers["Access-Control-Allow-Methods"] = "PUT"
            response.headers["Access-Control-Max-Age"] = "3600"
            if asked := request.headers.get("access-control-request-headers"):
                response.headers["Access-Control-Allow-Headers"] = asked
        else:
            async with self._turns[upload.id]:
                response = await self._put(request, upload)
        origin = request.headers.get("origin")
        if origin is not None and upload.cors_origin in (origin, "*"):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED
            response.headers["Vary"] = "Origin"
        return response

    async def _put(self, request: Request, upload: Upload) -> Response:
        if upload.status == "timed_out":
            return _xml(400, "ExpiredToken", "Invalid argument: the signed URL has expired.")
        if upload.is_complete:
            return _empty(200)
        header = request.headers.get("content-range")
        first, last, total = 0, None, None
        if header is not None:
            told = _RANGE.fullmatch(header.strip())
            if told is None:
                return _plain(400, "Failed to parse Content-Range header.")
            total = None if told["total"] == "*" else int(told["total"])
            if told["first"] is None:
                return self._standing(upload, total)
            first, last = int(told["first"]), int(told["last"])
            if last < first or (total is not None and last >= total):
                return _plain(400, "Failed to parse Content-Range header.")
        if first > upload.offset:
            return _plain(
                503,
                f"Invalid request. According to the Content-Range header, the upload offset is {first} byte(s), "
                f"which exceeds already uploaded size of {upload.offset} byte(s).",
            )
        arrived, is_whole = await _take(request, upload, first)
        if not is_whole:
            # Nobody hears this answer: what arrived before the line broke is kept all the same.
            _keep(upload, first + arrived)
            return Response(status_code=499)
        if last is not None and arrived != last - first + 1:
            return _plain(400, f"Invalid request. There were {arrived} byte(s) in the request body.")
        if last is None or total == last + 1:
            upload.offset = first + arrived
            with upload.file.open("r+b") as file:
                file.truncate(upload.offset)
            self._account.upload_has_arrived(upload)
            return _empty(200)
        _keep(upload, first + arrived)
        return _incomplete(upload)

    def _standing(self, upload: Upload, total: int | None) -> Response:
        """Answer ``bytes */total``, which also ends an upload whose bytes are all here."""
        if total is not None and total == upload.offset:
            self._account.upload_has_arrived(upload)
            return _empty(200)
        return _incomplete(upload)


async def _take(request: Request, upload: Upload, first: int) -> tuple[int, bool]:
    """Write a body from byte ``first`` on; return how many bytes came and whether the sender finished."""
    arrived = 0
    with upload.file.open("r+b") as file:
        file.seek(first)
        try:
            async for data in request.stream():
                file.write(data)
                arrived += len(data)
        except ClientDisconnect:
            return arrived, False
    return arrived, True


def _keep(upload: Upload, end: int) -> None:
    upload.offset = max(upload.offset, end - end % QUANTUM_BYTES)


def _incomplete(upload: Upload) -> Response:
    headers = {"Range": f"bytes=0-{upload.offset - 1}"} if upload.offset else {}
    return _empty(308, headers)


def _empty(status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer without a body. Google's servers name this type; without any, browsers parse it as XML."""
    return Response(status_code=status, headers=headers, media_type="text/html")


def _plain(status: int, message: str) -> Response:
    return Response(message, status, media_type="text/plain")


def _xml(status: int, code: str, message: str) -> Response:
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(body, status, media_type="application/xml")
