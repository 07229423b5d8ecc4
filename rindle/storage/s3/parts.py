"""Files on their way up: small ones whole, large ones in parts. The part uploads of browsers are not here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from rindle.errors import StorageError, StorageNotFound
from rindle.protocols import StoredObject
from rindle.storage.files import Slice as Slice  # also of the part streams
from rindle.storage.files import open_source
from rindle.storage.s3.client import S3Client, etag_of
from rindle.storage.threads import Stop

#: Files larger than this go up in parts.
MULTIPART_BYTES = 64 * 1024 * 1024
#: Size of a part (S3 API, multipart limits: 5 MiB to 5 GiB).
PART_BYTES = 16 * 1024 * 1024
#: Largest part count of one upload (S3 API, multipart limits).
MAX_PART_COUNT = 10_000
#: Parts of one file on their way at the same time.
PART_THREADS = 4


def send_file(
    stop: Stop,
    client: S3Client,
    key: str,
    source: Path,
    where: Mapping[str, str],
    extra: Mapping[str, Any],
    condition: Mapping[str, str],
) -> StoredObject:
    """Write the file at ``source`` to the object ``where`` names, in parts when it is over 64 MiB.

    Args:
        stop: ends the transfer at its next piece.
        client: makes the requests.
        key: storage key, for errors.
        source: an existing file.
        where: bucket and key as parameters of the API.
        extra: parameters that the object is created with.
        condition: parameters of the request that completes it.
    """
    with open_source(source) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MULTIPART_BYTES:
            etag = _send_parts(stop, client, key, file, size, where, extra, condition)
        else:
            body = Slice(file, 0, size, stop)
            answer = client.call(
                key, lambda s3: s3.put_object(Body=body.again(), ContentLength=size, **where, **extra, **condition)
            )
            etag = answer["ETag"]
    return StoredObject(key, size, etag_of(etag))


def _send_parts(
    stop: Stop,
    client: S3Client,
    key: str,
    file: IO[bytes],
    size: int,
    where: Mapping[str, str],
    extra: Mapping[str, Any],
    condition: Mapping[str, str],
) -> str:
    """Send ``file`` as a multipart upload and return the object's ETag.

    This replaces the SDK's transfer manager, which can neither complete with ``If-None-Match`` nor return the ETag of
    the object it wrote.
    """
    # All parts but the last have one size, as R2 demands.
    part_bytes = max(PART_BYTES, -(-size // MAX_PART_COUNT))
    upload_id = client.call(key, lambda s3: s3.create_multipart_upload(**where, **extra))["UploadId"]

    def send(number: int) -> dict[str, Any]:
        start = (number - 1) * part_bytes
        piece = Slice(file, start, min(part_bytes, size - start), stop)
        answer = client.call(
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
        return _complete(client, key, upload_id, parts, size, where, condition)
    except BaseException:
        with suppress(StorageError):  # the lifecycle rule takes what cannot be given up now
            client.call(key, lambda s3: s3.abort_multipart_upload(UploadId=upload_id, **where))
        raise


def _complete(
    client: S3Client,
    key: str,
    upload_id: str,
    parts: list[dict[str, Any]],
    size: int,
    where: Mapping[str, str],
    condition: Mapping[str, str],
) -> str:
    try:
        answer = client.call(
            key,
            lambda s3: s3.complete_multipart_upload(
                UploadId=upload_id, MultipartUpload={"Parts": parts}, **where, **condition
            ),
        )
    except StorageNotFound:
        # NoSuchUpload: an earlier attempt whose answer was lost has completed it, if the object is the one we sent.
        there = client.head(key, where)
        if there.size == size and there.etag == _multipart_etag(parts):
            return there.etag
        raise
    return str(answer["ETag"])


def _multipart_etag(parts: list[dict[str, Any]]) -> str:
    """Return the ETag S3 gives an object made of these parts (not encrypted with KMS): MD5 of the parts' MD5s."""
    try:
        digests = b"".join(bytes.fromhex(etag_of(part["ETag"])) for part in parts)
    except ValueError:  # not MD5s: the object cannot be recognised
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
