"""What S3Storage signs and how it reads errors; no network is needed for either."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)
from pydantic import SecretStr

from rindle.errors import CapabilityUnsupported, InvalidArgument, InvalidKey, Misconfigured, StorageMisconfigured
from rindle.storage.s3 import S3Storage
from rindle.storage.s3.client import translate

KEY = "avatars/1/a b+ü.jpg"


def make(bucket: str = "media", **options: Any) -> S3Storage:
    facts = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "canary-secret", "region": "eu-central-1"}
    return S3Storage(bucket, **{**facts, **options})


def query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


# --- upload grants ------------------------------------------------------------------------------------------------


async def test_a_bare_grant_signs_the_host_only() -> None:
    grant = await make().presigned_put(KEY, 900, write_once=False)

    assert query(grant.url)["X-Amz-SignedHeaders"] == "host"
    assert grant.headers == {}


async def test_a_grant_signs_size_type_and_creation() -> None:
    grant = await make().presigned_put(KEY, 900, content_type="image/jpeg", content_length=1234)

    signed = query(grant.url)
    assert signed["X-Amz-SignedHeaders"] == "content-length;content-type;host;if-none-match"
    assert signed["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert signed["X-Amz-Expires"] == "900"
    assert grant.headers == {"Content-Type": "image/jpeg", "If-None-Match": "*"}
    assert abs(grant.expires_at - datetime.now(UTC) - timedelta(seconds=900)) < timedelta(seconds=30)


async def test_an_empty_upload_can_be_granted() -> None:
    grant = await make().presigned_put(KEY, 900, content_length=0, write_once=False)

    assert query(grant.url)["X-Amz-SignedHeaders"] == "content-length;host"


async def test_encryption_is_signed_and_told_to_the_client() -> None:
    grant = await make(sse="AES256").presigned_put(KEY, 900, write_once=False)

    assert grant.headers == {"x-amz-server-side-encryption": "AES256"}
    assert query(grant.url)["X-Amz-SignedHeaders"] == "host;x-amz-server-side-encryption"


async def test_a_store_without_conditional_writes_says_so() -> None:
    storage = make(write_once=False)
    grant = await storage.presigned_put(KEY, 900)

    assert "write_once" not in storage.capabilities()
    assert grant.headers == {}


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "auto", None])
async def test_every_url_is_v4_and_free_of_checksums(region: str | None) -> None:
    storage = make(region=region)
    urls = [
        await storage.url(KEY, expires_in=60),
        (await storage.presigned_put(KEY, 60, content_type="image/png", content_length=5)).url,
    ]

    for url in urls:
        assert "X-Amz-Signature" in query(url)
        assert "AWSAccessKeyId" not in url
        assert not any("checksum" in name.lower() for name in query(url))


# --- forms ---------------------------------------------------------------------------------------------------------


async def test_a_form_binds_key_type_size_and_encryption() -> None:
    form = await make(key_prefix="tenant", sse="AES256").presigned_post(
        KEY, 900, content_type="image/jpeg", max_bytes=1234
    )

    policy = json.loads(base64.b64decode(form.fields["policy"]))
    assert form.fields["key"] == f"tenant/{KEY}"
    for condition in (
        {"key": f"tenant/{KEY}"},
        {"content-type": "image/jpeg"},
        {"success_action_status": "201"},
        {"x-amz-server-side-encryption": "AES256"},
        ["content-length-range", 1, 1234],
    ):
        assert condition in policy["conditions"]
    assert form.fields["x-amz-algorithm"] == "AWS4-HMAC-SHA256"
    assert form.fields["x-amz-signature"] not in repr(form)
    assert abs(form.expires_at - datetime.now(UTC) - timedelta(seconds=900)) < timedelta(seconds=30)


@pytest.mark.parametrize("max_bytes", [None, 10 * 1024**3])
async def test_a_form_carries_at_most_5_gib(max_bytes: int | None) -> None:
    form = await make().presigned_post(KEY, 900, max_bytes=max_bytes)

    assert '["content-length-range", 1, 5368709120]' in base64.b64decode(form.fields["policy"]).decode()
    assert "content-type" not in form.fields


async def test_forms_are_addressed_to_browsers() -> None:
    form = await make(endpoint_url="http://minio:9000", public_endpoint="https://media.example").presigned_post(KEY, 60)

    assert form.url == "https://media.example/media"


@pytest.mark.parametrize(
    ("options", "offered"),
    [
        ({}, True),
        ({"endpoint_url": "https://account.r2.cloudflarestorage.com"}, False),
        ({"endpoint_url": "https://account.r2.cloudflarestorage.com", "presigned_post": True}, True),
        ({"presigned_post": False}, False),
    ],
)
async def test_a_store_without_forms_says_so(options: dict[str, Any], offered: bool) -> None:
    storage = make(**options)

    assert ("presigned_post" in storage.capabilities()) is offered
    if not offered:
        with pytest.raises(CapabilityUnsupported) as caught:
            await storage.presigned_post(KEY, 60)
        assert caught.value.code == "upload_unsupported"


# --- addresses ----------------------------------------------------------------------------------------------------


async def test_amazon_is_addressed_by_bucket_host() -> None:
    parts = urlsplit(await make().url(KEY))

    assert parts.netloc.startswith("media.s3.")
    assert unquote(parts.path) == f"/{KEY}"


async def test_r2_is_a_matter_of_options() -> None:
    endpoint = "https://account.r2.cloudflarestorage.com"
    url = await make(region="auto", endpoint_url=endpoint).url(KEY)

    assert urlsplit(url).netloc == "account.r2.cloudflarestorage.com"
    assert unquote(urlsplit(url).path) == f"/media/{KEY}"
    assert "/auto/s3/aws4_request" in query(url)["X-Amz-Credential"]


async def test_minio_is_addressed_by_path_in_us_east_1() -> None:
    url = await make(region=None, endpoint_url="http://minio:9000").url(KEY)

    assert unquote(urlsplit(url).path) == f"/media/{KEY}"
    assert "/us-east-1/s3/aws4_request" in query(url)["X-Amz-Credential"]


async def test_browsers_get_the_public_endpoint() -> None:
    storage = make(endpoint_url="http://minio:9000", public_endpoint="https://media.example.com:8443/")

    for url in (await storage.url(KEY), (await storage.presigned_put(KEY, 60)).url):
        assert (urlsplit(url).scheme, urlsplit(url).netloc) == ("https", "media.example.com:8443")


async def test_without_a_public_endpoint_nothing_changes() -> None:
    storage = make(endpoint_url="http://minio:9000")

    assert urlsplit(await storage.url(KEY)).netloc == "minio:9000"


@pytest.mark.parametrize(
    "address",
    [
        "https://example.com/media",
        "https://example.com/?x=1",
        "https://example.com/#x",
        "https://user:pw@example.com",
        "example.com",
        "ftp://example.com",
        "https://",
    ],
)
def test_a_public_endpoint_is_scheme_host_and_port(address: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        make(public_endpoint=address)

    assert address not in str(caught.value)


@pytest.mark.parametrize("style", ["path", "virtual"])
async def test_the_addressing_style_can_be_chosen(style: Any) -> None:
    url = await make(endpoint_url="http://minio:9000", addressing_style=style).url(KEY)

    assert urlsplit(url).netloc == ("minio:9000" if style == "path" else "media.minio:9000")


def test_wrong_options_are_refused_at_once() -> None:
    with pytest.raises(StorageMisconfigured) as caught:
        make("")
    assert caught.value.code == "missing_bucket"
    with pytest.raises(Misconfigured):
        make(addressing_style="auto")
    with pytest.raises(Misconfigured):
        make(secret_access_key=None)
    with pytest.raises(InvalidKey):
        make(key_prefix="../x")


# --- reading URLs -------------------------------------------------------------------------------------------------


async def test_response_headers_are_signed_in() -> None:
    disposition = "attachment; filename=\"_.jpg\"; filename*=UTF-8''%D1%84.jpg"
    url = await make().url(KEY, expires_in=60, content_type="image/jpeg", content_disposition=disposition)

    assert query(url)["response-content-type"] == "image/jpeg"
    assert query(url)["response-content-disposition"] == disposition
    assert query(url)["X-Amz-Expires"] == "60"


async def test_a_url_lives_15_minutes_unless_told() -> None:
    assert query(await make().url(KEY))["X-Amz-Expires"] == "900"


async def test_a_public_url_is_the_cdn_and_the_whole_key() -> None:
    storage = make(public_base_url="https://cdn.example.com/", key_prefix="tenant/a/")

    assert await storage.url(KEY, public=True) == "https://cdn.example.com/tenant/a/avatars/1/a%20b%2B%C3%BC.jpg"
    with pytest.raises(CapabilityUnsupported):
        await storage.url(KEY, public=True, content_type="image/png")
    with pytest.raises(InvalidArgument):
        await storage.url(KEY, public=True, expires_in=60)


async def test_a_prefix_is_part_of_the_signed_path() -> None:
    assert unquote(urlsplit(await make(key_prefix="tenant/a").url(KEY)).path) == f"/tenant/a/{KEY}"


# --- secrets ------------------------------------------------------------------------------------------------------


async def test_no_secret_shows() -> None:
    storage = make(secret_access_key=SecretStr("canary-secret"))
    grant = await storage.presigned_put(KEY, 60)

    assert "canary" not in repr(storage) + str(vars(storage))
    assert "Signature" not in repr(grant)


# --- errors -------------------------------------------------------------------------------------------------------


def answer(
    status: int, code: str = "", operation: str = "GetObject", headers: dict[str, str] | None = None
) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": "canary https://example.com/?X-Amz-Signature=canary"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    return ClientError(response, operation)


@pytest.mark.parametrize(
    ("error", "expected", "is_retryable"),
    [
        (answer(404, "NoSuchKey"), "storage_not_found", False),
        (answer(404, "404", "HeadObject"), "storage_not_found", False),
        (answer(404, "NoSuchUpload"), "storage_not_found", False),
        (answer(404, "NoSuchBucket"), "missing_bucket", False),
        (answer(403, "403", "HeadObject"), "storage_unauthorized", True),
        (answer(403, "AccessDenied"), "storage_unauthorized", True),
        (answer(403, "SignatureDoesNotMatch"), "storage_unauthorized", True),
        (answer(403, "InvalidAccessKeyId"), "storage_unauthorized", True),
        (answer(403, "RequestTimeTooSkewed"), "storage_unauthorized", True),
        (answer(400, "ExpiredToken"), "storage_unauthorized", True),
        (answer(401), "storage_unauthorized", True),
        (answer(503, "SlowDown"), "storage_transient", True),
        (answer(500, "InternalError"), "storage_transient", True),
        (answer(200, "InternalError"), "storage_transient", True),
        (answer(200, "SomethingElse"), "storage_transient", True),
        (answer(400, "RequestTimeout"), "storage_transient", True),
        (answer(408), "storage_transient", True),
        (answer(425), "storage_transient", True),
        (answer(429, "TooManyRequests"), "storage_transient", True),
        (answer(502), "storage_transient", True),
        (answer(412, "PreconditionFailed"), "storage_conflict", False),
        (answer(409, "BucketAlreadyExists"), "storage_conflict", False),
        (answer(409, "OperationAborted"), "storage_conflict", True),
        (answer(409, "ConditionalRequestConflict"), "storage_conflict", True),
        (answer(400, "EntityTooLarge"), "storage_permanent", False),
        (answer(400, "EntityTooSmall"), "storage_permanent", False),
        (answer(405), "storage_permanent", False),
        (NoCredentialsError(), "storage_unauthorized", True),
        (EndpointConnectionError(endpoint_url="http://canary"), "storage_transient", True),
        (ConnectTimeoutError(endpoint_url="http://canary"), "storage_transient", True),
        (ReadTimeoutError(endpoint_url="http://canary"), "storage_transient", True),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), "storage_transient", True),
        (ParamValidationError(report="canary"), "storage_permanent", False),
    ],
)
def test_errors_are_translated(error: ClientError | BotoCoreError, expected: str, is_retryable: bool) -> None:
    translated = translate(error, KEY)

    assert (translated.code, translated.retryable) == (expected, is_retryable)
    assert (translated.key, translated.adapter) == (KEY, "s3")
    assert "canary" not in f"{translated} {translated!r} {translated.to_dict()} {translated.action}"


def test_a_pinned_request_that_fails_its_condition_has_met_another_object() -> None:
    assert translate(answer(412, "PreconditionFailed"), KEY, pinned=True).code == "object_changed"


def test_a_refused_head_hints_at_the_missing_permission() -> None:
    assert "s3:ListBucket" in (translate(answer(403, "403", "HeadObject"), KEY).action or "")
    assert translate(answer(403, "AccessDenied", "PutObject"), KEY).action is None


@pytest.mark.parametrize(("value", "expected"), [("7", 7.0), ("", None), ("soon", None), ("-1", None), ("9" * 9, None)])
def test_a_store_may_say_when_to_come_back(value: str, expected: float | None) -> None:
    assert translate(answer(503, "SlowDown", headers={"retry-after": value}), KEY).retry_after == expected
