"""The contracts of everything that can be plugged in: stores, scanners, probes, analyzers, processors, authorizers.

Scanners, probes, analyzers and processors get local paths, run outside database transactions and may be plain
functions (run in a thread) or coroutines.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from rindle.errors import CapabilityUnsupported, Condemned, UploadRejected
from rindle.recipes import VariantSpec
from rindle.states import MediaKind

if TYPE_CHECKING:
    from rindle.db.models import MediaAsset

#: Largest piece ``Storage.read_range`` returns in one call.
MAX_RANGE_BYTES = 1 << 20
#: Longest life of a signed URL (SigV4's limit of seven days).
MAX_URL_SECONDS = 604_800


# --- storage -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What ``store`` wrote: key, size in bytes and the store's ETag without quotes."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """What is known of an object without reading it; ``last_modified`` is aware UTC."""

    size: int
    content_type: str | None
    etag: str
    last_modified: datetime | None


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """Outcome of ``delete``; ``existed`` is ``None`` where the store cannot tell (S3)."""

    key: str
    existed: bool | None


@dataclass(frozen=True, slots=True)
class Presigned:
    """A grant for one request. The client sends ``headers`` verbatim, no others that are signed."""

    url: str = field(repr=False)
    method: str
    headers: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One entry of ``list_keys``."""

    key: str
    size: int
    last_modified: datetime | None


@dataclass(frozen=True, slots=True)
class KeyPage:
    """One page of ``list_keys``, in key order; ``next_after`` goes into the next call, ``None`` at the end."""

    objects: tuple[ListedObject, ...]
    next_after: str | None


class Storage:
    """Where objects live. Subclass it, implement the verbs you can, advertise exactly those.

    Keys are checked by every adapter itself (``rindle.security.storage_key.validate_key``); bytes move through files in
    pieces of at most 1 MiB; adapters do no authorisation and never put URLs or credentials into errors or logs.
    Prove an adapter with ``rindle.testing.storage_contract``.
    """

    #: Name that stands in events and error texts; the class name is used when it is empty.
    adapter_name: str = ""

    def capabilities(self) -> frozenset[str]:
        """Return the names from ``rindle.capabilities.STORAGE_CAPABILITIES`` that this adapter implements."""
        raise NotImplementedError

    async def store(
        self,
        key: str,
        source: Path,
        *,
        content_type: str | None = None,
        content_disposition: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> StoredObject:
        """Write the file at ``source`` to ``key``, replacing what is there.

        Raises:
            StorageConflict: ``if_absent`` was set and the key is taken.
            StorageError: see the adapter.
        """
        raise NotImplementedError

    async def download(
        self, key: str, dest: Path, *, max_bytes: int | None = None, if_match: str | None = None
    ) -> Path:
        """Fetch ``key`` into ``dest``, creating parent directories; no partial file stays behind on error.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            ObjectChanged: ``if_match`` is set and the object's ETag differs.
            StoragePermanent: the object is larger than ``max_bytes``.
        """
        raise NotImplementedError

    async def read_range(self, key: str, start: int, length: int, *, if_match: str | None = None) -> bytes:
        """Return up to ``length`` (at most 1 MiB) bytes from ``start``; short or empty past the end."""
        raise NotImplementedError

    async def delete(self, key: str) -> DeleteResult:
        """Delete exactly ``key``; a missing object is success."""
        raise NotImplementedError

    async def head(self, key: str) -> ObjectHead:
        """Describe the object at ``key``.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
        """
        raise NotImplementedError

    async def url(
        self,
        key: str,
        *,
        expires_in: int | None = None,
        public: bool = False,
        content_disposition: str | None = None,
        content_type: str | None = None,
        subject: str | None = None,
    ) -> str:
        """Return a URL for ``key``: signed for ``expires_in`` seconds (1 to 604800), or unsigned when ``public``.

        ``subject`` is audit data some adapters bind into the signature; others ignore it.

        Raises:
            CapabilityUnsupported: ``delivery_unsupported`` when the adapter cannot sign, has no public address, or
                cannot bind response headers into such a URL.
        """
        raise self._lacks("signed_url", "delivery_unsupported")

    async def presigned_put(
        self,
        key: str,
        expires_in: int,
        *,
        content_type: str | None = None,
        content_length: int | None = None,
        max_bytes: int | None = None,
        write_once: bool = True,
    ) -> Presigned:
        """Return a grant to PUT one object at ``key`` for ``expires_in`` seconds.

        ``content_length`` and ``content_type`` are bound into the signature where the store can; ``max_bytes`` caps
        the body where the store can; ``write_once`` refuses a second write.
        """
        raise self._lacks("presigned_put")

    async def list_keys(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> KeyPage:
        """Return one page of the objects whose key starts with ``prefix``, in key order."""
        raise NotImplementedError

    async def lend(self, key: str, *, if_match: str | None = None) -> Path | None:
        """Return the object's own file when it lies on this machine's disk, else ``None``. Read only, never moved."""
        return None

    async def ping(self) -> None:
        """Reach the store without changing it (doctor's HEAD); raise a StorageError when it cannot be used."""
        raise NotImplementedError

    async def sweep(self, older_than_seconds: float) -> int:
        """Remove half-written leftovers of killed processes, if the adapter keeps such; returns how many."""
        return 0

    async def close(self) -> None:
        """Release clients and threads."""

    def _lacks(self, capability: str, code: str = "upload_unsupported") -> CapabilityUnsupported:
        return CapabilityUnsupported(
            f"{type(self).__name__} does not offer {capability!r}", capability=capability, code=code
        )


# --- judgement ---------------------------------------------------------------------------------------------------


class Quarantine(UploadRejected):
    """Raised by a :class:`Scanner` to condemn a file: ``raise Quarantine("contains EICAR")``."""

    def __init__(self, reason: str = "the scanner refused the file") -> None:
        super().__init__(reason, code="scanner_rejected", detail={"reason": "scanner_rejected"})


@runtime_checkable
class Scanner(Protocol):
    """Judges a file before any decoder opens it."""

    def scan(self, path: Path, *, asset: MediaAsset | None) -> Awaitable[None] | None:
        """Return ``None`` for clean or raise :class:`Quarantine`.

        ``asset`` is ``None`` for a server-side upload, which is scanned before any row exists. Any other exception
        means the scanner failed: it is tried again and never taken for clean.
        """


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Technical facts of an original.

    ``width`` and ``height`` are pixels after orientation is applied; ``metadata`` is JSON-compatible.
    ``placeholder`` is a data URI of a tiny preview, when the probe made one.
    """

    kind: MediaKind
    width: int | None = None
    height: int | None = None
    duration_ms: int | None = None
    has_video_track: bool | None = None
    has_audio_track: bool | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    placeholder: str | None = None


@runtime_checkable
class Probe(Protocol):
    """Reads technical facts of the types it accepts."""

    def accepts(self, mime: str) -> bool:
        """Whether this probe reads files of the sniffed type ``mime``."""

    def probe(self, path: Path) -> Awaitable[ProbeResult] | ProbeResult:
        """Return the facts, or raise :class:`rindle.errors.Condemned` when the file is unusable."""


@runtime_checkable
class Analyzer(Protocol):
    """Computes further metadata, merged under the key ``analyzer``."""

    def analyze(self, path: Path, probe: ProbeResult) -> Awaitable[Mapping[str, Any]] | Mapping[str, Any]:
        """Return a JSON-compatible mapping; a failure is logged and never stops the promotion."""


@runtime_checkable
class Processor(Protocol):
    """Builds a variant from an original."""

    capabilities: frozenset[str]

    def process(
        self,
        source: Path,
        spec: VariantSpec,
        dest: Path,
        *,
        progress: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> Awaitable[Path] | Path:
        """Write the variant to ``dest`` and return it; raise a RindleError when it cannot be built.

        ``progress`` takes 0 to 99; ``cancelled`` turns true when the work is no longer wanted.
        """


# --- delivery ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeliverySubject:
    """What an Authorizer is asked about when something is delivered."""

    profile: str
    mode: Literal["public", "private"]
    key: str | None = None
    asset_id: str | None = None
    variant: str | None = None
    playback_id: str | None = None
    kind: Literal["object", "hls", "progressive"] = "object"


@dataclass(frozen=True, slots=True)
class UploadSubject:
    """What an Authorizer is asked about on the upload routes; ``session`` is a plain mapping or ``None``."""

    profile: str
    session: Mapping[str, Any] | None = None
    filename: str | None = None
    size: int | None = None
    method: str | None = None
    token_actor: str | None = None


@dataclass(frozen=True, slots=True)
class AssetSubject:
    """What an Authorizer is asked about on the asset routes (actions ``read``, ``operate`` and ``subscribe``)."""

    profile: str
    asset_id: str
    uploaded_by: str | None = None


@runtime_checkable
class Authorizer(Protocol):
    """Decides who may do what. Anything but a plain return denies: raising, and returning ``False``."""

    def authorize(self, actor: Any, action: str, subject: Any) -> Awaitable[bool | None] | bool | None:
        """Return to allow; raise :class:`rindle.errors.Unauthorized` to deny."""


#: Where a stream of bytes comes from in a server-side upload.
ByteStream = AsyncIterator[bytes]

__all__ = [
    "MAX_RANGE_BYTES",
    "MAX_URL_SECONDS",
    "Analyzer",
    "AssetSubject",
    "Authorizer",
    "ByteStream",
    "Condemned",
    "DeleteResult",
    "DeliverySubject",
    "KeyPage",
    "ListedObject",
    "ObjectHead",
    "Presigned",
    "Probe",
    "ProbeResult",
    "Processor",
    "Quarantine",
    "Scanner",
    "Storage",
    "StoredObject",
    "UploadSubject",
]
