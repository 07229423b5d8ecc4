"""An authorizer: decides who may do what."""

from __future__ import annotations

from collections.abc import Collection

from rindle.protocols import AssetSubject, DeliverySubject, UploadSubject


class TeamAuthorizer:
    """Thumbnails for everybody who is signed in, originals for the team; strangers get nothing.

    Give it to a profile (``delivery={"authorizer": ...}``) for URLs and tags, and to ``create_router`` for the routes.

    Args:
        team: names of those who belong to it; asked at every decision, so it may change at any time.
        everybody: variants that need no membership.
    """

    def __init__(self, team: Collection[str], *, everybody: Collection[str] = ("thumb",)) -> None:
        self._team = team
        self._everybody = everybody

    def authorize(
        self, actor: str | None, action: str, subject: DeliverySubject | UploadSubject | AssetSubject
    ) -> bool:
        """Return whether ``actor`` may do ``action``; a coroutine may take its place, to ask a database.

        ``deliver`` is asked before a URL is made and at no later time: short lives are how access is taken back.
        """
        if actor is None:
            return False
        if isinstance(subject, DeliverySubject):
            return actor in self._team or subject.variant in self._everybody
        if action == "upload.create":
            return actor in self._team
        owner = subject.uploaded_by if isinstance(subject, AssetSubject) else subject.token_actor
        return actor == owner or (action == "read" and actor in self._team)
