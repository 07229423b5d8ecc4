"""Who may create and continue uploads of one mount."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from rindle.errors import Misconfigured, Unauthorized
from rindle.http.access import ActorFromRequest, actor_name
from rindle.plugins import authorize, call_hook
from rindle.protocols import Authorizer, UploadSubject
from rindle.uploads.tus import Stream


class SameActor:
    """An authorizer for tus routes: only the actor who created an upload may continue, inspect or terminate it.

    Requests without an actor are refused, also to create an upload.
    """

    async def authorize(self, actor: Any, action: str, subject: Any) -> None:
        """Return if ``actor`` may do ``action``.

        Raises:
            Unauthorized: there is no actor, or it is another one.
        """
        name = actor_name(actor)
        if name is None or (action == "tus.resume" and name != subject.token_actor):
            raise Unauthorized


class TusAccess:
    """The access rules of one mount.

    Args:
        actor_from_request: returns the actor; without it every actor is ``None``.
        authorizer: decides about ``tus.create`` and ``tus.resume``.
        allow_anonymous: confirms that there is no authorizer.

    Raises:
        Misconfigured: there is no authorizer, and ``allow_anonymous`` is not ``True``.
    """

    def __init__(
        self, actor_from_request: ActorFromRequest | None, authorizer: Authorizer | None, *, allow_anonymous: bool
    ) -> None:
        if authorizer is None and not allow_anonymous:
            raise Misconfigured(
                "these routes would be open to everyone: pass authorizer=SameActor() or your own, or "
                "allow_anonymous=True to confirm it (whoever has the URL of an upload can then continue it)"
            )
        self._actor_from_request = actor_from_request
        self._authorizer = authorizer

    async def actor(self, request: Request) -> Any:
        """Return the actor of ``request``, as returned by the application."""
        return None if self._actor_from_request is None else await call_hook(self._actor_from_request, request)

    async def allow_creation(self, actor: Any, profile: str, filename: str | None, size: int | None) -> None:
        """Return if ``actor`` may create an upload.

        Raises:
            Unauthorized: the authorizer denies.
        """
        subject = UploadSubject(profile, filename=filename, size=size, method="POST")
        await authorize(self._authorizer, actor, "tus.create", subject)

    async def allow_resuming(self, actor: Any, profile: str, stream: Stream, method: str) -> None:
        """Return if ``actor`` may continue ``stream``.

        Raises:
            Unauthorized: the authorizer denies; the status is 401, as the protocol's clients expect.
        """
        session = stream.session
        subject = UploadSubject(
            profile,
            session={
                "id": session.id,
                "asset_id": session.asset_id,
                "state": session.state,
                "upload_strategy": session.upload_strategy,
                "resumable_protocol": session.resumable_protocol,
            },
            filename=None if stream.asset is None else stream.asset.filename,
            size=session.upload_length,
            method=method,
            token_actor=session.actor,
        )
        try:
            await authorize(self._authorizer, actor, "tus.resume", subject)
        except Unauthorized as error:
            error.http_status = 401
            raise
