"""The lanes of ``POST /uploads``: how each one opens an upload, and with what a client continues it.

A lane has one function per table; another one is added with its own module and a line in each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import Request

from rindle.db.models import MediaUploadSession
from rindle.errors import CapabilityUnsupported, InvalidArgument
from rindle.http.schemas import GrantJson, MultipartJson, NewUpload, OpenedUpload, ResumableJson, SessionJson
from rindle.profile import Profile
from rindle.services import Services
from rindle.states import SessionState
from rindle.uploads import direct, multipart, resumable
from rindle.uploads.sessions import Upload, UploadRequest

#: Opens an upload: ``(services, profile, request, body, http_request)``.
Opener = Callable[[Services, type[Profile], UploadRequest, NewUpload, Request], Awaitable[OpenedUpload]]
#: Returns an upload with what its client continues with.
Continuer = Callable[[MediaUploadSession], OpenedUpload]

#: The capability that each strategy of ``NewUpload`` needs.
_CAPABILITIES = {"multipart": "multipart_upload", "resumable": "resumable_upload", "tus": "tus_upload"}
#: Ended and verified uploads have nothing to continue.
_LIVE = frozenset({SessionState.INITIALIZED, SessionState.SIGNED, SessionState.RESUMING, SessionState.UPLOADING})


async def opened(
    services: Services, profile: type[Profile], request: UploadRequest, body: NewUpload, http_request: Request
) -> OpenedUpload:
    """Open an upload in the lane that ``body`` names.

    Raises:
        CapabilityUnsupported: there is no such lane, or the profile's storage does not have it.
        InvalidArgument: the body has an option of another lane.
    """
    if body.part_size is not None and body.strategy != "multipart":
        raise InvalidArgument("only multipart uploads have a part_size", detail={"option": "part_size"})
    lane = LANES.get(body.strategy)
    if lane is None:
        raise CapabilityUnsupported(
            f"uploads by {body.strategy} are not supported; use {' or '.join(LANES)}",
            capability=_CAPABILITIES[body.strategy],
        )
    return await lane(services, profile, request, body, http_request)


def continued(upload: Upload) -> OpenedUpload:
    """Return an upload with what a reloaded page needs to continue it, while it is live."""
    session = upload.session
    lane = CONTINUED.get(session.upload_strategy) if session.state in _LIVE else None
    return OpenedUpload(session=SessionJson.of(session)) if lane is None else lane(session)


async def _put(
    services: Services, profile: type[Profile], request: UploadRequest, body: NewUpload, http_request: Request
) -> OpenedUpload:
    signed = await direct.initiate_and_sign(services, profile, request)
    return OpenedUpload(session=SessionJson.of(signed.session), upload=GrantJson.of(signed.presigned))


async def _multipart(
    services: Services, profile: type[Profile], request: UploadRequest, body: NewUpload, http_request: Request
) -> OpenedUpload:
    found = await multipart.initiate(services, profile, request, part_size=body.part_size)
    return _parts(found.session)


def _parts(session: MediaUploadSession) -> OpenedUpload:
    begun = None if session.multipart_upload_id is None else MultipartJson.of(multipart.grant_of(session))
    return OpenedUpload(session=SessionJson.of(session), multipart=begun)


async def _resumable(
    services: Services, profile: type[Profile], request: UploadRequest, body: NewUpload, http_request: Request
) -> OpenedUpload:
    # The page's own origin: the store answers no other page's browser.
    found = await resumable.initiate(services, profile, request, origin=http_request.headers.get("origin"))
    return OpenedUpload(session=SessionJson.of(found.session), resumable=ResumableJson.of(found.resumable))


#: How each strategy opens an upload.
LANES: Mapping[str, Opener] = {"presigned_put": _put, "multipart": _multipart, "resumable": _resumable}
#: With what the upload of each ``upload_strategy`` is continued. A presigned PUT starts again with a new URL; a session
#: URI is a credential to write, which who may read the upload does not get.
CONTINUED: Mapping[str, Continuer] = {"multipart": _parts}
