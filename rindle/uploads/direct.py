"""Direct uploads: a ticket and a signed PUT or form. No bytes pass through the application.

The rules of all lanes (rows, idempotency keys, verification of arrival) are in :mod:`rindle.uploads.sessions`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.orm import Session

from rindle import outbox
from rindle.capabilities import capabilities_of, require_upload
from rindle.db import uploads as rows
from rindle.db.ids import SessionOrId
from rindle.db.models import MediaUploadSession
from rindle.db.uploads import Upload
from rindle.errors import CapabilityUnsupported, InvalidArgument, InvalidTransition
from rindle.profile import Profile
from rindle.protocols import MAX_URL_SECONDS, Presigned, PresignedPost, Storage
from rindle.security import UploadPolicy, granted_type
from rindle.services import Services
from rindle.states import SessionState
from rindle.uploads import sessions
from rindle.uploads.sessions import UploadRequest

_STRATEGY = "presigned_put"
#: Capability of a store that takes the bytes of this lane as a form.
_FORM = "presigned_post"

Grant = TypeVar("Grant", Presigned, PresignedPost)
#: Signs the grant of an upload for a number of seconds.
_Presign = Callable[[Storage, Upload, UploadPolicy, int], Awaitable[Grant]]


@dataclass(frozen=True, slots=True)
class SignedUpload:
    """A session and the grant to PUT its object."""

    session: MediaUploadSession
    presigned: Presigned


@dataclass(frozen=True, slots=True)
class SignedForm:
    """A session and the grant to send its object as a form."""

    session: MediaUploadSession
    form: PresignedPost


async def initiate_upload(
    services: Services, profile: str | type[Profile], request: UploadRequest
) -> MediaUploadSession:
    """Open an upload session; see ``Rindle.initiate_upload``."""
    return (await sessions.open_upload(services, _new_upload(services, profile, request, _STRATEGY))).session


async def initiate_and_sign(services: Services, profile: str | type[Profile], request: UploadRequest) -> SignedUpload:
    """Open an upload session and sign its PUT, as :func:`initiate_upload` and :func:`sign_url` do, in one transaction.

    The URL is signed before the rows are stored: when the store cannot sign, no rows are left. A repeated call with an
    idempotency key signs a new URL for the first session, which must still be live.
    """
    new = _new_upload(services, profile, request, _STRATEGY)
    return SignedUpload(*await _open_signed(services, new, _put))


async def initiate_and_sign_form(
    services: Services, profile: str | type[Profile], request: UploadRequest
) -> SignedForm:
    """Open an upload session and sign a form for its bytes, as :func:`initiate_and_sign` does with a PUT.

    Raises:
        CapabilityUnsupported: the profile's storage takes no forms; no row was written.
    """
    new = _new_upload(services, profile, request, _FORM)
    return SignedForm(*await _open_signed(services, new, _form))


def takes_forms(services: Services, profile: type[Profile]) -> bool:
    """Whether the profile's storage has what :func:`initiate_and_sign_form` needs."""
    return _FORM in capabilities_of(services.storage(profile))


def _new_upload(services: Services, profile: str | type[Profile], request: UploadRequest, capability: str) -> Upload:
    chosen = services.profile(profile)
    require_upload(services.storage(chosen), capability)
    return sessions.requested_upload(services.settings, chosen, request, strategy=_STRATEGY)


async def _open_signed(services: Services, new: Upload, presign: _Presign[Grant]) -> tuple[MediaUploadSession, Grant]:
    new_session_id = new.session.id
    granted = await _presign(services, new, services.settings.presigned_put_ttl_seconds, presign)
    opened = await sessions.open_upload(services, new, signed_until=granted.expires_at)
    if opened.session.id != new_session_id:
        return await _sign(services, opened, _url_ttl(services, None), presign)
    return opened.session, granted


async def sign_url(services: Services, session_id: SessionOrId, *, expires_in: int | None = None) -> SignedUpload:
    """Sign a PUT for a live session; see ``Rindle.sign_url``."""
    wanted = _url_ttl(services, expires_in)
    return SignedUpload(*await _sign(services, await sessions.find_upload(services, session_id), wanted, _put))


async def sign(services: Services, upload: Upload) -> SignedUpload:
    """Sign a PUT for an upload that was just read, as :func:`sign_url` does."""
    return SignedUpload(*await _sign(services, upload, _url_ttl(services, None), _put))


def _url_ttl(services: Services, expires_in: int | None) -> int:
    wanted = services.settings.presigned_put_ttl_seconds if expires_in is None else expires_in
    if isinstance(wanted, bool) or not 1 <= wanted <= MAX_URL_SECONDS:
        raise InvalidArgument(
            f"expires_in of a signed URL must be between 1 and {MAX_URL_SECONDS} seconds",
            detail={"option": "expires_in", "found": wanted},
        )
    return wanted


async def _sign(
    services: Services, upload: Upload, wanted_seconds: int, presign: _Presign[Grant]
) -> tuple[MediaUploadSession, Grant]:
    session_id, state = upload.session.id, upload.session.state
    if state not in (SessionState.INITIALIZED, SessionState.SIGNED, SessionState.UPLOADING):
        raise InvalidTransition(
            f"an upload in state {state} cannot be signed again; start a new one",
            detail={"entity": "MediaUploadSession", "from": state, "to": SessionState.SIGNED.value},
        )
    if upload.session.upload_strategy != _STRATEGY:
        raise CapabilityUnsupported(
            f"this upload has no single PUT: its lane is {sessions.lane_of(upload.session)}", capability=_STRATEGY
        )
    granted = await _presign(services, upload, wanted_seconds, presign)

    def note(session: Session) -> Upload:
        signed = rows.note_signed(session, session_id, granted.expires_at)
        if signed.session.auto_verify:  # the workflow starts to poll for the object
            outbox.wake_upload(session, services.settings, signed.session, signed.asset.profile, signal="touch")
        return signed

    return (await services.database.write(note)).session, granted


async def _presign(services: Services, upload: Upload, wanted_seconds: int, presign: _Presign[Grant]) -> Grant:
    chosen = services.profile(upload.asset.profile)
    remaining = int(rows.live_seconds(upload.session))
    if remaining < 1:
        raise sessions.session_expired()
    return await presign(services.storage(chosen), upload, chosen.upload_policy(), min(wanted_seconds, remaining))


async def _put(storage: Storage, upload: Upload, policy: UploadPolicy, seconds: int) -> Presigned:
    require_upload(storage, _STRATEGY)
    return await storage.presigned_put(
        upload.session.upload_key,
        seconds,
        # Never the client's own type: the store answers with it until the promotion has detected the real one.
        content_type=granted_type(policy, upload.asset.filename),
        content_length=upload.session.expected_size,
        max_bytes=policy.max_bytes,
        write_once=True,
    )


async def _form(storage: Storage, upload: Upload, policy: UploadPolicy, seconds: int) -> PresignedPost:
    require_upload(storage, _FORM)
    return await storage.presigned_post(
        upload.session.upload_key,
        seconds,
        content_type=granted_type(policy, upload.asset.filename),
        max_bytes=policy.max_bytes,
    )
