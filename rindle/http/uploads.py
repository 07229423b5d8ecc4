"""Routes of uploads: tickets for direct uploads, proof of arrival, and files taken in by the application itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from rindle.app import Rindle
from rindle.cancellation import run_to_end
from rindle.db import uploads as rows
from rindle.db.models import MediaAsset
from rindle.db.uploads import Upload
from rindle.errors import CapabilityUnsupported, InvalidArgument, UploadRejected
from rindle.http.errors import NO_STORE, RindleRoute, documented, limited
from rindle.http.guards import ActorFromRequest, CsrfCheck, Guard, actor_name
from rindle.http.schemas import (
    MAX_FILENAME_CHARS,
    AssetAnswer,
    AssetJson,
    CompletedAnswer,
    CompleteUpload,
    GrantJson,
    NewUpload,
    SessionAnswer,
    SessionJson,
    SignedAnswer,
    VerifyByKey,
)
from rindle.profile import Profile
from rindle.protocols import Authorizer, UploadSubject

#: Largest file that may pass through the application when the router is not told otherwise; bigger ones go direct.
MAX_INLINE_BYTES = 64 << 20

# What a form may have beside its file: room for boundaries, part headers and a few fields.
_FORM_OVERHEAD_BYTES = 64 * 1024
_MAX_FORM_FIELDS = 32
_MAX_NEXT_CHARS = 2048

_LANES = {"multipart": "multipart_upload", "resumable": "resumable_upload", "tus": "tus_upload"}

_SessionId = Annotated[str, Path(max_length=64, description="Id of an upload session.")]
_IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="Repeating a request with it returns the first session."),
]
_RawProfile = Annotated[str | None, Query(max_length=255, description="Of a raw body; a form has its own field.")]
_RawFilename = Annotated[str | None, Query(max_length=MAX_FILENAME_CHARS, description="Likewise.")]

# Documented by hand: FastAPI would read the body before the endpoint could limit it.
_INLINE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["profile", "file"],
                    "properties": {
                        "profile": {"type": "string"},
                        "file": {"type": "string", "format": "binary"},
                        "next": {
                            "type": "string",
                            "description": "Path on this site to go to afterwards (303); `asset_id` is added to it.",
                        },
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

_NOT_LIVE = (
    "invalid_transition",
    "upload_session_expired",
    "upload_unsupported",
    "state_conflict",
    "storage_transient",
)
_REFUSED = (
    "unknown_mime",
    "mime_not_allowed",
    "extension_not_allowed",
    "extension_mime_mismatch",
    "missing_extension",
    "max_bytes_exceeded",
    "empty_upload",
    "scanner_rejected",
)
_VERIFY = (
    "not_found",
    "invalid_transition",
    "storage_object_missing",
    "upload_cancelled",
    "upload_session_expired",
    "max_bytes_exceeded",
    "size_mismatch",
    "empty_upload",
    "unknown_profile",
    "state_conflict",
    "storage_transient",
)


class _InlineRoute(RindleRoute):
    max_body_bytes = None


def upload_router(
    rindle: Rindle,
    *,
    profiles: Mapping[str, type[Profile]],
    actor_from_request: ActorFromRequest | None = None,
    authorizer: Authorizer | None = None,
    allow_anonymous: bool = False,
    csrf: CsrfCheck | None = None,
    max_inline_bytes: int = MAX_INLINE_BYTES,
) -> APIRouter:
    """Return ``/uploads`` with its sub-routes; see :class:`rindle.http.guards.Guard` for the arguments.

    The authorizer is asked ``upload.create``, ``upload.sign``, ``upload.read``, ``upload.verify`` and ``upload.cancel``
    with an ``UploadSubject``.

    Args:
        max_inline_bytes: largest file ``POST /uploads/inline`` takes, 64 MiB by default; a profile's ``max_bytes``
            may say less.

    Raises:
        Misconfigured: there is neither an authorizer nor ``allow_anonymous=True``.
    """
    guard = Guard(
        rindle,
        profiles=profiles,
        actor_from_request=actor_from_request,
        authorizer=authorizer,
        allow_anonymous=allow_anonymous,
        csrf=csrf,
    )
    routes = _Uploads(rindle, guard, max_inline_bytes)
    router = APIRouter(route_class=RindleRoute, tags=["uploads"])
    router.add_api_route(
        "/uploads",
        routes.create,
        methods=["POST"],
        status_code=201,
        response_model=SignedAnswer,
        operation_id="rindle_create_upload",
        summary="Open an upload and sign its PUT",
        responses=documented(
            "unknown_profile", "extension_not_allowed", "missing_extension", "max_bytes_exceeded", *_NOT_LIVE
        ),
    )
    router.add_api_route(
        "/uploads/verify",
        routes.verify_by_key,
        methods=["POST"],
        response_model=CompletedAnswer,
        operation_id="rindle_verify_upload_by_key",
        summary="Prove that an object arrived, by its key",
        responses=documented(*_VERIFY),
    )
    router.add_api_route(
        "/uploads/inline",
        routes.inline,
        methods=["POST"],
        status_code=201,
        response_model=AssetAnswer,
        operation_id="rindle_upload_inline",
        summary="Upload a file through the application",
        responses={
            303: {"description": "To the form's `next`."},
            **documented("unknown_profile", *_REFUSED, "scanner_unavailable", "storage_permanent", "storage_transient"),
        },
        openapi_extra=_INLINE_BODY,
        route_class_override=_InlineRoute,
    )
    router.add_api_route(
        "/uploads/{session_id}",
        routes.show,
        methods=["GET"],
        response_model=SessionAnswer,
        operation_id="rindle_get_upload",
        summary="Show an upload session",
        responses=documented("not_found"),
    )
    router.add_api_route(
        "/uploads/{session_id}",
        routes.cancel,
        methods=["DELETE"],
        response_model=SessionAnswer,
        operation_id="rindle_cancel_upload",
        summary="Cancel an upload",
        responses=documented("not_found", "upload_already_completed", "state_conflict"),
    )
    router.add_api_route(
        "/uploads/{session_id}/sign",
        routes.sign,
        methods=["POST"],
        response_model=SignedAnswer,
        operation_id="rindle_sign_upload",
        summary="Sign a fresh PUT for a live upload",
        responses=documented("not_found", *_NOT_LIVE),
    )
    router.add_api_route(
        "/uploads/{session_id}/complete",
        routes.complete,
        methods=["POST"],
        response_model=CompletedAnswer,
        operation_id="rindle_complete_upload",
        summary="Say that all bytes were sent; same as verify for a presigned PUT",
        responses=documented(*_VERIFY),
    )
    router.add_api_route(
        "/uploads/{session_id}/verify",
        routes.verify,
        methods=["POST"],
        response_model=CompletedAnswer,
        operation_id="rindle_verify_upload",
        summary="Prove that the object arrived",
        responses=documented(*_VERIFY),
    )
    return router


class _Uploads:
    def __init__(self, rindle: Rindle, guard: Guard, max_inline_bytes: int) -> None:
        self._rindle = rindle
        self._guard = guard
        self._max_inline_bytes = max_inline_bytes

    async def create(self, request: Request, body: NewUpload, idempotency_key: _IdempotencyKey = None) -> SignedAnswer:
        """Open an upload session with its asset and sign where the bytes go. Send the headers exactly as they are."""
        await self._guard.check_forgery(request)
        actor = await self._guard.actor(request)
        profile = self._guard.profile(body.profile)
        await self._allow_creation(request, actor, profile, body.filename, body.size)
        if body.strategy != "presigned_put":
            raise CapabilityUnsupported(
                f"uploads by {body.strategy} are not offered here; use presigned_put", capability=_LANES[body.strategy]
            )
        session = await self._rindle.initiate_upload(
            profile,
            filename=body.filename,
            size=body.size,
            content_type=body.content_type or None,
            expires_in=body.expires_in,
            actor=actor_name(actor),
            idempotency_key=idempotency_key,
        )
        if idempotency_key is not None:
            await self._check_same_profile(session.id, profile)
        return await self._signed(session.id)

    async def sign(self, request: Request, session_id: _SessionId) -> SignedAnswer:
        """Return a fresh URL for an upload that is still live; earlier ones keep working until they expire."""
        await self._guard.check_forgery(request)
        found = await self._allowed(request, "upload.sign", session_id)
        return await self._signed(found.session.id)

    async def show(self, request: Request, session_id: _SessionId) -> SessionAnswer:
        """Return where the upload stands."""
        found = await self._allowed(request, "upload.read", session_id)
        return SessionAnswer(session=SessionJson.of(found.session))

    async def complete(
        self, request: Request, session_id: _SessionId, body: CompleteUpload | None = None
    ) -> CompletedAnswer:
        """As verify: a presigned PUT has no parts to assemble."""
        if body is not None and body.parts:
            raise InvalidArgument("this upload has no parts", detail={"option": "parts"})
        return await self.verify(request, session_id)

    async def verify(self, request: Request, session_id: _SessionId) -> CompletedAnswer:
        """Look for the object, check its size and hand the asset to judgement; repeating it answers the same."""
        await self._guard.check_forgery(request)
        found = await self._allowed(request, "upload.verify", session_id)
        return await self._verified(found)

    async def verify_by_key(self, request: Request, body: VerifyByKey) -> CompletedAnswer:
        """As verify, for clients that know the object's key only."""
        await self._guard.check_forgery(request)
        actor = await self._guard.actor(request)
        upload = await self._rindle.database.read(rows.find_by_key, body.key)
        return await self._verified(await self._guard.allow_upload(request, actor, "upload.verify", upload))

    async def cancel(self, request: Request, session_id: _SessionId) -> SessionAnswer:
        """Abort a live upload; one that has ended otherwise is returned as it is."""
        await self._guard.check_forgery(request)
        found = await self._allowed(request, "upload.cancel", session_id)
        return SessionAnswer(session=SessionJson.of(await self._rindle.cancel_upload(found.session.id)))

    async def inline(
        self, request: Request, profile: _RawProfile = None, filename: _RawFilename = None
    ) -> AssetAnswer | Response:
        """Take in a file: a form with `profile`, `file` and perhaps `next`, or a raw body with the query's two.

        Works without scripts; then the form carries the token of the application's CSRF protection. The file is spooled
        to disk piece by piece and judged before anything is stored.
        """
        is_form = request.headers.get("content-type", "").partition(";")[0].strip().lower() in _FORM_TYPES
        limit = self._max_inline_bytes + (_FORM_OVERHEAD_BYTES if is_form else 0)
        body = limited(request, limit)
        try:
            await self._guard.check_forgery(body)
            if is_form:
                return await self._inline_form(body)
            if profile is None or filename is None:
                raise InvalidArgument(
                    "a raw body needs profile and filename in the query; a form needs the fields profile and file",
                    detail={"option": "profile" if profile is None else "filename"},
                )
            async with aclosing(body.stream()) as pieces:  # refused halfway, it would be left where it stands
                return await self._take_in(body, profile, filename, pieces, None)
        finally:
            await run_to_end(body.close())  # the form's spooled file, whoever parsed it

    async def _inline_form(self, request: Request) -> AssetAnswer | Response:
        try:
            form = await request.form(max_files=1, max_fields=_MAX_FORM_FIELDS, max_part_size=_FORM_OVERHEAD_BYTES)
        except HTTPException as error:  # what Starlette makes of a malformed form
            raise InvalidArgument(f"the form cannot be read: {error.detail}", detail={"option": "body"}) from error
        profile, file, target = form.get("profile"), form.get("file"), form.get("next")
        if not isinstance(profile, str):
            raise InvalidArgument("the form lacks the field profile", detail={"option": "profile"})
        if not isinstance(file, UploadFile) or not file.filename:
            raise InvalidArgument("the form lacks a file; choose one", detail={"option": "file"})
        if file.size is not None and file.size > self._max_inline_bytes:
            raise UploadRejected(
                f"the file is larger than the {self._max_inline_bytes} bytes that may be sent this way",
                code="max_bytes_exceeded",
                detail={"limit": self._max_inline_bytes},
            )
        name = file.filename[-MAX_FILENAME_CHARS:]
        return await self._take_in(request, profile, name, file, _local_target(target))

    async def _take_in(
        self, request: Request, profile_name: str, filename: str, source: Any, target: str | None
    ) -> AssetAnswer | Response:
        actor = await self._guard.actor(request)
        profile = self._guard.profile(profile_name)
        await self._allow_creation(request, actor, profile, filename, getattr(source, "size", None))
        asset = await self._rindle.upload(profile, source, filename=filename, actor=actor_name(actor))
        if target is not None:
            return RedirectResponse(_with_asset(target, asset), 303, headers=NO_STORE)
        return AssetAnswer(asset=self._asset_json(asset))

    async def _allow_creation(
        self, request: Request, actor: Any, profile: type[Profile], filename: str, size: int | None
    ) -> None:
        subject = UploadSubject(profile.name, filename=filename, size=size, method=request.method)
        await self._guard.allow(actor, "upload.create", subject)

    async def _allowed(self, request: Request, action: str, session_id: str) -> Upload:
        actor = await self._guard.actor(request)
        upload = await self._rindle.database.read(rows.find_upload, session_id)
        return await self._guard.allow_upload(request, actor, action, upload)

    async def _check_same_profile(self, session_id: str, profile: type[Profile]) -> None:
        upload = await self._rindle.database.read(rows.find_upload, session_id)
        if upload is None or upload.asset.profile != profile.name:
            raise InvalidArgument(
                "this Idempotency-Key was used for an upload of another profile; take a fresh one",
                detail={"option": "Idempotency-Key"},
            )

    async def _signed(self, session_id: str) -> SignedAnswer:
        signed = await self._rindle.sign_url(session_id)
        return SignedAnswer(session=SessionJson.of(signed.session), upload=GrantJson.of(signed.presigned))

    async def _verified(self, upload: Upload) -> CompletedAnswer:
        done = await self._rindle.verify_completion(upload.session.id)
        return CompletedAnswer(session=SessionJson.of(done.session), asset=self._asset_json(done.asset))

    def _asset_json(self, asset: MediaAsset) -> AssetJson:
        return AssetJson.of(asset, self._guard.name_of(asset.profile))


_FORM_TYPES = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})


def _local_target(target: Any) -> str | None:
    """Return the form's ``next`` if it is a path on this site, so that nobody is sent elsewhere in our name.

    Browsers take ``//host``, ``/\\host`` and either with tabs or line breaks in it for another site (WHATWG URL,
    relative-slash state), so what is not plainly a path is refused.
    """
    if target is None or target == "":
        return None
    plain = isinstance(target, str) and target.isascii() and target.isprintable() and len(target) <= _MAX_NEXT_CHARS
    if not plain or not target.startswith("/") or target.startswith("//") or "\\" in target or " " in target:
        raise InvalidArgument("next must be a path on this site, such as /profile", detail={"option": "next"})
    return str(target)


def _with_asset(target: str, asset: MediaAsset) -> str:
    path, hash_sign, fragment = target.partition("#")
    joint = "&" if "?" in path else "?"
    return f"{path}{joint}{urlencode({'asset_id': asset.id})}{hash_sign}{fragment}"
