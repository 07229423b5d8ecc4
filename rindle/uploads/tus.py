"""Uploads that continue after a break (tus 1.0.0), without HTTP: create, append, terminate, concatenate.

The bytes pass through the application into the store; the row has the offset. Assembly and verification are steps of
the workflow (:mod:`rindle.uploads.assembly`). The protocol itself is in :mod:`rindle.http.tus`.

Source: tus resumable upload protocol 1.0.0.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy.orm import Session

from rindle import outbox, telemetry
from rindle.arguments import check_text
from rindle.capabilities import require_upload, unsupported
from rindle.db import streams as rows
from rindle.db import uploads as upload_rows
from rindle.db.models import MediaUploadSession as MediaUploadSession  # also of the routes, like those below
from rindle.db.models import new_id, unstored_copy, utc_now
from rindle.db.streams import FINAL as FINAL
from rindle.db.streams import OPEN as OPEN
from rindle.db.streams import PARTIAL as PARTIAL
from rindle.db.streams import TUS, state_of
from rindle.db.streams import Stream as Stream
from rindle.db.streams import source_ids as source_ids
from rindle.db.uploads import Upload
from rindle.errors import (
    InvalidArgument,
    NotFound,
    StorageAdapterException,
    StorageError,
    StorageNotFound,
    TusError,
    Unauthenticated,
    UploadAlreadyCompleted,
)
from rindle.profile import Profile
from rindle.protocols import MAX_URL_SECONDS, Concatenation, PartStream, PartStreamState
from rindle.security import BadToken, check_secrets, original_key
from rindle.security.upload_token import UploadClaims, read_upload, sign_upload
from rindle.services import Services
from rindle.states import SessionState
from rindle.uploads import sessions
from rindle.uploads.leases import Lease, Leases
from rindle.uploads.sessions import UploadRequest

#: Largest upload without a smaller limit, in bytes.
MAX_SIZE_BYTES = 5 * 1024**3
#: Most sources of one concatenation.
MAX_SOURCES = 1_000
_STRATEGY = "resumable"
#: First and longest pause between two looks whether the workflow has finished an upload.
_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.05, 0.5
#: States of an upload whose bytes are all stored and whose object is not verified.
_ASSEMBLING = frozenset({SessionState.UPLOADED, SessionState.VERIFYING})


class IncomingBody(Protocol):
    """The bytes of one request."""

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield pieces of at most 1 MiB until the body ends, the client disconnects or :meth:`stop` was called."""

    def limit_to(self, max_bytes: int) -> None:
        """Yield no more than ``max_bytes``.

        Raises:
            TusError: ``tus_size_exceeded``, the announced length is larger; nothing was read.
        """

    def stop(self) -> None:
        """Yield nothing more; a read that waits ends at once."""


class _NoBody:
    """The body of a request that brings no bytes."""

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        nothing: tuple[bytes, ...] = ()
        for piece in nothing:
            yield piece

    def limit_to(self, max_bytes: int) -> None:
        """Nothing is over any limit."""

    def stop(self) -> None:
        """There is nothing to stop."""


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


class TusUploads:
    """The tus uploads of one profile.

    Args:
        services: the application's services.
        profile: the profile.
        secrets: sign the URLs of uploads: the first signs, all verify.
        max_size: largest upload in bytes; the profile's ``max_bytes`` may be smaller.

    Raises:
        CapabilityUnsupported: ``upload_unsupported``: the profile's storage takes no such uploads.
        Misconfigured: there is no secret, or one is too short.
    """

    def __init__(
        self,
        services: Services,
        profile: str | type[Profile],
        *,
        secrets: Sequence[str | SecretStr] = (),
        max_size: int = MAX_SIZE_BYTES,
    ) -> None:
        self._services = services
        self.profile = services.profile(profile)
        self._secrets = tuple(secrets) or services.secrets
        check_secrets(self._secrets)
        require_upload(services.storage(self.profile), "tus_upload")
        limit = self.profile.upload_policy().max_bytes
        #: Largest upload in bytes.
        self.max_size = max_size if limit is None else min(limit, max_size)
        self._storage.part_size_for(self.max_size)
        self._leases = Leases(services.database)

    @property
    def _storage(self) -> PartStream:
        storage = self._services.storage(self.profile)
        if not isinstance(storage, PartStream):
            raise unsupported(storage, "tus_upload")
        return storage

    @property
    def can_concatenate(self) -> bool:
        """Whether the storage joins uploads."""
        return isinstance(self._services.storage(self.profile), Concatenation)

    # --- URLs ----------------------------------------------------------------------------------------------------

    def token_of(self, session_id: str, actor: str | None) -> str:
        """Return the token in the URL of an upload; it is valid for seven days after its creation."""
        created_at = (UUID(session_id).int >> 80) // 1000  # a UUIDv7 begins with the time in milliseconds
        return sign_upload(
            session_id, self.profile.name, actor, expires_at=created_at + MAX_URL_SECONDS, secrets=self._secrets
        )

    def claims_of(self, token: str) -> UploadClaims:
        """Return the claims of a token of this profile.

        Raises:
            TusError: ``tus_url_signature_invalid``.
            Unauthenticated: the token has expired.
        """
        try:
            claims = read_upload(token, self._secrets)
        except BadToken:
            claims = None
        if claims is None or claims.profile != self.profile.name:
            raise TusError("there is no upload at this address", code="tus_url_signature_invalid")
        if claims.has_expired:
            raise Unauthenticated("the address of this upload has expired; start a new upload")
        return claims

    async def find(self, token: str) -> Stream:
        """Return the upload of a token; it can be continued, or has all its bytes.

        Raises:
            TusError: ``tus_url_signature_invalid``, ``tus_session_not_found`` or ``tus_session_expired``.
            Unauthenticated: the token has expired.
        """
        claims = self.claims_of(token)
        found = await self._services.database.read(rows.find_stream, claims.session_id)
        if (
            found is None
            or found.session.resumable_protocol != TUS
            or not claims.is_of(found.session.actor, self._secrets)
        ):
            raise TusError("there is no upload at this address", code="tus_session_not_found")
        require_alive(found.session)
        return found

    # --- creation ------------------------------------------------------------------------------------------------

    async def create(
        self, request: UploadRequest, *, length: int | None, metadata: str | None = None, partial: bool = False
    ) -> Stream:
        """Open an upload of ``length`` bytes; ``None`` defers the length. Its workflow is started.

        An upload of no bytes has all its bytes at once.

        Args:
            request: file name, type, actor and lifetime; a partial upload has neither name nor asset.
            metadata: the client's own header, kept as it is.

        Raises:
            TusError: ``tus_size_exceeded``.
            UploadRejected: the profile does not allow the extension.
        """
        if length is not None:
            self.check_size(length)
        part_size = self._storage.part_size_for(self.max_size if length is None else length)
        if partial:
            return await self._create_partial(request, length, metadata, part_size)
        new = sessions.requested_upload(self._services.settings, self.profile, request, strategy=_STRATEGY)
        _fill(new.session, length, metadata, part_size)

        def insert(session: Session, copy: Upload) -> Upload:
            inserted = upload_rows.insert_upload(session, copy.asset, copy.session)
            rows.note_opened(session, inserted.session, is_complete=length == 0)
            signal = "complete" if length == 0 else None
            outbox.wake_upload(session, self._services.settings, inserted.session, self.profile.name, signal=signal)
            return inserted

        opened = await sessions.insert_once(self._services, new, insert)
        if opened.session.id == new.session.id:
            self._note_start(opened.session)
        return Stream(opened.session, opened.asset)

    async def _create_partial(
        self, request: UploadRequest, length: int | None, metadata: str | None, part_size: int
    ) -> Stream:
        session_id = new_id()
        made = MediaUploadSession(
            id=session_id,
            upload_key=original_key(self.profile.name, session_id, None),
            upload_strategy=_STRATEGY,
            actor=request.actor,
            expires_at=utc_now() + timedelta(seconds=self._services.settings.upload_session_ttl_seconds),
            concat_role=PARTIAL,
        )
        _fill(made, length, metadata, part_size)

        def insert(session: Session) -> MediaUploadSession:
            copy = unstored_copy(made)
            rows.insert_partial(session, copy, self.profile.name)
            rows.note_opened(session, copy, is_complete=length == 0)
            outbox.wake_upload(session, self._services.settings, copy, self.profile.name)
            return copy

        opened = await self._services.database.write(insert)
        self._note_start(opened)
        return Stream(opened, None)

    def check_size(self, length: int) -> None:
        """Refuse an upload that is too large.

        Raises:
            TusError: ``tus_size_exceeded``.
        """
        if length > self.max_size:
            raise too_large(self.max_size, length)

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
        new = sessions.requested_upload(self._services.settings, self.profile, request, strategy=_STRATEGY)
        _fill(new.session, length, metadata, 0)
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

    # --- continuation --------------------------------------------------------------------------------------------

    async def settled_offset(self, stream: Stream) -> Stream:
        """Return an upload with an offset that no running request changes: a request that appends has to yield.

        Raises:
            TusError: ``tus_locked``, it has not yielded in time.
        """
        upload = stream.session
        is_held = upload.lock_owner is not None and (upload.lock_expires_at or utc_now()) > utc_now()
        if is_held and upload.state in OPEN:
            stream = await self._leases.make_free(upload.id)
            upload = stream.session
        if upload.state in OPEN and upload.upload_length == upload.last_known_offset:
            # A process ended between the last byte and the end of its request; the client has nothing more to send.
            stream = await self.append(stream, _NoBody(), offset=upload.last_known_offset)
        return stream

    async def append(
        self, stream: Stream, body: IncomingBody, *, offset: int, declared_length: int | None = None
    ) -> Stream:
        """Append the bytes of ``body`` at ``offset`` and return the upload with its new offset.

        What has arrived is stored and recorded, also when the client disconnects.

        Args:
            declared_length: sets the length of an upload whose length was unknown.

        Raises:
            TusError: ``tus_offset_conflict``, ``tus_size_exceeded``, ``tus_locked``, ``tus_session_expired`` or
                ``tus_upload_closed``.
            InvalidArgument: another length was recorded before, or the length is less than the offset.
            StorageError: the store failed; what was recorded before stays.
        """
        started, session_id = time.monotonic(), stream.session.id
        async with self._leases.hold(session_id, body.stop) as lease:
            found = _leased(lease)
            require_alive(found.session)
            require_offset(found.session, offset)
            if found.session.state not in OPEN:
                require_unsent(found.session)
                body.limit_to(0)
                return found
            found = await self._with_length(lease, declared_length)
            length = found.session.upload_length
            body.limit_to((self.max_size if length is None else length) - offset)
            await self._store(lease, body)
        done = _leased(lease)
        telemetry.emit(
            "rindle.upload.resumable.patch",
            {"profile": self.profile.name, "session_id": session_id, "state": done.session.state, "protocol": TUS},
            {
                "offset": done.session.last_known_offset,
                "bytes": done.session.last_known_offset - offset,
                "duration_us": (time.monotonic() - started) * 1e6,
            },
        )
        return done

    async def _with_length(self, lease: Lease, declared: int | None) -> Stream:
        found = _leased(lease)
        if declared is None or declared == found.session.upload_length:
            return found
        if found.session.upload_length is not None:
            raise InvalidArgument(
                "the length of this upload is already set and cannot change", detail={"option": "Upload-Length"}
            )
        if declared < found.session.last_known_offset:
            raise InvalidArgument(
                "the length is less than the bytes that were sent", detail={"option": "Upload-Length"}
            )
        self.check_size(declared)
        lease.stream = await self._services.database.write(rows.set_length, lease.session_id, lease.owner, declared)
        return lease.stream

    async def _store(self, lease: Lease, body: IncomingBody) -> None:
        upload = _leased(lease).session
        not_recorded: Exception | None = None

        async def checkpoint(state: PartStreamState, *, is_last: bool = False) -> None:
            nonlocal not_recorded
            try:
                await self._commit(lease, state, release=is_last)
            except Exception as error:
                not_recorded = error
                raise

        try:
            async with aclosing(body.chunks()) as chunks:
                await self._storage.append_part_stream(
                    upload.upload_key,
                    upload.id,
                    chunks,
                    state_of(upload),
                    length=upload.upload_length,
                    checkpoint=checkpoint,
                )
        except TusError as error:
            if error.code == "tus_session_expired":  # it has ended meanwhile, and may be released already
                await self._release(upload)
            raise
        except StorageAdapterException:
            if not_recorded is not None:  # the database failed, and not the store through which it was raised
                raise not_recorded from None
            raise
        except StorageNotFound as error:
            await self._fail(lease, error)
            raise TusError(
                "the bytes of this upload were lost; start a new upload", code="tus_session_expired"
            ) from error

    async def _commit(self, lease: Lease, state: PartStreamState, *, release: bool) -> None:
        settings = self._services.settings
        base = _leased(lease).session.last_known_offset

        def commit(session: Session) -> Stream:
            found = rows.lock_stream(session, lease.session_id)
            expires_at = (
                None
                if state.offset == base
                else upload_rows.slid_expiry(found.session, settings.upload_session_ttl_seconds)
            )
            done, is_complete = rows.commit_state(
                session, lease.session_id, lease.owner, base=base, state=state, expires_at=expires_at, release=release
            )
            if is_complete and done.session.concat_role != PARTIAL:
                outbox.wake_upload(session, settings, done.session, self.profile.name, signal="complete")
            return done

        lease.stream = await self._services.database.write(commit)
        lease.is_over = release

    async def _fail(self, lease: Lease, error: StorageError) -> None:
        def fail(session: Session) -> None:
            found, first = rows.fail_stream(session, lease.session_id, code=error.code, reason=error.message)
            if first:
                outbox.wake_upload(session, self._services.settings, found.session, self.profile.name, signal="touch")

        await self._services.database.write(fail)
        lease.is_over = True

    async def settled(self, stream: Stream, *, timeout_seconds: float) -> Stream:
        """Return an upload when the workflow has verified or refused it, or as it is after ``timeout_seconds``."""
        ends_at, pause = time.monotonic() + timeout_seconds, _LOOK_SECONDS
        while stream.session.state in _ASSEMBLING and stream.session.concat_role != PARTIAL:
            left = ends_at - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, _LONGEST_LOOK_SECONDS)
            found = await self._services.database.read(rows.find_stream, stream.session.id)
            if found is None:
                break
            stream = found
        return stream

    # --- termination ---------------------------------------------------------------------------------------------

    async def terminate(self, stream: Stream) -> None:
        """Abort an upload and remove its bytes.

        The workflow removes them when the store fails, and when all have arrived: it may be making the object just now.

        Raises:
            UploadAlreadyCompleted: its object is verified, or is being verified.
            TusError: ``tus_locked``.
        """
        session_id = stream.session.id
        is_open = (await self.settled_offset(stream)).session.state in OPEN

        def abort(session: Session) -> tuple[Stream, bool]:
            found, first = rows.abort_stream(session, session_id)
            if first:
                outbox.wake_upload(session, self._services.settings, found.session, self.profile.name, signal="cancel")
            return found, first

        try:
            found, first = await self._services.database.write(abort)
        except NotFound as error:
            raise TusError("there is no upload at this address", code="tus_session_not_found") from error
        if not first and found.session.state in (SessionState.COMPLETED, SessionState.VERIFYING):
            refused = UploadAlreadyCompleted(
                "this upload is complete and cannot be terminated; purge its asset instead"
            )
            refused.http_status = 403  # 409 is a conflict of offsets, after which clients try again
            raise refused
        if first:
            telemetry.emit(
                "rindle.upload.resumable.cancel",
                {"profile": self.profile.name, "session_id": session_id, "protocol": TUS, "outcome": "aborted"},
            )
            if is_open:
                await self._release(found.session)

    async def _release(self, upload: MediaUploadSession) -> None:
        try:
            await self._storage.abort_part_stream(upload.upload_key, upload.id, state_of(upload))
        except StorageError as error:
            await self._services.database.write(upload_rows.note_not_released, upload.id, error.code)
        else:
            await self._services.database.write(upload_rows.note_released, upload.id)

    def _note_start(self, upload: MediaUploadSession) -> None:
        facts = {"profile": self.profile.name, "session_id": upload.id}
        telemetry.emit("rindle.upload.start", facts)
        telemetry.emit("rindle.upload.resumable.start", {**facts, "protocol": TUS, "state": upload.state})


def require_alive(upload: MediaUploadSession) -> None:
    """Refuse an upload that can neither be continued nor shown.

    Raises:
        TusError: ``tus_session_expired``: it has expired, was aborted, or failed before all its bytes had arrived.
    """
    is_over = upload.state in OPEN and upload_rows.live_seconds(upload) <= 0
    if is_over or upload.state in (SessionState.ABORTED, SessionState.EXPIRED):
        raise TusError("this upload has ended; start a new one", code="tus_session_expired")
    if upload.state == SessionState.FAILED and upload.last_known_offset != upload.upload_length:
        raise TusError("this upload has failed; start a new one", code="tus_session_expired")


def require_unsent(upload: MediaUploadSession) -> None:
    """Refuse bytes for an upload that takes none.

    Raises:
        TusError: ``tus_upload_closed``: it was refused, or is made from other uploads.
    """
    if upload.concat_role == FINAL:
        raise TusError("a final upload takes no bytes of its own", code="tus_upload_closed")
    if upload.state == SessionState.FAILED:
        raise TusError("this upload was refused; start a new one", code="tus_upload_closed")


def is_finished_partial(upload: MediaUploadSession) -> bool:
    """Whether an upload is a partial one with all its bytes."""
    return upload.concat_role == PARTIAL and upload.state == SessionState.UPLOADED


def _bad_source() -> InvalidArgument:
    return InvalidArgument(
        "every source of a concatenation must be a finished partial upload of your own at this address",
        detail={"option": "Upload-Concat"},
    )


def too_large(limit: int, found: int | None = None) -> TusError:
    """Return the error for more bytes than ``limit``."""
    detail = {"limit": limit} if found is None else {"limit": limit, "found": found}
    return TusError(f"the upload may have at most {limit} bytes", code="tus_size_exceeded", detail=detail)


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


def _fill(upload: MediaUploadSession, length: int | None, metadata: str | None, part_size: int) -> None:
    upload.resumable_protocol = TUS
    upload.upload_length = upload.expected_size = length
    upload.upload_metadata = metadata
    upload.part_size = part_size or None


def _leased(lease: Lease) -> Stream:
    if lease.stream is None:
        raise ValueError("the lease was not given")
    return lease.stream


def require_offset(upload: MediaUploadSession, offset: int) -> None:
    """Refuse bytes for another offset than that of the upload.

    Raises:
        TusError: ``tus_offset_conflict``.
    """
    if offset != upload.last_known_offset:
        raise TusError(
            f"the upload continues at byte {upload.last_known_offset}",
            code="tus_offset_conflict",
            detail={"server": upload.last_known_offset, "client": offset},
        )
