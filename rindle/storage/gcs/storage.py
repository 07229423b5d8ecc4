"""``GCSStorage``: the verbs of a store on one bucket.

Calls and errors: ``client``; files on their way up: ``sending``; URLs: ``signing``; sessions of clients: ``sessions``.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import google_crc32c
import requests
from google.auth.credentials import Credentials
from google.cloud.storage import Blob, Bucket
from pydantic import SecretStr

from rindle.errors import (
    InvalidArgument,
    Misconfigured,
    ObjectChanged,
    StorageMisconfigured,
    StorageNotFound,
    StorageTransient,
)
from rindle.protocols import (
    DeleteResult,
    KeyPage,
    ListedObject,
    ObjectHead,
    Presigned,
    ServedAs,
    SetupCheck,
    SetupFinding,
    Storage,
    StoredObject,
)
from rindle.security.storage_key import validate_key
from rindle.storage.arguments import (
    MAX_PAGE,
    check_header,
    check_lifetime,
    check_limit,
    check_metadata,
    check_prefix,
    check_range,
    check_size,
)
from rindle.storage.files import BODY_PIECE_BYTES, receiving
from rindle.storage.gcs import setup
from rindle.storage.gcs.abilities import GCSAbilities
from rindle.storage.gcs.client import DEFAULT_ENDPOINT, GCSClient, PastTheEnd
from rindle.storage.gcs.sending import send_file
from rindle.storage.gcs.signing import Signatures
from rindle.storage.threads import DEFAULT_THREADS, Stop, Threads

#: Environment variable of Google's SDKs that names an emulator.
EMULATOR_VARIABLE = "STORAGE_EMULATOR_HOST"
#: Headers that the store keeps for an object beside its type, by their names in the JSON API.
_KEPT = {
    "cacheControl": "cache-control",
    "contentDisposition": "content-disposition",
    "contentEncoding": "content-encoding",
    "contentLanguage": "content-language",
}
_METADATA = "x-goog-meta-"


class GCSStorage(GCSAbilities, SetupCheck, Storage):
    """Keeps objects in one bucket of Google Cloud Storage.

    The ETag of an object is its generation, a number that the store gives to each write. Making a ``GCSStorage``
    touches neither the network nor the default credentials; they are found at the first call.

    Args:
        bucket: name of an existing bucket.
        project: that pays for requests; default: the bucket's.
        credentials: of ``google.auth``, or a parsed service-account file; default: Google's default credentials.
        signing_credentials: that sign URLs: the content of a service-account file as a mapping or as JSON, or a
            private key in PEM form with ``signing_email``. Default: those of ``credentials``.
        signing_email: the account of a PEM key. Without ``signing_credentials``: the service account in whose name
            IAM's ``signBlob`` signs, for workloads that have no key.
        api_endpoint: address of the API; default: Google's own.
        emulator_host: address of an emulator, which is used without credentials; default: the environment variable
            ``STORAGE_EMULATOR_HOST``, unless ``api_endpoint`` is given.
        public_endpoint: scheme, host and port under which *browsers* reach the same store. Used only to sign URLs: the
            host is part of the signature. Default: the address of the API.
        public_base_url: address under which a CDN or public bucket serves the objects without signature.
        key_prefix: put before every key, ``/`` added; callers never see it.
        threads: most calls under way at once.
        connect_timeout: seconds to connect.
        read_timeout: seconds without a byte from the store.
        max_attempts: quick attempts of one request.

    Raises:
        StorageMisconfigured: no bucket was named, or ``signing_credentials`` are no key (``gcs_signing_key_invalid``).
        Misconfigured: an address cannot work.
    """

    adapter_name = "gcs"

    def __init__(
        self,
        bucket: str,
        *,
        project: str | None = None,
        credentials: Credentials | Mapping[str, Any] | None = None,
        signing_credentials: Mapping[str, Any] | SecretStr | str | None = None,
        signing_email: str | None = None,
        api_endpoint: str | None = None,
        emulator_host: str | None = None,
        public_endpoint: str | None = None,
        public_base_url: str | None = None,
        key_prefix: str = "",
        threads: int = DEFAULT_THREADS,
        connect_timeout: float = 5.0,
        read_timeout: float = 60.0,
        max_attempts: int = 3,
    ) -> None:
        if not bucket:
            raise StorageMisconfigured("GCSStorage needs the name of a bucket", adapter=self.adapter_name)
        if emulator_host is None and api_endpoint is None:
            emulator_host = os.environ.get(EMULATOR_VARIABLE) or None
        if emulator_host is not None and "://" not in emulator_host:
            emulator_host = f"http://{emulator_host}"
        endpoint = _origin("api_endpoint", emulator_host or api_endpoint or DEFAULT_ENDPOINT)
        public = endpoint if public_endpoint is None else _origin("public_endpoint", public_endpoint)
        self.bucket = bucket
        self._client = GCSClient(
            bucket,
            endpoint=endpoint,
            public_endpoint=public,
            is_emulator=emulator_host is not None,
            project=project,
            credentials=credentials,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            max_attempts=max_attempts,
            connections=threads,
        )
        self._signatures = Signatures(self._client, public, key=signing_credentials, email=signing_email)
        self._public_base_url = None if public_base_url is None else public_base_url.rstrip("/")
        self._prefix = f"{validate_key(key_prefix.rstrip('/'))}/" if key_prefix else ""
        self._threads = Threads(self.adapter_name, threads)

    def __repr__(self) -> str:
        return f"GCSStorage(bucket={self.bucket!r})"

    def capabilities(self) -> frozenset[str]:
        offered = {"head", "read_range", "signed_url", "presigned_put", "write_once"}
        if self._public_base_url is not None:
            offered.add("public_url")
        return frozenset(offered)

    # --- bytes ---------------------------------------------------------------------------------------------------

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

        The store checks the bytes against the file's CRC32C. Files over 1 MiB go to a resumable session, which is
        continued after a broken connection, and given up on failure or cancellation. With ``if_absent`` a repeated call
        meets its own object and raises ``storage_conflict``.

        Raises:
            InvalidArgument: ``source`` cannot be read, or a header value is not printable ASCII.
            StorageConflict: ``if_absent`` was set and the key is taken.
            StorageError: see :func:`rindle.storage.gcs.client.translate`.
        """
        resource: dict[str, Any] = {"name": self._name(key)}
        if content_type is not None:
            resource["contentType"] = check_header("content_type", content_type)
        if content_disposition is not None:
            resource["contentDisposition"] = check_header("content_disposition", content_disposition)
        if metadata:
            resource["metadata"] = check_metadata(metadata)
        return await self._threads.move(send_file, self._client, key, Path(source), resource, 0 if if_absent else None)

    async def download(
        self, key: str, dest: Path, *, max_bytes: int | None = None, if_match: str | None = None
    ) -> Path:
        """Fetch ``key`` into ``dest`` and check the CRC32C; parents are made, an error leaves no partial file.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            ObjectChanged: the object's generation is not ``if_match``.
            StoragePermanent: the object is larger than ``max_bytes``; nothing was read.
            StorageTransient: also bytes that do not have the stored checksum.
            StorageError: see :func:`rindle.storage.gcs.client.translate`.
        """
        check_size("max_bytes", max_bytes)
        return await self._threads.move(self._download, key, Path(dest), max_bytes, self._name(key), if_match)

    def _download(
        self, stop: Stop, key: str, dest: Path, max_bytes: int | None, name: str, if_match: str | None
    ) -> Path:
        answer = self._client.attempt(lambda: self._get(key, name, if_match, {}))
        size = int(answer.headers.get("x-goog-stored-content-length", answer.headers.get("content-length", -1)))
        checksum = google_crc32c.Checksum()  # type: ignore[no-untyped-call]
        with answer, receiving(dest, size, max_bytes, key) as file:
            while piece := self._client.read(key, answer, BODY_PIECE_BYTES):
                stop.check()
                checksum.update(piece)  # type: ignore[no-untyped-call]
                file.write(piece)
            expected = _stored_crc32c(answer.headers.get("x-goog-hash", ""))
            found = base64.b64encode(checksum.digest()).decode()  # type: ignore[no-untyped-call]
            if expected is not None and found != expected:
                raise StorageTransient(
                    "the bytes that arrived have another checksum than the stored ones",
                    key=key,
                    adapter=self.adapter_name,
                    detail={"reason": "checksum"},
                )
        return dest

    async def read_range(self, key: str, start: int, length: int, *, if_match: str | None = None) -> bytes:
        """Return up to ``length`` (at most 1 MiB) bytes from offset ``start``; short or empty past the end."""
        check_range(start, length)
        return await self._threads.run(self._read_range, key, start, length, self._name(key), if_match)

    def _read_range(self, key: str, start: int, length: int, name: str, if_match: str | None) -> bytes:
        if length == 0:
            return b""
        span = {"Range": f"bytes={start}-{start + length - 1}"}

        def read() -> bytes:
            with self._get(key, name, if_match, span) as answer:
                pieces: list[bytes] = []
                while piece := self._client.read(key, answer, length - sum(map(len, pieces))):
                    pieces.append(piece)
                return b"".join(pieces)

        try:
            return self._client.attempt(read)
        except PastTheEnd:
            return b""

    def _get(self, key: str, name: str, if_match: str | None, headers: Mapping[str, str]) -> requests.Response:
        """Request the bytes of an object as they are stored."""
        query = {"alt": "media"}
        generation = _generation_of(if_match)
        if if_match is not None:
            query["ifGenerationMatch"] = str(generation)
        answer = self._client.send(
            "GET",
            f"{self._client.endpoint}/download/storage/v1/b/{self.bucket}/o/{quote(name, safe='')}?{urlencode(query)}",
            key=key,
            pinned=if_match is not None,
            stream=True,
            # Otherwise the store decompresses what was stored with a Content-Encoding.
            headers={"Accept-Encoding": "gzip", **headers},
        )
        # An emulator may ignore the condition; nothing that is pinned is read from another object.
        if if_match is not None and answer.headers.get("x-goog-generation") != str(generation):
            answer.close()
            raise ObjectChanged("the object is no longer the one that was pinned", key=key, adapter=self.adapter_name)
        return answer

    async def delete(self, key: str) -> DeleteResult:
        """Delete exactly ``key``; a missing object is success. A bucket with versions keeps an older version."""
        name = self._name(key)
        options = self._client.options
        try:
            await self._threads.run(self._client.call, key, lambda bucket: bucket.blob(name).delete(**options))
        except StorageNotFound:
            return DeleteResult(key, False)
        return DeleteResult(key, True)

    async def head(self, key: str) -> ObjectHead:
        """Describe the object at ``key`` without reading its bytes.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            StorageUnauthorized: refused, or missing in a bucket that may not be listed.
        """
        return await self._threads.run(self._head, key, self._name(key))

    def _head(self, key: str, name: str) -> ObjectHead:
        def request(bucket: Bucket) -> Blob:
            blob = bucket.blob(name)
            blob.reload(projection="noAcl", **self._client.options)
            return blob

        blob = self._client.call(key, request)
        return ObjectHead(int(blob.size or 0), blob.content_type, str(blob.generation), blob.updated, _kept(blob))

    async def list_keys(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> KeyPage:
        """Return one page of at most ``limit`` (1 to 1000) objects whose key starts with ``prefix``, in key order."""
        check_limit(limit)
        return await self._threads.run(self._list_keys, check_prefix(prefix), after, limit)

    def _list_keys(self, prefix: str, after: str | None, limit: int) -> KeyPage:
        first = None if not after else self._prefix + after
        # The list begins with ``after`` itself, so one entry more is requested.
        wanted = min(MAX_PAGE, limit + 1)

        def request(bucket: Bucket) -> tuple[list[Blob], bool]:
            entries = bucket.list_blobs(
                prefix=self._prefix + prefix, start_offset=first, max_results=wanted, **self._client.options
            )
            return list(entries), entries.next_page_token is not None

        entries, is_cut = self._client.call(None, request)
        found = [
            ListedObject(entry.name.removeprefix(self._prefix), int(entry.size or 0), entry.updated)
            for entry in entries
            if first is None or entry.name > first
        ]
        page = tuple(found[:limit])
        return KeyPage(page, page[-1].key if page and (is_cut or len(found) > limit) else None)

    async def ping(self) -> None:
        """Reach the bucket with a list of one entry.

        Raises:
            StorageMisconfigured: there is no such bucket.
            StorageUnauthorized: the credentials may not see it.
            StorageTransient: no answer.
        """
        try:
            await self._threads.run(self._list_keys, "", None, 1)
        except StorageNotFound as error:
            raise StorageMisconfigured("the bucket does not exist", adapter=self.adapter_name) from error

    async def check(self) -> list[SetupFinding]:
        """Return what ``rindle doctor`` shows of the bucket: signing, clock, CORS and lifecycle rules.

        To read the rules, the credentials need ``storage.buckets.get``.

        Raises:
            StorageMisconfigured: there is no such bucket, or there are no credentials.
            StorageUnauthorized: Google refused the credentials.
            StorageTransient: no answer.
        """
        try:
            return await self._threads.run(setup.check, self._client, self._signatures, self._prefix)
        except StorageNotFound as error:
            raise StorageMisconfigured("the bucket does not exist", adapter=self.adapter_name) from error

    async def close(self) -> None:
        """Stop transfers and close the connections; the next call opens new ones."""
        await self._threads.close()
        self._client.forget()

    async def replace_headers(self, key: str, source: Path, served: ServedAs, *, if_match: str) -> StoredObject:
        """Serve the object with exactly the headers ``served``, by one change of its metadata; its ETag stays.

        Where the store keeps other headers nevertheless, as an emulator does, ``source`` is stored again.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            ObjectChanged: the object's generation is not ``if_match``.
            StorageError: see :func:`rindle.storage.gcs.client.translate`.
        """
        check_header("content_type", served.content_type)
        check_header("content_disposition", served.content_disposition)
        name, generation = self._name(key), _generation_of(if_match)
        head = await self.head(key)
        if head.etag != str(generation):
            raise ObjectChanged("the object is no longer the one that was pinned", key=key, adapter=self.adapter_name)
        wanted = {
            **dict.fromkeys(_KEPT),
            "metadata": None,
            "contentType": served.content_type,
            "contentDisposition": served.content_disposition,
        }
        url = f"{self._client.endpoint}/storage/v1/b/{self.bucket}/o/{quote(name, safe='')}"
        query = {"ifGenerationMatch": str(generation)}
        await self._threads.run(self._patch, key, f"{url}?{urlencode(query)}", wanted)
        after = await self.head(key)
        if after.etag != head.etag:
            raise ObjectChanged("the object is no longer the one that was pinned", key=key, adapter=self.adapter_name)
        if after.is_served_as(served):
            return StoredObject(key, after.size, after.etag)
        resource = {"name": name, "contentType": served.content_type}
        if served.content_disposition is not None:
            resource["contentDisposition"] = served.content_disposition
        return await self._threads.move(send_file, self._client, key, Path(source), resource, generation)

    def _patch(self, key: str, url: str, fields: Mapping[str, Any]) -> None:
        self._client.attempt(lambda: self._client.send("PATCH", url, key=key, json=dict(fields), pinned=True))

    # --- grants --------------------------------------------------------------------------------------------------

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
        """Return a signed GET URL on the public endpoint, or an unsigned one below ``public_base_url``.

        The answer has the headers that the object was stored with, so ``content_type`` and ``content_disposition``
        cannot be bound. ``subject`` is ignored.

        Raises:
            InvalidArgument: ``expires_in`` is out of 1 to 604800, or given for a public URL.
            CapabilityUnsupported: ``delivery_unsupported``: no such base URL, or response headers were given.
            StorageMisconfigured: the credentials cannot sign.
        """
        name = self._name(key)
        if content_disposition is not None or content_type is not None:
            raise self._lacks("response_headers", "delivery_unsupported")
        if not public:
            return await self._threads.run(self._signatures.sign, name, "GET", check_lifetime(expires_in), {})
        if expires_in is not None:
            raise InvalidArgument("a public URL does not expire", detail={"option": "expires_in"})
        if self._public_base_url is None:
            raise self._lacks("public_url", "delivery_unsupported")
        return f"{self._public_base_url}/{quote(name)}"

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

        Signed are the host, ``content-type`` as requested, ``x-goog-if-generation-match: 0`` (it writes once), and
        ``x-goog-content-length-range`` with exactly ``content_length``, or up to ``max_bytes``. The store refuses a
        request with another value or without the header. ``headers`` holds what the client must add.

        Source: Cloud Storage documentation, XML API request headers.
        """
        name, seconds = self._name(key), check_lifetime(expires_in)
        check_size("max_bytes", max_bytes)
        headers: dict[str, str] = {}
        if content_type is not None:
            headers["Content-Type"] = check_header("content_type", content_type) or ""
        if write_once:
            headers["x-goog-if-generation-match"] = "0"
        if check_size("content_length", content_length) is not None:
            headers["x-goog-content-length-range"] = f"{content_length},{content_length}"
        elif max_bytes is not None:
            headers["x-goog-content-length-range"] = f"0,{max_bytes}"
        expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
        url = await self._threads.run(self._signatures.sign, name, "PUT", seconds, headers)
        return Presigned(url, "PUT", headers, expires_at)

    def _name(self, key: str) -> str:
        return self._prefix + validate_key(key)


def _kept(blob: Blob) -> dict[str, str]:
    """Return the headers that an object was stored with, beside its type; names in lower case."""
    fields = {
        "cache-control": blob.cache_control,
        "content-disposition": blob.content_disposition,
        "content-encoding": blob.content_encoding,
        "content-language": blob.content_language,
    }
    kept = {name: value for name, value in fields.items() if value}
    return kept | {f"{_METADATA}{name.lower()}": str(value) for name, value in (blob.metadata or {}).items()}


def _generation_of(etag: str | None) -> int:
    """Return the generation that an ETag of ours names; -1, which no object has, for anything else."""
    plain = (etag or "").removeprefix("W/").strip('"')
    return int(plain) if plain.isascii() and plain.isdigit() and len(plain) < 20 and int(plain) > 0 else -1


def _stored_crc32c(header: str) -> str | None:
    """Return the CRC32C of an ``x-goog-hash`` header."""
    found = [part.strip().removeprefix("crc32c=") for part in header.split(",") if part.strip().startswith("crc32c=")]
    return found[0] if found and found[0] else None


def _origin(option: str, address: str) -> str:
    """Return ``scheme://host[:port]``; a path is refused, since the signature covers the path."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.username is not None:
        raise Misconfigured(f"{option} must be http(s)://host[:port]", detail={"option": option})
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Misconfigured(f"{option} must have no path", detail={"option": option})
    return f"{parts.scheme}://{parts.netloc}"
