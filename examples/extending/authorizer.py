"""An authorizer: decides whether an actor may do an action."""

from __future__ import annotations

from collections.abc import Collection

from rindle.protocols import AssetSubject, DeliverySubject, UploadSubject


class TeamAuthorizer:
    """Thumbnails for every signed-in user, originals for the team, nothing for anonymous clients.

    Pass it to a profile (``delivery={"authorizer": ...}``) for URLs and tags, and to ``create_router`` for the routes.

    Args:
        team: names of the members; read at every decision, so it may change at any time.
        open_variants: variants that need no membership.
    """

    def __init__(self, team: Collection[str], *, open_variants: Collection[str] = ("thumb",)) -> None:
        self._team = team
        self._open_variants = open_variants

    def authorize(
        self, actor: str | None, action: str, subject: DeliverySubject | UploadSubject | AssetSubject
    ) -> bool:
        """Return whether ``actor`` may do ``action``; it may be a coroutine function, for example to query a database.

        ``deliver`` is checked when a URL is created, not later: use short lifetimes, so that access ends soon.
        """
        if actor is None:
            return False
        if isinstance(subject, DeliverySubject):
            return actor in self._team or subject.variant in self._open_variants
        if action == "upload.create":
            return actor in self._team
        owner = subject.uploaded_by if isinstance(subject, AssetSubject) else subject.token_actor
        return actor == owner or (action == "read" and actor in self._team)
