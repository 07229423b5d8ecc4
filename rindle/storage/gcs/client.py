"""One bucket through Google's SDK: calls with credentials, quick retries, and errors in our words.

All of it blocks and runs in the threads of the storage. Which call serves which verb is the business of ``storage``.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import google.auth
import requests
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials, Credentials, with_scopes_if_required
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud.storage import Bucket, Client
from google.cloud.storage.exceptions import DataCorruption
from google.oauth2 import service_account
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from rindle.errors import (
    ObjectChanged,
    StorageConflict,
    StorageError,
    StorageMisconfigured,
    StorageNotFound,
    StoragePermanent,
    StorageTransient,
    StorageUnauthorized,
)
from rindle.security.redaction import scrub_requests

T = TypeVar("T")

#: Google's own address of the API.
DEFAULT_ENDPOINT = "https://storage.googleapis.com"
#: One scope for the objects and for signatures by IAM; what is allowed is decided by the roles of the account.
SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
#: Pause in seconds before the second attempt; it doubles.
FIRST_PAUSE_SECONDS = 0.2

_TRANSIENT_STATUS = frozenset({408, 425, 429})
#: What the transports raise when no complete answer came.
_NO_ANSWER = (requests.RequestException, HTTPError, http.client.HTTPException, ConnectionError, DataCorruption)


class GCSClient:
    """Makes requests in the calling thread. The SDK's client is made at the first call and shared by all threads.

    Args:
        bucket: name of the bucket.
        endpoint: address of the API, without a path.
        public_endpoint: address of the same store for browsers, without a path.
        is_emulator: whether an emulator answers there, which knows no credentials.
        project: that pays for requests; ``None`` is the bucket's.
        credentials: of the SDK, a parsed service-account file, or ``None`` for the default chain.
        connect_timeout: seconds to connect.
        read_timeout: seconds without a byte from the store.
        max_attempts: quick attempts of one request.
        connections: kept open at most.
    """

    def __init__(
        self,
        bucket: str,
        *,
        endpoint: str,
        public_endpoint: str,
        is_emulator: bool,
        project: str | None,
        credentials: Credentials | Mapping[str, Any] | None,
        connect_timeout: float,
        read_timeout: float,
        max_attempts: int,
        connections: int,
    ) -> None:
        scrub_requests()  # the query of a session URI is a credential
        self.bucket = bucket
        self.endpoint = endpoint
        self.public_endpoint = public_endpoint
        self.is_emulator = is_emulator
        #: For every request: seconds to connect, and seconds without a byte.
        self.timeout = (connect_timeout, read_timeout)
        self.max_attempts = max(1, max_attempts)
        self._project = project
        self._given = credentials
        self._connections = connections
        self._lock = threading.Lock()
        self._credentials: Credentials | None = None
        self._sdk: Client | None = None
        self._authorized: requests.Session | None = None
        self._bare: requests.Session | None = None

    # --- requests ------------------------------------------------------------------------------------------------

    def call(self, key: str | None, request: Callable[[Bucket], T], *, pinned: bool = False) -> T:
        """Run one request of the SDK, again after a pause when that may help.

        Args:
            key: storage key, for errors.
            request: gets the bucket; calls the SDK without retries of its own (``**client.options``).
            pinned: whether the request has the generation of an object as a condition.

        Raises:
            StorageError: see :func:`translate`.
        """
        return self.attempt(lambda: self._translated(key, lambda: request(self._bucket()), pinned))

    def send(
        self,
        method: str,
        url: str,
        *,
        key: str | None = None,
        authorized: bool = True,
        accept: Callable[[int], bool] = lambda status: 200 <= status < 300,
        pinned: bool = False,
        **options: Any,
    ) -> requests.Response:
        """Send one plain HTTP request, without a retry.

        Args:
            method: of HTTP.
            url: absolute.
            key: storage key, for errors.
            authorized: whether the request has the bearer token of the credentials.
            accept: whether a status is an answer and no error.
            pinned: whether the request has the generation of an object as a condition.
            options: of ``requests``.

        Raises:
            StorageError: see :func:`translate`.
        """

        def request() -> requests.Response:
            session = self.authorized if authorized else self._anonymous()
            # Redirects are not followed: they would take a session URI to another host.
            return session.request(method, url, timeout=self.timeout, allow_redirects=False, **options)

        try:
            response = self._translated(key, request)
        except StorageError as error:
            if authorized:
                raise
            raise error from None  # the message of the transport quotes the URL, which is a credential here
        if not accept(response.status_code):
            with response:
                raise of_status(response.status_code, _message(response), response.headers, key, pinned=pinned)
        return response

    def read(self, key: str, response: requests.Response, size: int) -> bytes:
        """Read up to ``size`` stored bytes of a response body; a cut or stalled connection is transient."""
        return self._translated(key, lambda: bytes(response.raw.read(size, decode_content=False)))

    def attempt(self, once: Callable[[], T]) -> T:
        """Return ``once()``, called up to ``max_attempts`` times while it raises :class:`StorageTransient`."""
        for attempt in range(1, self.max_attempts):
            try:
                return once()
            except StorageTransient as error:
                if error.detail.get("reason") is not None:  # ours: a full disk, a transfer that was cut
                    raise
                self.pause(attempt)
        return once()

    def pause(self, failures: int) -> None:
        """Wait before the next attempt, after so many failed ones."""
        time.sleep(FIRST_PAUSE_SECONDS * 2 ** (failures - 1))

    @property
    def options(self) -> dict[str, Any]:
        """Options of every call of the SDK: its retries are off, because :meth:`attempt` repeats."""
        return {"timeout": self.timeout, "retry": None}

    def _translated(self, key: str | None, request: Callable[[], T], pinned: bool = False) -> T:
        try:
            return request()
        except (GoogleAPICallError, GoogleAuthError, *_NO_ANSWER) as error:
            raise translate(error, key, pinned=pinned) from error

    # --- what is made at the first call --------------------------------------------------------------------------

    @property
    def credentials(self) -> Credentials:
        """The credentials of requests.

        Raises:
            StorageMisconfigured: ``gcs_unconfigured``: there are none.
        """
        with self._lock:
            return self._found_credentials()

    def account(self) -> str | None:
        """Return the service account of the credentials, or ``None``; a machine's is read from its metadata server."""
        found = self.credentials
        email = getattr(found, "service_account_email", None)
        if email == "default":
            self.attempt(lambda: self._translated(None, lambda: found.refresh(Request())))  # type: ignore[no-untyped-call]
            email = getattr(found, "service_account_email", None)
        return email if isinstance(email, str) and "@" in email else None

    @property
    def authorized(self) -> requests.Session:
        """Session of ``requests`` whose requests have a bearer token, for the parts of the API the SDK hides."""
        with self._lock:
            return self._authorized_session()

    def _found_credentials(self) -> Credentials:
        if self._credentials is None:
            self._credentials = _credentials_of(self._given, self.is_emulator)
        return self._credentials

    def _authorized_session(self) -> requests.Session:
        if self._authorized is None:
            if self.is_emulator:
                self._authorized = requests.Session()
            else:
                self._authorized = AuthorizedSession(self._found_credentials())  # type: ignore[no-untyped-call]
            if self._project is not None:
                self._authorized.headers["x-goog-user-project"] = self._project
            self._pool(self._authorized)
        return self._authorized

    def _anonymous(self) -> requests.Session:
        with self._lock:
            if self._bare is None:
                self._bare = requests.Session()
                self._bare.auth = _without_credentials  # also none of a .netrc: the URI alone is the credential
                self._pool(self._bare)
            return self._bare

    def _pool(self, session: requests.Session) -> None:
        adapter = HTTPAdapter(pool_connections=4, pool_maxsize=self._connections)
        session.mount("https://", adapter)
        session.mount("http://", adapter)

    def _bucket(self) -> Bucket:
        with self._lock:  # clients may be shared by threads, making one may not
            if self._sdk is None:
                self._sdk = Client(
                    project=self._project,
                    credentials=self._found_credentials(),
                    client_options={"api_endpoint": self.endpoint},
                    _http=self._authorized_session(),
                )
                # Otherwise the SDK asks for the bucket itself beside our calls, for labels of its traces, which needs
                # one more permission.
                self._sdk._bucket_metadata_cache = None
            return self._sdk.bucket(self.bucket)

    def forget(self) -> None:
        """Close all connections; the next call opens new ones."""
        with self._lock:
            sessions = [self._authorized, self._bare]
            self._sdk = self._authorized = self._bare = None
        for session in sessions:
            if session is not None:
                session.close()


def _credentials_of(given: Credentials | Mapping[str, Any] | None, is_emulator: bool) -> Credentials:
    if given is None and is_emulator:
        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    try:
        if given is None:
            found, _ = google.auth.default(scopes=SCOPES)
            return found
        if isinstance(given, Mapping):
            info = dict(given)
            return service_account.Credentials.from_service_account_info(info, scopes=SCOPES)  # type: ignore[no-untyped-call,no-any-return]
        return with_scopes_if_required(given, SCOPES)  # type: ignore[no-untyped-call,no-any-return]
    except (GoogleAuthError, ValueError) as error:
        # Not chained: the SDK's messages may quote paths and what it could not parse.
        raise _unconfigured(error) from None


def _unconfigured(error: Exception) -> StorageMisconfigured:
    return StorageMisconfigured(
        "no usable Google credentials were found; pass credentials to GCSStorage, or set up the default credentials of "
        "this machine",
        code="gcs_unconfigured",
        adapter="gcs",
        detail={"provider_code": type(error).__name__},
    )


# --- errors ------------------------------------------------------------------------------------------------------


class PastTheEnd(StoragePermanent):
    """The requested range begins at or behind the end of the object."""


def translate(error: Exception, key: str | None, *, pinned: bool = False) -> StorageError:
    """Return our error for one of the SDK's or of its transport.

    =====================================================  ========================================================
    404                                                    ``storage_not_found``, of the bucket ``missing_bucket``
    408, 425, 429, 5xx, bytes with another checksum        ``storage_transient``
    no answer: DNS, connect or read timeout, reset         ``storage_transient``
    401, 403, credentials refused                          ``storage_unauthorized``
    no credentials                                         ``gcs_unconfigured``
    412                                                    ``object_changed`` if ``pinned``, else ``storage_conflict``
    409                                                    ``storage_conflict``
    everything else                                        ``storage_permanent``
    =====================================================  ========================================================

    Only the status is kept, and the class of an error without one: the SDK's messages quote URLs.

    Args:
        error: what the SDK raised.
        key: storage key concerned.
        pinned: the request had the generation of an object as a condition.
    """
    if isinstance(error, GoogleAPICallError) and error.code is not None:
        headers: Mapping[str, str] = getattr(error.response, "headers", None) or {}
        return of_status(int(error.code), str(error.message), headers, key, pinned=pinned)
    facts: dict[str, Any] = {"key": key, "adapter": "gcs", "detail": {"provider_code": type(error).__name__}}
    if isinstance(error, DefaultCredentialsError):
        return _unconfigured(error)
    if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
        return StorageUnauthorized("Google refused the credentials", **facts)
    return StorageTransient("the store did not answer", **facts)


def of_status(
    status: int, message: str, headers: Mapping[str, str], key: str | None, *, pinned: bool = False
) -> StorageError:
    """Return our error for a status of the API; see :func:`translate`. ``message`` is read and not kept."""
    facts: dict[str, Any] = {"key": key, "adapter": "gcs", "detail": {"status": status}}
    if status == 404:
        if "bucket does not exist" in message:
            return StorageMisconfigured("the bucket does not exist", **facts)
        return StorageNotFound("nothing is stored at the key", **facts)
    if status in (401, 403):
        if "may not exist" in message:
            facts["action"] = "allow storage.objects.list: without it a missing object is answered with 403 too"
        return StorageUnauthorized("the store refused the credentials", **facts)
    if status in _TRANSIENT_STATUS or status >= 500 or (status == 400 and "match calculated" in message):
        return StorageTransient("the store requested a later retry", retry_after=_retry_after(headers), **facts)
    if status == 412:
        if pinned:
            return ObjectChanged("the object is no longer the one that was pinned", **facts)
        return StorageConflict("the key is taken", **facts)
    if status == 409:
        return StorageConflict("another request is changing the object", **facts)
    if status == 416:
        return PastTheEnd("the range begins behind the end of the object", **facts)
    return StoragePermanent(f"the store refused the request ({status})", **facts)


def _without_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _message(response: requests.Response) -> str:
    return response.text[:2000]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from ``Retry-After``, when the store gave a number."""
    value = str(headers.get("retry-after", ""))
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else None
