"""``rindle doctor --live`` and the lanes for large files: one permission is missing, and one row says which step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from rindle import Rindle
from rindle.operations.checks.report import Check
from rindle.storage.local import LocalStorage
from rindle.storage.s3 import S3Storage
from tests.integration.operations.test_doctor import SECRET, application
from tests.integration.operations.test_doctor import patience as patience
from tests.servers.minio import MinioServer

LANES = ("storage.media.multipart", "storage.media.tus")
ALL = (
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
)


def client(server: MinioServer, service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=server.endpoint_url,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )


def with_permissions(
    server: MinioServer, bucket: str, allowed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> S3Storage:
    """Return the bucket with credentials that may do only this."""
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    policy = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": list(allowed), "Resource": resources}],
    }
    sts = client(server, "sts")
    made = sts.assume_role(
        RoleArn="arn:aws:iam::123456789012:role/doctor", RoleSessionName="doctor", Policy=json.dumps(policy)
    )["Credentials"]
    sts.close()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", made["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", made["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", made["SessionToken"])
    return S3Storage(bucket, endpoint_url=server.endpoint_url, region=server.region, max_attempts=1)


async def lanes_of(rindle: Rindle) -> dict[str, Check]:
    try:
        report = await rindle.doctor(live=True, only=LANES)
    finally:
        await rindle.close()
    return {check.id: check for check in report.checks}


def left_in(server: MinioServer, bucket: str) -> tuple[list[Any], list[Any]]:
    """Return the objects and the unfinished uploads of a bucket."""
    s3 = client(server, "s3")
    found = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
    unfinished = [
        upload
        for prefix in ("rindle-doctor/", ".rindle/")
        for one in _keys_of_uploads(s3, bucket, prefix)
        for upload in one
    ]
    s3.close()
    return found, unfinished


def _keys_of_uploads(s3: Any, bucket: str, prefix: str) -> list[list[Any]]:
    return [s3.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", [])]


async def test_documented_permissions_suffice_and_nothing_is_left(
    minio: MinioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = minio.new_bucket()
    storage = with_permissions(minio, bucket, ALL, monkeypatch)

    found = await lanes_of(application(tmp_path, storages={"media": storage}))

    assert [found[one].status for one in LANES] == ["ok", "ok"], found
    assert left_in(minio, bucket) == ([], [])


@pytest.mark.parametrize(
    ("missing", "multipart", "tus"),
    [
        ("s3:PutObject", "begin an upload", "keep the bytes of a request that broke off"),
        ("s3:GetObject", None, "continue after them"),
        ("s3:ListMultipartUploadParts", "list the parts", None),
        ("s3:ListBucketMultipartUploads", "list unfinished uploads", "make the object"),
        ("s3:AbortMultipartUpload", "abort an upload", None),
    ],
)
async def test_a_missing_permission_is_found_at_its_step(
    minio: MinioServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    multipart: str | None,
    tus: str | None,
) -> None:
    bucket = minio.new_bucket()
    storage = with_permissions(minio, bucket, tuple(one for one in ALL if one != missing), monkeypatch)

    found = await lanes_of(application(tmp_path, storages={"media": storage}))

    steps = [(found[one].detail or {}).get("step") for one in LANES]
    assert steps == [multipart, tus], found
    assert all("page Storage" in str(found[one].fix) for one in LANES if found[one].status == "error")


async def test_local_files_keep_parts_of_a_stream_and_nothing_is_left(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "media", base_url="/media/local", secrets=[SECRET])
    rindle = application(tmp_path, storages={"media": storage})
    try:
        report = await rindle.doctor(live=True, only=["storage.media.tus"])
    finally:
        await rindle.close()

    assert report.success, report.checks
    assert [path for path in (tmp_path / "media").rglob("*") if path.is_file()] == []


async def test_a_directory_of_unfinished_uploads_that_is_a_file_is_found(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "media", base_url="/media/local", secrets=[SECRET])
    (tmp_path / "media" / ".rindle").mkdir(parents=True, exist_ok=True)
    (tmp_path / "media" / ".rindle" / "tus").write_text("in the way")
    rindle = application(tmp_path, storages={"media": storage})
    try:
        report = await rindle.doctor(live=True, only=["storage.media.tus"])
    finally:
        await rindle.close()

    (check,) = report.checks
    assert (check.status, (check.detail or {})["step"]) == ("error", "keep the bytes of a request that broke off")
