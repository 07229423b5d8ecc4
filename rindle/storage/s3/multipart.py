"""Multipart uploads of clients: ``S3Storage`` begins, signs, lists, completes and aborts them.

The files that this process itself sends in parts are in ``parts``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import methodcaller
from typing import Any

from rindle.errors import InvalidArgument, InvalidMultipartParts, InvalidPartNumber, StorageNotFound, StoragePermanent
from rindle.protocols import MultipartUpload, MultipartUploads, Part, PresignedPart, StoredObject
from rindle.storage.arguments import check_header, check_lifetime, check_size
from rindle.storage.s3.client import S3Client, etag_of
from rindle.storage.s3.parts import MAX_PART_COUNT
from rindle.storage.threads import Threads

#: Smallest size in bytes of a part that is not the last one (S3 API, multipart limits).
MIN_PART_BYTES = 5 * 1024 * 1024
#: Largest size in bytes of a part (S3 API, multipart limits).
MAX_PART_BYTES = 5 * 1024 * 1024 * 1024
#: Codes of the API for parts that cannot become an object.
_BAD_PARTS = frozenset({"InvalidPart", "InvalidPartOrder", "EntityTooSmall", "MalformedXML"})
#: Longest page of a list (S3 API).
_PAGE = 1000


class S3Multipart(MultipartUploads):
    """The ability of ``S3Storage``, which has the attributes."""

    _client: S3Client
    _threads: Threads
    _sse: Mapping[str, str]

    @abstractmethod
    def _object(self, key: str) -> dict[str, str]:
        """Return bucket and key as parameters of the API."""

    async def initiate_multipart_upload(
        self, key: str, part_size: int, *, content_type: str | None = None
    ) -> MultipartUpload:
        """Begin an upload to ``key``; the object will have ``content_type``.

        Raises:
            InvalidArgument: ``part_size`` is out of 5 MiB to 5 GiB, or the type is not printable ASCII.
            StorageError: see :func:`rindle.storage.s3.client.translate`.

        Source: Amazon S3 API, CreateMultipartUpload.
        """
        if isinstance(part_size, bool) or not MIN_PART_BYTES <= part_size <= MAX_PART_BYTES:
            raise InvalidArgument(
                f"part_size must be between {MIN_PART_BYTES} and {MAX_PART_BYTES} bytes",
                detail={"option": "part_size", "found": part_size},
            )
        parameters: dict[str, Any] = {**self._object(key), **self._sse}
        if content_type is not None:
            parameters["ContentType"] = check_header("content_type", content_type)
        answer = await self._threads.run(self._client.call, key, lambda s3: s3.create_multipart_upload(**parameters))
        return MultipartUpload(answer["UploadId"], key, part_size)

    async def presigned_upload_part(
        self, key: str, upload_id: str, part_number: int, expires_in: int, *, content_length: int | None = None
    ) -> PresignedPart:
        """Return a grant to PUT one part for ``expires_in`` seconds; the host and the length, if given, are signed.

        Raises:
            InvalidPartNumber: the number is out of 1 to 10000.
            InvalidArgument: ``expires_in`` or ``content_length`` is out of range.
        """
        if isinstance(part_number, bool) or not 1 <= part_number <= MAX_PART_COUNT:
            raise InvalidPartNumber(
                f"part numbers are between 1 and {MAX_PART_COUNT}", detail={"found": part_number, "max": MAX_PART_COUNT}
            )
        parameters: dict[str, Any] = {**self._object(key), "UploadId": upload_id, "PartNumber": part_number}
        seconds = check_lifetime(expires_in)
        if check_size("content_length", content_length) is not None:
            parameters["ContentLength"] = content_length
        expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
        url = await self._threads.run(self._client.sign, key, "upload_part", parameters, seconds)
        return PresignedPart(url, "PUT", {}, expires_at, part_number, upload_id)

    async def list_parts(self, key: str, upload_id: str) -> list[Part]:
        """Return all stored parts, from as many pages as the store has.

        Raises:
            StorageNotFound: there is no such upload: it was completed or aborted.
        """
        where = {**self._object(key), "UploadId": upload_id}
        return await self._threads.run(self._list_parts, key, where)

    def _list_parts(self, key: str, where: Mapping[str, str]) -> list[Part]:
        found: list[Part] = []
        for page in self._pages("list_parts", key, {**where, "MaxParts": _PAGE}, ("PartNumberMarker",)):
            found += [
                Part(part["PartNumber"], etag_of(part["ETag"]), int(part["Size"])) for part in page.get("Parts", ())
            ]
        return found

    async def complete_multipart_upload(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        """Make the object at ``key`` from ``parts``; repeating the call after it has succeeded is harmless.

        Raises:
            InvalidMultipartParts: a part is missing, has another ETag, or is too small; nothing was changed.
            StorageNotFound: neither the upload nor the object exists.
            StorageTransient: also an error inside an answer with status 200; the upload is still there.

        Source: Amazon S3 API, CompleteMultipartUpload.
        """
        where = self._object(key)
        if not parts:
            raise InvalidMultipartParts("an object is made of at least one part")
        in_order = sorted(parts, key=lambda part: part.part_number)
        return await self._threads.run(self._complete, key, upload_id, in_order, where)

    def _complete(self, key: str, upload_id: str, parts: Sequence[Part], where: Mapping[str, str]) -> StoredObject:
        listed = [{"PartNumber": part.part_number, "ETag": f'"{etag_of(part.etag)}"'} for part in parts]
        try:
            answer = self._client.call(
                key,
                lambda s3: s3.complete_multipart_upload(UploadId=upload_id, MultipartUpload={"Parts": listed}, **where),
            )
        except StorageNotFound:
            # NoSuchUpload: an earlier attempt, whose answer was lost, has made the object, if there is one.
            found = self._client.head(key, where)
            return StoredObject(key, found.size, found.etag)
        except StoragePermanent as error:
            code = error.detail.get("provider_code")
            if code not in _BAD_PARTS:
                raise
            raise InvalidMultipartParts(
                "the store cannot make an object from these parts: one of them is missing, was sent again, or is "
                "smaller than 5 MiB and not the last one",
                detail={"provider_code": code},
            ) from error
        return StoredObject(key, sum(part.size for part in parts), etag_of(answer["ETag"]))

    async def abort_multipart_upload(self, key: str, upload_id: str) -> None:
        """Remove an upload and its parts; a missing upload is success, and an object at ``key`` stays."""
        where = {**self._object(key), "UploadId": upload_id}
        await self._threads.run(self._abort, key, where)

    def _abort(self, key: str, where: Mapping[str, str]) -> None:
        try:
            self._client.call(key, lambda s3: s3.abort_multipart_upload(**where))
        except StorageNotFound:
            return

    async def list_multipart_uploads(self, key: str) -> list[str]:
        """Return the ids of all open uploads to exactly ``key``."""
        return await self._threads.run(self._list_uploads, key, self._object(key))

    def _list_uploads(self, key: str, where: Mapping[str, str]) -> list[str]:
        wanted = {"Bucket": where["Bucket"], "Prefix": where["Key"], "MaxUploads": _PAGE}
        found: list[str] = []
        for page in self._pages("list_multipart_uploads", key, wanted, ("KeyMarker", "UploadIdMarker")):
            # The prefix also matches longer keys.
            found += [upload["UploadId"] for upload in page.get("Uploads", ()) if upload["Key"] == where["Key"]]
        return found

    def _pages(
        self, operation: str, key: str, wanted: Mapping[str, Any], markers: Sequence[str]
    ) -> Iterator[Mapping[str, Any]]:
        """Return the pages of a list; each is requested with the markers of the one before."""
        after: Mapping[str, Any] = {}
        while True:
            parameters = {**wanted, **after}
            page = self._client.call(key, methodcaller(operation, **parameters))
            yield page
            if not page.get("IsTruncated"):
                return
            after = {marker: page[f"Next{marker}"] for marker in markers}
