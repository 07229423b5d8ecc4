"""The pages of sweeps over upload sessions: the next sessions in some states, whatever they are."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Row, Select, select, union_all
from sqlalchemy.orm import Session

from rindle.db.models import MediaAsset, MediaUploadSession
from rindle.errors import UnknownProfile
from rindle.operations.maintenance.sweep import PAGE
from rindle.services import Services
from rindle.states import SessionState

#: A session, and the profile of its asset; ``None`` for a partial upload, which has no asset.
SessionRow = Row[MediaUploadSession, str | None]


def session_page(
    session: Session, wanted: Select[MediaUploadSession, str | None], states: Sequence[SessionState], after: str
) -> tuple[Sequence[SessionRow], str | None]:
    """Return the wanted ones of the next sessions in ``states`` by id, and the id behind which the next page begins.

    A page examines up to :data:`PAGE` sessions. One that took as many *wanted* sessions would read all others before
    them: of a million sessions that ended long ago, the few that are left may be the last.

    Args:
        wanted: selects from the sessions, joined with their assets.
        after: id of the last session that was examined; empty for the first page.
    """
    examined = session.scalars(_next(states, after)).all()
    if not examined:
        return (), None
    found = session.execute(wanted.where(MediaUploadSession.id.in_(examined)).order_by(MediaUploadSession.id)).all()
    return found, examined[-1] if len(examined) == PAGE else None


def of_sessions() -> Select[MediaUploadSession, str | None]:
    """Return the query of sessions with the profiles of their assets, also of those without an asset."""
    return select(MediaUploadSession, MediaAsset.profile).outerjoin(
        MediaAsset, MediaAsset.id == MediaUploadSession.asset_id
    )


def profile_of(services: Services, upload: MediaUploadSession, profile: str | None) -> str | None:
    """Return the profile of a row; that of a partial upload is found by its key, ``None`` when it is not registered."""
    if profile is not None or upload.asset_id is not None:
        return profile
    try:
        return services.profile_of_key(upload.upload_key).name
    except UnknownProfile:
        return None


def _next(states: Sequence[SessionState], after: str) -> Select[str]:
    """Return the query of the next ids: those of each state come in order from the index on state and id."""
    parts = []
    for state in states:
        part = select(MediaUploadSession.id).where(MediaUploadSession.state == state)
        part = part.where(MediaUploadSession.id > after) if after else part
        parts.append(select(part.order_by(MediaUploadSession.id).limit(PAGE).subquery()))
    merged = union_all(*parts).subquery()
    return select(merged.c.id).order_by(merged.c.id).limit(PAGE)
