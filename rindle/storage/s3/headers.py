"""The headers that S3 keeps for an object and sends to visitors: read from a HEAD, and replaced by a copy onto itself.

S3 cannot change headers in place. A copy of an object onto its own key with other headers is one atomic write: visitors
get the old object or the new one, and the key is never free for a grant that may only create.

Source: Amazon S3 API, CopyObject (``MetadataDirective=REPLACE``; at most 5 GiB) and UploadPartCopy.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from rindle.errors import StorageError
from rindle.protocols import ServedAs, StoredObject
from rindle.storage.s3.client import S3Client, etag_of
from rindle.storage.s3.parts import MAX_PART_COUNT, PART_THREADS
from rindle.storage.threads import Stop

#: Largest object that one CopyObject copies (S3 API); larger ones are copied in parts.
MAX_COPY_BYTES = 5 * 1024**3
#: Size of a part of such a copy; no bytes pass through this process. (S3 API, multipart limits: 5 MiB to 5 GiB.)
COPY_PART_BYTES = 512 * 1024**2


def parameters_of(served: ServedAs) -> dict[str, str]:
    """Return ``served`` as parameters of the API."""
    parameters = {"ContentType": served.content_type}
    if served.content_disposition is not None:
        parameters["ContentDisposition"] = served.content_disposition
    return parameters


def copy_onto_itself(
    stop: Stop,
    client: S3Client,
    key: str,
    where: Mapping[str, str],
    size: int,
    etag: str,
    created_with: Mapping[str, str],
) -> StoredObject:
    """Copy the object onto its own key with the headers in ``created_with``, and without all that it had before.

    Args:
        stop: ends a copy in parts after the parts that are under way.
        client: makes the requests.
        key: storage key, for errors.
        where: bucket and key as parameters of the API.
        size: of the object in bytes.
        etag: condition of the copy: the object that is copied has this ETag.
        created_with: parameters that the object is created with.

    Raises:
        ObjectChanged: the object has another ETag.
    """
    source = {"CopySource": dict(where), "CopySourceIfMatch": f'"{etag_of(etag)}"'}
    if size > MAX_COPY_BYTES:
        return StoredObject(key, size, _copy_parts(stop, client, key, where, size, source, created_with))
    answer = client.call(
        key,
        lambda s3: s3.copy_object(MetadataDirective="REPLACE", **where, **source, **created_with),
        pinned=True,
    )
    return StoredObject(key, size, etag_of(answer["CopyObjectResult"]["ETag"]))


def _copy_parts(
    stop: Stop,
    client: S3Client,
    key: str,
    where: Mapping[str, str],
    size: int,
    source: Mapping[str, Any],
    created_with: Mapping[str, str],
) -> str:
    """Copy a large object as a multipart upload, and return the ETag, which is another one afterwards."""
    part_bytes = max(COPY_PART_BYTES, -(-size // MAX_PART_COUNT))
    upload_id = client.call(key, lambda s3: s3.create_multipart_upload(**where, **created_with))["UploadId"]

    def copy(number: int) -> dict[str, Any]:
        stop.check()
        first = (number - 1) * part_bytes
        span = f"bytes={first}-{min(first + part_bytes, size) - 1}"
        answer = client.call(
            key,
            lambda s3: s3.upload_part_copy(
                CopySourceRange=span, PartNumber=number, UploadId=upload_id, **where, **source
            ),
            pinned=True,
        )
        return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

    try:
        with ThreadPoolExecutor(PART_THREADS, thread_name_prefix="rindle-s3-copy") as pool:
            copying = [pool.submit(copy, number) for number in range(1, -(-size // part_bytes) + 1)]
            try:
                parts = [part.result() for part in copying]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        answer = client.call(
            key,
            lambda s3: s3.complete_multipart_upload(UploadId=upload_id, MultipartUpload={"Parts": parts}, **where),
        )
    except BaseException:
        with suppress(StorageError):  # the lifecycle rule takes what cannot be given up now
            client.call(key, lambda s3: s3.abort_multipart_upload(UploadId=upload_id, **where))
        raise
    return etag_of(answer["ETag"])
