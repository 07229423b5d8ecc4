"""Serve ``rindle.js``, the browser client: uploads with progress and live events, without dependencies."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from fastapi import APIRouter, Request, Response

#: Seconds for which a browser may use its copy without revalidation; the routes stay compatible for longer.
MAX_AGE_SECONDS = 3600


def script_router() -> APIRouter:
    """Return ``GET|HEAD /rindle.js``: an ES module, open to everyone, the same bytes for all.

    Source: RFC 9239 (``text/javascript``), RFC 9110 section 13.1.2 (``If-None-Match``).
    """
    body = files("rindle.http").joinpath("static", "rindle.js").read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {
        "Cache-Control": f"public, max-age={MAX_AGE_SECONDS}",
        "ETag": etag,
        "X-Content-Type-Options": "nosniff",
    }

    async def script(request: Request) -> Response:
        known = [tag.strip() for line in request.headers.getlist("if-none-match") for tag in line.split(",")]
        if any(tag == "*" or tag.removeprefix("W/") == etag for tag in known):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type="text/javascript")

    router = APIRouter(include_in_schema=False)
    router.add_api_route("/rindle.js", script, methods=["GET", "HEAD"])
    return router
