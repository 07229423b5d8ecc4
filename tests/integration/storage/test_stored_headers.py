"""What visitors get from a bucket: the headers that Rindle wants, never those that an uploader sent with the bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from rindle import MediaAsset
from rindle.testing.headers_contract import HOSTILE_HEADERS, HOSTILE_VALUES
from tests.invariants import everything_holds
from tests.patience import PATIENCE_SECONDS
from tests.servers.minio import MinioServer
from tests.servers.temporal import TemporalServer
from tests.stage import NOTICES_LOST_WORKERS, Stage, staged

SCRIPT = b"<html><script>alert(document.domain)</script></html>"
#: What a browser lets a page send to a signed URL; the type is signed, the others are not.
UNSIGNED = {name: value for name, value in HOSTILE_HEADERS.items() if name != "Content-Type"}


def jpeg_with_a_script() -> bytes:
    """Return a valid JPEG whose comment is a page: a browser that takes it for HTML runs the script."""
    written = BytesIO()
    Image.new("RGB", (320, 240), "navy").save(written, "JPEG", comment=SCRIPT)
    return written.getvalue()


def publish(environment: dict[str, str]) -> str:
    """Let everybody read the objects of an application's bucket; returns its public address."""
    name, endpoint = environment["APP_BUCKET"], environment["APP_ENDPOINT"]
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": ["*"]},
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{name}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    with MinioServer.of(environment).client() as client:
        client.put_bucket_policy(Bucket=name, Policy=policy)
    return f"{endpoint}/{name}"


@pytest.fixture
async def bucket_stage(
    tmp_path: Path, database_url: str, temporal_server: TemporalServer, bucket_environment: dict[str, str]
) -> AsyncIterator[Stage]:
    """A stage on a public bucket of its own."""
    environment = {**bucket_environment, "APP_PUBLIC_URL": publish(bucket_environment)}
    async with staged(tmp_path, database_url, temporal_server.target, environment) as ready:
        yield ready


async def uploaded(stage: Stage, profile: str, browser: httpx.AsyncClient, body: bytes) -> MediaAsset:
    """Announce HTML, send ``body`` with hostile headers, and verify."""
    session = await stage.rindle.initiate_upload(profile, filename="me.jpg", size=len(body), content_type="text/html")
    presigned = (await stage.rindle.sign_url(session.id)).presigned
    assert presigned.headers["Content-Type"] == "image/jpeg"
    as_html = await browser.put(presigned.url, content=body, headers={**presigned.headers, **HOSTILE_HEADERS})
    assert as_html.status_code == 403  # the type is signed
    answer = await browser.put(presigned.url, content=body, headers={**presigned.headers, **UNSIGNED})
    assert answer.status_code == 200, answer.text
    return (await stage.rindle.verify_completion(session.id)).asset


@pytest.mark.parametrize("profile", ["poster", "avatar"])
async def test_no_header_of_an_uploader_reaches_a_visitor(bucket_stage: Stage, profile: str) -> None:
    stage, body = bucket_stage, jpeg_with_a_script()
    await stage.member()
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as browser:
        asset = await uploaded(stage, profile, browser, body)
        done = await stage.settled(asset.id)
        assert (done.state, done.content_type) == ("ready", "image/jpeg")

        got = await browser.get(await stage.rindle.url(profile, done))

        assert (got.status_code, got.content) == (200, body)
        assert got.headers["content-type"] == "image/jpeg"
        assert not (HOSTILE_VALUES | {"alice"}) & set(got.headers.values())
        if profile == "avatar":
            assert "private" in got.headers["cache-control"]
        else:
            assert not {"cache-control", "content-disposition", "content-encoding"} & set(got.headers)
        for row in done.variants:
            small = await browser.get(await stage.rindle.variant_url(profile, done, row))
            assert small.headers["content-type"] == row.content_type
    await everything_holds(stage)


async def test_a_server_side_upload_has_the_type_of_its_bytes(bucket_stage: Stage) -> None:
    await bucket_stage.member()
    asset = await bucket_stage.rindle.upload("poster", BytesIO(jpeg_with_a_script()), filename="me.jpg")
    done = await bucket_stage.settled(asset.id)
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as browser:
        got = await browser.get(await bucket_stage.rindle.url("poster", done))
    assert (got.status_code, got.headers["content-type"]) == (200, "image/jpeg")


async def test_new_headers_may_change_the_etag(bucket_stage: Stage) -> None:
    stage = bucket_stage
    stage.environment["APP_MAX_COPY_BYTES"] = "0"  # copied in parts: the ETag is another one afterwards
    await stage.member(stage.application())
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as browser:
        asset = await uploaded(stage, "scanned", browser, jpeg_with_a_script())
        done = await stage.settled(asset.id)
    head = await stage.storage.head(done.storage_key)
    assert done.state == "ready"
    assert head.etag.endswith("-1") and asset.stored_etag != head.etag
    assert done.stored_etag == done.scanned_etag == head.etag
    assert (head.content_type, dict(head.headers)) == ("image/jpeg", {})
    assert (stage.home / "scans").read_text() == "scan\n"
    await everything_holds(stage)


async def test_a_worker_lost_after_the_etag_changed_loses_no_upload(bucket_stage: Stage) -> None:
    stage = bucket_stage
    stage.environment |= {**NOTICES_LOST_WORKERS, "APP_MAX_COPY_BYTES": "0"}
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as browser:
        asset = await uploaded(stage, "scanned", browser, jpeg_with_a_script())
    victim = await stage.worker(wait=False, RINDLE_CRASH_AT="admit.headers_replaced")
    assert await victim.wait() == -9, victim.tail()
    assert (await stage.storage.head(asset.storage_key)).etag != asset.stored_etag
    # More than one only if a pause of the victim was taken for its end; the new ETag must not cause another.
    scans = (stage.home / "scans").read_text()
    assert scans.startswith("scan\n")

    other_host = stage.home / "other-host"  # without the cached original
    other_host.mkdir()
    await stage.member(stage.application(RINDLE_TMP_DIR=str(other_host)))

    done = await stage.settled(asset.id)
    assert (done.state, done.stored_etag) == ("ready", (await stage.storage.head(asset.storage_key)).etag)
    assert (stage.home / "scans").read_text() == scans
    await everything_holds(stage)
