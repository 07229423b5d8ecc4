"""The route of the status of a resumable session: where a client continues."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request

from rindle.http.access import Access
from rindle.http.routes import Route
from rindle.http.schemas import ClientText, ResumableAnswer
from rindle.uploads import resumable, sessions

_SessionId = Annotated[ClientText, Path(max_length=64, description="Id of an upload session.")]
_ClientOffset = Annotated[
    int | None,
    Query(
        ge=0,
        le=2**63 - 1,
        description="Byte at which the client would continue; `offset_mismatch` unless the store has as many.",
    ),
]


class StoreSessions:
    """The endpoint, by the access rules of the upload routes."""

    def __init__(self, access: Access) -> None:
        self._services = access.rindle.services
        self._access = access

    async def show(
        self, request: Request, session_id: _SessionId, client_offset: _ClientOffset = None
    ) -> ResumableAnswer:
        """Return how many bytes the store has; progress extends the session. Verify the upload when all are there."""
        actor = await self._access.actor(request)
        found = await sessions.find_upload(self._services, session_id)
        allowed = await self._access.allow_upload(request, actor, "upload.read", found)
        return ResumableAnswer.of(await resumable.status_of(self._services, allowed, client_offset=client_offset))


ROUTES = (
    Route(
        "GET",
        "/uploads/{session_id}/resumable",
        StoreSessions.show,
        "get_resumable_status",
        "Show how far a resumable upload is",
        ResumableAnswer,
        errors=(
            *("not_found", "offset_mismatch", "session_uri_unknown", "session_uri_expired"),
            *("resumable_upload_not_initialized", "upload_cancelled", "upload_session_expired", "upload_unsupported"),
            *("state_conflict", "storage_transient", "storage_adapter_exception"),
        ),
    ),
)
