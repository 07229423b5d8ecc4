"""The S3 routes of Uppy's Companion: ``@uppy/aws-s3`` uploads to a profile without a Companion server.

The flows are in :mod:`rindle.uploads.companion`. Paths, queries and JSON are those of the client, versions 4 to 6; the
access rules are those of the upload routes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, StringConstraints

from rindle.app import Rindle
from rindle.db.models import MAX_KEY_CHARS, utc_now
from rindle.errors import InvalidArgument, NotFound, RindleError
from rindle.http.access import Access, ActorFromRequest, CsrfCheck, actor_name, unknown_profile
from rindle.http.errors import RindleRoute, error_response
from rindle.http.routes import Route, router_of
from rindle.http.schemas import ClientText, Filename
from rindle.profile import Profile
from rindle.protocols import Authorizer, PresignedPost
from rindle.uploads import companion, multipart
from rindle.uploads.sessions import Upload, UploadRequest, no_such_upload

_SessionId = Annotated[ClientText, Path(max_length=64)]
_Key = Annotated[ClientText, Query(min_length=1, max_length=MAX_KEY_CHARS)]
_Type = Annotated[str, StringConstraints(max_length=255, pattern=r"^[ -~]*$")]
#: A field of the client's metadata in a query: ``metadata[name]=value``.
_METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)


def companion_router(
    rindle: Rindle,
    *,
    profile: str | type[Profile],
    actor_from_request: ActorFromRequest | None = None,
    authorizer: Authorizer | None = None,
    allow_anonymous: bool = False,
    csrf: CsrfCheck | None = None,
) -> APIRouter:
    """Return ``/s3`` with its sub-routes for one profile.

    ``app.include_router(companion_router(...), prefix="/photos")`` serves clients with ``endpoint`` (up to version 5.1
    of ``@uppy/aws-s3``) or ``companionEndpoint`` (later ones) at ``/photos``. Later ones send no header of their own:
    requests that a browser marks with ``Sec-Fetch-Site: same-origin`` are accepted without. For a page of another
    origin, let ``csrf`` compare ``Origin``.

    The authorizer is called with ``upload.create``, ``upload.sign``, ``upload.read``, ``upload.verify`` or
    ``upload.cancel``, and an ``UploadSubject``, as by the upload routes.

    Args:
        profile: the profile of all uploads of this router; an upload of another one answers ``not_found``.
        actor_from_request: returns the actor; see :class:`rindle.http.access.Access`.
        authorizer: decides about every action; without it actors can reach only their own uploads.
        allow_anonymous: confirms that there is no authorizer.
        csrf: accepts state-changing requests that are not of the same origin and lack the header ``X-Rindle: 1``.

    Raises:
        Misconfigured: the authorizer is missing, and ``allow_anonymous`` is not ``True``.
        UnknownProfile: the profile is not registered with ``rindle``.
    """
    chosen = rindle.profiles.get(profile)
    access = Access(
        rindle,
        profiles={chosen.name: chosen},
        actor_from_request=actor_from_request,
        authorizer=authorizer,
        allow_anonymous=allow_anonymous,
        csrf=csrf,
    )
    access.require_authorizer()
    return router_of(_ROUTES, _Companion(access, {None: chosen}), tag="companion")


def companion_routes(access: Access, names: Collection[str]) -> APIRouter:
    """Return ``/{profile}`` with the routes of :func:`companion_router`, for the profiles of these names."""
    access.require_authorizer()
    endpoints = _Companion(access, {name: access.profile(name) for name in names})
    router = APIRouter()
    router.include_router(router_of(_ROUTES, endpoints, tag="companion"), prefix="/{profile}")
    return router


class _CompanionRoute(RindleRoute):
    def refusal(self, error: RindleError) -> Response:
        """Repeat the message at the top, where Uppy looks for it."""
        return error_response(error, message=error.to_dict()["message"])


class _CompletionRoute(_CompanionRoute):
    """Takes a list of 10000 parts."""

    max_body_bytes = 1024 * 1024


class NewParts(BaseModel):
    """A file to be sent in parts."""

    filename: Annotated[Filename, StringConstraints(min_length=1)]
    type: _Type
    metadata: dict[str, Any] | None = None


class CompletedParts(BaseModel):
    """The client's list of parts."""

    parts: list[Any] | None = None


class _Companion:
    def __init__(self, access: Access, profiles: Mapping[str | None, type[Profile]]) -> None:
        """Serve the profile that the path names; ``None`` stands for a path that names none."""
        self._services = access.rindle.services
        self._rindle = access.rindle
        self._access = access
        self._profiles = profiles

    async def file(
        self,
        request: Request,
        filename: Annotated[Filename, Query(min_length=1)],
        type: Annotated[_Type | None, Query()] = None,
    ) -> Response:
        """Open an upload of one request, and say how to send it."""
        found = [(_METADATA.fullmatch(name), value) for name, value in request.query_params.multi_items()]
        metadata = {match[1]: value for match, value in found if match is not None}
        wanted = await self._wanted(request, filename, type, metadata)
        opened = await companion.open_file(self._services, self._profile(request), wanted)
        grant = opened.grant
        sent: dict[str, Any] = (
            {"method": "POST", "url": grant.url, "fields": dict(grant.fields)}
            if isinstance(grant, PresignedPost)
            else {"method": grant.method, "url": grant.url, "fields": {}, "headers": dict(grant.headers)}
        )
        session = opened.session
        named = {"key": session.upload_key, "session_id": session.id}
        return JSONResponse({**sent, "expires": _seconds_to(grant.expires_at), **named})

    async def create(self, request: Request, body: NewParts) -> Response:
        """Open an upload in parts."""
        wanted = await self._wanted(request, body.filename, body.type, body.metadata)
        # The client names neither the size nor that of its parts.
        opened = await multipart.initiate(self._services, self._profile(request), wanted)
        return JSONResponse({"key": opened.session.upload_key, "uploadId": opened.session.id})

    async def parts(self, request: Request, session_id: _SessionId, key: _Key) -> Response:
        """List the parts that the store has."""
        found = await self._allowed(request, "upload.read", session_id, key)
        stored = await multipart.parts_of(self._services, found)
        return JSONResponse(
            [{"PartNumber": part.part_number, "ETag": f'"{part.etag}"', "Size": part.size} for part in stored]
        )

    async def sign_batch(
        self,
        request: Request,
        session_id: _SessionId,
        key: _Key,
        numbers: Annotated[str, Query(alias="partNumbers", max_length=65536)],
    ) -> Response:
        """Sign several parts."""
        await self._check_forgery(request)
        found = await self._allowed(request, "upload.sign", session_id, key)
        signed = await companion.sign_parts(self._services, found, _numbers(numbers))
        return JSONResponse({"presignedUrls": {str(number): part.url for number, part in signed.items()}})

    async def sign(self, request: Request, session_id: _SessionId, part_number: int, key: _Key) -> Response:
        """Sign one part."""
        await self._check_forgery(request)
        found = await self._allowed(request, "upload.sign", session_id, key)
        part = (await companion.sign_parts(self._services, found, [part_number]))[part_number]
        return JSONResponse({"url": part.url, "expires": _seconds_to(part.expires_at)})

    async def complete(self, request: Request, session_id: _SessionId, key: _Key, body: CompletedParts) -> Response:
        """Make the object, and verify it."""
        await self._check_forgery(request)
        found = await self._allowed(request, "upload.verify", session_id, key)
        done = await companion.complete(self._services, found, body.parts)
        return JSONResponse(
            {
                "location": await companion.location_of(self._services, done),
                "key": done.session.upload_key,
                "session_id": done.session.id,
                "asset_id": done.asset.id,
                "state": done.session.state,
            }
        )

    async def abort(self, request: Request, session_id: _SessionId, key: _Key) -> Response:
        """Cancel an upload."""
        await self._check_forgery(request)
        found = await self._allowed(request, "upload.cancel", session_id, key)
        await self._rindle.cancel_upload(found.session.id)
        return JSONResponse({})

    async def credentials(self, request: Request) -> Response:
        """Refuse to hand out credentials of the store."""
        raise NotFound("credentials of the store are never handed out; leave getTemporarySecurityCredentials out")

    async def _wanted(
        self, request: Request, filename: str, content_type: str | None, metadata: dict[str, Any] | None
    ) -> UploadRequest:
        await self._check_forgery(request)
        actor = await self._access.actor(request)
        await self._access.allow_creation(request, actor, self._profile(request), filename, None)
        return UploadRequest(
            filename=filename,
            content_type=content_type or None,
            actor=actor_name(actor),
            metadata=companion.metadata_text(metadata),
        )

    async def _allowed(self, request: Request, action: str, session_id: str, key: str) -> Upload:
        actor = await self._access.actor(request)
        profile = self._profile(request)
        found = await companion.find(self._services, session_id, key)
        if found.asset.profile != profile.name:
            raise no_such_upload()
        return await self._access.allow_upload(request, actor, action, found)

    def _profile(self, request: Request) -> type[Profile]:
        name = request.path_params.get("profile")
        found = self._profiles.get(name)
        if found is None:
            raise unknown_profile(str(name))
        return found

    async def _check_forgery(self, request: Request) -> None:
        # Browsers set this header, and no script can: newer clients send none of their own.
        if request.headers.get("sec-fetch-site") != "same-origin":
            await self._access.check_forgery(request)


def _numbers(listed: str) -> list[int]:
    found = listed.split(",")
    if not all(number.isascii() and number.isdigit() and len(number) <= 5 for number in found):
        raise InvalidArgument(
            "partNumbers are numbers with commas between them, such as 1,2", detail={"option": "partNumbers"}
        )
    return [int(number) for number in found]


def _seconds_to(moment: datetime) -> int:
    return max(1, round((moment - utc_now()).total_seconds()))


def _route(method: str, path: str, endpoint: Any, name: str, route_class: type[RindleRoute] = _CompanionRoute) -> Route:
    # Not in the OpenAPI description: the contract is the client's, and an application may include several routers.
    options = {"include_in_schema": False, "route_class_override": route_class}
    return Route(method, path, endpoint, f"companion_{name}", endpoint.__doc__, options=options)


_ROUTES = (
    _route("GET", "/s3/params", _Companion.file, "file"),
    _route("GET", "/s3/sts", _Companion.credentials, "credentials"),
    _route("POST", "/s3/multipart", _Companion.create, "create"),
    _route("GET", "/s3/multipart/{session_id}", _Companion.parts, "parts"),
    # Before the next one, which would take it for a number.
    _route("GET", "/s3/multipart/{session_id}/batch", _Companion.sign_batch, "sign_batch"),
    _route("GET", "/s3/multipart/{session_id}/{part_number}", _Companion.sign, "sign"),
    _route("POST", "/s3/multipart/{session_id}/complete", _Companion.complete, "complete", _CompletionRoute),
    _route("DELETE", "/s3/multipart/{session_id}", _Companion.abort, "abort"),
)
