"""The lanes of ``POST /uploads``: how each one opens an upload, and with what a client continues it.

A lane has one function per table; another one is added with its own module and a line in each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rindle.errors import InvalidArgument
from rindle.http.schemas import (
    GrantJson,
    MultipartJson,
    NewUpload,
    OpenedUpload,
    ResumableJson,
    SessionJson,
    StreamJson,
)
from rindle.http.streams.mount import Mounts, StreamGrant
from rindle.profile import Profile
from rindle.services import Services
from rindle.states import SessionState
from rindle.uploads import direct, multipart, resumable
from rindle.uploads.sessions import Upload, UploadRequest, lane_of

#: Ended and verified uploads have nothing to continue.
_LIVE = frozenset({SessionState.INITIALIZED, SessionState.SIGNED, SessionState.RESUMING, SessionState.UPLOADING})


@dataclass(frozen=True, slots=True)
class Opening:
    """A request to open an upload, which ``actor`` may open.

    Attributes:
        body: the request as it was sent.
        origin: of the page that sends the bytes.
    """

    profile: type[Profile]
    request: UploadRequest
    body: NewUpload
    origin: str | None
    actor: Any


_Opener = Callable[[Opening], Awaitable[OpenedUpload]]
_Continuer = Callable[[Upload, bool], OpenedUpload]


class Lanes:
    """The lanes of one router."""

    def __init__(self, services: Services, mounts: Mounts) -> None:
        self._services = services
        self._mounts = mounts
        #: How each strategy opens an upload.
        self._openers: Mapping[str, _Opener] = {
            "presigned_put": self._put,
            "multipart": self._multipart,
            "resumable": self._resumable,
            "tus": self._stream,
            "ietf": self._stream,
        }
        #: With what the upload of each lane is continued. A presigned PUT starts again with a new URL; a session URI is
        #: only in the answer to the request that opened the upload, also repeated.
        self._continuers: Mapping[str, _Continuer] = {
            "multipart": self._parts,
            "tus": self._known_stream,
            "ietf": self._known_stream,
        }

    async def opened(self, opening: Opening) -> OpenedUpload:
        """Open an upload in the lane that the request names.

        Raises:
            CapabilityUnsupported: the profile's storage does not have the lane, or the router has no mount for it.
            InvalidArgument: the request has an option of another lane.
        """
        if opening.body.part_size is not None and opening.body.strategy != "multipart":
            raise InvalidArgument("only multipart uploads have a part_size", detail={"option": "part_size"})
        return await self._openers[opening.body.strategy](opening)

    def continued(self, upload: Upload, *, is_own: bool) -> OpenedUpload:
        """Return an upload with what a reloaded page needs to continue it, while it is live.

        Args:
            is_own: whether the actor opened the upload. Who may only read it gets no credential to write.
        """
        lane = self._continuers.get(lane_of(upload.session)) if upload.session.state in _LIVE else None
        return _shown(upload) if lane is None else lane(upload, is_own)

    async def _put(self, opening: Opening) -> OpenedUpload:
        signed = await direct.initiate_and_sign(self._services, opening.profile, opening.request)
        return OpenedUpload(session=SessionJson.of(signed.session), upload=GrantJson.of(signed.presigned))

    async def _multipart(self, opening: Opening) -> OpenedUpload:
        found = await multipart.initiate(
            self._services, opening.profile, opening.request, part_size=opening.body.part_size
        )
        return OpenedUpload(session=SessionJson.of(found.session), multipart=MultipartJson.of(found.multipart))

    def _parts(self, upload: Upload, is_own: bool) -> OpenedUpload:
        if upload.session.multipart_upload_id is None:
            return _shown(upload)
        begun = MultipartJson.of(multipart.grant_of(upload.session))
        return OpenedUpload(session=SessionJson.of(upload.session), multipart=begun)

    async def _resumable(self, opening: Opening) -> OpenedUpload:
        # The page's own origin: the store answers no other page's browser.
        found = await resumable.initiate(self._services, opening.profile, opening.request, origin=opening.origin)
        return OpenedUpload(session=SessionJson.of(found.session), resumable=ResumableJson.of(found.resumable))

    async def _stream(self, opening: Opening) -> OpenedUpload:
        protocol = opening.body.strategy
        return _granted(await self._mounts.open(protocol, opening.profile, opening.actor, opening.request))

    def _known_stream(self, upload: Upload, is_own: bool) -> OpenedUpload:
        grant = self._mounts.known(upload) if is_own else None
        return _shown(upload) if grant is None else _granted(grant)


def _shown(upload: Upload) -> OpenedUpload:
    return OpenedUpload(session=SessionJson.of(upload.session))


def _granted(grant: StreamGrant) -> OpenedUpload:
    return OpenedUpload.model_validate({"session": SessionJson.of(grant.session), grant.protocol: StreamJson.of(grant)})
