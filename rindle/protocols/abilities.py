"""Optional abilities of stores, each an abstract class of its own.

A store offers an ability by subclassing it beside :class:`~rindle.protocols.Storage`. Callers find it with
``isinstance``, and the capabilities of an ability follow from the class (``rindle.capabilities.ABILITIES``): a store
does not list them itself, so that what it claims and what it implements cannot differ. Test an ability with
``rindle.testing.storage_abilities``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, Protocol

from pydantic import SecretStr

from rindle.protocols.storage import Presigned, StoredObject

# --- multipart uploads -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MultipartUpload:
    """A multipart upload that a store has begun.

    Attributes:
        upload_id: the store's name of the upload; with a signed URL it is all that a client needs to add parts.
        key: key of the object that its parts become.
        part_size: size in bytes of every part except the last, which may be smaller.
    """

    upload_id: str = field(repr=False)
    key: str
    part_size: int


@dataclass(frozen=True, slots=True)
class Part:
    """One stored part: its number from 1, its ETag without quotes, and its size in bytes."""

    part_number: int
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class PresignedPart(Presigned):
    """A grant to send one part. The client sends ``headers`` verbatim, and no other signed headers."""

    part_number: int
    upload_id: str = field(repr=False)


class MultipartUploads(ABC):
    """Objects that clients send in parts, directly to the store (capability ``multipart_upload``).

    Limits of a store are those of S3: parts of 5 MiB to 5 GiB (the last one may be smaller), numbered 1 to 10000,
    objects of at most 5 TiB.
    """

    @abstractmethod
    async def initiate_multipart_upload(
        self, key: str, part_size: int, *, content_type: str | None = None
    ) -> MultipartUpload:
        """Begin an upload to ``key``; no object exists before :meth:`complete_multipart_upload`.

        Several uploads to one key may be open at once; each call begins another one.
        """

    @abstractmethod
    async def presigned_upload_part(
        self, key: str, upload_id: str, part_number: int, expires_in: int, *, content_length: int | None = None
    ) -> PresignedPart:
        """Return a grant to send the part ``part_number`` (1 to 10000) for ``expires_in`` seconds.

        ``content_length`` is bound into the signature where it is given: the store refuses another size. A part that is
        sent again replaces the one with the same number.
        """

    @abstractmethod
    async def list_parts(self, key: str, upload_id: str) -> list[Part]:
        """Return all stored parts in the order of their numbers.

        Raises:
            StorageNotFound: there is no such upload: it was completed or aborted.
        """

    @abstractmethod
    async def complete_multipart_upload(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        """Make the object at ``key`` from ``parts``, in the order of their numbers. Parts that are not listed are lost.

        Idempotent: when the upload is gone and the object exists, an earlier call has made it, and that is the result.

        Raises:
            InvalidMultipartParts: a part is missing, has another ETag, or is too small.
            StorageNotFound: neither the upload nor the object exists.
        """

    @abstractmethod
    async def abort_multipart_upload(self, key: str, upload_id: str) -> None:
        """Remove an upload and its parts; a missing upload is success. An object at ``key`` stays.

        A part whose transfer has not ended may be stored afterwards. So callers check with
        :meth:`list_multipart_uploads` and abort again.
        """

    @abstractmethod
    async def list_multipart_uploads(self, key: str) -> list[str]:
        """Return the ids of all uploads to exactly ``key`` that are neither completed nor aborted."""


# --- resumable sessions ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResumableUpload:
    """A resumable session that a store has begun.

    Attributes:
        session_uri: bearer credential: whoever has it may send the bytes.
        upload_id: the store's name of the session.
        expires_at: when the store forgets the session.
        region_hint: where the store keeps it, if it says so.
    """

    session_uri: SecretStr
    upload_id: str = field(repr=False)
    expires_at: datetime
    region_hint: str | None = None


@dataclass(frozen=True, slots=True)
class ResumableStatus:
    """How far a resumable session is; ``complete`` is the store's claim, which only ``head`` confirms."""

    committed_bytes: int
    state: Literal["in_progress", "complete"]
    region_hint: str | None = None


class ResumableSessions(ABC):
    """Objects that clients send to a session URI, and continue after a break.

    Capabilities ``resumable_upload`` (start) and ``resumable_upload_session`` (status and cancel).
    """

    @abstractmethod
    async def initiate_resumable_upload(
        self,
        key: str,
        expected_size: int | None,
        *,
        content_type: str | None = None,
        origin: str | None = None,
    ) -> ResumableUpload:
        """Begin a session for ``key``; ``origin`` is that of the browser that will send the bytes."""

    @abstractmethod
    async def resumable_upload_status(
        self, key: str, session_uri: SecretStr, *, client_offset: int | None = None
    ) -> ResumableStatus:
        """Return how many bytes the store has.

        Raises:
            SessionUriUnknown: the store does not know the session.
            SessionUriExpired: the session has expired.
            OffsetMismatch: ``client_offset`` is not the number of committed bytes.
        """

    @abstractmethod
    async def cancel_resumable_upload(self, key: str, session_uri: SecretStr) -> bool:
        """Give the session up; ``False`` when the store does not know it any more, which is also success."""


# --- part streams ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PartStreamState:
    """What has arrived of a stream, and where the store keeps it; rows keep it between requests.

    Attributes:
        offset: bytes stored, from 0.
        part_size: size in bytes of every part except the last; 0 in a store that keeps no parts.
        upload_id: the store's name of the unfinished upload; ``None`` before there is one.
        parts: the stored parts, in the order of their numbers. One without an ETag stands for a number that is not used
            again, because a request with it may still be under way.
    """

    offset: int = 0
    part_size: int = 0
    upload_id: str | None = field(default=None, repr=False)
    parts: tuple[Part, ...] = ()

    @property
    def part_bytes(self) -> int:
        """Bytes in the parts together; the rest up to ``offset`` is the tail, which is kept elsewhere."""
        return sum(part.size for part in self.parts)

    @property
    def next_part_number(self) -> int:
        """A number that no part and no unfinished request has."""
        return self.parts[-1].part_number + 1 if self.parts else 1

    def without_next_number(self) -> PartStreamState:
        """Return the state after a request with the next number whose end is not known."""
        return replace(self, parts=(*self.parts, Part(self.next_part_number, "", 0)))


class Checkpoint(Protocol):
    """Records a state whose bytes are stored."""

    async def __call__(self, state: PartStreamState, *, is_last: bool = False) -> None:
        """Record ``state``; with ``is_last`` this call of ``append_part_stream`` stores nothing more.

        Raises:
            Exception: it was not recorded, because another request appends by now. The store does not keep what came
                after the last recorded state, and raises the exception again.
        """


#: Returns those of the upload names that are of uploads which have not ended.
LiveUploads = Callable[[Collection[str]], Awaitable[Collection[str]]]


class PartStream(ABC):
    """Objects whose bytes pass through the application and may arrive in several requests (capability ``tus_upload``).

    The upload is named by ``upload_name`` (the id of its session); any process that reaches the store can continue it.
    Nothing is visible at the key before :meth:`complete_part_stream`. A session that has ended without its object is
    released with :meth:`abort_part_stream`.
    """

    @abstractmethod
    def part_size_for(self, length: int) -> int:
        """Return the part size of a stream of at most ``length`` bytes; 0 in a store that keeps no parts.

        Raises:
            StoragePermanent: the store has no objects of this length.
        """

    @abstractmethod
    async def append_part_stream(
        self,
        key: str,
        upload_name: str,
        chunks: AsyncIterator[bytes],
        state: PartStreamState,
        *,
        length: int | None,
        checkpoint: Checkpoint,
    ) -> PartStreamState:
        """Append ``chunks`` at ``state.offset`` and return the new state, which ``checkpoint`` has recorded.

        What ``chunks`` yields is stored, also when it then ends early; an exception of ``chunks`` is raised after that.
        Memory does not grow with the stream. A store that sends parts needs disk space for two.

        Args:
            chunks: pieces of at most 1 MiB.
            state: as it was recorded; what the store has beyond it is dropped.
            length: of the whole stream in bytes; ``None`` while it is unknown. The stream ends there.
            checkpoint: called after each durable step, and once with ``is_last`` at the end.

        Raises:
            TusTailMissing: recorded bytes are not where they were kept; nothing was changed.
            StorageNotFound: the store has lost the unfinished upload.
            StorageError: what came after the last recorded state is not kept.
        """

    @abstractmethod
    async def complete_part_stream(self, key: str, upload_name: str, state: PartStreamState) -> StoredObject:
        """Make the object at ``key`` from everything appended; success if an earlier call has made it.

        Raises:
            StorageNotFound: neither the unfinished upload nor the object exists.
            TusTailMissing: recorded bytes are not where they were kept.
        """

    @abstractmethod
    async def abort_part_stream(self, key: str, upload_name: str, state: PartStreamState) -> None:
        """Remove what was appended and not completed; success if nothing is left."""

    async def sweep_part_streams(self, older_than_seconds: float, live: LiveUploads) -> int:
        """Remove what uploads that are not live have left on this machine, and return how many those were.

        Nothing with a write in so many seconds is removed. Stores that keep nothing here return 0.
        """
        return 0


# --- concatenation -----------------------------------------------------------------------------------------------


class Concatenation(ABC):
    """Objects that are made from others in the store (capability ``concatenate``)."""

    @abstractmethod
    async def concatenate(self, final_key: str, source_keys: Sequence[str]) -> StoredObject:
        """Make ``final_key`` from the objects ``source_keys`` in this order; one may appear repeatedly.

        The sources stay. After a failure no partial object and no unfinished upload is left. An object that an earlier
        call has made is not replaced: it may be verified by now.

        Raises:
            StorageNotFound: a source is missing.
        """


#: The capabilities of each ability.
ABILITIES: Mapping[str, type] = {
    "multipart_upload": MultipartUploads,
    "resumable_upload": ResumableSessions,
    "resumable_upload_session": ResumableSessions,
    "tus_upload": PartStream,
    "concatenate": Concatenation,
}
