"""The requirements of every store on the headers of its objects: what visitors get is never an uploader's choice.

A part of :class:`rindle.testing.storage_contract.StorageContract`, which adopters inherit.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rindle.errors import ObjectChanged, StorageNotFound
from rindle.protocols import ServedAs, Storage

#: Headers that an uploader sends with the bytes, so that a store that keeps them sends them to visitors.
HOSTILE_HEADERS: Mapping[str, str] = {
    "Content-Type": "text/html",
    "Content-Disposition": "attachment; filename=setup.exe",
    "Content-Encoding": "gzip",
    "Content-Language": "tlh",
    "Cache-Control": "public, max-age=99999999",
    "Expires": "Fri, 01 Jan 2100 00:00:00 GMT",
}
#: The values that no answer may have.
HOSTILE_VALUES = frozenset(HOSTILE_HEADERS.values())


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response; header names are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


#: Sends ``body`` with ``headers`` to a grant (default: the headers it lists), or fetches a URL given as a string.
Send = Callable[..., Awaitable[Answer]]


@pytest.mark.asyncio
class HeadersContract:
    """Tests with the fixtures of ``StorageContract``."""

    async def test_a_signed_url_answers_with_no_header_of_the_uploader(
        self, storage: Storage, key: str, send: Send
    ) -> None:
        if not {"presigned_put", "response_headers"} <= storage.capabilities():
            return
        grant = await storage.presigned_put(key, 60)
        assert (await send(grant, b"hello", {**grant.headers, **HOSTILE_HEADERS})).status == 200

        for answer in (
            await send(await storage.url(key, expires_in=60)),
            await send(await storage.url(key, expires_in=60, content_type="image/jpeg")),
        ):
            assert answer.status == 200
            assert answer.headers["content-type"] in ("application/octet-stream", "image/jpeg")
            assert answer.headers.get("content-disposition", "inline") == "inline"
            assert answer.headers.get("content-encoding", "identity") == "identity"
            assert "private" in answer.headers["cache-control"]
            assert not (HOSTILE_VALUES - {HOSTILE_HEADERS["Content-Language"]}) & set(answer.headers.values())

    @pytest.mark.parametrize("disposition", [None, "attachment"])
    async def test_the_headers_of_an_uploader_are_replaced(
        self, storage: Storage, key: str, tmp_path: Path, send: Send, disposition: str | None
    ) -> None:
        body = b"x" * 1000
        source, served = file_of(tmp_path, body), ServedAs("image/jpeg", disposition)
        if "presigned_put" in storage.capabilities():
            grant = await storage.presigned_put(key, 60)
            assert (await send(grant, body, {**grant.headers, **HOSTILE_HEADERS})).status == 200
        else:
            await storage.store(key, source, content_type="text/html", content_disposition="attachment; filename=x")
        before = await storage.head(key)
        assert before.content_type in ("text/html", None)

        stored = await storage.replace_headers(key, source, served, if_match=before.etag)

        after = await storage.head(key)
        assert (stored.key, stored.size, stored.etag) == (key, len(body), after.etag)
        assert after.content_type in ("image/jpeg", None)
        if after.content_type is not None and after.headers:
            assert dict(after.headers) == {"content-disposition": disposition}
        assert not HOSTILE_VALUES & set(after.headers.values())
        assert (await storage.download(key, tmp_path / "copy")).read_bytes() == body
        # Again, with the ETag of the answer: nothing changes.
        assert (await storage.replace_headers(key, source, served, if_match=stored.etag)).size == len(body)

    async def test_replaced_headers_leave_the_key_taken(
        self, storage: Storage, key: str, tmp_path: Path, send: Send
    ) -> None:
        if not {"presigned_put", "write_once"} <= storage.capabilities():
            return
        grant = await storage.presigned_put(key, 60)
        assert (await send(grant, b"first")).status == 200

        await storage.replace_headers(
            key, file_of(tmp_path, b"first"), ServedAs("image/jpeg"), if_match=(await storage.head(key)).etag
        )

        assert (await send(grant, b"other")).status in (409, 412)
        assert await storage.read_range(key, 0, 10) == b"first"

    async def test_headers_of_another_object_are_not_replaced(self, storage: Storage, key: str, tmp_path: Path) -> None:
        served = ServedAs("image/jpeg")
        with pytest.raises(StorageNotFound):
            await storage.replace_headers(key, file_of(tmp_path, b"first"), served, if_match="0" * 32)
        first = await storage.store(key, file_of(tmp_path, b"first"), content_type="text/plain")
        await storage.store(key, file_of(tmp_path, b"other"), content_type="text/plain")

        with pytest.raises(ObjectChanged):
            await storage.replace_headers(key, file_of(tmp_path, b"first"), served, if_match=first.etag)

        assert await storage.read_range(key, 0, 10) == b"other"
        assert (await storage.head(key)).content_type in ("text/plain", None)


def file_of(directory: Path, body: bytes) -> Path:
    """Write ``body`` to a new file in ``directory`` and return its path."""
    path = directory / f"source-{uuid.uuid4().hex}"
    path.write_bytes(body)
    return path
