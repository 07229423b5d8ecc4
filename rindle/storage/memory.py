"""Objects in a dict: for tests, held to the same contract as the real stores.

It holds whole objects in memory and forgets them with the process. Its URLs start with ``memory://`` and are redeemed
with :meth:`MemoryStorage.get` and :meth:`MemoryStorage.put`, under the same conditions a browser would meet.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rindle.errors import ObjectChanged, StorageConflict, StorageNotFound
from rindle.protocols import DeleteResult, KeyPage, ListedObject, ObjectHead, Presigned, ServedAs, Storage, StoredObject
from rindle.security.storage_key import validate_key
from rindle.storage.arguments import (
    DEFAULT_TYPE,
    check_header,
    check_lifetime,
    check_limit,
    check_metadata,
    check_prefix,
    check_range,
    check_size,
)
from rindle.storage.files import PIECE_BYTES, open_source, receiving
from rindle.storage.grant import ANONYMOUS, Grant, read_grant
from rindle.storage.threads import Stop, Threads

_SCHEME = "memory://"
_LABEL = "rindle:memory:url"
#: Headers of a PUT that are kept with the object and sent to visitors, where nothing replaces them.
_KEPT = frozenset({"cache-control", "content-disposition", "content-encoding", "content-language", "expires"})


@dataclass(frozen=True, slots=True)
class _Entry:
    body: bytes
    etag: str
    content_type: str | None
    headers: Mapping[str, str]
    stored_at: datetime


class MemoryStorage(Storage):
    """Keeps objects in a dict of this process; usable from several threads and event loops."""

    adapter_name = "memory"

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()
        self._secret = secrets.token_urlsafe(48)
        self._threads = Threads(self.adapter_name, 4)

    def __repr__(self) -> str:
        return f"MemoryStorage({len(self._entries)} objects)"

    def capabilities(self) -> frozenset[str]:
        return frozenset({"head", "read_range", "write_once", "signed_url", "presigned_put", "response_headers"})

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
        """Keep the contents of the file at ``source`` under ``key``; see :meth:`rindle.protocols.Storage.store`."""
        validate_key(key)
        check_header("content_type", content_type)
        check_header("content_disposition", content_disposition)
        facts = check_metadata(metadata)
        body = await self._threads.move(self._read_source, Path(source))
        headers = {f"x-meta-{name.lower()}": value for name, value in facts.items()}
        if content_disposition is not None:
            headers["content-disposition"] = content_disposition
        return self._keep(key, body, content_type, headers, if_absent)

    def _read_source(self, stop: Stop, source: Path) -> bytes:
        body = bytearray()
        with open_source(source) as file:
            while piece := file.read(PIECE_BYTES):
                stop.check()
                body += piece
        return bytes(body)

    def _keep(
        self,
        key: str,
        body: bytes,
        content_type: str | None,
        headers: Mapping[str, str],
        if_absent: bool,
    ) -> StoredObject:
        etag = hashlib.sha256(body).hexdigest()[:32]
        entry = _Entry(body, etag, content_type, headers, datetime.now(UTC))
        with self._lock:
            if if_absent and key in self._entries:
                raise StorageConflict("the key is taken", key=key, adapter=self.adapter_name)
            self._entries[key] = entry
        return StoredObject(key, len(body), etag)

    def _entry(self, key: str, if_match: str | None = None) -> _Entry:
        entry = self._entries.get(validate_key(key))
        if entry is None:
            raise StorageNotFound("nothing is stored at the key", key=key, adapter=self.adapter_name)
        if if_match is not None and if_match.strip('"') != entry.etag:
            raise ObjectChanged("the object is no longer the one that was pinned", key=key, adapter=self.adapter_name)
        return entry

    async def download(
        self, key: str, dest: Path, *, max_bytes: int | None = None, if_match: str | None = None
    ) -> Path:
        """Write the object at ``key`` to ``dest``; see :meth:`rindle.protocols.Storage.download`."""
        check_size("max_bytes", max_bytes)
        entry = self._entry(key, if_match)
        return await self._threads.move(self._write, key, entry.body, Path(dest), max_bytes)

    def _write(self, stop: Stop, key: str, body: bytes, dest: Path, max_bytes: int | None) -> Path:
        with receiving(dest, len(body), max_bytes, key) as file:
            for start in range(0, len(body), PIECE_BYTES):
                stop.check()
                file.write(body[start : start + PIECE_BYTES])
        return dest

    async def read_range(self, key: str, start: int, length: int, *, if_match: str | None = None) -> bytes:
        """Return up to ``length`` (at most 1 MiB) bytes from offset ``start``; short or empty past the end."""
        check_range(start, length)
        return self._entry(key, if_match).body[start : start + length]

    async def delete(self, key: str) -> DeleteResult:
        """Forget ``key``; a missing object is success."""
        validate_key(key)
        with self._lock:
            return DeleteResult(key, self._entries.pop(key, None) is not None)

    async def head(self, key: str) -> ObjectHead:
        """Describe the object at ``key``."""
        entry = self._entry(key)
        return ObjectHead(len(entry.body), entry.content_type, entry.etag, entry.stored_at, dict(entry.headers))

    async def replace_headers(self, key: str, source: Path, served: ServedAs, *, if_match: str) -> StoredObject:
        """Serve the object with exactly the headers ``served``; ``source`` is not read."""
        check_header("content_type", served.content_type)
        check_header("content_disposition", served.content_disposition)
        headers = {}
        if served.content_disposition is not None:
            headers["content-disposition"] = served.content_disposition
        with self._lock:
            entry = self._entry(key, if_match)
            self._entries[key] = replace(entry, content_type=served.content_type, headers=headers)
        return StoredObject(key, len(entry.body), entry.etag)

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
        """Return a ``memory://`` URL that :meth:`get` redeems; there are no public ones."""
        validate_key(key)
        if public:
            raise self._lacks("public_url", "delivery_unsupported")
        return self._sign(
            Grant(
                method="GET",
                key=key,
                expires_at=int(time.time()) + check_lifetime(expires_in),
                mime=check_header("content_type", content_type),
                disposition=check_header("content_disposition", content_disposition),
                subject=subject or ANONYMOUS,
            )
        )

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
        """Return a grant that :meth:`put` redeems."""
        grant = Grant(
            method="PUT",
            key=validate_key(key),
            expires_at=int(time.time()) + check_lifetime(expires_in),
            mime=check_header("content_type", content_type),
            max_bytes=check_size("max_bytes", max_bytes),
            length=check_size("content_length", content_length),
            once=write_once,
        )
        return Presigned(self._sign(grant), "PUT", {"Content-Type": grant.mime} if grant.mime else {}, grant.expires)

    def _sign(self, grant: Grant) -> str:
        return _SCHEME + grant.token(self._secret, _LABEL)

    def put(self, presigned: Presigned, body: bytes, headers: Mapping[str, str] | None = None) -> StoredObject:
        """Do what a browser does with ``presigned``: send ``body`` with ``headers``, by default the ones it was given.

        As in S3, headers such as ``Cache-Control`` are kept with the object.

        Raises:
            Unauthorized: no grant of this store, expired, or another content type.
            UploadRejected: ``max_bytes_exceeded`` or ``size_mismatch``.
            StorageConflict: the key is taken and the grant may only create.
        """
        grant = read_grant(presigned.url.removeprefix(_SCHEME), [self._secret], _LABEL, "PUT")
        sent = {name.lower(): value for name, value in (presigned.headers if headers is None else headers).items()}
        content_type = sent.get("content-type")
        grant.check_content_type(content_type)
        grant.check_body_size(len(body), complete=True)
        kept = {name: value for name, value in sent.items() if name in _KEPT}
        return self._keep(grant.key, body, content_type, kept, grant.once)

    def get(self, url: str) -> tuple[bytes, dict[str, str]]:
        """Return what a browser would get from ``url``: the body and its headers, named in lower case.

        Raises:
            Unauthorized: no URL of this store, or expired.
            StorageNotFound: the object is gone.
        """
        grant = read_grant(url.removeprefix(_SCHEME), [self._secret], _LABEL, "GET")
        entry = self._entry(grant.key)
        headers = {
            "content-type": grant.mime or DEFAULT_TYPE,
            "etag": f'"{entry.etag}"',
            "cache-control": f"private, max-age={max(0, grant.expires_at - int(time.time()))}",
        }
        if grant.disposition is not None:
            headers["content-disposition"] = grant.disposition
        return entry.body, headers

    async def list_keys(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> KeyPage:
        """Return one page of at most ``limit`` (1 to 1000) objects whose key starts with ``prefix``, in key order."""
        check_limit(limit)
        check_prefix(prefix)
        with self._lock:
            found = sorted(
                (key, entry)
                for key, entry in self._entries.items()
                if key.startswith(prefix) and (after is None or key > after)
            )
        page = tuple(ListedObject(key, len(entry.body), entry.stored_at) for key, entry in found[:limit])
        return KeyPage(page, page[-1].key if len(found) > limit else None)

    async def ping(self) -> None:
        """Succeed."""

    async def close(self) -> None:
        """Let the threads go; the objects stay."""
        await self._threads.close()
