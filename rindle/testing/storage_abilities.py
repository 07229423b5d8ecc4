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

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

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
    TusTailMissing,
)
from rindle.protocols import (
    Checkpoint,
    Concatenation,
    MultipartUploads,
    Part,
    PartStream,
    PartStreamState,
    Presigned,
    ResumableSessions,
    SetupCheck,
    Storage,
    StoredObject,
)
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


#: Size in bytes of the pieces of a request, and of the parts of a stream in a store that has none.
MIB = 1024 * 1024


class RecordedStream:
    """A stream and its row, which has the newest state that the store recorded.

    Args:
        storage: the store, with the ability ``PartStream``; the attribute is replaced by another process.
        key: key of the object.
        length: of the whole stream in bytes, as the client declares it; ``None`` while it is unknown.

    Attributes:
        name: the upload name.
        part: size in bytes of a part, or of what stands for one in a store that has none.
        body: random bytes: two parts and a shorter one.
        state: the newest recorded state.
        ends: whether each record was the last one of its request.
    """

    def __init__(self, storage: Any, key: str, *, length: int | None = None) -> None:
        self.storage, self.key, self.length = storage, key, length
        self.name = str(uuid4())
        part_size = storage.part_size_for(0)
        self.part = part_size or MIB
        self.body = os.urandom(2 * self.part + 70_000)
        self.state = PartStreamState(part_size=part_size)
        self.ends: list[bool] = []

    async def checkpoint(self, state: PartStreamState, *, is_last: bool = False) -> None:
        """Record ``state``."""
        assert state.offset >= self.state.offset
        self.state = state
        self.ends.append(is_last)

    async def pieces(self, start: int, end: int | None = None, *, breaks: bool = False) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the body from ``start`` to ``end``; with ``breaks`` the connection breaks then."""
        wanted = self.body[start:end]
        for first in range(0, len(wanted), MIB):
            yield wanted[first : first + MIB]
        if breaks:
            raise ConnectionResetError

    async def append(self, chunks: AsyncGenerator[bytes, None], *, checkpoint: Checkpoint | None = None) -> None:
        """Append ``chunks`` in one request, which ``checkpoint`` records; default: this row."""
        async with aclosing(chunks):
            await self.storage.append_part_stream(
                self.key, self.name, chunks, self.state, length=self.length, checkpoint=checkpoint or self.checkpoint
            )

    async def go_on(self, end: int | None = None, *, breaks: bool = False) -> None:
        """Append the body from the recorded offset to ``end``."""
        await self.append(self.pieces(self.state.offset, end, breaks=breaks))

    async def complete(self) -> StoredObject:
        """Make the object."""
        made: StoredObject = await self.storage.complete_part_stream(self.key, self.name, self.state)
        return made

    async def abort(self) -> None:
        """Remove what was appended."""
        await self.storage.abort_part_stream(self.key, self.name, self.state)


async def _refused(state: PartStreamState, *, is_last: bool = False) -> None:
    raise TimeoutError


@pytest.mark.asyncio
class PartStreamContract:
    """Stores whose objects arrive through the application in several requests, with the ability ``PartStream``.

    Every test completes its stream or aborts it: afterwards the store keeps nothing but objects.
    """

    @staticmethod
    async def _is_object(storage: Any, key: str, body: bytes, tmp_path: Path) -> None:
        copy = await storage.download(key, tmp_path / "copy")
        assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(body).digest()

    async def test_streams_are_a_capability_of_its_class(self, storage: Storage) -> None:
        assert isinstance(storage, PartStream)
        assert "tus_upload" in capabilities_of(storage)
        assert "tus_upload" not in storage.capabilities()

    @pytest.mark.parametrize(
        ("cuts", "offsets"),
        [
            ((), ()),
            ((0,), (1, 100_000)),
            ((1, 2), (0,)),
            ((1,), (-1, 0, 1)),
            ((2,), (1, 69_999)),
        ],
        ids=["nowhere", "in the first part", "at ends of parts", "around the end of a part", "in the last part"],
    )
    async def test_a_stream_that_breaks_off_is_continued(
        self, storage: Any, key: str, tmp_path: Path, cuts: Iterable[int], offsets: Iterable[int]
    ) -> None:
        stream = RecordedStream(storage, key)
        stream.length = len(stream.body)
        for end in [stream.part * cut + offset for cut in cuts for offset in offsets]:
            with pytest.raises(ConnectionResetError):
                await stream.go_on(end, breaks=True)
            assert stream.state.offset == end

        await stream.go_on()
        assert stream.state.offset == stream.length
        with pytest.raises(StorageNotFound):
            await storage.head(key)
        made = await stream.complete()

        assert (made.key, made.size, made.etag) == (key, stream.length, (await storage.head(key)).etag)
        assert await stream.complete() == made  # the answer of the first call was lost
        await self._is_object(storage, key, stream.body, tmp_path)

    async def test_the_end_of_a_request_is_recorded_once(self, storage: Any, key: str) -> None:
        stream = RecordedStream(storage, key)
        stream.length = 2 * stream.part

        await stream.go_on(stream.length)

        assert stream.state.offset == stream.length
        assert (stream.ends.count(True), stream.ends[-1]) == (1, True)
        await stream.abort()

    async def test_a_length_that_is_known_late_ends_a_stream(self, storage: Any, key: str, tmp_path: Path) -> None:
        stream = RecordedStream(storage, key)
        await stream.go_on(100)
        stream.length = 100

        await stream.go_on(100)
        await stream.complete()

        await self._is_object(storage, key, stream.body[:100], tmp_path)

    async def test_an_empty_stream_becomes_an_empty_object(self, storage: Any, key: str, tmp_path: Path) -> None:
        stream = RecordedStream(storage, key, length=0)

        await stream.go_on(0)

        assert (await stream.complete()).size == 0
        await self._is_object(storage, key, b"", tmp_path)

    async def test_a_stream_that_is_completed_several_times_at_once_is_one_object(
        self, storage: Any, key: str, tmp_path: Path
    ) -> None:
        stream = RecordedStream(storage, key)
        stream.length = len(stream.body)
        await stream.go_on()

        made = await asyncio.gather(*(stream.complete() for _ in range(4)))

        assert {one.etag for one in made} == {(await storage.head(key)).etag}
        await self._is_object(storage, key, stream.body, tmp_path)

    @pytest.mark.parametrize(("parts", "rest"), [(0, 0), (0, 100), (1, 100)])
    async def test_nothing_is_left_of_an_aborted_stream(self, storage: Any, key: str, parts: int, rest: int) -> None:
        stream = RecordedStream(storage, key)
        await stream.go_on(parts * stream.part + rest)

        await stream.abort()
        await stream.abort()  # nothing left is success

        if rest:  # an empty stream can be completed without anything
            with pytest.raises((StorageNotFound, TusTailMissing)):
                await stream.complete()
        with pytest.raises(StorageNotFound):
            await storage.head(key)

    async def test_what_was_not_recorded_is_not_kept(self, storage: Any, key: str, tmp_path: Path) -> None:
        stream, other = RecordedStream(storage, key), RecordedStream(storage, key)
        stream.length = len(stream.body)
        await stream.go_on(stream.part)

        with pytest.raises(TimeoutError):
            await stream.append(other.pieces(0, stream.part + 100), checkpoint=_refused)
        assert stream.state.offset == stream.part
        await stream.go_on()
        await stream.complete()

        await self._is_object(storage, key, stream.body, tmp_path)

    async def test_lost_bytes_are_never_replaced_by_others(self, storage: Any, key: str) -> None:
        stream = RecordedStream(storage, key)
        await stream.go_on(100)
        await stream.abort()

        with pytest.raises((StorageNotFound, TusTailMissing)):
            await stream.go_on()

        assert stream.state.offset == 100
        await stream.abort()

    async def test_an_aborted_stream_leaves_others_alone(self, storage: Any, key: str, tmp_path: Path) -> None:
        kept, aborted = RecordedStream(storage, key), RecordedStream(storage, f"{key}.neighbour")
        for stream in (kept, aborted):
            stream.length = len(stream.body)
            await stream.go_on(stream.part + 100)

        await aborted.abort()
        await kept.go_on()
        await kept.complete()

        await self._is_object(storage, key, kept.body, tmp_path)

    async def test_keys_of_a_stream_are_checked(self, storage: Any) -> None:
        stream = RecordedStream(storage, "../x")
        for call in (stream.go_on(), stream.complete(), stream.abort()):
            with pytest.raises(InvalidKey):
                await call


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
