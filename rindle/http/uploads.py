"""Routes of uploads: tickets for direct uploads, and verification that the bytes arrived.

Uploads through the application are in :mod:`rindle.http.inline`, the lanes of new uploads in :mod:`rindle.http.lanes`,
the parts of multipart uploads in :mod:`rindle.http.parts`, the status of resumable sessions in
:mod:`rindle.http.store_sessions`, uploads to streaming providers in :mod:`rindle.http.to_provider`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Unpack

from fastapi import APIRouter, Path, Request

from rindle.app import Rindle
from rindle.errors import InvalidArgument
from rindle.http import parts, store_sessions, to_provider
from rindle.http.access import Access, ChangingRules, actor_name
from rindle.http.errors import RindleRoute
from rindle.http.inline import MAX_INLINE_BYTES, inline_routes
from rindle.http.lanes import Lanes, Opening
from rindle.http.routes import Route, router_of
from rindle.http.schemas import (
    AssetJson,
    ClientText,
    CompletedAnswer,
    CompleteUpload,
    GrantJson,
    IdempotencyKey,
    NewUpload,
    OpenedUpload,
    SessionAnswer,
    SessionJson,
    SignedAnswer,
    VerifyByKey,
)
from rindle.http.streams.mount import Mount, Mounts
from rindle.uploads import direct, multipart, sessions
from rindle.uploads.direct import SignedUpload
from rindle.uploads.sessions import Upload, UploadRequest

_SessionId = Annotated[ClientText, Path(max_length=64, description="Id of an upload session.")]

_NOT_LIVE = (
    "invalid_transition",
    "upload_session_expired",
    "upload_unsupported",
    "state_conflict",
    "storage_transient",
    "storage_adapter_exception",
)
_VERIFY = (
    "not_found",
    "invalid_transition",
    "storage_object_missing",
    "upload_cancelled",
    "upload_session_expired",
    "max_bytes_exceeded",
    "size_mismatch",
    "digest_mismatch",
    "empty_upload",
    "unknown_profile",
    "state_conflict",
    "storage_transient",
    "storage_adapter_exception",
)


def upload_router(
    rindle: Rindle,
    *,
    max_inline_bytes: int = MAX_INLINE_BYTES,
    mounts: Iterable[Mount] = (),
    **rules: Unpack[ChangingRules],
) -> APIRouter:
    """Return ``/uploads`` with its sub-routes; see :class:`rindle.http.access.Access` for the rules.

    The authorizer is called with ``upload.create``, ``upload.sign``, ``upload.read``, ``upload.verify``,
    ``upload.cancel``, ``direct.create`` or ``direct.cancel``, and an ``UploadSubject``.

    Args:
        max_inline_bytes: largest file that ``POST /uploads/inline`` accepts, 64 MiB by default; a profile's
            ``max_bytes`` may be smaller.
        mounts: what :func:`rindle.http.tus.tus_router` and :func:`rindle.http.resumable.resumable_router` returned,
            with their ``path``, for uploads of the strategies ``tus`` and ``ietf``; none when left out.

    Raises:
        Misconfigured: the authorizer is missing, and ``allow_anonymous`` is not ``True``; there is no profile; or a
            mount has no path, another profile, or the profile and protocol of another one.
    """
    return upload_routes(Access(rindle, **rules), max_inline_bytes=max_inline_bytes, mounts=mounts)


def upload_routes(access: Access, *, max_inline_bytes: int, mounts: Iterable[Mount] = ()) -> APIRouter:
    """Return the routes of :func:`upload_router`."""
    access.require_authorizer()
    lanes = Lanes(access.rindle.services, Mounts(mounts, access.profiles.values()))
    router = APIRouter()
    router.include_router(router_of(_ROUTES, _Uploads(access, lanes), tag="uploads"))
    router.include_router(router_of(parts.ROUTES, parts.Parts(access), tag="uploads"))
    router.include_router(router_of(store_sessions.ROUTES, store_sessions.StoreSessions(access), tag="uploads"))
    router.include_router(router_of(to_provider.ROUTES, to_provider.DirectUploads(access), tag="uploads"))
    router.include_router(inline_routes(access, max_bytes=max_inline_bytes))
    return router


class _CompletionRoute(RindleRoute):
    """Takes a list of 10000 parts."""

    max_body_bytes = 1024 * 1024


class _Uploads:
    def __init__(self, access: Access, lanes: Lanes) -> None:
        self._rindle = access.rindle
        self._access = access
        self._lanes = lanes

    async def create(self, request: Request, body: NewUpload, idempotency_key: IdempotencyKey = None) -> OpenedUpload:
        """Open an upload session with its asset, in one lane.

        `presigned_put` also signs the PUT of the bytes; send its headers unchanged. `multipart` says how to cut the
        file; sign each part. `resumable` names the session URI of the store that takes the bytes, `tus` and `ietf` the
        address at which a client of the protocol continues.
        """
        await self._access.check_forgery(request)
        actor = await self._access.actor(request)
        profile = self._access.profile(body.profile)
        await self._access.allow_creation(request, actor, profile, body.filename, body.size)
        wanted = UploadRequest(
            filename=body.filename,
            size=body.size,
            content_type=body.content_type or None,
            expires_in=body.expires_in,
            actor=actor_name(actor),
            idempotency_key=idempotency_key,
        )
        origin = request.headers.get("origin")
        return await self._lanes.opened(Opening(profile, wanted, body, origin=origin, actor=actor))

    async def sign(self, request: Request, session_id: _SessionId) -> SignedAnswer:
        """Return a new URL for an upload that is still live; earlier ones stay valid until they expire."""
        await self._access.check_forgery(request)
        found = await self._allowed(request, "upload.sign", session_id)
        return _signed_answer(await direct.sign(self._rindle.services, found))

    async def show(self, request: Request, session_id: _SessionId) -> OpenedUpload:
        """Return the state of the upload, and what a reloaded page needs to continue it."""
        actor = await self._access.actor(request)
        found = await self._find(request, actor, "upload.read", session_id)
        return self._lanes.continued(found, is_own=actor_name(actor) == found.session.actor)

    async def complete(
        self, request: Request, session_id: _SessionId, body: CompleteUpload | None = None
    ) -> CompletedAnswer:
        """Make the object of a multipart upload from its parts, and verify it; any other upload is only verified."""
        await self._access.check_forgery(request)
        found = await self._allowed(request, "upload.verify", session_id)
        named = None if body is None else body.parts
        if found.session.upload_strategy == multipart.MULTIPART:
            return self._completed(await multipart.complete_found(self._rindle.services, found, named))
        if named:
            raise InvalidArgument("this upload has no parts", detail={"option": "parts"})
        return await self._verified(found)

    async def verify(self, request: Request, session_id: _SessionId) -> CompletedAnswer:
        """Find the object, check its size and start the validation of the asset; repeating it is safe."""
        await self._access.check_forgery(request)
        found = await self._allowed(request, "upload.verify", session_id)
        return await self._verified(found)

    async def verify_by_key(self, request: Request, body: VerifyByKey) -> CompletedAnswer:
        """Same as verify, for clients that know only the object's key."""
        await self._access.check_forgery(request)
        actor = await self._access.actor(request)
        upload = await sessions.find_upload_by_key(self._rindle.services, body.key)
        return await self._verified(await self._access.allow_upload(request, actor, "upload.verify", upload))

    async def cancel(self, request: Request, session_id: _SessionId) -> SessionAnswer:
        """Abort a live upload; an upload that has already ended is returned unchanged."""
        await self._access.check_forgery(request)
        found = await self._allowed(request, "upload.cancel", session_id)
        return SessionAnswer(session=SessionJson.of(await self._rindle.cancel_upload(found.session.id)))

    async def _allowed(self, request: Request, action: str, session_id: str) -> Upload:
        return await self._find(request, await self._access.actor(request), action, session_id)

    async def _find(self, request: Request, actor: Any, action: str, session_id: str) -> Upload:
        upload = await sessions.find_upload(self._rindle.services, session_id)
        return await self._access.allow_upload(request, actor, action, upload)

    async def _verified(self, upload: Upload) -> CompletedAnswer:
        return self._completed(await sessions.verify(self._rindle.services, upload))

    def _completed(self, done: Upload) -> CompletedAnswer:
        asset = AssetJson.of(done.asset, self._access.name_of(done.asset.profile))
        return CompletedAnswer(session=SessionJson.of(done.session), asset=asset)


def _signed_answer(signed: SignedUpload) -> SignedAnswer:
    return SignedAnswer(session=SessionJson.of(signed.session), upload=GrantJson.of(signed.presigned))


_ROUTES = (
    Route(
        "POST",
        "/uploads",
        _Uploads.create,
        "create_upload",
        "Open an upload in one lane",
        OpenedUpload,
        status=201,
        errors=(
            *("unknown_profile", "extension_not_allowed", "missing_extension", "max_bytes_exceeded"),
            *("tus_size_exceeded", "upload_cancelled", *_NOT_LIVE),
        ),
    ),
    Route(
        "POST",
        "/uploads/verify",
        _Uploads.verify_by_key,
        "verify_upload_by_key",
        "Verify that an object arrived, by its key",
        CompletedAnswer,
        errors=_VERIFY,
    ),
    Route(
        "GET",
        "/uploads/{session_id}",
        _Uploads.show,
        "get_upload",
        "Show an upload session, and how to continue it",
        OpenedUpload,
        errors=("not_found",),
    ),
    Route(
        "DELETE",
        "/uploads/{session_id}",
        _Uploads.cancel,
        "cancel_upload",
        "Cancel an upload",
        SessionAnswer,
        errors=("not_found", "upload_already_completed", "state_conflict"),
    ),
    Route(
        "POST",
        "/uploads/{session_id}/sign",
        _Uploads.sign,
        "sign_upload",
        "Sign a new PUT for a live upload",
        SignedAnswer,
        errors=("not_found", *_NOT_LIVE),
    ),
    Route(
        "POST",
        "/uploads/{session_id}/complete",
        _Uploads.complete,
        "complete_upload",
        "Complete an upload; same as verify for a presigned PUT",
        CompletedAnswer,
        errors=("invalid_multipart_parts", "multipart_upload_not_initialized", *_VERIFY),
        options={"route_class_override": _CompletionRoute},
    ),
    Route(
        "POST",
        "/uploads/{session_id}/verify",
        _Uploads.verify,
        "verify_upload",
        "Verify that the object arrived",
        CompletedAnswer,
        errors=_VERIFY,
    ),
)
