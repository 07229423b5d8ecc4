"""Objects in an S3 bucket: Amazon S3, MinIO, Cloudflare R2 and others that speak the same API.

**Permissions.** ``s3:GetObject``, ``s3:PutObject``, ``s3:DeleteObject`` and ``s3:AbortMultipartUpload`` on the objects,
``s3:ListBucket`` on the bucket. Without the last one S3 answers 403 where an object is missing, and Rindle cannot tell
a missing upload from a refused one.

**What is written.** One object per key, below ``key_prefix`` when given. Files over 64 MiB go up in parts; a process
that is killed meanwhile leaves an unfinished multipart upload, which the bucket's lifecycle rule
``AbortIncompleteMultipartUpload`` (8 days) removes.

**Browsers** need the bucket's CORS rules to allow ``PUT GET HEAD`` with the headers ``content-type`` and
``if-none-match``, and to expose ``ETag``.

Options by provider:

=============  ====================================================================================================
Amazon S3      ``S3Storage("bucket", region="eu-central-1")``
MinIO          ``S3Storage("bucket", endpoint_url="http://minio:9000", public_endpoint="https://media.example.com")``
Cloudflare R2  ``S3Storage("bucket", region="auto", endpoint_url="https://<account>.r2.cloudflarestorage.com")``
other          ``write_once=False`` for servers that do not know ``If-None-Match`` on PUT
=============  ====================================================================================================

Not here: upload lanes beyond the single presigned PUT.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from rindle.errors import (
    CapabilityUnsupported,
    InvalidArgument,
    Misconfigured,
    ObjectChanged,
    StorageConflict,
    StorageError,
    StorageMisconfigured,
    StorageNotFound,
    StoragePermanent,
    StorageTransient,
    StorageUnauthorized,
)
from rindle.protocols import DeleteResult, KeyPage, ListedObject, ObjectHead, Presigned, Storage, StoredObject
from rindle.security.storage_key import validate_key
from rindle.storage.arguments import (
    check_header,
    check_lifetime,
    check_limit,
    check_metadata,
    check_prefix,
    check_range,
    check_size,
)
from rindle.storage.files import open_source, receiving
from rindle.storage.threads import DEFAULT_THREADS, Stop, Threads

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Files larger than this go up in parts.
MULTIPART_BYTES = 64 * 1024 * 1024
#: Size of a part (S3 API, multipart limits: 5 MiB to 5 GiB).
PART_BYTES = 16 * 1024 * 1024
#: Largest part count of one upload (S3 API, multipart limits).
MAX_PART_COUNT = 10_000
#: Parts of one file on their way at the same time.
PART_THREADS = 4
#: Piece in which a body is read; small, so that a cancelled transfer ends soon.
_PIECE_BYTES = 256 * 1024

_TRANSIENT = frozenset(
    {
        *("SlowDown", "SlowDownRead", "SlowDownWrite", "InternalError", "ServiceUnavailable", "RequestTimeout"),
        *("Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "BandwidthLimitExceeded"),
    }
)
_TRANSIENT_STATUS = frozenset({408, 425, 429})
#: Credentials or clock went stale: worth one new client.
_STALE = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestTimeTooSkewed", "TokenRefreshRequired"})
_UNAUTHORIZED = _STALE | {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "InvalidToken"}
#: Conflicts between two requests in flight: the same call may succeed a moment later.
_PASSING_CONFLICTS = frozenset({"OperationAborted", "ConditionalRequestConflict"})


class S3Storage(Storage):
    """Keeps objects in one bucket.

    Making it touches neither the network nor the credentials chain; clients are made at the first call.

    Args:
        bucket: name of an existing bucket.
        region: region to sign for; ``auto`` for R2. Default: the boto3 chain, ``us-east-1`` with an ``endpoint_url``.
        endpoint_url: address of the API for calls from this process; ``None`` is Amazon's own.
        public_endpoint: scheme, host and port under which *browsers* reach the same store. Used only to sign
            URLs: the host is part of the signature. Default: ``endpoint_url``.
        public_base_url: address under which a CDN or public bucket serves the objects without signature.
        access_key_id: with ``secret_access_key``; otherwise the boto3 chain finds credentials.
        secret_access_key: never logged.
        addressing_style: ``path`` or ``virtual``; default ``path`` with an ``endpoint_url``, else ``virtual``.
        key_prefix: put before every key, ``/`` added; callers never see it.
        write_once: sign ``If-None-Match: *`` into upload grants; off for stores that do not know it.
        sse: ``AES256`` or ``aws:kms`` for every object written; also signed into upload grants. Default: the bucket's.
        threads: most calls under way at once.
        connect_timeout: seconds to connect.
        read_timeout: seconds without a byte from the store.
        max_attempts: quick attempts of the SDK for one request.

    Raises:
        StorageMisconfigured: no bucket was named.
        Misconfigured: an endpoint, style or credential pair cannot work.
    """

    adapter_name = "s3"

    def __init__(
        self,
        bucket: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        public_endpoint: str | None = None,
        public_base_url: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: SecretStr | str | None = None,
        addressing_style: Literal["path", "virtual"] | None = None,
        key_prefix: str = "",
        write_once: bool = True,
        sse: str | None = None,
        threads: int = DEFAULT_THREADS,
        connect_timeout: float = 5.0,
        read_timeout: float = 60.0,
        max_attempts: int = 3,
    ) -> None:
        if not bucket:
            raise StorageMisconfigured("S3Storage needs the name of a bucket", adapter=self.adapter_name)
        if addressing_style not in (None, "path", "virtual"):
            raise Misconfigured("addressing_style must be 'path' or 'virtual'", detail={"option": "addressing_style"})
        if (access_key_id is None) != (secret_access_key is None):
            raise Misconfigured(
                "access_key_id and secret_access_key belong together", detail={"option": "access_key_id"}
            )
        self.bucket = bucket
        self._endpoint_url = endpoint_url
        self._public_endpoint = None if public_endpoint is None else _origin(public_endpoint)
        self._public_base_url = None if public_base_url is None else public_base_url.rstrip("/")
        self._prefix = f"{validate_key(key_prefix.rstrip('/'))}/" if key_prefix else ""
        self._write_once = write_once
        self._sse: dict[str, str] = {} if sse is None else {"ServerSideEncryption": sse}
        self._region = region or ("us-east-1" if endpoint_url is not None else None)
        self._access_key_id = access_key_id
        self._secret = SecretStr(secret_access_key) if isinstance(secret_access_key, str) else secret_access_key
        self._config = Config(
            # Always v4: boto3 still presigns some regions with the legacy signature.
            signature_version="s3v4",
            # botocore adds CRC32 headers and trailers by default, which older MinIO, R2 and others refuse, and which a
            # browser cannot supply for a presigned request.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "total_max_attempts": max_attempts},
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            tcp_keepalive=True,
            max_pool_connections=threads + PART_THREADS,
            s3={"addressing_style": addressing_style or ("path" if endpoint_url is not None else "virtual")},
        )
        self._threads = Threads(self.adapter_name, threads)
        self._clients: dict[str | None, Any] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"S3Storage(bucket={self.bucket!r})"

    def capabilities(self) -> frozenset[str]:
        offered = {"head", "read_range", "signed_url", "presigned_put", "response_headers"}
        if self._write_once:
            offered.add("write_once")
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

        Files over 64 MiB go up in parts of at least 16 MiB, four at a time; on failure or cancellation the parts are
        given up. Writing the same file again is harmless. With ``if_absent`` a repeated call meets its own object and
        says ``storage_conflict``.

        Raises:
            InvalidArgument: ``source`` cannot be read, or a header value is not printable ASCII.
            StorageConflict: ``if_absent`` was set and the key is taken.
            CapabilityUnsupported: ``if_absent`` was set and this store does not know ``If-None-Match``.
            StorageError: see :func:`translate`.

        Source: Amazon S3 API, PutObject and CompleteMultipartUpload with ``If-None-Match``.
        """
        if if_absent and not self._write_once:
            raise CapabilityUnsupported("this store cannot create exclusively", capability="write_once")
        extra: dict[str, Any] = dict(self._sse)
        if content_type is not None:
            extra["ContentType"] = check_header("content_type", content_type)
        if content_disposition is not None:
            extra["ContentDisposition"] = check_header("content_disposition", content_disposition)
        if metadata:
            extra["Metadata"] = check_metadata(metadata)
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        where = self._object(key)
        return await self._threads.move(self._store, key, Path(source), where, extra, condition)

    def _store(
        self,
        stop: Stop,
        key: str,
        source: Path,
        where: Mapping[str, str],
        extra: Mapping[str, Any],
        condition: Mapping[str, str],
    ) -> StoredObject:
        with open_source(source) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MULTIPART_BYTES:
                etag = self._store_parts(stop, key, file, size, where, extra, condition)
            else:
                body = _Slice(file, 0, size, stop)
                answer = self._call(
                    key, lambda s3: s3.put_object(Body=body.again(), ContentLength=size, **where, **extra, **condition)
                )
                etag = answer["ETag"]
        return StoredObject(key, size, _etag(etag))

    def _store_parts(
        self,
        stop: Stop,
        key: str,
        file: IO[bytes],
        size: int,
        where: Mapping[str, str],
        extra: Mapping[str, Any],
        condition: Mapping[str, str],
    ) -> str:
        """Send ``file`` as a multipart upload and return the object's ETag.

        Our own few lines instead of the SDK's transfer manager, which can neither complete with ``If-None-Match`` nor
        tell the ETag of what it wrote.
        """
        # All parts but the last have one size, as R2 demands.
        part_bytes = max(PART_BYTES, -(-size // MAX_PART_COUNT))
        upload_id = self._call(key, lambda s3: s3.create_multipart_upload(**where, **extra))["UploadId"]

        def send(number: int) -> dict[str, Any]:
            start = (number - 1) * part_bytes
            piece = _Slice(file, start, min(part_bytes, size - start), stop)
            answer = self._call(
                key,
                lambda s3: s3.upload_part(
                    Body=piece.again(), ContentLength=piece.size, PartNumber=number, UploadId=upload_id, **where
                ),
            )
            return {"PartNumber": number, "ETag": answer["ETag"]}

        try:
            with ThreadPoolExecutor(PART_THREADS, thread_name_prefix="rindle-s3-part") as pool:
                sending = [pool.submit(send, number) for number in range(1, -(-size // part_bytes) + 1)]
                try:
                    parts = [part.result() for part in sending]
                except BaseException:
                    stop.set()  # the other parts end at their next piece
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
            return self._complete(key, upload_id, parts, size, where, condition)
        except BaseException:
            with suppress(StorageError):  # the lifecycle rule takes what cannot be given up now
                self._call(key, lambda s3: s3.abort_multipart_upload(UploadId=upload_id, **where))
            raise

    def _complete(
        self,
        key: str,
        upload_id: str,
        parts: list[dict[str, Any]],
        size: int,
        where: Mapping[str, str],
        condition: Mapping[str, str],
    ) -> str:
        try:
            answer = self._call(
                key,
                lambda s3: s3.complete_multipart_upload(
                    UploadId=upload_id, MultipartUpload={"Parts": parts}, **where, **condition
                ),
            )
        except StorageNotFound:
            # NoSuchUpload: an earlier attempt whose answer was lost has completed it, if the object is the one we sent.
            there = self._head(key, where)
            if there.size == size and there.etag == _multipart_etag(parts):
                return there.etag
            raise
        return str(answer["ETag"])

    async def download(
        self, key: str, dest: Path, *, max_bytes: int | None = None, if_match: str | None = None
    ) -> Path:
        """Fetch ``key`` into ``dest``; parents are made, no partial file stays behind on error or cancellation.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            ObjectChanged: the object's ETag is not ``if_match``.
            StoragePermanent: the object is larger than ``max_bytes``; nothing was read.
            StorageError: see :func:`translate`.
        """
        check_size("max_bytes", max_bytes)
        where = self._object(key)
        return await self._threads.move(self._download, key, Path(dest), max_bytes, where, _matching(if_match))

    def _download(
        self,
        stop: Stop,
        key: str,
        dest: Path,
        max_bytes: int | None,
        where: Mapping[str, str],
        match: Mapping[str, str],
    ) -> Path:
        answer = self._call(key, lambda s3: s3.get_object(**where, **match), pinned=bool(match))
        with closing(answer["Body"]) as body, receiving(dest, answer["ContentLength"], max_bytes, key) as file:
            while piece := self._read(key, body, _PIECE_BYTES):
                stop.check()
                file.write(piece)
        return dest

    async def read_range(self, key: str, start: int, length: int, *, if_match: str | None = None) -> bytes:
        """Return up to ``length`` (at most 1 MiB) bytes from offset ``start``; short or empty past the end."""
        check_range(start, length)
        where = self._object(key)
        return await self._threads.run(self._read_range, key, start, length, where, _matching(if_match))

    def _read_range(
        self, key: str, start: int, length: int, where: Mapping[str, str], match: Mapping[str, str]
    ) -> bytes:
        if length == 0:
            return b""
        span = f"bytes={start}-{start + length - 1}"
        try:
            answer = self._call(key, lambda s3: s3.get_object(Range=span, **where, **match), pinned=bool(match))
        except _PastTheEnd:
            return b""
        with closing(answer["Body"]) as body:
            return self._read(key, body, length)

    async def delete(self, key: str) -> DeleteResult:
        """Delete exactly ``key``; S3 cannot tell whether there was something, so ``existed`` is ``None``."""
        where = self._object(key)
        await self._threads.run(self._call, key, lambda s3: s3.delete_object(**where))
        return DeleteResult(key, None)

    async def head(self, key: str) -> ObjectHead:
        """Describe the object at ``key`` without reading its bytes.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            StorageUnauthorized: refused, or missing in a bucket that may not be listed.

        Source: Amazon S3 API, HeadObject (a missing object is a bare 404 without an error body).
        """
        return await self._threads.run(self._head, key, self._object(key))

    def _head(self, key: str, where: Mapping[str, str]) -> ObjectHead:
        answer = self._call(key, lambda s3: s3.head_object(**where))
        return ObjectHead(
            answer["ContentLength"], answer.get("ContentType"), _etag(answer["ETag"]), answer.get("LastModified")
        )

    async def list_keys(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> KeyPage:
        """Return one page of at most ``limit`` (1 to 1000) objects whose key starts with ``prefix``, in key order."""
        query: dict[str, Any] = {
            "Bucket": self.bucket,
            "Prefix": self._prefix + check_prefix(prefix),
            "MaxKeys": check_limit(limit),
        }
        if after:
            query["StartAfter"] = self._prefix + after
        answer = await self._threads.run(self._call, None, lambda s3: s3.list_objects_v2(**query))
        found = tuple(
            ListedObject(entry["Key"].removeprefix(self._prefix), entry["Size"], entry.get("LastModified"))
            for entry in answer.get("Contents", ())
        )
        return KeyPage(found, found[-1].key if found and answer.get("IsTruncated") else None)

    async def ping(self) -> None:
        """Reach the bucket with a HEAD.

        Raises:
            StorageMisconfigured: there is no such bucket.
            StorageUnauthorized: the credentials may not see it.
            StorageTransient: no answer.
        """
        try:
            await self._threads.run(self._call, None, lambda s3: s3.head_bucket(Bucket=self.bucket))
        except StorageNotFound as error:
            raise StorageMisconfigured("the bucket does not exist", adapter=self.adapter_name) from error

    async def close(self) -> None:
        """Stop transfers and close the connections; the next call opens new ones."""
        await self._threads.close()
        self._forget_clients()

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

        ``content_type`` and ``content_disposition`` are signed in and come back as response headers, whatever the
        object was stored with. ``subject`` is ignored.

        Raises:
            InvalidArgument: ``expires_in`` is out of 1 to 604800, or given for a public URL.
            CapabilityUnsupported: ``delivery_unsupported``: no such base URL, or response headers on a public URL.
        """
        where = self._object(key)
        if public:
            return self._public_url(key, where["Key"], expires_in, content_disposition or content_type)
        params: dict[str, Any] = dict(where)
        if content_type is not None:
            params["ResponseContentType"] = check_header("content_type", content_type)
        if content_disposition is not None:
            params["ResponseContentDisposition"] = check_header("content_disposition", content_disposition)
        return await self._threads.run(self._sign, key, "get_object", params, check_lifetime(expires_in))

    def _public_url(self, key: str, full_key: str, expires_in: int | None, bound: str | None) -> str:
        if expires_in is not None:
            raise InvalidArgument("a public URL does not expire", detail={"option": "expires_in"})
        if self._public_base_url is None:
            raise self._lacks("public_url", "delivery_unsupported")
        if bound is not None:
            raise self._lacks("response_headers", "delivery_unsupported")
        return f"{self._public_base_url}/{quote(full_key)}"

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

        Signed are always the host, and ``content-type``, ``content-length`` and ``if-none-match: *`` as far as asked
        for: a request with another value, or without the header, is refused by S3. ``headers`` holds what the client
        must add; it sets host and length by itself. ``max_bytes`` cannot be enforced by a presigned PUT: give
        ``content_length`` where the size is known, and check the size after the upload.
        """
        params: dict[str, Any] = dict(self._object(key)) | self._sse
        headers: dict[str, str] = {}
        seconds = check_lifetime(expires_in)
        check_size("max_bytes", max_bytes)
        if content_type is not None:
            params["ContentType"] = headers["Content-Type"] = check_header("content_type", content_type) or ""
        if check_size("content_length", content_length) is not None:
            params["ContentLength"] = content_length
        if write_once and self._write_once:
            params["IfNoneMatch"] = headers["If-None-Match"] = "*"
        if self._sse:
            headers["x-amz-server-side-encryption"] = self._sse["ServerSideEncryption"]
        expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
        url = await self._threads.run(self._sign, key, "put_object", params, seconds)
        return Presigned(url, "PUT", headers, expires_at)

    def _sign(self, key: str, operation: str, params: dict[str, Any], seconds: int) -> str:
        try:
            signer = self._client(self._public_endpoint or self._endpoint_url)
            return str(signer.generate_presigned_url(operation, Params=params, ExpiresIn=seconds))
        except (ClientError, BotoCoreError) as error:
            raise translate(error, key) from error

    # --- the SDK -------------------------------------------------------------------------------------------------

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._prefix + validate_key(key)}

    def _call(self, key: str | None, request: Callable[[Any], T], *, pinned: bool = False) -> T:
        """Run one SDK request in this thread; stale credentials are worth one new client, nothing else is repeated."""
        try:
            return self._attempt(key, request, pinned)
        except StorageUnauthorized as error:
            if error.detail.get("provider_code") not in _STALE:
                raise
        self._forget_clients()
        return self._attempt(key, request, pinned)

    def _attempt(self, key: str | None, request: Callable[[Any], T], pinned: bool) -> T:
        try:
            return request(self._client(self._endpoint_url))
        except (ClientError, BotoCoreError) as error:
            raise translate(error, key, pinned=pinned) from error

    def _read(self, key: str, body: Any, size: int) -> bytes:
        """Read up to ``size`` bytes of a response body; a cut or stalled connection is always transient."""
        try:
            return bytes(body.read(size))
        except (BotoCoreError, HTTPError, OSError) as error:
            raise StorageTransient("the connection broke during a transfer", key=key, adapter="s3") from error

    def _client(self, endpoint_url: str | None) -> Any:
        with self._lock:  # clients may be shared by threads, making one may not
            client = self._clients.get(endpoint_url)
            if client is None:
                secret = None if self._secret is None else self._secret.get_secret_value()
                client = boto3.session.Session().client(
                    "s3",
                    region_name=self._region,
                    endpoint_url=endpoint_url,
                    aws_access_key_id=self._access_key_id,
                    aws_secret_access_key=secret,
                    config=self._config,
                )
                self._clients[endpoint_url] = client
            return client

    def _forget_clients(self) -> None:
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()


class _PastTheEnd(StoragePermanent):
    """The range asked for begins at or behind the end of the object."""


@dataclass
class _Slice(io.RawIOBase):
    """A part of an open file as a request body that ends at once when the transfer is stopped.

    Reads by position, so that several parts of one file can be on their way at the same time.
    """

    file: IO[bytes]
    start: int
    size: int
    stop: Stop
    position: int = 0

    def again(self) -> _Slice:
        """Return the slice rewound, for a request that is made once more."""
        self.position = 0
        return self

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def read(self, size: int | None = -1) -> bytes:
        self.stop.check()
        left = max(0, self.size - self.position)
        wanted = min(left if size is None or size < 0 else min(size, left), 1024 * 1024)
        piece = os.pread(self.file.fileno(), wanted, self.start + self.position)
        self.position += len(piece)
        return piece


def translate(error: ClientError | BotoCoreError, key: str | None, *, pinned: bool = False) -> StorageError:
    """Return our error for one of the SDK's.

    ================================================================  =============================================
    404, ``NoSuchKey``, ``NoSuchUpload``                               ``storage_not_found``
    ``NoSuchBucket``                                                   ``missing_bucket``
    408, 425, 429, 5xx, an error inside a 200, ``SlowDown`` and kin    ``storage_transient``
    no answer: DNS, connect or read timeout, reset                     ``storage_transient``
    401, 403, credentials missing, wrong or expired, clock skew        ``storage_unauthorized``
    412                                                                ``object_changed`` if ``pinned``, else conflict
    409                                                                ``storage_conflict``, retryable while passing
    everything else                                                    ``storage_permanent``
    ================================================================  =============================================

    Only the provider's code and status are kept: its messages may quote URLs.

    Args:
        error: what botocore raised.
        key: storage key concerned.
        pinned: the request carried ``If-Match``.
    """
    facts: dict[str, Any] = {"key": key, "adapter": "s3"}
    if isinstance(error, BotoCoreError):
        return _translate_no_answer(error, facts)
    code = str(error.response.get("Error", {}).get("Code", ""))[:100]
    meta: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode", 0))
    facts["detail"] = {"provider_code": code, "status": status}
    if code == "NoSuchBucket":
        return StorageMisconfigured("the bucket does not exist", **facts)
    if status == 404 or code in ("NoSuchKey", "NotFound", "NoSuchUpload"):
        return StorageNotFound("nothing is stored at the key", **facts)
    if code in _UNAUTHORIZED or status in (401, 403):
        if error.operation_name == "HeadObject" and code not in _UNAUTHORIZED:
            facts["action"] = "allow s3:ListBucket: without it a missing object is answered with 403 too"
        return StorageUnauthorized("the store refused the credentials", **facts)
    if code in _TRANSIENT or status in _TRANSIENT_STATUS or status >= 500 or status in (0, 200):
        return StorageTransient("the store asked to come back later", retry_after=_retry_after(meta), **facts)
    if status == 412 or code == "PreconditionFailed":
        if pinned:
            return ObjectChanged("the object is no longer the one that was pinned", **facts)
        return StorageConflict("the key is taken", **facts)
    if status == 409:
        return StorageConflict("another request is changing the object", retryable=code in _PASSING_CONFLICTS, **facts)
    if status == 416:
        return _PastTheEnd("the range begins behind the end of the object", **facts)
    return StoragePermanent(f"the store refused the request ({code or status})", **facts)


def _translate_no_answer(error: BotoCoreError, facts: dict[str, Any]) -> StorageError:
    facts["detail"] = {"provider_code": type(error).__name__}
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return StorageUnauthorized("no usable credentials were found", **facts)
    if isinstance(error, NoRegionError | ProfileNotFound | ParamValidationError):
        return StoragePermanent(f"the request could not be made ({type(error).__name__})", **facts)
    return StorageTransient("the store did not answer", **facts)


def _retry_after(meta: Mapping[str, Any]) -> float | None:
    """Seconds from ``Retry-After``, when the store gave a number."""
    value = str(meta.get("HTTPHeaders", {}).get("retry-after", ""))
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else None


def _etag(value: str) -> str:
    return value.removeprefix("W/").strip('"')


def _matching(etag: str | None) -> dict[str, str]:
    return {} if etag is None else {"IfMatch": f'"{_etag(etag)}"'}


def _multipart_etag(parts: list[dict[str, Any]]) -> str:
    """Return the ETag S3 gives an object made of these parts (not encrypted with KMS): MD5 of the parts' MD5s."""
    try:
        digests = b"".join(bytes.fromhex(_etag(part["ETag"])) for part in parts)
    except ValueError:  # not MD5s: the object cannot be recognised
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _origin(address: str) -> str:
    """Return ``scheme://host[:port]``; a path is refused, since the signature covers the path."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.username is not None:
        raise Misconfigured("public_endpoint must be http(s)://host[:port]", detail={"option": "public_endpoint"})
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Misconfigured("public_endpoint must have no path", detail={"option": "public_endpoint"})
    return f"{parts.scheme}://{parts.netloc}"
