"""One client of the SDK for a bucket: calls with fresh credentials, signed URLs, and errors in our words.

All of it blocks and runs in the threads of the storage. Which call serves which verb is the business of ``storage``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

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
from rindle.protocols import ObjectHead

T = TypeVar("T")

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
#: Headers of an answer that an uploader can set, beside the type.
_SENT = frozenset(
    {
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "expires",
        "x-amz-website-redirect-location",
    }
)
_METADATA = "x-amz-meta-"
#: Conflicts between two requests in flight: the same call may succeed a moment later.
_PASSING_CONFLICTS = frozenset({"OperationAborted", "ConditionalRequestConflict"})


class S3Client:
    """Makes requests in the calling thread. Clients of the SDK are made at the first call and shared by all threads.

    The arguments are those of ``S3Storage``; ``connections`` are kept open at most.

    Raises:
        Misconfigured: an endpoint, style or credential pair cannot work.
    """

    def __init__(
        self,
        *,
        region: str | None,
        endpoint_url: str | None,
        public_endpoint: str | None,
        access_key_id: str | None,
        secret_access_key: SecretStr | str | None,
        addressing_style: Literal["path", "virtual"] | None,
        connect_timeout: float,
        read_timeout: float,
        max_attempts: int,
        connections: int,
    ) -> None:
        if addressing_style not in (None, "path", "virtual"):
            raise Misconfigured("addressing_style must be 'path' or 'virtual'", detail={"option": "addressing_style"})
        if (access_key_id is None) != (secret_access_key is None):
            raise Misconfigured(
                "access_key_id and secret_access_key belong together", detail={"option": "access_key_id"}
            )
        self._endpoint_url = endpoint_url
        self._public_endpoint = None if public_endpoint is None else _origin(public_endpoint)
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
            max_pool_connections=connections,
            s3={"addressing_style": addressing_style or ("path" if endpoint_url is not None else "virtual")},
        )
        self._clients: dict[str | None, Any] = {}
        self._lock = threading.Lock()

    def call(self, key: str | None, request: Callable[[Any], T], *, pinned: bool = False) -> T:
        """Run one SDK request in this thread; stale credentials are worth one new client, nothing else is repeated."""
        try:
            return self._attempt(key, request, pinned)
        except StorageUnauthorized as error:
            if error.detail.get("provider_code") not in _STALE:
                raise
        self.forget()
        return self._attempt(key, request, pinned)

    def _attempt(self, key: str | None, request: Callable[[Any], T], pinned: bool) -> T:
        try:
            return request(self._client(self._endpoint_url))
        except (ClientError, BotoCoreError) as error:
            raise translate(error, key, pinned=pinned) from error

    def read(self, key: str, body: Any, size: int) -> bytes:
        """Read up to ``size`` bytes of a response body; a cut or stalled connection is always transient."""
        try:
            return bytes(body.read(size))
        except (BotoCoreError, HTTPError, OSError) as error:
            raise StorageTransient("the connection broke during a transfer", key=key, adapter="s3") from error

    def head(self, key: str, where: Mapping[str, str]) -> ObjectHead:
        """Describe the object ``where`` names."""
        answer = self.call(key, lambda s3: s3.head_object(**where))
        return ObjectHead(
            answer["ContentLength"],
            answer.get("ContentType"),
            etag_of(answer["ETag"]),
            answer.get("LastModified"),
            kept_headers(answer),
        )

    def sign(self, key: str, operation: str, params: dict[str, Any], seconds: int) -> str:
        """Return a presigned URL on the public endpoint, which lives for ``seconds``."""
        try:
            signer = self._client(self._public_endpoint or self._endpoint_url)
            return str(signer.generate_presigned_url(operation, Params=params, ExpiresIn=seconds))
        except (ClientError, BotoCoreError) as error:
            raise translate(error, key) from error

    def sign_form(
        self, where: Mapping[str, str], fields: Mapping[str, str], max_bytes: int, seconds: int
    ) -> tuple[str, dict[str, str]]:
        """Return address and fields of a form on the public endpoint, which lives for ``seconds``.

        Source: Amazon S3 API, POST Object and POST policy.
        """
        conditions = [*({name: value} for name, value in fields.items()), ["content-length-range", 1, max_bytes]]
        try:
            signer = self._client(self._public_endpoint or self._endpoint_url)
            made = signer.generate_presigned_post(
                **where, Fields=dict(fields), Conditions=conditions, ExpiresIn=seconds
            )
        except (ClientError, BotoCoreError) as error:
            raise translate(error, where["Key"]) from error
        return str(made["url"]), {str(name): str(value) for name, value in made["fields"].items()}

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

    def forget(self) -> None:
        """Close all connections; the next call opens new ones."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()


class PastTheEnd(StoragePermanent):
    """The requested range begins at or behind the end of the object."""


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
        return StorageTransient("the store requested a later retry", retry_after=_retry_after(meta), **facts)
    if status == 412 or code == "PreconditionFailed":
        if pinned:
            return ObjectChanged("the object is no longer the one that was pinned", **facts)
        return StorageConflict("the key is taken", **facts)
    if status == 409:
        return StorageConflict("another request is changing the object", retryable=code in _PASSING_CONFLICTS, **facts)
    if status == 416:
        return PastTheEnd("the range begins behind the end of the object", **facts)
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


def kept_headers(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers that the object of a HEAD was stored with, beside its type; names in lower case."""
    sent: Mapping[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return {
        name.lower(): value
        for name, value in sent.items()
        if name.lower() in _SENT or name.lower().startswith(_METADATA)
    }


def etag_of(value: str) -> str:
    """Return an ETag as we keep it, without quotes."""
    return value.removeprefix("W/").strip('"')


def matching(etag: str | None) -> dict[str, str]:
    """Return the parameters that pin a request to an ETag."""
    return {} if etag is None else {"IfMatch": f'"{etag_of(etag)}"'}


def _origin(address: str) -> str:
    """Return ``scheme://host[:port]``; a path is refused, since the signature covers the path."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.username is not None:
        raise Misconfigured("public_endpoint must be http(s)://host[:port]", detail={"option": "public_endpoint"})
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Misconfigured("public_endpoint must have no path", detail={"option": "public_endpoint"})
    return f"{parts.scheme}://{parts.netloc}"
