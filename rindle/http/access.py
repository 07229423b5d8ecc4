"""Access rules of routes: the actor of a request, the application's authorizer, ownership, and forged requests.

One :class:`Access` holds the rules that every route of a router needs; the routes are in other modules.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NotRequired, Required, TypedDict
from uuid import UUID

from fastapi import Request

from rindle.app import Rindle
from rindle.arguments import MAX_TEXT_CHARS, text_flaw
from rindle.assets import no_such_asset
from rindle.db.models import MediaAsset, MediaUploadSession
from rindle.delivery.loading import owners_of
from rindle.errors import Misconfigured, NotFound, Unauthorized, UnknownProfile
from rindle.plugins import authorize, call_hook
from rindle.profile import Profile
from rindle.protocols import AssetSubject, Authorizer, UploadSubject
from rindle.uploads.sessions import Upload, no_such_upload

#: Returns the actor of a request: ``None`` for anonymous, else a string, integer, UUID or object with such an ``id``.
ActorFromRequest = Callable[[Request], Awaitable[Any] | Any]
#: Validates the form token of a request; returning ``False`` or raising refuses the request.
CsrfCheck = Callable[[Request], Awaitable[bool | None] | bool | None]

#: Header that a form on another site cannot send, and that a script there can send only after a CORS preflight.
CSRF_HEADER = "X-Rindle"


class Rules(TypedDict, total=False):
    """Keywords of a read-only router; see :class:`Access`."""

    profiles: Required[Mapping[str, type[Profile]]]
    actor_from_request: ActorFromRequest | None
    authorizer: Authorizer | None
    allow_anonymous: bool


class ChangingRules(Rules):
    """Keywords of a router with state-changing routes; see :class:`Access`."""

    csrf: NotRequired[CsrfCheck | None]


class Access:
    """The rules that all routes of one router share.

    Without an authorizer actors have full access to their own uploads; the uploads of others answer ``not_found``. With
    an authorizer, it alone decides, also about the uploads of others: the subject names their actor (``token_actor``,
    ``uploaded_by``).

    Args:
        profiles: profiles by the names that clients use. Rows of other profiles answer ``not_found``.
        actor_from_request: returns the actor; a function or coroutine function. Without it every actor is ``None``. It
            may raise ``rindle.errors.Unauthenticated`` or its own ``HTTPException``.
        authorizer: decides about ``upload.create``, ``upload.sign``, ``upload.read``, ``upload.verify``,
            ``upload.cancel``, ``direct.create``, ``direct.cancel``, ``read``, ``operate`` and ``subscribe``.
        allow_anonymous: confirms that there is no authorizer.
        csrf: accepts requests without the header ``X-Rindle: 1``, such as plain HTML forms, after checking their token.
            ``await request.form()`` holds the fields of a form before its file.

    Raises:
        Misconfigured: there is no profile.
        UnknownProfile: a profile is not registered with ``rindle``.
    """

    def __init__(
        self,
        rindle: Rindle,
        *,
        profiles: Mapping[str, type[Profile]],
        actor_from_request: ActorFromRequest | None = None,
        authorizer: Authorizer | None = None,
        allow_anonymous: bool = False,
        csrf: CsrfCheck | None = None,
    ) -> None:
        if not profiles:
            raise Misconfigured("the router has no profile: pass profiles={'name': ProfileClass}")
        self.rindle = rindle
        self.profiles = {name: rindle.profiles.get(profile) for name, profile in profiles.items()}
        # The first name wins when a profile is offered under several.
        self._names = {profile.name: name for name, profile in reversed(self.profiles.items())}
        self._actor_from_request = actor_from_request
        self._authorizer = authorizer
        self._allow_anonymous = allow_anonymous
        self._csrf = csrf

    def require_authorizer(self) -> None:
        """Require an authorizer, or the confirmation that none is wanted.

        Raises:
            Misconfigured: the authorizer is missing, and ``allow_anonymous`` is not ``True``.
        """
        if self._authorizer is None and not self._allow_anonymous:
            raise Misconfigured(
                "these routes would be open to everyone: pass authorizer=..., or allow_anonymous=True to confirm it "
                "(actors can then still reach only their own uploads)"
            )

    def profile(self, name: str) -> type[Profile]:
        """Return the profile of a client's name.

        Raises:
            UnknownProfile: this router has no profile of this name.
        """
        found = self.profiles.get(name)
        if found is None:
            raise unknown_profile(name)
        return found

    def offers(self, profile_name: str) -> bool:
        """Whether this router shows rows of the profile with this stable name."""
        return profile_name in self._names

    def name_of(self, profile_name: str) -> str:
        """Return the name that clients use for a profile."""
        return self._names[profile_name]

    async def actor(self, request: Request) -> Any:
        """Return the actor of ``request``, as returned by the application."""
        return None if self._actor_from_request is None else await call_hook(self._actor_from_request, request)

    async def check_forgery(self, request: Request) -> None:
        """Refuse a state-changing request that may come from another site.

        Raises:
            Unauthorized: the header ``X-Rindle: 1`` is missing, and ``csrf`` does not accept the request.
        """
        if request.headers.get(CSRF_HEADER) == "1":
            return
        if self._csrf is not None and await call_hook(self._csrf, request) is not False:
            return
        raise Unauthorized(
            f"the request may come from another site: send the header {CSRF_HEADER}: 1, or a valid form token",
            detail={"reason": "csrf"},
        )

    async def allow(self, actor: Any, action: str, subject: Any) -> None:
        """Call the authorizer, if there is one.

        Raises:
            Unauthorized: the authorizer denies.
        """
        await authorize(self._authorizer, actor, action, subject)

    async def allow_creation(
        self,
        request: Request,
        actor: Any,
        profile: type[Profile],
        filename: str | None,
        size: int | None,
        *,
        action: str = "upload.create",
    ) -> None:
        """Return if ``actor`` may upload a file to ``profile``.

        Raises:
            Unauthorized: the authorizer denies.
        """
        subject = UploadSubject(profile.name, filename=filename, size=size, method=request.method)
        await self.allow(actor, action, subject)

    async def allow_upload(self, request: Request, actor: Any, action: str, upload: Upload) -> Upload:
        """Return ``upload`` if ``actor`` may do ``action`` to it.

        Raises:
            NotFound: the upload belongs to another actor and no authorizer allows it; as for an unknown id.
            Unauthorized: the upload is the actor's own, but the authorizer denies.
        """
        if not self.offers(upload.asset.profile):
            raise no_such_upload()
        subject = _upload_subject(upload.asset, upload.session, request.method)
        await self._allow_row(actor, action, subject, upload.session.actor, no_such_upload())
        return upload

    async def allow_asset(self, actor: Any, action: str, asset: MediaAsset) -> MediaAsset:
        """Return ``asset`` if ``actor`` may do ``action`` to it; as :meth:`allow_upload`."""
        missing = no_such_asset()
        if not self.offers(asset.profile):
            raise missing
        subject = await self._asset_subject(self._authorizer, asset)
        await self._allow_row(actor, action, subject, asset.uploaded_by, missing)
        return asset

    async def allow_direct_upload(self, request: Request, actor: Any, action: str, asset: MediaAsset) -> MediaAsset:
        """Return the asset of an upload to a streaming provider if ``actor`` may do ``action`` to it.

        As :meth:`allow_upload`; there is no session.
        """
        missing = no_such_asset()
        if not self.offers(asset.profile):
            raise missing
        subject = UploadSubject(
            asset.profile, filename=asset.filename, method=request.method, token_actor=asset.uploaded_by
        )
        await self._allow_row(actor, action, subject, asset.uploaded_by, missing)
        return asset

    async def allow_subscription(self, actor: Any, asset: MediaAsset, upload: MediaUploadSession | None) -> None:
        """Return if ``actor`` may follow the events of ``asset``, or of its ``upload``.

        The router's authorizer decides, or else the one of the asset's profile. Without both, access is denied, except
        on routers with ``allow_anonymous``: there it is allowed to everyone who has the id.

        Raises:
            Unauthorized: access is denied.
        """
        authorizer = self._authorizer or self.rindle.profiles.get(asset.profile).delivery_policy().authorizer
        if authorizer is None and not self._allow_anonymous:
            raise Unauthorized
        subject: AssetSubject | UploadSubject
        if upload is None:
            subject = await self._asset_subject(authorizer, asset)
        else:
            subject = _upload_subject(asset, upload, "GET")
        await authorize(authorizer, actor, "subscribe", subject)

    async def _asset_subject(self, authorizer: Authorizer | None, asset: MediaAsset) -> AssetSubject:
        owners = () if authorizer is None else await owners_of(self.rindle.services, asset)
        return AssetSubject(asset.profile, asset.id, asset.uploaded_by, owners)

    async def _allow_row(self, actor: Any, action: str, subject: Any, owner: str | None, missing: NotFound) -> None:
        is_own = actor_name(actor) == owner
        if self._authorizer is None and not is_own:
            raise missing
        try:
            await self.allow(actor, action, subject)
        except Unauthorized:
            if is_own:
                raise
            raise missing from None  # a denial would reveal that the row exists


def _upload_subject(asset: MediaAsset, session: MediaUploadSession, method: str) -> UploadSubject:
    return UploadSubject(
        profile=asset.profile,
        session={
            "id": session.id,
            "asset_id": session.asset_id,
            "state": session.state,
            "upload_strategy": session.upload_strategy,
            "resumable_protocol": session.resumable_protocol,
        },
        filename=asset.filename,
        size=session.expected_size,
        method=method,
        token_actor=session.actor,
    )


def unknown_profile(name: str) -> UnknownProfile:
    """Return the error of a client's name that stands for no profile here."""
    return UnknownProfile(f"unknown profile {name[:255]!r}", detail={"profile": name[:255]})


def actor_name(actor: Any) -> str | None:
    """Return the name of an actor as stored in rows; ``None`` for anonymous.

    Raises:
        Misconfigured: ``actor_from_request`` returned an object without a stable name of 1 to 255 characters that
            rows can store.
    """
    if actor is None:
        return None
    named = actor if isinstance(actor, str | int | UUID) else getattr(actor, "id", None)
    is_named = isinstance(named, str | int | UUID) and not isinstance(named, bool)
    if is_named and text_flaw(str(named), min_chars=1) is None:
        return str(named)
    raise Misconfigured(
        f"actor_from_request returned a {type(actor).__name__} without a name: return None, a string of 1 to "
        f"{MAX_TEXT_CHARS} characters without NUL, an integer, a UUID, or an object whose id is one of them"
    )
