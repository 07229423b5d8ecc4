"""``POST /uploads/inline``: a file that passes through the application, as a form without scripts or as a raw body.

Tickets for files that clients send directly to the store are in :mod:`rindle.http.uploads`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from rindle.arguments import MAX_FILENAME_CHARS, check_text
from rindle.db.models import MediaAsset
from rindle.errors import InvalidArgument
from rindle.http.access import Access, actor_name
from rindle.http.errors import NO_STORE, RindleRoute, limited
from rindle.http.forms import FormRequest, UploadForm, arriving, is_form, reading_form
from rindle.http.routes import Route, router_of
from rindle.http.schemas import AssetAnswer, AssetJson, ClientText, IdempotencyKey

#: Default limit in bytes of a file that passes through the application; larger files need a direct upload.
MAX_INLINE_BYTES = 64 << 20

#: Fields that decide about the file.
_BEFORE_FILE = ("profile", "next")
_MAX_NEXT_CHARS = 2048

_RawProfile = Annotated[
    ClientText | None, Query(max_length=255, description="Profile of a raw body; a form has its own field.")
]
_RawFilename = Annotated[
    ClientText | None, Query(max_length=MAX_FILENAME_CHARS, description="File name of a raw body.")
]

# Described by hand: with a body parameter FastAPI reads the body before the endpoint can limit it.
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
                            "description": "Path on this site to redirect to (303); `asset_id` is added to it.",
                        },
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

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


def inline_routes(access: Access, *, max_bytes: int) -> APIRouter:
    """Return ``POST /uploads/inline``, which accepts files of at most ``max_bytes``."""
    return router_of(_ROUTES, _Inline(access, max_bytes), tag="uploads")


class _InlineRoute(RindleRoute):
    max_body_bytes = None


class _Inline:
    def __init__(self, access: Access, max_bytes: int) -> None:
        self._rindle = access.rindle
        self._access = access
        self._max_bytes = max_bytes

    async def upload(
        self,
        request: Request,
        profile: _RawProfile = None,
        filename: _RawFilename = None,
        idempotency_key: IdempotencyKey = None,
    ) -> AssetAnswer | Response:
        """Upload a file: a form with `profile`, `file` and optionally `next`, or a raw body with query parameters.

        A form works without scripts; it then carries the token of the application's CSRF protection. Its other fields
        come before the file: the caller's rights are checked before the file is read. The file is spooled to disk
        piece by piece and validated before anything is stored.
        """
        actor = await self._access.actor(request)
        if is_form(request):
            async with reading_form(request, max_bytes=self._max_bytes, before_file=_BEFORE_FILE) as form:
                return await self._form(request, actor, form, idempotency_key)
        await self._access.check_forgery(request)
        if profile is None or filename is None:
            raise InvalidArgument(
                "a raw body needs profile and filename in the query, a form needs the fields profile and file",
                detail={"option": "profile" if profile is None else "filename"},
            )
        async with aclosing(arriving(limited(request, self._max_bytes))) as pieces:
            return await self._take_in(request, actor, profile, filename, pieces, None, idempotency_key)

    async def _form(
        self, request: Request, actor: Any, form: UploadForm, idempotency_key: str | None
    ) -> AssetAnswer | Response:
        # The application's csrf reads its token from the fields before the file, which is all that has been read.
        await self._access.check_forgery(FormRequest(request, form))
        profile = form.fields.get("profile")
        if profile is None:
            raise InvalidArgument("the form has no field profile before the file", detail={"option": "profile"})
        if form.filename is None:
            raise InvalidArgument("the form has no file; choose one", detail={"option": "file"})
        # FastAPI validates the parameters of other routes; a form is read here.
        check_text("profile", profile)
        check_text("filename", form.filename[-MAX_FILENAME_CHARS:], max_chars=MAX_FILENAME_CHARS)
        target, name = _local_target(form.fields.get("next")), form.filename[-MAX_FILENAME_CHARS:]
        async with aclosing(form.file()) as pieces:
            return await self._take_in(request, actor, profile, name, pieces, target, idempotency_key)

    async def _take_in(
        self,
        request: Request,
        actor: Any,
        profile_name: str,
        filename: str,
        pieces: AsyncIterator[bytes],
        target: str | None,
        idempotency_key: str | None,
    ) -> AssetAnswer | Response:
        profile = self._access.profile(profile_name)
        await self._access.allow_creation(request, actor, profile, filename, None)
        asset = await self._rindle.upload(
            profile, pieces, filename=filename, actor=actor_name(actor), idempotency_key=idempotency_key
        )
        if target is not None:
            return RedirectResponse(_with_asset(target, asset), 303, headers=NO_STORE)
        return AssetAnswer(asset=AssetJson.of(asset, self._access.name_of(asset.profile)))


_ROUTES = (
    Route(
        "POST",
        "/uploads/inline",
        _Inline.upload,
        "upload_inline",
        "Upload a file through the application",
        AssetAnswer,
        status=201,
        errors=(
            *("unknown_profile", "upload_stalled", *_REFUSED, "scanner_unavailable"),
            *("storage_permanent", "storage_transient", "storage_adapter_exception"),
            *("upload_cancelled", "upload_session_expired"),
        ),
        responses={303: {"description": "To the form's `next`."}},
        options={"openapi_extra": _INLINE_BODY, "route_class_override": _InlineRoute},
    ),
)


def _local_target(target: Any) -> str | None:
    """Return the form's ``next`` if it is a path on this site; redirects to other sites are refused.

    Browsers treat ``//host``, ``/\\host`` and either with tabs or line breaks in it as another site (WHATWG URL,
    relative-slash state), so everything but a plain path is refused.
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
