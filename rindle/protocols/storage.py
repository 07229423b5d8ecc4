"""What a store is: its verbs, and what they take and return. The shipped ones are in ``rindle.storage``.

Two verbs are optional, ``url`` and ``presigned_put``: the same store may offer them or not, by its options, so the
answer is what ``capabilities`` says, and the defaults refuse with the name of what is missing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rindle.errors import CapabilityUnsupported

#: Largest piece ``Storage.read_range`` returns in one call.
MAX_RANGE_BYTES = 1 << 20
#: Longest life of a signed URL (SigV4's limit of seven days).
MAX_URL_SECONDS = 604_800

#: Where a stream of bytes comes from in a server-side upload.
ByteStream = AsyncIterator[bytes]


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

    @asynccontextmanager
    async def local_path(self, key: str, *, if_match: str | None = None) -> AsyncIterator[Path | None]:
        """Yield the path of the object's own file, or ``None`` where the store has no such file on this machine.

        The path is valid inside the block. Read the file; never write or move it.

        Raises:
            StorageNotFound: the store keeps local files, and nothing is stored at ``key``.
            ObjectChanged: ``if_match`` is set and the ETag of the local file differs.
        """
        yield None

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
