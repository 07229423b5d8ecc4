"""Routes of uploads to streaming providers: the browser sends the bytes of a video to the provider itself."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request
from fastapi.responses import Response

from rindle.errors import InvalidCorsOrigin
from rindle.http.access import Access, actor_name
from rindle.http.routes import Route
from rindle.http.schemas import ClientText, DirectUploadAnswer, NewDirectUpload
from rindle.uploads import to_provider
from rindle.uploads.to_provider import DirectUploadRequest

_AssetId = Annotated[ClientText, Path(max_length=64, description="Id of an asset.")]

#: What a provider may answer, and what its credentials lack.
_PROVIDER = ("streaming_not_configured", "provider_sync_failed", "provider_quota_exceeded", "missing_config")


class DirectUploads:
    """The endpoints, by the access rules of the upload routes."""

    def __init__(self, access: Access) -> None:
        self._services = access.rindle.services
        self._access = access

    async def create(self, request: Request, body: NewDirectUpload) -> DirectUploadAnswer:
        """Open an upload at the streaming provider of the profile.

        Send the bytes to `upload_url` in chunks, for example with UpChunk. That they were sent does not mean that the
        video can be played: follow the asset until it is `ready`. Each attempt needs an upload of its own.
        """
        await self._access.check_forgery(request)
        actor = await self._access.actor(request)
        profile = self._access.profile(body.profile)
        await self._access.allow_creation(request, actor, profile, body.filename, None, action="direct.create")
        origin = body.cors_origin if body.cors_origin is not None else request.headers.get("origin")
        if origin is None:
            raise InvalidCorsOrigin(
                "the request has no header Origin: name the origin of the page as cors_origin",
                detail={"option": "cors_origin"},
            )
        wanted = DirectUploadRequest(cors_origin=origin, filename=body.filename, actor=actor_name(actor))
        made = await to_provider.create_direct_upload(self._services, profile, wanted)
        return DirectUploadAnswer(upload_url=made.upload_url, asset_id=made.asset_id)

    async def cancel(self, request: Request, asset_id: _AssetId) -> Response:
        """Cancel an upload whose bytes have not arrived; repeating it is safe."""
        await self._access.check_forgery(request)
        actor = await self._access.actor(request)
        asset = await to_provider.direct_asset(self._services, asset_id)
        await self._access.allow_direct_upload(request, actor, "direct.cancel", asset)
        await to_provider.cancel_direct_upload(self._services, asset)
        return Response(status_code=204)


ROUTES = (
    Route(
        "POST",
        "/uploads/direct",
        DirectUploads.create,
        "create_direct_upload",
        "Open an upload to the streaming provider",
        DirectUploadAnswer,
        status=201,
        errors=(
            *("unknown_profile", "invalid_cors_origin", "extension_not_allowed", "missing_extension"),
            *("upload_cancelled", "state_conflict", *_PROVIDER),
        ),
    ),
    Route(
        "DELETE",
        "/uploads/direct/{asset_id}",
        DirectUploads.cancel,
        "cancel_direct_upload",
        "Cancel an upload to the streaming provider",
        status=204,
        errors=("not_found", "not_cancellable", "state_conflict", *_PROVIDER),
        options={"response_class": Response},
    ),
)
