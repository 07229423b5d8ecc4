"""Who may do what with a photo: its owner, and the staff."""

from __future__ import annotations

from rindle.protocols import AssetSubject, DeliverySubject, OwnerRef, UploadSubject

from models import Member


class OwnerOrStaff:
    """Decides from the actor and the subject alone: no query for each decision."""

    async def authorize(
        self, actor: Member | None, action: str, subject: UploadSubject | AssetSubject | DeliverySubject
    ) -> bool:
        """Return whether ``actor`` may do ``action``; everything else is refused."""
        if actor is None:
            return False
        me = str(actor.id)
        if isinstance(subject, UploadSubject):
            return action == "upload.create" or subject.token_actor == me
        if isinstance(subject, AssetSubject):
            return subject.uploaded_by == me or (action == "read" and actor.is_staff)
        # A URL is about to be signed. Before the photo is on a badge, only its uploader and the staff may see it.
        return actor.is_staff or subject.uploaded_by == me or OwnerRef("member", me) in subject.owners
