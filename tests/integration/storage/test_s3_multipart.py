"""Multipart uploads of ``S3Storage`` against a server that misbehaves on command: lists in pages, errors inside 200."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rindle.errors import InvalidMultipartParts, StorageNotFound, StorageTransient
from rindle.protocols import Part
from rindle.storage.s3 import S3Storage
from tests.integration.storage.test_s3_faults import Reply, Server, error, server, storage

__all__ = ["server", "storage"]  # the fixtures
KEY = "p/a/file.mp4"
PARTS = [Part(1, "a" * 32, 5)]


def page(numbers: Iterator[int] | range, *, after: int, more: bool) -> Reply:
    """Return a page of a list of parts."""
    parts = "".join(
        f'<Part><PartNumber>{number}</PartNumber><ETag>"{number:032x}"</ETag><Size>{number}</Size></Part>'
        for number in numbers
    )
    marker = f"<NextPartNumberMarker>{after}</NextPartNumberMarker>" if more else ""
    truncated = str(more).lower()
    return Reply(
        body=f"<ListPartsResult><IsTruncated>{truncated}</IsTruncated>{marker}{parts}</ListPartsResult>".encode(),
        headers={"Content-Type": "application/xml"},
    )


def uploads(keys: list[tuple[str, str]], *, after: tuple[str, str] | None = None) -> Reply:
    """Return a page of a list of uploads."""
    found = "".join(f"<Upload><Key>{key}</Key><UploadId>{upload}</UploadId></Upload>" for key, upload in keys)
    marker = (
        ""
        if after is None
        else f"<NextKeyMarker>{after[0]}</NextKeyMarker><NextUploadIdMarker>{after[1]}</NextUploadIdMarker>"
    )
    truncated = str(after is not None).lower()
    body = f"<ListMultipartUploadsResult><IsTruncated>{truncated}</IsTruncated>{marker}{found}"
    return Reply(body=f"{body}</ListMultipartUploadsResult>".encode(), headers={"Content-Type": "application/xml"})


async def test_all_pages_of_parts_are_read(server: Server, storage: S3Storage) -> None:
    server.script = [
        page(range(1, 1001), after=1000, more=True),
        page(range(1001, 2001), after=2000, more=True),
        page(range(2001, 2003), after=2002, more=False),
    ]

    parts = await storage.list_parts(KEY, "upload")

    assert [part.part_number for part in parts] == list(range(1, 2003))
    assert parts[1499] == Part(1500, f"{1500:032x}", 1500)
    assert ["part-number-marker=2000" in path for _, path in server.asked] == [False, False, True]


async def test_all_pages_of_uploads_are_read_and_longer_keys_left_out(server: Server, storage: S3Storage) -> None:
    server.script = [uploads([(KEY, "one"), (f"{KEY}0", "other")], after=(KEY, "one")), uploads([(KEY, "two")])]

    assert await storage.list_multipart_uploads(KEY) == ["one", "two"]
    assert "upload-id-marker=one" in server.asked[1][1]


async def test_an_error_inside_a_200_is_transient(server: Server, storage: S3Storage) -> None:
    inside = error(200, "InternalError")
    server.script = [inside]

    with pytest.raises(StorageTransient):
        await storage.complete_multipart_upload(KEY, "upload", PARTS)

    assert [method for method, _ in server.asked] == ["POST"]


async def test_no_such_upload_after_a_success_is_the_success(server: Server, storage: S3Storage) -> None:
    there = Reply(headers={"ETag": '"made-1"', "Last-Modified": "Sun, 29 Nov 2026 09:00:00 GMT"}, promised=5)
    server.script = [error(404, "NoSuchUpload"), there]

    made = await storage.complete_multipart_upload(KEY, "upload", PARTS)

    assert (made.size, made.etag) == (5, "made-1")
    assert [method for method, _ in server.asked] == ["POST", "HEAD"]


async def test_no_such_upload_without_an_object_is_not_found(server: Server, storage: S3Storage) -> None:
    server.script = [error(404, "NoSuchUpload"), Reply(404)]

    with pytest.raises(StorageNotFound):
        await storage.complete_multipart_upload(KEY, "upload", PARTS)


@pytest.mark.parametrize("code", ["InvalidPart", "InvalidPartOrder", "EntityTooSmall", "MalformedXML"])
async def test_parts_that_make_no_object_are_named_as_such(server: Server, storage: S3Storage, code: str) -> None:
    server.script = [error(400, code)]

    with pytest.raises(InvalidMultipartParts) as refused:
        await storage.complete_multipart_upload(KEY, "upload", PARTS)

    assert refused.value.detail == {"provider_code": code}
    assert "canary" not in str(refused.value)


async def test_a_grant_signs_the_host_and_the_length_and_nothing_else(server: Server, storage: S3Storage) -> None:
    sized = await storage.presigned_upload_part(KEY, "upload", 7, 60, content_length=5)
    free = await storage.presigned_upload_part(KEY, "upload", 7, 60)

    assert "X-Amz-SignedHeaders=content-length%3Bhost" in sized.url
    assert "X-Amz-SignedHeaders=host" in free.url
    assert dict(sized.headers) == dict(free.headers) == {}
    assert "partNumber=7" in free.url
    assert "checksum" not in sized.url.lower()
    assert server.asked == []
