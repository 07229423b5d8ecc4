"""Uploads that continue after a break, without HTTP and for every protocol: create, append, terminate.

The bytes pass through the application into the store; the row has the offset. Assembly and verification are steps of
the workflow (:mod:`rindle.uploads.assembly`). What only one protocol has is in :mod:`rindle.uploads.tus` and
:mod:`rindle.uploads.ietf`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import ClassVar, Protocol
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy.orm import Session

from rindle import outbox, telemetry
from rindle.capabilities import require_upload, unsupported
from rindle.db import streams as rows
from rindle.db import uploads as upload_rows
from rindle.db.models import MediaUploadSession as MediaUploadSession  # also of the routes, like those below
from rindle.db.models import utc_now
from rindle.db.streams import ASSEMBLING, state_of
from rindle.db.streams import FINAL as FINAL
from rindle.db.streams import OPEN as OPEN
from rindle.db.streams import PARTIAL as PARTIAL
from rindle.db.streams import Stream as Stream
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
from rindle.protocols import MAX_URL_SECONDS, PartStream, PartStreamState
from rindle.security import BadToken, check_secrets
from rindle.security.upload_token import UploadClaims, read_upload, sign_upload
from rindle.services import Services
from rindle.states import ENDED_BADLY, AssetState, SessionState
from rindle.uploads import sessions
from rindle.uploads.leases import Lease, Leases
from rindle.uploads.sessions import UploadRequest
from rindle.uploads.settling import Settling

#: Largest upload without a smaller limit, in bytes.
MAX_SIZE_BYTES = 5 * 1024**3
#: Value of ``upload_strategy``.
STRATEGY = "resumable"
#: Told the offset of an upload in bytes.
OnOffset = Callable[[int], Awaitable[None]]


class IncomingBody(Protocol):
    """The bytes of one request."""

    @property
    def is_whole(self) -> bool:
        """Whether all bytes that the client announced have been yielded."""

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield pieces of at most 1 MiB until the body ends, the client disconnects or :meth:`stop` was called."""

    def limit_to(self, max_bytes: int) -> None:
        """Yield no more than ``max_bytes``.

        Raises:
            TusError: ``tus_size_exceeded``, the announced length is larger; nothing was read.
        """

    def stop(self) -> None:
        """Yield nothing more; a read that waits ends at once."""


class NoBody:
    """The body of a request that brings no bytes."""

    is_whole = True

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        nothing: tuple[bytes, ...] = ()
        for piece in nothing:
            yield piece

    def limit_to(self, max_bytes: int) -> None:
        """Nothing is over any limit."""

    def stop(self) -> None:
        """There is nothing to stop."""


class StreamUploads:
    """The uploads of one profile by one protocol.

    Args:
        services: the application's services.
        profile: the profile.
        secrets: sign the URLs of uploads: the first signs, all verify.
        max_size: largest upload in bytes; the profile's ``max_bytes`` may be smaller.

    Raises:
        CapabilityUnsupported: ``upload_unsupported``: the profile's storage takes no such uploads.
        Misconfigured: there is no secret, or one is too short.
    """

    #: Value of ``resumable_protocol``.
    protocol: ClassVar[str]
    #: Whether an upload is complete as soon as it has as many bytes as its length; otherwise a request has to say so.
    ends_by_length: ClassVar[bool] = True

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
        self._settling = Settling(services.database)

    @property
    def _storage(self) -> PartStream:
        storage = self._services.storage(self.profile)
        if not isinstance(storage, PartStream):
            raise unsupported(storage, "tus_upload")
        return storage

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
            or found.session.resumable_protocol != self.protocol
            or not claims.is_of(found.session.actor, self._secrets)
            or (found.asset is not None and found.asset.state == AssetState.DELETED)
        ):
            raise TusError("there is no upload at this address", code="tus_session_not_found")
        require_alive(found.session)
        return found

    # --- creation ------------------------------------------------------------------------------------------------

    async def create(self, request: UploadRequest, *, length: int | None, metadata: str | None = None) -> Stream:
        """Open an upload of ``length`` bytes; ``None`` defers the length. Its workflow is started.

        Where the length ends an upload, one of no bytes has all its bytes at once.

        Args:
            request: file name, type, actor and lifetime. A repeated request of the same actor with its idempotency key
                returns the first upload.
            metadata: the client's own header, kept as it is.

        Raises:
            TusError: ``tus_size_exceeded``.
            UploadRejected: the profile does not allow the extension, or the size that the request declares.
            InvalidArgument: the idempotency key belongs to another profile or lane.
            UploadCancelled, UploadSessionExpired, RindleError: the upload of the idempotency key has ended.
        """
        new = sessions.requested_upload(self._services.settings, self.profile, request, strategy=STRATEGY)
        part_size = self._part_size(length)
        is_complete = length == 0 and self.ends_by_length
        self._fill(new.session, length, metadata, part_size)

        def insert(session: Session, copy: Upload) -> Upload:
            inserted = upload_rows.insert_upload(session, copy.asset, copy.session)
            rows.note_opened(session, inserted.session, is_complete=is_complete)
            signal = "complete" if is_complete else None
            outbox.wake_upload(session, self._services.settings, inserted.session, self.profile.name, signal=signal)
            return inserted

        opened = await sessions.insert_once(self._services, new, insert)
        if opened.session.id == new.session.id:
            self._note_start(opened.session)
        elif opened.session.state in ENDED_BADLY:
            raise sessions.ended_error(opened.session)
        return Stream(opened.session, opened.asset)

    def _part_size(self, length: int | None) -> int:
        if length is not None:
            self.check_size(length)
        return self._storage.part_size_for(self.max_size if length is None else length)

    def _fill(self, upload: MediaUploadSession, length: int | None, metadata: str | None, part_size: int) -> None:
        upload.resumable_protocol = self.protocol
        upload.upload_length = upload.expected_size = length
        upload.upload_metadata = metadata
        upload.part_size = part_size or None

    def check_size(self, length: int) -> None:
        """Refuse an upload that is too large.

        Raises:
            TusError: ``tus_size_exceeded``.
        """
        if length > self.max_size:
            raise too_large(self.max_size, length)

    # --- continuation --------------------------------------------------------------------------------------------

    async def settled_offset(self, stream: Stream) -> Stream:
        """Return an upload with an offset that no running request changes: a request that appends has to yield.

        Raises:
            TusError: ``tus_locked``, it has not yielded in time.
        """
        upload = stream.session
        if upload.lock_owner is not None and upload.state in OPEN:
            # Also where the lease is past its time: its holder can record more until it is taken away.
            stream = await self._leases.make_free(stream)
            upload = stream.session
        if self.ends_by_length and upload.state in OPEN and upload.upload_length == upload.last_known_offset:
            # A process ended between the last byte and the end of its request; the client has nothing more to send.
            stream = await self.append(stream, NoBody(), offset=upload.last_known_offset)
        return stream

    async def append(
        self,
        stream: Stream,
        body: IncomingBody,
        *,
        offset: int,
        declared_length: int | None = None,
        ends: bool = True,
        on_offset: OnOffset | None = None,
    ) -> Stream:
        """Append the bytes of ``body`` at ``offset`` and return the upload with its new offset.

        What has arrived is stored and recorded, also when the client disconnects.

        Args:
            declared_length: sets the length of an upload whose length was unknown.
            ends: whether the upload is complete when the body was received as a whole and the length is reached. Where
                the length alone ends an upload, it is always true.
            on_offset: called after each commit that is not the last, with the new offset.

        Raises:
            TusError: ``tus_offset_conflict``, ``tus_size_exceeded``, ``tus_locked``, ``tus_session_expired`` or
                ``tus_upload_closed``.
            InvalidArgument: another length was recorded before, or the length is less than the offset.
            NotFound: it was purged, or is being purged; nothing of the body is kept.
            StorageError: the store failed; what was recorded before stays.
        """
        started, session_id = time.monotonic(), stream.session.id
        async with self._leases.hold(stream, body.stop) as lease:
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
            await self._store(lease, body, ends=ends, on_offset=on_offset)
        done = _leased(lease)
        telemetry.emit(
            "rindle.upload.resumable.patch",
            {
                "profile": self.profile.name,
                "session_id": session_id,
                "state": done.session.state,
                "protocol": self.protocol,
            },
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

    async def _store(self, lease: Lease, body: IncomingBody, *, ends: bool, on_offset: OnOffset | None) -> None:
        upload = _leased(lease).session
        not_recorded: Exception | None = None

        async def checkpoint(state: PartStreamState, *, is_last: bool = False) -> None:
            nonlocal not_recorded
            try:
                await self._commit(lease, state, release=is_last, ends=ends and (self.ends_by_length or body.is_whole))
            except Exception as error:
                not_recorded = error
                raise
            if on_offset is not None and not is_last:
                await on_offset(state.offset)

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
                await self._release(_leased(lease).session)
            raise
        except NotFound:  # it was purged, and nothing else will remove what this request has stored since
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

    async def _commit(self, lease: Lease, state: PartStreamState, *, release: bool, ends: bool) -> None:
        settings = self._services.settings
        known = _leased(lease)

        def commit(session: Session) -> Stream:
            done, is_complete = rows.commit_state(
                session,
                known,
                lease.owner,
                state=state,
                ttl_seconds=settings.upload_session_ttl_seconds,
                release=release,
                ends=ends,
            )
            if is_complete and done.session.concat_role != PARTIAL:
                outbox.wake_upload(session, settings, done.session, self.profile.name, signal="complete")
            return done

        lease.stream = await self._services.database.write(commit)
        lease.is_over = release

    async def _fail(self, lease: Lease, error: StorageError) -> None:
        def fail(session: Session) -> None:
            found, first = rows.fail_stream(
                session, lease.session_id, code=error.code, reason=error.message, owner=lease.owner
            )
            if first:
                outbox.wake_upload(session, self._services.settings, found.session, self.profile.name, signal="touch")

        await self._services.database.write(fail)
        lease.is_over = True

    async def settled(self, stream: Stream, *, timeout_seconds: float) -> Stream:
        """Return an upload when the workflow has verified or refused it, or as it is after ``timeout_seconds``."""
        is_waited_for = stream.session.state in ASSEMBLING and stream.session.concat_role != PARTIAL
        if not is_waited_for or timeout_seconds <= 0:
            return stream
        await self._settling.wait(stream.session.id, timeout_seconds)
        return await self._services.database.read(rows.find_stream, stream.session.id) or stream

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
                {
                    "profile": self.profile.name,
                    "session_id": session_id,
                    "protocol": self.protocol,
                    "outcome": "aborted",
                },
            )
            if is_open:
                await self._release(found.session)

    async def _release(self, upload: MediaUploadSession) -> None:
        began_at = utc_now()
        try:
            await self._storage.abort_part_stream(upload.upload_key, upload.id, state_of(upload))
        except StorageError as error:
            await self._services.database.write(upload_rows.note_not_released, upload.id, error.code)
        else:
            await self._services.database.write(upload_rows.note_released, upload.id, began_at=began_at)

    def _note_start(self, upload: MediaUploadSession) -> None:
        facts = self._facts(upload.id)
        telemetry.emit("rindle.upload.start", {name: facts[name] for name in ("profile", "session_id")})
        telemetry.emit("rindle.upload.resumable.start", {**facts, "state": upload.state})

    def _facts(self, session_id: str) -> dict[str, str]:
        return {"profile": self.profile.name, "session_id": session_id, "protocol": self.protocol}


def seconds_left(upload: MediaUploadSession) -> int | None:
    """Return how long an upload still takes bytes if none arrive, in seconds; ``None`` when it takes none any more."""
    return max(0, int(upload_rows.live_seconds(upload))) if upload.state in OPEN else None


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


def too_large(limit: int, found: int | None = None) -> TusError:
    """Return the error for more bytes than ``limit``."""
    detail = {"limit": limit} if found is None else {"limit": limit, "found": found}
    return TusError(f"the upload may have at most {limit} bytes", code="tus_size_exceeded", detail=detail)


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
