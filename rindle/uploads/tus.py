"""tus uploads without HTTP: what the protocol has beside the common rules of :mod:`rindle.uploads.streams`.

The protocol itself is in :mod:`rindle.http.tus`.

Source: tus resumable upload protocol 1.0.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import SecretStr
from sqlalchemy.orm import Session

from rindle import outbox
from rindle.arguments import check_text
from rindle.db import streams as rows
from rindle.db import uploads as upload_rows
from rindle.db.models import MediaUploadSession, new_id, unstored_copy, utc_now
from rindle.db.streams import FINAL, PARTIAL, TUS, Stream
from rindle.db.streams import source_ids as source_ids  # also of the routes
from rindle.db.uploads import Upload
from rindle.errors import InvalidArgument, TusError, Unauthenticated
from rindle.profile import Profile
from rindle.protocols import Concatenation
from rindle.security import original_key
from rindle.services import Services
from rindle.states import SessionState
from rindle.uploads import sessions
from rindle.uploads.sessions import UploadRequest
from rindle.uploads.streams import STRATEGY, StreamUploads

#: Most sources of one concatenation.
MAX_SOURCES = 1_000


@dataclass(frozen=True, slots=True)
class TusUpload:
    """A new upload and where its bytes are sent.

    Attributes:
        session: the upload session.
        upload_url: path of the upload on this site: a bearer credential.
        expires_at: when the upload expires if no bytes arrive before.
    """

    session: MediaUploadSession
    upload_url: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"TusUpload(session={self.session!r}, upload_url='[REDACTED]', expires_at={self.expires_at!r})"


class TusUploads(StreamUploads):
    """The tus uploads of one profile; see :class:`rindle.uploads.streams.StreamUploads`."""

    protocol = TUS

    @property
    def can_concatenate(self) -> bool:
        """Whether the storage joins uploads."""
        return isinstance(self._services.storage(self.profile), Concatenation)

    async def create_partial(self, request: UploadRequest, *, length: int | None, metadata: str | None) -> Stream:
        """Open an upload that becomes part of another one; it has neither name nor asset.

        Raises:
            TusError: ``tus_size_exceeded``.
        """
        part_size = self._part_size(length)
        session_id = new_id()
        made = MediaUploadSession(
            id=session_id,
            upload_key=original_key(self.profile.name, session_id, None),
            upload_strategy=STRATEGY,
            actor=request.actor,
            expires_at=utc_now() + timedelta(seconds=self._services.settings.upload_session_ttl_seconds),
            concat_role=PARTIAL,
        )
        self._fill(made, length, metadata, part_size)

        def insert(session: Session) -> MediaUploadSession:
            copy = unstored_copy(made)
            rows.insert_partial(session, copy, self.profile.name)
            rows.note_opened(session, copy, is_complete=length == 0)
            outbox.wake_upload(session, self._services.settings, copy, self.profile.name)
            return copy

        opened = await self._services.database.write(insert)
        self._note_start(opened)
        return Stream(opened, None)

    async def sources_of(self, tokens: Sequence[str]) -> list[Stream]:
        """Return the uploads of tokens, in their order, in any state.

        Raises:
            InvalidArgument: one of them is not the token of an upload of this profile.
        """
        try:
            named = [self.claims_of(token) for token in tokens]
        except (TusError, Unauthenticated) as error:
            raise _bad_source() from error
        found = await self._services.database.read(rows.find_streams, {claims.session_id for claims in named})
        try:
            return [found[claims.session_id] for claims in named]
        except KeyError as error:
            raise _bad_source() from error

    async def concatenate(
        self, request: UploadRequest, sources: Sequence[tuple[Stream, str]], *, metadata: str | None
    ) -> Stream:
        """Open an upload whose bytes are those of finished partial uploads, in this order. The workflow joins them.

        Args:
            sources: partial uploads of this profile, each with the part of its URL before the token; one may occur
                repeatedly.

        Raises:
            InvalidArgument: a source is not a finished partial upload of the same actor, or there are too many.
            TusError: ``tus_size_exceeded``.
            UploadRejected: the profile does not allow the extension.
        """
        if not 1 <= len(sources) <= MAX_SOURCES:
            raise InvalidArgument(f"a concatenation has 1 to {MAX_SOURCES} sources", detail={"option": "Upload-Concat"})
        for source, _ in sources:
            if not is_finished_partial(source.session) or source.session.actor != request.actor:
                raise _bad_source()
        length = sum(source.session.last_known_offset for source, _ in sources)
        self.check_size(length)
        new = sessions.requested_upload(self._services.settings, self.profile, request, strategy=STRATEGY)
        self._fill(new.session, length, metadata, 0)
        new.session.concat_role = FINAL
        new.session.concat_sources = [{"session_id": one.session.id, "prefix": prefix} for one, prefix in sources]
        expires_at = new.session.expires_at

        def insert(session: Session, copy: Upload) -> Upload:
            for session_id in sorted(set(rows.source_ids(copy.session))):
                found = rows.lock_stream(session, session_id).session
                if not is_finished_partial(found):
                    raise _bad_source()
                rows.keep_until(session, found, expires_at)
            inserted = upload_rows.insert_upload(session, copy.asset, copy.session)
            rows.note_opened(session, inserted.session, is_complete=True)
            outbox.wake_upload(session, self._services.settings, inserted.session, self.profile.name, signal="complete")
            return inserted

        opened = await sessions.insert_once(self._services, new, insert)
        self._note_start(opened.session)
        return Stream(opened.session, opened.asset)


def is_finished_partial(upload: MediaUploadSession) -> bool:
    """Whether an upload is a partial one with all its bytes."""
    return upload.concat_role == PARTIAL and upload.state == SessionState.UPLOADED


def _bad_source() -> InvalidArgument:
    return InvalidArgument(
        "every source of a concatenation must be a finished partial upload of your own at this address",
        detail={"option": "Upload-Concat"},
    )


async def initiate_tus_upload(
    services: Services,
    profile: str | type[Profile],
    request: UploadRequest,
    *,
    length: int | None,
    path: str,
    secrets: Sequence[str | SecretStr] = (),
) -> TusUpload:
    """Open a tus upload from server code; see ``Rindle.initiate_tus_upload``."""
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 0):
        raise InvalidArgument("length must be a whole number of bytes, 0 or more", detail={"option": "length"})
    check_text("path", path)
    uploads = TusUploads(services, profile, secrets=secrets)
    made = (await uploads.create(request, length=length)).session
    return TusUpload(made, f"{path.rstrip('/')}/{uploads.token_of(made.id, made.actor)}", made.expires_at)
