"""Release an asset from quarantine after a false alarm: its bytes are validated and scanned again, never trusted."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from rindle import outbox
from rindle.arguments import MAX_TEXT_CHARS, actor_text, text_flaw
from rindle.db import promotion as rows
from rindle.db import uploads as upload_rows
from rindle.db.assets import no_such_asset
from rindle.db.ids import AssetOrId, id_of_asset
from rindle.db.models import is_id
from rindle.db.transitions import lock_asset
from rindle.errors import InvalidArgument, InvalidTransition
from rindle.operations.reports import Report
from rindle.services import Services
from rindle.states import AssetState, SessionState


@dataclass(frozen=True, slots=True)
class ReleaseReport(Report):
    """Outcome of ``release_quarantine``: the new state, and the code of the rejection that was withdrawn."""

    asset_id: str
    state: str
    error_code: str | None


async def release_quarantine(
    services: Services, asset: AssetOrId, reason: str, *, actor: str | UUID | None = None
) -> ReleaseReport:
    """Move a quarantined asset back to ``validating``; its workflow then validates and scans the same bytes again.

    The same bytes under the same profile are rejected again, unless the profile, the scanner or the library has
    changed. The release is audited, with the reason and the actor.

    Args:
        reason: why, 1 to 255 characters; stored in the audit event.
        actor: who requested it; stored in the audit event.

    Raises:
        NotFound: no such asset.
        InvalidTransition: it is not quarantined, or its object was deleted with its rejected upload.
        UnknownProfile: its profile is not registered, so that nothing can be validated.
        InvalidArgument: the reason is empty or too long.
    """
    named = actor_text("actor", actor)
    asset_id = id_of_asset(asset)
    flaw = text_flaw(reason, min_chars=1)
    if flaw is not None:
        raise InvalidArgument(f"reason {flaw}", detail={"option": "reason", "max_chars": MAX_TEXT_CHARS})

    def release(session: Session) -> ReleaseReport:
        found = lock_asset(session, asset_id) if is_id(asset_id) else None
        if found is None or found.state == AssetState.DELETED:
            raise no_such_asset()
        services.profile(found.profile)
        detail = {"entity": "MediaAsset", "from": found.state, "to": AssetState.VALIDATING.value}
        if found.state != AssetState.QUARANTINED:
            raise InvalidTransition(
                f"the asset is {found.state}; only a quarantined asset can be released", detail=detail
            )
        upload = upload_rows.find_by_asset(session, asset_id)
        if upload is None or upload.session.state != SessionState.COMPLETED:
            raise InvalidTransition(
                "the upload of this asset was rejected before it was complete, and its object is deleted. "
                "To fix: upload the file again",
                detail=detail,
            )
        error_code = found.error_code
        rows.release(session, found, reason=reason, actor=named)
        outbox.wake_upload(session, services.settings, upload.session, found.profile, signal="verified")
        return ReleaseReport(asset_id=asset_id, state=found.state, error_code=error_code)

    return await services.database.write(release)
