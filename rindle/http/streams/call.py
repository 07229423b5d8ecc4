"""One request on its way through a verb of a protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from fastapi import Request
from starlette.types import Send

from rindle.http.access import actor_name
from rindle.http.streams.access import StreamAccess
from rindle.http.streams.body import RequestBody
from rindle.uploads.streams import MediaUploadSession, Stream, StreamUploads

U = TypeVar("U", bound=StreamUploads)


@dataclass
class StreamCall(Generic[U]):
    """A request, and what its verb needs.

    Attributes:
        method: as the protocol understands it, which may allow to override that of the request.
        token: what follows the mount path; empty for the mount itself.
        mount: path of the mount on this site, without a slash at its end.
        uploads: the uploads of the mount.
        scratch: directory for temporary files.
    """

    request: Request
    method: str
    token: str
    mount: str
    body: RequestBody
    uploads: U
    access: StreamAccess
    scratch: Path
    send: Send
    actor: Any = None

    @property
    def actor_name(self) -> str | None:
        """The actor as rows store it."""
        return actor_name(self.actor)

    def header(self, name: str) -> str | None:
        """Return a request header."""
        return self.request.headers.get(name)

    def location(self, upload: MediaUploadSession) -> str:
        """Return the path of an upload on this site."""
        return f"{self.mount}/{self.uploads.token_of(upload.id, upload.actor)}"

    async def stream(self) -> Stream:
        """Return the upload of the URL, if it is alive and the actor may continue it.

        Raises:
            TusError: there is no such upload, or it has ended.
            Unauthenticated, Unauthorized: the URL has expired; the authorizer denies.
        """
        found = await self.uploads.find(self.token)
        self.actor = await self.access.actor(self.request)
        await self.allow_resuming(found)
        return found

    async def allow_resuming(self, found: Stream) -> None:
        """Return if the actor may continue an upload.

        Raises:
            Unauthorized: the authorizer denies.
        """
        await self.access.allow_resuming(self.actor, self.uploads.profile.name, found, self.method)
