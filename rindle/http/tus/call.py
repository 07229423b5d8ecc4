"""One request on its way through a verb of the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request, Response

from rindle.http.access import actor_name
from rindle.http.tus.access import TusAccess
from rindle.http.tus.body import RequestBody
from rindle.http.tus.headers import http_date
from rindle.states import SessionState
from rindle.uploads.tus import FINAL, OPEN, PARTIAL, MediaUploadSession, Stream, TusUploads, source_ids


@dataclass(slots=True)
class TusCall:
    """A request, and what its verb needs.

    Attributes:
        method: after ``X-HTTP-Method-Override``.
        token: what follows the mount path; empty for the mount itself.
        mount: path of the mount on this site, without a slash at its end.
        scratch: directory for temporary files.
    """

    request: Request
    method: str
    token: str
    mount: str
    body: RequestBody
    uploads: TusUploads
    access: TusAccess
    scratch: Path
    actor: Any = None

    @property
    def actor_name(self) -> str | None:
        """The actor as rows store it."""
        return actor_name(self.actor)

    def header(self, name: str) -> str | None:
        """Return a request header."""
        return self.request.headers.get(name)

    async def stream(self) -> Stream:
        """Return the upload of the URL, if it is alive and the actor may continue it.

        Raises:
            TusError: there is no such upload, or it has ended.
            Unauthenticated, Unauthorized: the URL has expired; the authorizer denies.
        """
        found = await self.uploads.find(self.token)
        self.actor = await self.access.actor(self.request)
        await self.access.allow_resuming(self.actor, self.uploads.profile.name, found, self.method)
        return found

    def location(self, upload: MediaUploadSession) -> str:
        """Return the path of an upload on this site."""
        return f"{self.mount}/{self.uploads.token_of(upload.id, upload.actor)}"

    def concat(self, upload: MediaUploadSession) -> str | None:
        """Return ``Upload-Concat`` as it was received; the tokens are signed again, since no row keeps them."""
        if upload.concat_role == PARTIAL:
            return "partial"
        if upload.concat_role != FINAL:
            return None
        tokens = {one: self.uploads.token_of(one, upload.actor) for one in source_ids(upload)}
        return "final;" + " ".join(one["prefix"] + tokens[one["session_id"]] for one in upload.concat_sources)


def expiry(upload: MediaUploadSession) -> dict[str, str]:
    """Return ``Upload-Expires`` of an upload that expires."""
    waits = upload.state in OPEN or (upload.concat_role == PARTIAL and upload.state == SessionState.UPLOADED)
    return {"Upload-Expires": http_date(upload.expires_at)} if waits else {}


def done(headers: dict[str, str]) -> Response:
    """Return the response to a request that succeeded without a body."""
    return Response(status_code=204, headers=headers)
