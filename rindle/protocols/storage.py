"""The protocol of stores, with its argument and result types. The bundled stores are in ``rindle.storage``.

Two methods are optional, ``url`` and ``presigned_put``: depending on its options a store may offer them or not.
``capabilities`` lists what it offers; the default implementations raise an error with the missing capability.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rindle.errors import CapabilityUnsupported, ObjectChanged
from rindle.security.mime import is_active_content

#: Largest range of one ``Storage.read_range`` call in bytes.
MAX_RANGE_BYTES = 1 << 20
#: Longest lifetime of a signed URL in seconds (SigV4's limit of seven days).
MAX_URL_SECONDS = 604_800

#: A source of bytes for a server-side upload.
ByteStream = AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class StoredObject:
    """The result of ``store``: key, size in bytes and the store's ETag without quotes, at most 255 characters."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class ServedAs:
    """The headers that an object is served with, beside those of the store itself."""

    content_type: str
    content_disposition: str | None = None

    @classmethod
    def of(cls, mime: str) -> ServedAs:
        """Return how a store serves a validated object of the type ``mime``: active content only as a download."""
        return cls(mime, "attachment" if is_active_content(mime) else None)


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """The facts of an object without its bytes.

    Attributes:
        size: in bytes.
        content_type: the type that the store answers with; ``None`` where it keeps none.
        etag: without quotes.
        last_modified: aware UTC.
        headers: every other header that the store keeps for the object and sends to visitors, user metadata included;
            names in lower case. Empty where it keeps none.
    """

    size: int
    content_type: str | None
    etag: str
    last_modified: datetime | None
    headers: Mapping[str, str] = field(default_factory=dict)

    def is_served_as(self, served: ServedAs) -> bool:
        """Whether the store answers with exactly these headers; a store that keeps no type passes."""
        expected = {} if served.content_disposition is None else {"content-disposition": served.content_disposition}
        return self.content_type in (None, served.content_type) and dict(self.headers) == expected


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """Outcome of ``delete``; ``existed`` is ``None`` where it is unknown (S3)."""

    key: str
    existed: bool | None


@dataclass(frozen=True, slots=True)
class Presigned:
    """A grant for one request. The client sends ``headers`` verbatim, and no other signed headers."""

    url: str = field(repr=False)
    method: str
    headers: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class PresignedPost:
    """A grant for one form: a POST as ``multipart/form-data`` with exactly ``fields`` and, last, the bytes as ``file``.

    ``fields`` hold the signature; whoever has them may send the object.
    """

    url: str
    fields: Mapping[str, str] = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One entry of ``list_keys``."""

    key: str
    size: int
    last_modified: datetime | None


@dataclass(frozen=True, slots=True)
class KeyPage:
    """One page of ``list_keys``, in key order; ``next_after`` is ``after`` of the next call, ``None`` at the end."""

    objects: tuple[ListedObject, ...]
    next_after: str | None


class Storage:
    """A store of objects. Subclass it, implement the methods it supports, and advertise exactly those.

    Every adapter validates keys itself (``rindle.security.storage_key.validate_key``). Bytes move through files in
    pieces of at most 1 MiB. Adapters do no authorisation, and their errors and logs contain no URLs or credentials.
    Test an adapter with ``rindle.testing.storage_contract``.
    """

    #: Name in events and error messages; the class name when it is empty.
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
        """Write the file at ``source`` to ``key``, replacing an existing object.

        Raises:
            StorageConflict: ``if_absent`` is set and the key exists.
            StorageError: see the adapter.
        """
        raise NotImplementedError

    async def download(
        self, key: str, dest: Path, *, max_bytes: int | None = None, if_match: str | None = None
    ) -> Path:
        """Fetch ``key`` into ``dest``, creating parent directories; an error leaves no partial file.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            ObjectChanged: ``if_match`` is set and the object's ETag differs.
            StoragePermanent: the object is larger than ``max_bytes``.
        """
        raise NotImplementedError

    async def read_range(self, key: str, start: int, length: int, *, if_match: str | None = None) -> bytes:
        """Return up to ``length`` (at most 1 MiB) bytes from ``start``; fewer or none past the end."""
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

    async def replace_headers(self, key: str, source: Path, served: ServedAs, *, if_match: str) -> StoredObject:
        """Serve the object at ``key`` with exactly the headers ``served``, and without any other it was stored with.

        The bytes do not change, and the key is never free meanwhile: a grant that may only create stays refused. The
        ETag may change. This implementation stores ``source`` again; override it where the store can replace headers
        without a transfer, with ``if_match`` as a condition of the write.

        Args:
            source: a local file with the object's bytes.
            if_match: ETag of the object whose headers are replaced.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            ObjectChanged: the object's ETag is not ``if_match``.
        """
        found = await self.head(key)
        if found.etag != if_match:
            raise ObjectChanged(
                "the object is no longer the one that was pinned", key=key, adapter=self.adapter_name or None
            )
        return await self.store(
            key, source, content_type=served.content_type, content_disposition=served.content_disposition
        )

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

        Where the store offers ``response_headers``, the answer to a signed URL has ``content_type`` (default
        ``application/octet-stream``) and ``content_disposition``, whatever the object was stored with, and only
        private caches may keep it. ``subject`` is audit data that some adapters bind into the signature; others ignore
        it. It names the actor, so a URL contains at most a keyed digest of it (:func:`rindle.security.actor_digest`),
        never the name.

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

        ``content_length`` and ``content_type`` are bound into the signature, and ``max_bytes`` limits the body, where
        the store supports it; ``write_once`` refuses a second write.
        """
        raise self._lacks("presigned_put")

    async def presigned_post(
        self, key: str, expires_in: int, *, content_type: str | None = None, max_bytes: int | None = None
    ) -> PresignedPost:
        """Return a grant to send one object at ``key`` as a form, for ``expires_in`` seconds.

        The store refuses another key, another ``content_type``, an empty file and one of more than ``max_bytes``, and
        answers 201. A form can be sent again while it lives, and replaces the object.
        """
        raise self._lacks("presigned_post")

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
        """Connect to the store without changing it (doctor's HEAD); raise a StorageError when it cannot be used."""
        raise NotImplementedError

    async def sweep(self, older_than_seconds: float) -> int:
        """Remove partial files of killed processes, if the adapter has such; returns their number."""
        return 0

    async def close(self) -> None:
        """Release clients and threads."""

    def _lacks(self, capability: str, code: str = "upload_unsupported") -> CapabilityUnsupported:
        return CapabilityUnsupported(
            f"{type(self).__name__} does not offer {capability!r}", capability=capability, code=code
        )
