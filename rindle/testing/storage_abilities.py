"""The requirements of the optional abilities of stores, as tests to inherit beside the storage contract.

::

    # test_my_storage.py
    import pytest
    from rindle.testing.storage_abilities import MultipartUploadsContract
    from rindle.testing.storage_contract import StorageContract
    from my_package import MyStorage

    class TestMyStorage(MultipartUploadsContract, StorageContract):
        @pytest.fixture
        async def storage(self): ...

One class per ability of :mod:`rindle.protocols`; all use the fixtures of ``StorageContract``.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from rindle.capabilities import capabilities_of
from rindle.errors import (
    InvalidArgument,
    InvalidKey,
    InvalidMultipartParts,
    InvalidPartNumber,
    OffsetMismatch,
    RindleError,
    StorageNotFound,
)
from rindle.protocols import Concatenation, MultipartUploads, Part, Presigned, ResumableSessions, SetupCheck, Storage
from rindle.testing.headers_contract import Answer, Send, file_of

#: Smallest part that is not the last one, in bytes.
PART_BYTES = 5 * 1024 * 1024


class _Multipart(Storage, MultipartUploads):
    """The type of a store with the ability."""


@pytest.mark.asyncio
class MultipartUploadsContract:
    """Stores whose objects clients send in parts, with the ability ``MultipartUploads``."""

    @staticmethod
    async def _begin(storage: _Multipart, key: str) -> str:
        begun = await storage.initiate_multipart_upload(key, PART_BYTES, content_type="video/mp4")
        assert (begun.key, begun.part_size) == (key, PART_BYTES)
        assert begun.upload_id not in repr(begun)
        return begun.upload_id

    @staticmethod
    async def _send(storage: _Multipart, key: str, upload_id: str, number: int, body: bytes, send: Send) -> Part:
        grant = await storage.presigned_upload_part(key, upload_id, number, 600, content_length=len(body))
        assert (grant.method, grant.part_number, grant.upload_id) == ("PUT", number, upload_id)
        answer = await send(grant, body)
        assert answer.status == 200, answer
        return Part(number, answer.headers["etag"].strip('"'), len(body))

    async def test_it_has_the_capability_of_its_class(self, storage: Storage) -> None:
        assert isinstance(storage, MultipartUploads)
        assert "multipart_upload" in capabilities_of(storage)
        assert "multipart_upload" not in storage.capabilities()

    async def test_parts_become_an_object(self, storage: Any, key: str, send: Send, tmp_path: Path) -> None:
        body = os.urandom(2 * PART_BYTES + 17)
        upload_id = await self._begin(storage, key)
        # In any order: the numbers decide.
        parts = [
            await self._send(storage, key, upload_id, n, body[(n - 1) * PART_BYTES : n * PART_BYTES], send)
            for n in (3, 1, 2)
        ]
        with pytest.raises(StorageNotFound):
            await storage.head(key)
        assert await storage.list_parts(key, upload_id) == sorted(parts, key=lambda part: part.part_number)

        made = await storage.complete_multipart_upload(key, upload_id, parts)

        head = await storage.head(key)
        assert (made.key, made.size, made.etag) == (key, len(body), head.etag)
        assert (head.size, head.content_type) == (len(body), "video/mp4")
        copy = await storage.download(key, tmp_path / "copy")
        assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(body).digest()
        assert await storage.list_multipart_uploads(key) == []

    async def test_completing_again_is_the_same_success(self, storage: Any, key: str, send: Send) -> None:
        upload_id = await self._begin(storage, key)
        parts = [await self._send(storage, key, upload_id, 1, b"only", send)]

        first = await storage.complete_multipart_upload(key, upload_id, parts)

        assert await storage.complete_multipart_upload(key, upload_id, parts) == first

    async def test_a_part_that_is_sent_again_replaces_the_first(self, storage: Any, key: str, send: Send) -> None:
        upload_id = await self._begin(storage, key)
        first = await self._send(storage, key, upload_id, 1, b"first", send)
        second = await self._send(storage, key, upload_id, 1, b"second one", send)

        assert await storage.list_parts(key, upload_id) == [second]
        with pytest.raises(InvalidMultipartParts):
            await storage.complete_multipart_upload(key, upload_id, [first])
        assert (await storage.complete_multipart_upload(key, upload_id, [second])).size == 10

    @pytest.mark.parametrize("flaw", ["missing", "other etag", "too small", "none"])
    async def test_parts_that_make_no_object_are_refused(self, storage: Any, key: str, send: Send, flaw: str) -> None:
        upload_id = await self._begin(storage, key)
        sent = [await self._send(storage, key, upload_id, number, b"small", send) for number in (1, 2)]
        listed = {
            "missing": [*sent, Part(3, sent[0].etag, 5)],
            "other etag": [sent[0], Part(2, "0" * 32, 5)],
            "too small": sent,
            "none": [],
        }[flaw]

        with pytest.raises(InvalidMultipartParts):
            await storage.complete_multipart_upload(key, upload_id, listed)

        assert await storage.list_parts(key, upload_id) == sent  # the upload can be continued
        with pytest.raises(StorageNotFound):
            await storage.head(key)
        await storage.abort_multipart_upload(key, upload_id)

    async def test_nothing_is_left_of_an_aborted_upload(self, storage: Any, key: str, send: Send) -> None:
        upload_id = await self._begin(storage, key)
        part = await self._send(storage, key, upload_id, 1, b"part", send)
        late = await storage.presigned_upload_part(key, upload_id, 2, 600)
        assert await storage.list_multipart_uploads(key) == [upload_id]

        await storage.abort_multipart_upload(key, upload_id)
        await storage.abort_multipart_upload(key, upload_id)  # a missing upload is success

        assert await storage.list_multipart_uploads(key) == []
        assert (await send(late, b"too late")).status == 404
        with pytest.raises(StorageNotFound):
            await storage.list_parts(key, upload_id)
        with pytest.raises(StorageNotFound):
            await storage.complete_multipart_upload(key, upload_id, [part])

    async def test_an_abort_leaves_the_object_and_other_uploads(self, storage: Any, key: str, send: Send) -> None:
        finished, open_one = await self._begin(storage, key), await self._begin(storage, key)
        neighbour = await self._begin(storage, f"{key}.neighbour")
        parts = [await self._send(storage, key, finished, 1, b"object", send)]
        await storage.complete_multipart_upload(key, finished, parts)
        assert await storage.list_multipart_uploads(key) == [open_one]

        await storage.abort_multipart_upload(key, open_one)
        await storage.abort_multipart_upload(key, finished)

        assert (await storage.head(key)).size == 6
        assert await storage.list_multipart_uploads(f"{key}.neighbour") == [neighbour]
        await storage.abort_multipart_upload(f"{key}.neighbour", neighbour)

    async def test_the_size_of_a_part_is_signed(self, storage: Any, key: str, send: Send) -> None:
        upload_id = await self._begin(storage, key)
        grant = await storage.presigned_upload_part(key, upload_id, 1, 600, content_length=100)

        assert (await send(grant, b"x" * 101)).status == 403
        assert await storage.list_parts(key, upload_id) == []
        assert (await send(grant, b"x" * 100)).status == 200
        await storage.abort_multipart_upload(key, upload_id)

    @pytest.mark.parametrize("number", [0, -1, 10_001, True])
    async def test_a_part_has_a_number_from_1_to_10000(self, storage: Any, key: str, number: int) -> None:
        upload_id = await self._begin(storage, key)
        with pytest.raises(InvalidPartNumber):
            await storage.presigned_upload_part(key, upload_id, number, 600)
        await storage.presigned_upload_part(key, upload_id, 10_000, 600)
        await storage.abort_multipart_upload(key, upload_id)

    @pytest.mark.parametrize("size", [0, PART_BYTES - 1, 5 * 1024**3 + 1])
    async def test_a_part_has_5_mib_to_5_gib(self, storage: Any, key: str, size: int) -> None:
        with pytest.raises(InvalidArgument):
            await storage.initiate_multipart_upload(key, size)
        assert await storage.list_multipart_uploads(key) == []

    async def test_its_keys_are_checked_too(self, storage: Any) -> None:
        for call in (
            storage.initiate_multipart_upload("../x", PART_BYTES),
            storage.list_parts("../x", "1"),
            storage.complete_multipart_upload("../x", "1", [Part(1, "e", 1)]),
            storage.abort_multipart_upload("../x", "1"),
            storage.list_multipart_uploads("../x"),
            storage.presigned_upload_part("../x", "1", 1, 60),
        ):
            with pytest.raises(InvalidKey):
                await call


#: Pieces of a resumable session are multiples of this size in bytes, except the last one.
UNIT_BYTES = 256 * 1024


@pytest.mark.asyncio
class ResumableSessionsContract:
    """Stores with sessions that clients continue after a break, with the ability ``ResumableSessions``."""

    @staticmethod
    async def _put(uri: SecretStr, piece: bytes, start: int, total: int, send: Send) -> Answer:
        span = {"Content-Range": f"bytes {start}-{start + len(piece) - 1}/{total}"}
        return await send(Presigned(uri.get_secret_value(), "PUT", span, datetime.now(UTC)), piece)

    async def test_its_sessions_are_capabilities_of_its_class(self, storage: Storage) -> None:
        assert isinstance(storage, ResumableSessions)
        assert {"resumable_upload", "resumable_upload_session"} <= capabilities_of(storage)

    async def test_the_pieces_of_a_session_become_the_object(
        self, storage: Any, key: str, tmp_path: Path, send: Send
    ) -> None:
        body = os.urandom(2 * UNIT_BYTES + 17)
        begun = await storage.initiate_resumable_upload(key, len(body), content_type="video/mp4")
        assert begun.session_uri.get_secret_value() not in repr(begun)
        assert begun.expires_at > datetime.now(UTC)

        assert (await self._put(begun.session_uri, body[:UNIT_BYTES], 0, len(body), send)).status == 308
        with pytest.raises(StorageNotFound):
            await storage.head(key)
        assert (await self._put(begun.session_uri, body[UNIT_BYTES:], UNIT_BYTES, len(body), send)).status in (200, 201)

        head = await storage.head(key)
        assert (head.size, head.content_type) == (len(body), "video/mp4")
        assert (await storage.download(key, tmp_path / "copy")).read_bytes() == body

    async def test_a_session_tells_where_to_continue(self, storage: Any, key: str, send: Send) -> None:
        begun = await storage.initiate_resumable_upload(key, 2 * UNIT_BYTES)
        assert (await self._put(begun.session_uri, bytes(UNIT_BYTES), 0, 2 * UNIT_BYTES, send)).status == 308

        found = await storage.resumable_upload_status(key, begun.session_uri, client_offset=UNIT_BYTES)

        assert (found.committed_bytes, found.state) == (UNIT_BYTES, "in_progress")
        with pytest.raises(OffsetMismatch) as caught:
            await storage.resumable_upload_status(key, begun.session_uri, client_offset=7)
        assert (caught.value.server, caught.value.client) == (UNIT_BYTES, 7)

    async def test_a_session_never_replaces_an_object(self, storage: Any, key: str, tmp_path: Path, send: Send) -> None:
        begun = await storage.initiate_resumable_upload(key, 5)
        await storage.store(key, file_of(tmp_path, b"first"))

        assert 400 <= (await self._put(begun.session_uri, b"other", 0, 5, send)).status < 500
        assert await storage.read_range(key, 0, 10) == b"first"

    async def test_a_cancelled_session_takes_no_bytes(self, storage: Any, key: str, send: Send) -> None:
        begun = await storage.initiate_resumable_upload(key, 5)

        assert await storage.cancel_resumable_upload(key, begun.session_uri) is True

        assert 400 <= (await self._put(begun.session_uri, b"other", 0, 5, send)).status < 500
        assert await storage.cancel_resumable_upload(key, begun.session_uri) in (True, False)
        with pytest.raises(StorageNotFound):
            await storage.head(key)

    @pytest.mark.parametrize("uri", ["https://example.invalid/canary", "file:///etc/canary", "canary", ""])
    async def test_no_other_address_is_requested(self, storage: Any, key: str, uri: str) -> None:
        for call in (storage.resumable_upload_status, storage.cancel_resumable_upload):
            with pytest.raises(InvalidArgument) as caught:
                await call(key, SecretStr(uri))
            assert "canary" not in str(caught.value) + repr(caught.value.detail)

    async def test_keys_and_texts_of_a_session_are_checked(self, storage: Any, key: str) -> None:
        with pytest.raises(InvalidKey):
            await storage.initiate_resumable_upload("../x", 1)
        for options in ({"content_type": "a\r\nb: c"}, {"origin": "https://a\r\nb: c"}):
            with pytest.raises(InvalidArgument):
                await storage.initiate_resumable_upload(key, 1, **options)


@pytest.mark.asyncio
class ConcatenationContract:
    """Stores that make objects from others, with the ability ``Concatenation``."""

    async def test_it_joins_by_its_class(self, storage: Storage) -> None:
        assert isinstance(storage, Concatenation)
        assert "concatenate" in capabilities_of(storage)

    @pytest.mark.parametrize("count", [1, 2, 35])
    async def test_sources_are_joined_in_their_order_and_stay(
        self, storage: Any, key: str, tmp_path: Path, count: int
    ) -> None:
        sources = [f"{key}.{number}" for number in range(count)]
        for number, source in enumerate(sources):
            await storage.store(source, file_of(tmp_path, f"<{number}>".encode()))
        wanted = "".join(f"<{number}>" for number in [*range(count), 0]).encode()

        made = await storage.concatenate(key, [*sources, sources[0]])

        assert (made.key, made.size, made.etag) == (key, len(wanted), (await storage.head(key)).etag)
        assert (await storage.download(key, tmp_path / "copy")).read_bytes() == wanted
        assert {found.key for found in (await storage.list_keys(key)).objects} == {key, *sources}
        assert (await storage.concatenate(key, [*sources, sources[0]])).size == len(wanted)

    async def test_a_missing_source_makes_nothing(self, storage: Any, key: str, tmp_path: Path) -> None:
        await storage.store(f"{key}.1", file_of(tmp_path, b"x"))

        with pytest.raises(RindleError):
            await storage.concatenate(key, [f"{key}.1", f"{key}.missing"])

        assert [found.key for found in (await storage.list_keys(key)).objects] == [f"{key}.1"]

    async def test_keys_of_a_join_are_checked(self, storage: Any, key: str) -> None:
        for final, sources in (("../x", [key]), (key, ["../x"])):
            with pytest.raises(InvalidKey):
                await storage.concatenate(final, sources)


@pytest.mark.asyncio
class SetupCheckContract:
    """Stores that compare their setup with what Rindle needs, with the ability ``SetupCheck``."""

    async def test_what_is_wrong_has_a_remedy(self, storage: Any) -> None:
        assert isinstance(storage, SetupCheck)
        found = await storage.check()

        assert found
        for finding in found:
            assert finding.level in ("ok", "warn", "error", "skipped")
            assert finding.summary
            assert finding.fix or finding.level in ("ok", "skipped")

    async def test_a_check_changes_nothing(self, storage: Any, key: str, tmp_path: Path) -> None:
        await storage.store(key, file_of(tmp_path, b"x"))
        before = (await storage.list_keys("")).objects

        assert await storage.check() == await storage.check()

        assert (await storage.list_keys("")).objects == before
