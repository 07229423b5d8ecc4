"""Mux's REST API: the paths, the access token, and pages of lists.

Source: Mux's API reference; the paths and parameters are those of the Python SDK.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.mux import shapes
from tests.servers.mux.account import POLICIES, Account, PlaybackId, checked_settings, metadata_faults, new_id
from tests.servers.mux.refusals import Refusal, invalid, not_found

#: Rows of a page, and without a word from the caller.
LARGEST_PAGE, DEFAULT_PAGE = 100, 25

Handler = Callable[[Request], Awaitable[Response]]
Row = TypeVar("Row")


class Api:
    """The answers.

    Args:
        account: whose.
    """

    def __init__(self, account: Account) -> None:
        self._account = account

    def routes(self) -> list[Route]:
        """Return the paths."""
        video, asset = "/video/v1", "/video/v1/assets/{asset_id}"
        table: list[tuple[str, str, Handler]] = [
            ("POST", f"{video}/assets", self.create_asset),
            ("GET", f"{video}/assets", self.list_assets),
            ("GET", asset, self.get_asset),
            ("PATCH", asset, self.update_asset),
            ("DELETE", asset, self.delete_asset),
            ("GET", f"{asset}/input-info", self.get_input_info),
            ("POST", f"{asset}/playback-ids", self.create_playback_id),
            ("GET", f"{asset}/playback-ids/{{playback_id}}", self.get_playback_id),
            ("DELETE", f"{asset}/playback-ids/{{playback_id}}", self.delete_playback_id),
            ("GET", f"{video}/playback-ids/{{playback_id}}", self.find_by_playback_id),
            ("POST", f"{video}/uploads", self.create_upload),
            ("GET", f"{video}/uploads", self.list_uploads),
            ("GET", f"{video}/uploads/{{upload_id}}", self.get_upload),
            ("PUT", f"{video}/uploads/{{upload_id}}/cancel", self.cancel_upload),
        ]
        for keys in (f"{video}/signing-keys", "/system/v1/signing-keys"):
            table += [
                ("POST", keys, self.create_key),
                ("GET", keys, self.list_keys),
                ("GET", f"{keys}/{{key_id}}", self.get_key),
                ("DELETE", f"{keys}/{{key_id}}", self.delete_key),
            ]
        return [Route(path, self._guarded(handler), methods=[method]) for method, path, handler in table]

    def _guarded(self, handler: Handler) -> Handler:
        """Let only the access token in."""

        async def guarded(request: Request) -> Response:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            expected = f"{self._account.token_id}:{self._account.token_secret}".encode()
            try:
                told = base64.b64decode(given, validate=True)
            except binascii.Error:
                told = b""
            if scheme.lower() != "basic" or not hmac.compare_digest(told, expected):
                raise Refusal(401, "unauthorized", "Unauthorized request")
            return await handler(request)

        return guarded

    # --- assets ---

    async def create_asset(self, request: Request) -> Response:
        asset = self._account.create_asset(await _body(request))
        return _data(shapes.asset(asset), 201)

    async def list_assets(self, request: Request) -> Response:
        rows = self._account.newest_assets(upload_id=request.query_params.get("upload_id"))
        if request.query_params.get("live_stream_id"):
            rows = []
        limit = _number(request, "limit", DEFAULT_PAGE, LARGEST_PAGE)
        if cursor := request.query_params.get("cursor"):
            # A cursor names the last row that was told, so that new assets shift nothing.
            ids = [row.id for row in rows]
            if cursor not in ids:
                raise invalid("cursor: is not one of this list")
            rows = rows[ids.index(cursor) + 1 :]
            page = rows[:limit]
        else:
            page = _page(request, rows)
        more = bool(page) and page[-1] is not rows[-1]
        return JSONResponse({"data": [shapes.asset(row) for row in page], "next_cursor": page[-1].id if more else None})

    async def get_asset(self, request: Request) -> Response:
        return _data(shapes.asset(self._account.asset(request.path_params["asset_id"])))

    async def update_asset(self, request: Request) -> Response:
        asset, body = self._account.asset(request.path_params["asset_id"]), await _body(request)
        changes = checked_settings({name: body[name] for name in ("passthrough", "meta") if name in body})
        if faults := metadata_faults(changes.get("meta", {})):
            raise invalid(*faults)
        asset.settings.update(changes)
        return _data(shapes.asset(asset))

    async def delete_asset(self, request: Request) -> Response:
        self._account.delete_asset(request.path_params["asset_id"])
        return Response(status_code=204)

    async def get_input_info(self, request: Request) -> Response:
        return _data(shapes.input_info(self._account.asset(request.path_params["asset_id"])))

    # --- playback ids ---

    async def create_playback_id(self, request: Request) -> Response:
        asset, body = self._account.asset(request.path_params["asset_id"]), await _body(request)
        policy = body.get("policy")
        if policy not in POLICIES or policy == "drm":
            raise invalid("policy: must be public or signed")
        address = PlaybackId(new_id(), policy)
        asset.playback_ids.append(address)
        return _data(shapes.playback_id(address), 201)

    async def get_playback_id(self, request: Request) -> Response:
        return _data(shapes.playback_id(self._address(request)))

    async def delete_playback_id(self, request: Request) -> Response:
        address = self._address(request)
        self._account.asset(request.path_params["asset_id"]).playback_ids.remove(address)
        return Response(status_code=204)

    def _address(self, request: Request) -> PlaybackId:
        asset = self._account.asset(request.path_params["asset_id"])
        for address in asset.playback_ids:
            if address.id == request.path_params["playback_id"]:
                return address
        raise not_found()

    async def find_by_playback_id(self, request: Request) -> Response:
        asset, address = self._account.playback(request.path_params["playback_id"])
        return _data({**shapes.playback_id(address), "object": {"id": asset.id, "type": "asset"}})

    # --- direct uploads ---

    async def create_upload(self, request: Request) -> Response:
        return _data(shapes.upload(self._account.create_upload(await _body(request))), 201)

    async def list_uploads(self, request: Request) -> Response:
        rows = [self._account.upload(upload_id) for upload_id in reversed(self._account.uploads)]
        return _data([shapes.upload(row) for row in _page(request, rows)])

    async def get_upload(self, request: Request) -> Response:
        return _data(shapes.upload(self._account.upload(request.path_params["upload_id"])))

    async def cancel_upload(self, request: Request) -> Response:
        return _data(shapes.upload(self._account.cancel_upload(request.path_params["upload_id"])))

    # --- signing keys ---

    async def create_key(self, request: Request) -> Response:
        return _data(shapes.signing_key(self._account.new_signing_key(), with_private=True), 201)

    async def list_keys(self, request: Request) -> Response:
        return _data([shapes.signing_key(key) for key in _page(request, list(self._account.keys.values()))])

    async def get_key(self, request: Request) -> Response:
        key = self._account.keys.get(request.path_params["key_id"])
        if key is None:
            raise not_found()
        return _data(shapes.signing_key(key))

    async def delete_key(self, request: Request) -> Response:
        if self._account.keys.pop(request.path_params["key_id"], None) is None:
            raise not_found()
        return Response(status_code=204)


def _data(data: object, status: int = 200) -> Response:
    return JSONResponse({"data": data}, status)


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise invalid("The body must be a JSON object.")
    return body


def _number(request: Request, name: str, default: int, largest: int | None = None) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or int(text) < 1 or (largest is not None and int(text) > largest):
        raise invalid(f"{name}: must be a number from 1" + (f" to {largest}" if largest is not None else ""))
    return int(text)


def _page(request: Request, rows: Sequence[Row]) -> Sequence[Row]:
    limit = _number(request, "limit", DEFAULT_PAGE, LARGEST_PAGE)
    begin = (_number(request, "page", 1) - 1) * limit
    return rows[begin : begin + limit]
