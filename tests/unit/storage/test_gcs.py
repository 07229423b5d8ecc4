"""What GCSStorage signs, how it reads errors, and what it refuses; no network is needed for either.

The signatures are computed a second time here, from the documentation of the V4 signing process, and checked with the
public key: the emulators check none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.api_core import exceptions as google_errors
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.oauth2 import service_account
from pydantic import SecretStr

from rindle.capabilities import capabilities_of
from rindle.errors import (
    CapabilityUnsupported,
    InvalidArgument,
    InvalidKey,
    Misconfigured,
    SessionUriExpired,
    SessionUriUnknown,
    StorageMisconfigured,
)
from rindle.protocols import Concatenation, MultipartUploads, ResumableSessions
from rindle.storage.gcs import GCSStorage, sessions
from rindle.storage.gcs.client import of_status, translate

KEY = "avatars/1/a b+ü~'(1).jpg"
EMAIL = "signer@project.iam.gserviceaccount.com"
PRIVATE_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = PRIVATE_KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
ACCOUNT = {"type": "service_account", "client_email": EMAIL, "private_key": PEM, "token_uri": "https://localhost/token"}


def make(bucket: str = "media", **options: Any) -> GCSStorage:
    return GCSStorage(bucket, **{"signing_credentials": ACCOUNT, **options})


def query(url: str) -> dict[str, str]:
    """Return the parameters of a URL as they are written, not decoded."""
    return dict(part.split("=", 1) for part in urlsplit(url).query.split("&"))


def assert_signed(url: str, method: str, headers: Mapping[str, str]) -> None:
    """Check the signature of a URL against the documented canonical request."""
    parts, given = urlsplit(url), query(url)
    signature = bytes.fromhex(given.pop("X-Goog-Signature"))
    signed = {"host": parts.netloc, **{name.lower(): value for name, value in headers.items()}}
    names = ";".join(sorted(signed))
    assert given["X-Goog-SignedHeaders"] == quote(names, safe="")
    canonical = "\n".join(
        [
            method,
            parts.path,
            "&".join(f"{name}={value}" for name, value in sorted(given.items())),
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            "UNSIGNED-PAYLOAD",
        ]
    )
    moment = given["X-Goog-Date"]
    scope = f"{moment[:8]}/auto/storage/goog4_request"
    assert given["X-Goog-Credential"] == quote(f"{EMAIL}/{scope}", safe="")
    to_sign = f"GOOG4-RSA-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    PRIVATE_KEY.public_key().verify(signature, to_sign.encode(), padding.PKCS1v15(), hashes.SHA256())


# --- signatures ---------------------------------------------------------------------------------------------------


async def test_a_url_is_signed_by_v4() -> None:
    url = await make().url(KEY, expires_in=60)

    assert urlsplit(url).netloc == "storage.googleapis.com"
    assert urlsplit(url).path == "/media/avatars/1/a%20b%2B%C3%BC~%27%281%29.jpg"
    assert query(url)["X-Goog-Expires"] == "60"
    assert not [name for name in query(url) if name.startswith("response-")]
    assert_signed(url, "GET", {})


async def test_a_url_lives_for_15_minutes_by_default() -> None:
    assert query(await make().url(KEY))["X-Goog-Expires"] == "900"


async def test_a_grant_signs_type_size_and_creation() -> None:
    grant = await make().presigned_put(KEY, 900, content_type="image/jpeg", content_length=1234, max_bytes=5000)

    assert grant.headers == {
        "Content-Type": "image/jpeg",
        "x-goog-if-generation-match": "0",
        "x-goog-content-length-range": "1234,1234",
    }
    assert_signed(grant.url, "PUT", grant.headers)
    assert abs(grant.expires_at - datetime.now(UTC) - timedelta(seconds=900)) < timedelta(seconds=30)


async def test_a_grant_of_unknown_size_has_a_limit() -> None:
    grant = await make().presigned_put(KEY, 900, max_bytes=5000)

    assert grant.headers == {"x-goog-if-generation-match": "0", "x-goog-content-length-range": "0,5000"}
    assert_signed(grant.url, "PUT", grant.headers)


async def test_a_bare_grant_signs_the_host_only() -> None:
    grant = await make().presigned_put(KEY, 900, write_once=False)

    assert grant.headers == {}
    assert_signed(grant.url, "PUT", {})


@pytest.mark.parametrize(
    "options",
    [
        {"signing_credentials": json.dumps(ACCOUNT)},
        {"signing_credentials": SecretStr(json.dumps(ACCOUNT))},
        {"signing_credentials": PEM, "signing_email": EMAIL},
        {"signing_credentials": SecretStr(f"\n{PEM}"), "signing_email": EMAIL},
        {"signing_credentials": None, "credentials": ACCOUNT},
        {
            "signing_credentials": None,
            "credentials": service_account.Credentials.from_service_account_info(ACCOUNT),
        },
    ],
    ids=["json", "secret json", "pem", "secret pem", "account", "credentials"],
)
async def test_a_key_comes_in_several_forms(options: dict[str, Any]) -> None:
    assert_signed(await make(**options).url(KEY), "GET", {})


@pytest.mark.parametrize(
    "options",
    [
        {"signing_credentials": "/etc/secrets/canary-account.json"},
        {"signing_credentials": PEM},  # whose?
        {"signing_credentials": PEM[:200] + "canary", "signing_email": EMAIL},
        {"signing_credentials": {**ACCOUNT, "private_key": "canary"}},
        {"signing_credentials": {"client_email": EMAIL}},
        {"signing_credentials": '["canary"]'},
        {"signing_credentials": ""},
    ],
)
def test_what_is_no_key_is_refused_when_the_store_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(StorageMisconfigured) as caught:
        make(**options)

    assert caught.value.code == "gcs_signing_key_invalid"
    assert "canary" not in str(caught.value) + repr(caught.value.detail)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


async def test_credentials_without_a_key_say_what_is_missing() -> None:
    storage = make(signing_credentials=None, credentials=AnonymousCredentials())

    with pytest.raises(StorageMisconfigured, match="signing_email") as caught:
        await storage.url(KEY)
    assert caught.value.code == "gcs_signing_key_invalid"


async def test_nothing_is_looked_for_before_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/canary.json")
    storage = GCSStorage("media")

    with pytest.raises(StorageMisconfigured) as caught:
        await storage.head(KEY)

    assert caught.value.code == "gcs_unconfigured"
    assert "canary" not in str(caught.value)


def test_a_store_needs_a_bucket() -> None:
    with pytest.raises(StorageMisconfigured) as caught:
        make("")
    assert caught.value.code == "missing_bucket"


@pytest.mark.parametrize("option", ["api_endpoint", "public_endpoint", "emulator_host"])
@pytest.mark.parametrize("address", ["https://host/path", "ftp://host", "https://user@host", "https://host?x=1"])
def test_an_address_has_no_path(option: str, address: str) -> None:
    with pytest.raises(Misconfigured):
        make(**{option: address})


async def test_browsers_have_their_own_address() -> None:
    storage = make(emulator_host="gcs:4443", public_endpoint="https://media.example.com")

    assert (await storage.url(KEY)).startswith("https://media.example.com/media/avatars/")
    assert_signed(await storage.url(KEY), "GET", {})


async def test_the_emulator_of_googles_variable_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "localhost:4443")

    assert (await GCSStorage("media").url(KEY)).startswith("http://localhost:4443/media/")
    assert (await make(api_endpoint="https://gcs.example.com").url(KEY)).startswith("https://gcs.example.com/media/")


# --- what it can do -----------------------------------------------------------------------------------------------


def test_it_can_what_its_class_says() -> None:
    storage = make(public_base_url="https://cdn.example.com")

    assert isinstance(storage, ResumableSessions)
    assert isinstance(storage, Concatenation)
    assert not isinstance(storage, MultipartUploads)
    assert capabilities_of(storage) == {
        *("head", "read_range", "signed_url", "presigned_put", "write_once", "public_url"),
        *("resumable_upload", "resumable_upload_session", "concatenate"),
    }


@pytest.mark.parametrize("options", [{"content_type": "image/png"}, {"content_disposition": "attachment"}])
async def test_response_headers_cannot_be_bound(options: dict[str, str]) -> None:
    with pytest.raises(CapabilityUnsupported) as caught:
        await make().url(KEY, **options)  # type: ignore[arg-type]
    assert caught.value.code == "delivery_unsupported"


async def test_nothing_secret_is_in_a_repr() -> None:
    storage = make()
    grant = await storage.presigned_put(KEY, 60)

    assert repr(storage) == "GCSStorage(bucket='media')"
    assert "X-Goog-Signature" not in repr(grant)


async def test_keys_are_checked_by_every_call() -> None:
    storage, uri = make(), SecretStr("https://storage.googleapis.com/upload/storage/v1/b/media/o?upload_id=1")
    for call in (
        storage.initiate_resumable_upload("../x", 1),
        storage.resumable_upload_status("../x", uri),
        storage.cancel_resumable_upload("../x", uri),
        storage.concatenate("../x", ["a"]),
        storage.concatenate("a", ["../x"]),
    ):
        with pytest.raises(InvalidKey):
            await call


# --- session URIs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example/upload/storage/v1/b/media/o?upload_id=canary",
        "http://storage.googleapis.com/upload/storage/v1/b/media/o?upload_id=canary",
        "https://storage.googleapis.com.evil.example/upload/storage/v1/b/media/o?upload_id=canary",
        "https://canary@storage.googleapis.com/upload/storage/v1/b/media/o",
        "https://storage.googleapis.com:444/upload/storage/v1/b/media/o?upload_id=canary",
        "https://storage.googleapis.com/storage/v1/b/media/o/x?upload_id=canary",
        "http://169.254.169.254/upload/computeMetadata?canary",
        "file:///upload/canary",
        "",
    ],
)
async def test_a_session_uri_of_another_host_is_not_requested(uri: str) -> None:
    storage = make()
    for call in (
        storage.resumable_upload_status(KEY, SecretStr(uri)),
        storage.cancel_resumable_upload(KEY, SecretStr(uri)),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await call
        assert "canary" not in str(caught.value) + repr(caught.value.detail)


def answer(status: int, body: bytes = b"", **headers: str) -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made._content = body
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return made


@pytest.mark.parametrize(
    ("made", "committed", "is_complete"),
    [
        (answer(308), 0, False),
        (answer(308, range="bytes=0-0"), 1, False),
        (answer(308, range="bytes=0-262143"), 262_144, False),
        (answer(308, range="bytes 0-4294967295"), 4_294_967_296, False),
        (answer(308, range="garbage"), 0, False),
        (answer(200, b'{"size": "4294967296", "generation": "5"}'), 4_294_967_296, True),
        (answer(201, b"", x_goog_stored_content_length="17"), 17, True),
    ],
)
def test_a_probe_reads_what_google_documents(made: requests.Response, committed: int, is_complete: bool) -> None:
    found = sessions.probe_of(made, KEY)

    assert (found.committed, found.resource is not None) == (committed, is_complete)


@pytest.mark.parametrize(
    ("status", "error"), [(404, SessionUriUnknown), (410, SessionUriExpired), (499, SessionUriUnknown)]
)
def test_a_probe_of_a_session_that_is_gone(status: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        sessions.probe_of(answer(status), KEY)


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "message", "pinned", "code", "retryable"),
    [
        (404, "No such object", False, "storage_not_found", False),
        (404, "The specified bucket does not exist.", False, "missing_bucket", False),
        (408, "", False, "storage_transient", True),
        (429, "", False, "storage_transient", True),
        (500, "", False, "storage_transient", True),
        (503, "", False, "storage_transient", True),
        (400, 'Provided CRC32C "a" doesn\'t match calculated CRC32C "b".', False, "storage_transient", True),
        (401, "", False, "storage_unauthorized", True),
        (403, "", False, "storage_unauthorized", True),
        (412, "", False, "storage_conflict", False),
        (412, "", True, "object_changed", False),
        (409, "", False, "storage_conflict", False),
        (400, "canary", False, "storage_permanent", False),
        (413, "canary", False, "storage_permanent", False),
    ],
)
def test_each_status_has_its_error(status: int, message: str, pinned: bool, code: str, retryable: bool) -> None:
    error = of_status(status, message, {}, KEY, pinned=pinned)

    assert (error.code, error.retryable) == (code, retryable)
    assert "canary" not in str(error) + repr(error.detail)


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (google_errors.NotFound("x"), "storage_not_found"),  # type: ignore[no-untyped-call]
        (google_errors.ServiceUnavailable("x"), "storage_transient"),  # type: ignore[no-untyped-call]
        (google_errors.PreconditionFailed("x"), "storage_conflict"),  # type: ignore[no-untyped-call]
        (requests.ConnectionError("https://canary"), "storage_transient"),
        (requests.ReadTimeout("https://canary"), "storage_transient"),
        (ConnectionResetError("canary"), "storage_transient"),
        (TransportError("canary"), "storage_transient"),  # type: ignore[no-untyped-call]
        (RefreshError("canary"), "storage_unauthorized"),  # type: ignore[no-untyped-call]
        (DefaultCredentialsError("canary"), "gcs_unconfigured"),  # type: ignore[no-untyped-call]
    ],
)
def test_what_the_sdk_raises_is_translated(raised: Exception, code: str) -> None:
    error = translate(raised, KEY)

    assert error.code == code
    assert "canary" not in str(error) + repr(error.detail)


def test_the_pause_that_the_store_asks_for_is_kept() -> None:
    assert of_status(429, "", {"retry-after": "7"}, KEY).retry_after == 7
