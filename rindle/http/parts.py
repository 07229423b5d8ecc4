"""Routes of the parts of multipart uploads."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request

from rindle.http.access import Access
from rindle.http.routes import Route
from rindle.http.schemas import ClientText, PartGrantJson, PartJson, PartsAnswer
from rindle.uploads import multipart, sessions
from rindle.uploads.sessions import Upload

_SessionId = Annotated[ClientText, Path(max_length=64, description="Id of an upload session.")]
_PartNumber = Annotated[int, Path(description="From 1 to 10000, or to the number of parts of the declared size.")]


class Parts:
    """The endpoints, by the access rules of the upload routes."""

    def __init__(self, access: Access) -> None:
        self._services = access.rindle.services
        self._access = access

    async def sign(self, request: Request, session_id: _SessionId, part_number: _PartNumber) -> PartGrantJson:
        """Return the URL of one PUT. Signing again returns a new URL; a part that is sent again replaces the first."""
        await self._access.check_forgery(request)
        found = await self._allowed(request, "upload.sign", session_id)
        return PartGrantJson.of((await multipart.sign(self._services, found, part_number)).presigned)

    async def show(self, request: Request, session_id: _SessionId) -> PartsAnswer:
        """Return the parts that the store has, by their numbers: a reloaded page sends only the others."""
        found = await self._allowed(request, "upload.read", session_id)
        stored = await multipart.parts_of(self._services, found)
        return PartsAnswer([PartJson.of(part) for part in stored])

    async def _allowed(self, request: Request, action: str, session_id: str) -> Upload:
        actor = await self._access.actor(request)
        upload = await sessions.find_upload(self._services, session_id)
        return await self._access.allow_upload(request, actor, action, upload)


ROUTES = (
    Route(
        "POST",
        "/uploads/{session_id}/parts/{part_number}/sign",
        Parts.sign,
        "sign_upload_part",
        "Sign the PUT of one part",
        PartGrantJson,
        errors=(
            *("not_found", "invalid_part_number", "multipart_upload_not_initialized", "invalid_transition"),
            *("upload_session_expired", "upload_unsupported", "state_conflict"),
            *("storage_transient", "storage_adapter_exception"),
        ),
    ),
    Route(
        "GET",
        "/uploads/{session_id}/parts",
        Parts.show,
        "list_upload_parts",
        "List the parts that have arrived",
        PartsAnswer,
        errors=(
            *("not_found", "multipart_upload_not_initialized", "upload_cancelled", "upload_session_expired"),
            *("upload_unsupported", "storage_not_found", "storage_transient", "storage_adapter_exception"),
        ),
    ),
)
