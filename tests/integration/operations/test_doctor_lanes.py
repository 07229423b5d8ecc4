"""``rindle doctor --live`` and the lanes for large files: one permission is missing, and one row says which step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


class NotedStorage(S3Storage):
    """A bucket that notes what is deleted: each check ends with the deletion of its object."""

    def __init__(self, bucket: str, **options: Any) -> None:
        super().__init__(bucket, **options)
        self.deleted: set[str] = set()

    async def delete(self, key: str) -> None:
        """Note the key and delete its object."""
        self.deleted.add(key)
        await super().delete(key)


def with_permissions(
    server: MinioServer, bucket: str, allowed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> NotedStorage:
    """Return the bucket with credentials that may do only this."""
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    policy = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": list(allowed), "Resource": resources}],
    }
    with server.client("sts") as sts:
        made = sts.assume_role(
            RoleArn="arn:aws:iam::123456789012:role/doctor", RoleSessionName="doctor", Policy=json.dumps(policy)
        )["Credentials"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", made["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", made["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", made["SessionToken"])
    return NotedStorage(bucket, endpoint_url=server.endpoint_url, region=server.region, max_attempts=1)


async def lanes_of(rindle: Rindle) -> dict[str, Check]:
    try:
        report = await rindle.doctor(live=True, only=LANES)
    finally:
        await rindle.close()
    return {check.id: check for check in report.checks}


async def left_in(server: MinioServer, storage: NotedStorage) -> tuple[list[str], list[str]]:
    """Return the objects of a bucket, and the unfinished uploads to the keys that a check has used."""
    with server.client() as s3:
        objects = [one["Key"] for one in s3.list_objects_v2(Bucket=storage.bucket).get("Contents", [])]
    unfinished = [one for key in storage.deleted for one in await storage.list_multipart_uploads(key)]
    return objects, unfinished


async def test_documented_permissions_suffice_and_nothing_is_left(
    minio: MinioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = minio.new_bucket()
    storage = with_permissions(minio, bucket, ALL, monkeypatch)

    found = await lanes_of(application(tmp_path, storages={"media": storage}))

    assert [found[one].status for one in LANES] == ["ok", "ok"], found
    assert len(storage.deleted) == len(LANES)
    assert await left_in(minio, storage) == ([], [])


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
