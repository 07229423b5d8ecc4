"""``S3Storage``: the verbs of a store on one bucket.

Calls and errors: ``client``; uploads of files: ``parts``; multipart uploads of clients: ``multipart``; uploads through
the application, in several requests: ``streams``; what the doctor checks: ``setup``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from rindle.errors import CapabilityUnsupported, InvalidArgument, StorageMisconfigured, StorageNotFound
from rindle.protocols import (
    DeleteResult,
    KeyPage,
    ListedObject,
    ObjectHead,
    Presigned,
    PresignedPost,
    ServedAs,
    SetupCheck,
    SetupFinding,
    Storage,
    StoredObject,
)
from rindle.security.storage_key import INTERNAL_SEGMENT, validate_key
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
from rindle.storage.files import BODY_PIECE_BYTES, receiving
from rindle.storage.s3 import setup
from rindle.storage.s3.client import PastTheEnd, S3Client, matching
from rindle.storage.s3.headers import copy_onto_itself, parameters_of
from rindle.storage.s3.parts import PART_THREADS, send_file
from rindle.storage.s3.streams import S3Streams
from rindle.storage.threads import DEFAULT_THREADS, Stop, Threads

#: Largest object in bytes that one form carries (Amazon S3 API, POST Object).
_MAX_FORM_BYTES = 5 * 1024**3
#: Hosts of Cloudflare R2, which takes no forms and wants parts of one size, but answers otherwise as S3 does.
_R2 = ".r2.cloudflarestorage.com"


class S3Storage(S3Streams, SetupCheck, Storage):
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
        uniform_parts: the store wants all parts but the last of one size; default: whether the endpoint is R2's.
        sse: ``AES256`` or ``aws:kms`` for every object written; also signed into upload grants. Default: the bucket's.
        presigned_post: sign forms; default: unless the endpoint is R2's, which takes none.
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
        uniform_parts: bool | None = None,
        sse: str | None = None,
        presigned_post: bool | None = None,
        threads: int = DEFAULT_THREADS,
        connect_timeout: float = 5.0,
        read_timeout: float = 60.0,
        max_attempts: int = 3,
    ) -> None:
        if not bucket:
            raise StorageMisconfigured("S3Storage needs the name of a bucket", adapter=self.adapter_name)
        self.bucket = bucket
        self._client = S3Client(
            region=region,
            endpoint_url=endpoint_url,
            public_endpoint=public_endpoint,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            addressing_style=addressing_style,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            max_attempts=max_attempts,
            connections=threads + PART_THREADS,
        )
        self._public_base_url = None if public_base_url is None else public_base_url.rstrip("/")
        self._prefix = f"{validate_key(key_prefix.rstrip('/'))}/" if key_prefix else ""
        self._write_once = write_once
        is_r2 = (urlsplit(endpoint_url or "").hostname or "").endswith(_R2)
        self._uniform_parts = is_r2 if uniform_parts is None else uniform_parts
        self._sse: dict[str, str] = {} if sse is None else {"ServerSideEncryption": sse}
        self._threads = Threads(self.adapter_name, threads)
        self._takes_forms = not is_r2 if presigned_post is None else presigned_post

    def __repr__(self) -> str:
        return f"S3Storage(bucket={self.bucket!r})"

    def capabilities(self) -> frozenset[str]:
        offered = {"head", "read_range", "signed_url", "presigned_put", "response_headers"}
        if self._write_once:
            offered.add("write_once")
        if self._takes_forms:
            offered.add("presigned_post")
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
        raises ``storage_conflict``.

        Raises:
            InvalidArgument: ``source`` cannot be read, or a header value is not printable ASCII.
            StorageConflict: ``if_absent`` was set and the key is taken.
            CapabilityUnsupported: ``if_absent`` was set and this store does not know ``If-None-Match``.
            StorageError: see :func:`rindle.storage.s3.client.translate`.

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
        return await self._threads.move(send_file, self._client, key, Path(source), where, extra, condition)

    async def download(
        self, key: str, dest: Path, *, max_bytes: int | None = None, if_match: str | None = None
    ) -> Path:
        """Fetch ``key`` into ``dest``; parents are made, no partial file stays behind on error or cancellation.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            ObjectChanged: the object's ETag is not ``if_match``.
            StoragePermanent: the object is larger than ``max_bytes``; nothing was read.
            StorageError: see :func:`rindle.storage.s3.client.translate`.
        """
        check_size("max_bytes", max_bytes)
        where = self._object(key)
        return await self._threads.move(self._download, key, Path(dest), max_bytes, where, matching(if_match))

    def _download(
        self,
        stop: Stop,
        key: str,
        dest: Path,
        max_bytes: int | None,
        where: Mapping[str, str],
        match: Mapping[str, str],
    ) -> Path:
        answer = self._client.call(key, lambda s3: s3.get_object(**where, **match), pinned=bool(match))
        with closing(answer["Body"]) as body, receiving(dest, answer["ContentLength"], max_bytes, key) as file:
            while piece := self._client.read(key, body, BODY_PIECE_BYTES):
                stop.check()
                file.write(piece)
        return dest

    async def read_range(self, key: str, start: int, length: int, *, if_match: str | None = None) -> bytes:
        """Return up to ``length`` (at most 1 MiB) bytes from offset ``start``; short or empty past the end."""
        check_range(start, length)
        where = self._object(key)
        return await self._threads.run(self._read_range, key, start, length, where, matching(if_match))

    def _read_range(
        self, key: str, start: int, length: int, where: Mapping[str, str], match: Mapping[str, str]
    ) -> bytes:
        if length == 0:
            return b""
        span = f"bytes={start}-{start + length - 1}"
        try:
            answer = self._client.call(key, lambda s3: s3.get_object(Range=span, **where, **match), pinned=bool(match))
        except PastTheEnd:
            return b""
        with closing(answer["Body"]) as body:
            return self._client.read(key, body, length)

    async def delete(self, key: str) -> DeleteResult:
        """Delete exactly ``key``; S3 does not report whether it existed, so ``existed`` is ``None``."""
        where = self._object(key)
        await self._threads.run(self._client.call, key, lambda s3: s3.delete_object(**where))
        return DeleteResult(key, None)

    async def head(self, key: str) -> ObjectHead:
        """Describe the object at ``key`` without reading its bytes.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            StorageUnauthorized: refused, or missing in a bucket that may not be listed.

        Source: Amazon S3 API, HeadObject (a missing object is a bare 404 without an error body).
        """
        return await self._threads.run(self._client.head, key, self._object(key))

    async def list_keys(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> KeyPage:
        """Return one page of at most ``limit`` (1 to 1000) objects whose key starts with ``prefix``, in key order."""
        query: dict[str, Any] = {
            "Bucket": self.bucket,
            "Prefix": self._prefix + check_prefix(prefix),
            "MaxKeys": check_limit(limit),
        }
        if after:
            query["StartAfter"] = self._prefix + after
        answer = await self._threads.run(self._client.call, None, lambda s3: s3.list_objects_v2(**query))
        found = [
            ListedObject(entry["Key"].removeprefix(self._prefix), entry["Size"], entry.get("LastModified"))
            for entry in answer.get("Contents", ())
        ]
        shown = tuple(entry for entry in found if not entry.key.startswith(f"{INTERNAL_SEGMENT}/"))  # tails of streams
        return KeyPage(shown, found[-1].key if found and answer.get("IsTruncated") else None)

    async def ping(self) -> None:
        """Reach the bucket with a HEAD.

        Raises:
            StorageMisconfigured: there is no such bucket.
            StorageUnauthorized: the credentials may not see it.
            StorageTransient: no answer.
        """
        try:
            await self._threads.run(self._client.call, None, lambda s3: s3.head_bucket(Bucket=self.bucket))
        except StorageNotFound as error:
            raise StorageMisconfigured("the bucket does not exist", adapter=self.adapter_name) from error

    async def check(self) -> list[SetupFinding]:
        """Return what ``rindle doctor`` shows of the bucket: signing, clock, permissions, CORS and lifecycle rules.

        To read the rules, the credentials need ``s3:GetBucketCORS`` and ``s3:GetLifecycleConfiguration``.

        Raises:
            StorageMisconfigured, StorageUnauthorized, StorageTransient: as :meth:`ping`.
        """
        put_headers = ["content-type"]
        if self._write_once:
            put_headers.append("if-none-match")
        if self._sse:
            put_headers.append("x-amz-server-side-encryption")
        try:
            return await self._threads.run(setup.check, self._client, self.bucket, self._prefix, put_headers)
        except StorageNotFound as error:
            raise StorageMisconfigured("the bucket does not exist", adapter=self.adapter_name) from error

    async def close(self) -> None:
        """Stop transfers and close the connections; the next call opens new ones."""
        await self._threads.close()
        self._client.forget()

    async def replace_headers(self, key: str, source: Path, served: ServedAs, *, if_match: str) -> StoredObject:
        """Serve the object with exactly the headers ``served``: a copy onto itself, without a transfer.

        Objects over 5 GiB are copied in parts, which changes the ETag; so does a copy that is encrypted by KMS. The
        storage class becomes the standard one. ``source`` is not read.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            ObjectChanged: the object's ETag is not ``if_match``.
            StorageError: see :func:`rindle.storage.s3.client.translate`.
        """
        check_header("content_type", served.content_type)
        check_header("content_disposition", served.content_disposition)
        where, created_with = self._object(key), self._sse | parameters_of(served)
        head = await self.head(key)
        return await self._threads.move(copy_onto_itself, self._client, key, where, head.size, if_match, created_with)

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

        The response headers of a signed URL are signed in and replace those that the object was stored with:
        ``content_type`` (default ``application/octet-stream``), ``content_disposition`` (default ``inline``), no
        encoding, and caching by private caches only. ``subject`` is ignored.

        Raises:
            InvalidArgument: ``expires_in`` is out of 1 to 604800, or given for a public URL.
            CapabilityUnsupported: ``delivery_unsupported``: no such base URL, or response headers on a public URL.
        """
        where = self._object(key)
        if public:
            return self._public_url(key, where["Key"], expires_in, content_disposition or content_type)
        seconds = check_lifetime(expires_in)
        params: dict[str, Any] = {
            **where,
            "ResponseContentType": check_header("content_type", content_type) or DEFAULT_TYPE,
            "ResponseContentEncoding": "identity",
            "ResponseCacheControl": f"private, max-age={seconds}",
            "ResponseExpires": datetime.now(UTC) + timedelta(seconds=seconds),
            "ResponseContentDisposition": check_header("content_disposition", content_disposition) or "inline",
        }
        return await self._threads.run(self._client.sign, key, "get_object", params, seconds)

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

        The host is always signed, and ``content-type``, ``content-length`` and ``if-none-match: *`` as requested. S3
        refuses a request with another value or without the header. ``headers`` holds what the client must add; it sets
        host and length by itself. ``max_bytes`` cannot be enforced by a presigned PUT: give
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
        url = await self._threads.run(self._client.sign, key, "put_object", params, seconds)
        return Presigned(url, "PUT", headers, expires_at)

    async def presigned_post(
        self, key: str, expires_in: int, *, content_type: str | None = None, max_bytes: int | None = None
    ) -> PresignedPost:
        """Return a grant to send one object at ``key`` as a form, for ``expires_in`` seconds.

        Key, type, size (1 byte to ``max_bytes``, at most 5 GiB) and encryption are conditions of the signed policy. S3
        knows no ``If-None-Match`` for forms: a form can be sent again while it lives. Callers pin the ETag.

        Raises:
            CapabilityUnsupported: the store takes no forms.
        """
        if not self._takes_forms:
            raise self._lacks("presigned_post")
        where, seconds = self._object(key), check_lifetime(expires_in)
        fields = {"success_action_status": "201"}
        if content_type is not None:
            fields["content-type"] = check_header("content_type", content_type) or ""
        if self._sse:
            fields["x-amz-server-side-encryption"] = self._sse["ServerSideEncryption"]
        limit = min(check_size("max_bytes", max_bytes) or _MAX_FORM_BYTES, _MAX_FORM_BYTES)
        expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
        url, signed = await self._threads.run(self._client.sign_form, where, fields, limit, seconds)
        return PresignedPost(url, signed, expires_at)

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._prefix + validate_key(key)}
