"""Streams of ``S3Storage``: parts of one multipart upload, and a tail too small to be one; and joined objects.

**Objects.** Bytes of an unfinished stream are parts of a multipart upload to its key. What is left below one part is an
object of its own, the tail, at ``.rindle/tus/<upload name>/<end offset>.tail``: any process can continue from there.
The name has the offset, so that a request which lost its lease does not overwrite what another one needs. Completing or
aborting a stream removes all of its tails, and all unfinished uploads to its key.

**Disk.** A part is gathered in a temporary file: S3 needs the length of a part before its bytes. The next one is
gathered in a second file while the first is sent.

Source: Amazon S3 API, multipart limits; UploadPartCopy.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import IO, Any

from rindle.cancellation import run_to_end
from rindle.errors import StorageError, StorageNotFound, StoragePermanent, StorageTransient, TusTailMissing
from rindle.protocols import Checkpoint, Concatenation, Part, PartStream, PartStreamState, StoredObject
from rindle.security.storage_key import INTERNAL_SEGMENT, key_segment
from rindle.storage.background import BackgroundStep
from rindle.storage.files import BODY_PIECE_BYTES
from rindle.storage.s3.client import etag_of
from rindle.storage.s3.multipart import MAX_PART_BYTES, MIN_PART_BYTES, S3Multipart
from rindle.storage.s3.parts import MAX_PART_COUNT, Slice
from rindle.storage.threads import GRACE_SECONDS, Stop

MIB = 1024 * 1024
#: Size in bytes of a part of a stream that is not larger than ``PART_BYTES * USED_PARTS``.
PART_BYTES = 8 * MIB
#: Parts that a stream of the largest length has. The numbers beyond are for those that are not used again.
USED_PARTS = MAX_PART_COUNT - 1_000
#: Largest object in bytes (S3 API, multipart limits).
MAX_OBJECT_BYTES = 5 * 1024**4
#: How often uploads to a key are listed and aborted until none is left.
_ABORTS = 5


class S3Streams(S3Multipart, PartStream, Concatenation):
    """The abilities of ``S3Storage``, which has the attributes."""

    _prefix: str
    _uniform_parts: bool

    def part_size_for(self, length: int) -> int:
        """Return 8 MiB, and more where that would be too many parts.

        Raises:
            StoragePermanent: ``length`` is over 5 TiB.
        """
        if length > MAX_OBJECT_BYTES:
            raise StoragePermanent(
                "objects have at most 5 TiB", adapter="s3", detail={"found": length, "max": MAX_OBJECT_BYTES}
            )
        return max(PART_BYTES, -(-length // USED_PARTS // MIB) * MIB)

    async def append_part_stream(
        self,
        key: str,
        upload_name: str,
        chunks: AsyncIterator[bytes],
        state: PartStreamState,
        *,
        length: int | None,
        checkpoint: Checkpoint,
    ) -> PartStreamState:
        """Append ``chunks``; see :meth:`rindle.protocols.PartStream.append_part_stream`.

        Every full part is sent and recorded at once. The last bytes of a request become the tail, those of the stream
        its last part.
        """
        self._object(key)  # a wrong key is refused before anything is read
        appending = _Appending(self, key, upload_name, state, length, checkpoint)
        try:
            return await appending.run(chunks)
        finally:
            await run_to_end(appending.close())

    async def complete_part_stream(self, key: str, upload_name: str, state: PartStreamState) -> StoredObject:
        """Make the object from the parts, and remove what else there is of the stream.

        Raises:
            TusTailMissing: the parts are fewer bytes than the stream.
            StorageNotFound: neither the upload nor an object of the stream's length exists.
        """
        parts = [part for part in state.parts if part.etag]
        if sum(part.size for part in parts) != state.offset:
            raise TusTailMissing("a part of the upload is missing", key=key, adapter="s3")
        if parts and state.upload_id is not None:
            made = await self.complete_multipart_upload(key, state.upload_id, parts)
        else:
            made = await self._threads.run(self._put_empty, key)
        if made.size != state.offset:  # another object than this stream's was found in its place
            raise StorageNotFound("the upload is gone, and the object is not that of the upload", key=key, adapter="s3")
        await self._remove_rest(key, upload_name)
        return made

    async def abort_part_stream(self, key: str, upload_name: str, state: PartStreamState) -> None:
        """Abort every unfinished upload to the key, and remove the tails; an object at the key stays."""
        await self._remove_rest(key, upload_name)

    async def concatenate(self, final_key: str, source_keys: Sequence[str]) -> StoredObject:
        """Join objects in the store, without a transfer where S3 allows it: all but the last have 5 MiB or more.

        Smaller ones, and stores that want parts of one size (R2), are joined through a temporary file of one part.
        """
        for key in (final_key, *source_keys):  # before anything is read
            self._object(key)
        return await self._threads.move(self._join, final_key, tuple(source_keys))

    # --- steps of streams, each in a thread ------------------------------------------------------------------------

    def _put_empty(self, key: str) -> StoredObject:
        where = self._object(key)
        answer = self._client.call(key, lambda s3: s3.put_object(Body=b"", **where, **self._sse))
        return StoredObject(key, 0, etag_of(answer["ETag"]))

    def _begin_parts(self, key: str) -> str:
        where = self._object(key)
        return str(self._client.call(key, lambda s3: s3.create_multipart_upload(**where, **self._sse))["UploadId"])

    def _send_part(self, key: str, upload_id: str, number: int, file: IO[bytes], size: int) -> Part:
        body, where = Slice(file, 0, size, Stop()), self._object(key)
        answer = self._client.call(
            key,
            lambda s3: s3.upload_part(
                Body=body.again(), ContentLength=size, PartNumber=number, UploadId=upload_id, **where
            ),
        )
        return Part(number, etag_of(answer["ETag"]), size)

    def _tails(self, upload_name: str) -> str:
        """Return the prefix of the tails of a stream, as the store sees it."""
        return f"{self._prefix}{INTERNAL_SEGMENT}/tus/{key_segment(upload_name, fallback='upload')}/"

    def _tail(self, upload_name: str, end: int) -> dict[str, str]:
        return {"Bucket": self._object("tail")["Bucket"], "Key": f"{self._tails(upload_name)}{end}.tail"}

    def _read_tail(self, upload_name: str, end: int, size: int, file: IO[bytes]) -> None:
        """Copy the tail that ends at ``end`` into ``file``.

        Raises:
            TusTailMissing: it is not there, or has not ``size`` bytes.
        """
        where = self._tail(upload_name, end)
        try:
            answer = self._client.call(None, lambda s3: s3.get_object(**where))
        except StorageNotFound as error:
            raise TusTailMissing("the last bytes of the upload are missing", adapter="s3") from error
        with closing(answer["Body"]) as body:
            if answer["ContentLength"] != size:
                raise TusTailMissing("the last bytes of the upload are not those that were stored", adapter="s3")
            while piece := self._client.read(where["Key"], body, BODY_PIECE_BYTES):
                file.write(piece)
        if file.tell() != size:
            raise StorageTransient("the connection broke during a transfer", adapter="s3")

    def _write_tail(self, upload_name: str, end: int, file: IO[bytes], size: int) -> None:
        body, where = Slice(file, 0, size, Stop()), self._tail(upload_name, end)
        self._client.call(None, lambda s3: s3.put_object(Body=body.again(), ContentLength=size, **where, **self._sse))

    def _delete_tail(self, where: Mapping[str, str]) -> None:
        self._client.call(None, lambda s3: s3.delete_object(**where))

    async def _remove_rest(self, key: str, upload_name: str) -> None:
        """Remove unfinished uploads to the key, also those whose answer was lost, and the tails of a stream."""
        for _ in range(_ABORTS):
            left = await self.list_multipart_uploads(key)
            if not left:
                await self._threads.run(self._delete_tails, upload_name)
                return
            for upload_id in left:
                await self.abort_multipart_upload(key, upload_id)
        raise StorageTransient("the store still has parts of an upload that was aborted", key=key, adapter="s3")

    def _delete_tails(self, upload_name: str) -> None:
        bucket = self._object("tail")["Bucket"]
        pages = self._pages(
            "list_objects_v2", upload_name, {"Bucket": bucket, "Prefix": self._tails(upload_name)}, _CONTINUATION
        )
        for key in [entry["Key"] for page in pages for entry in page.get("Contents", ())]:
            self._delete_tail({"Bucket": bucket, "Key": key})

    # --- joining ---------------------------------------------------------------------------------------------------

    def _join(self, stop: Stop, final_key: str, source_keys: Sequence[str]) -> StoredObject:
        sizes = {key: self._client.head(key, self._object(key)).size for key in dict.fromkeys(source_keys)}
        sources = [key for key in source_keys if sizes[key]]  # a range of an empty object cannot be copied
        if not sources:
            return self._put_empty(final_key)
        total = sum(sizes[key] for key in sources)
        if (made := self._made(final_key, total)) is not None:
            return made
        can_copy = not self._uniform_parts and all(sizes[key] >= MIN_PART_BYTES for key in sources[:-1])
        upload_id, where = self._begin_parts(final_key), self._object(final_key)
        try:
            if can_copy:
                parts = list(self._copied(stop, final_key, upload_id, [(key, sizes[key]) for key in sources]))
            else:
                size = self.part_size_for(total)
                parts = list(self._spooled(stop, final_key, upload_id, sources, size))
            made = self._made(final_key, total)
            if made is None:
                return self._complete(final_key, upload_id, parts, where)
        except BaseException:
            with suppress(StorageError):  # the lifecycle rule takes what cannot be given up now
                self._abort(final_key, {**where, "UploadId": upload_id})
            raise
        self._abort(final_key, {**where, "UploadId": upload_id})
        return made

    def _made(self, key: str, size: int) -> StoredObject | None:
        """Return the object if another call has made it: once it is verified it must not be replaced."""
        try:
            found = self._client.head(key, self._object(key))
        except StorageNotFound:
            return None
        return StoredObject(key, found.size, found.etag) if found.size == size else None

    def _copied(self, stop: Stop, final_key: str, upload_id: str, sources: Sequence[tuple[str, int]]) -> Iterator[Part]:
        where, number = self._object(final_key), 0
        for key, size in sources:
            count = -(-size // MAX_PART_BYTES)
            step = -(-size // count)  # equal ranges: none is smaller than a part may be
            for first in range(0, size, step):
                stop.check()
                number, length = number + 1, min(step, size - first)
                asked: dict[str, Any] = {
                    "CopySource": self._object(key),
                    "CopySourceRange": f"bytes={first}-{first + length - 1}",
                    "PartNumber": number,
                }
                answer = self._client.call(key, partial(_copy_part, {"UploadId": upload_id, **where, **asked}))
                yield Part(number, etag_of(answer["CopyPartResult"]["ETag"]), length)

    def _spooled(
        self, stop: Stop, final_key: str, upload_id: str, source_keys: Sequence[str], part_size: int
    ) -> Iterator[Part]:
        number, filled = 1, 0
        with tempfile.TemporaryFile() as spool:
            for piece in self._pieces(stop, source_keys):
                while piece:
                    taken, piece = piece[: part_size - filled], piece[part_size - filled :]
                    spool.write(taken)
                    filled += len(taken)
                    if filled == part_size:
                        spool.flush()
                        yield self._send_part(final_key, upload_id, number, spool, filled)
                        spool.seek(0)
                        number, filled = number + 1, 0
            if filled:
                spool.flush()
                yield self._send_part(final_key, upload_id, number, spool, filled)

    def _pieces(self, stop: Stop, source_keys: Sequence[str]) -> Iterator[bytes]:
        for key in source_keys:
            answer = self._client.call(key, partial(_get, self._object(key)))
            left = int(answer["ContentLength"])
            with closing(answer["Body"]) as body:
                while left:
                    stop.check()
                    piece = self._client.read(key, body, min(left, BODY_PIECE_BYTES))
                    if not piece:
                        raise StorageTransient("the connection broke during a transfer", key=key, adapter="s3")
                    left -= len(piece)
                    yield piece


def _copy_part(asked: Mapping[str, Any], s3: Any) -> Any:
    return s3.upload_part_copy(**asked)


def _get(where: Mapping[str, str], s3: Any) -> Any:
    return s3.get_object(**where)


#: The marker of ``ListObjectsV2``: named differently in the answer and in the next request.
_CONTINUATION = ("ContinuationToken",)


class _Spool:
    """The bytes of one part, on their way to the store."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `_Appending.close`
        self.size = 0

    def write(self, piece: bytes) -> None:
        self.file.write(piece)
        self.size += len(piece)

    def empty(self) -> None:
        self.file.seek(0)
        self.size = 0


class _Appending:
    """One call of ``append_part_stream``."""

    def __init__(
        self,
        store: S3Streams,
        key: str,
        upload_name: str,
        state: PartStreamState,
        length: int | None,
        checkpoint: Checkpoint,
    ) -> None:
        self._store, self._key, self._name = store, key, upload_name
        self._length, self._checkpoint = length, checkpoint
        #: What is recorded.
        self._state = state
        self._part_size = state.part_size or store.part_size_for(length or 0)
        self._began_at = state.offset
        self._tail_bytes = state.offset - state.part_bytes
        self._spool = _Spool()
        #: The spool of the part that is being sent; free when it was sent.
        self._other = _Spool()
        self._sending: BackgroundStep[None] = BackgroundStep()

    async def run(self, chunks: AsyncIterator[bytes]) -> PartStreamState:
        threads, failure = self._store._threads, None
        if self._tail_bytes < 0 or self._tail_bytes > self._part_size:
            raise TusTailMissing("the parts of the upload are not those that were stored", key=self._key, adapter="s3")
        if self._tail_bytes:
            end = self._state.offset
            await threads.run(self._store._read_tail, self._name, end, self._tail_bytes, self._spool.file)
            self._spool.size = self._tail_bytes
        while True:
            try:
                piece = await anext(chunks)
            except StopAsyncIteration:
                break
            except Exception as error:  # what has arrived is stored first
                failure = error
                break
            self._sending.check()
            while piece:
                if self._spool.size == self._part_size:  # only now: the last part of all is recorded with the end
                    await self._sending.begin(self._send(self._spool, is_last=False))
                    self._spool, self._other = self._other, self._spool
                left = self._part_size - self._spool.size
                taken, piece = piece[:left], piece[left:]
                await threads.run(self._spool.write, taken)
        await self._sending.finish()
        await self._end()
        if failure is not None:
            raise failure
        return self._state

    async def close(self) -> None:
        """Let a part that is under way be sent and recorded, and remove the temporary files."""
        await self._sending.settle(limit_seconds=GRACE_SECONDS)
        for spool in (self._spool, self._other):
            await self._store._threads.run(spool.file.close)

    async def _send(self, spool: _Spool, *, is_last: bool) -> None:
        """Send a spool as the next part, record it, and make it empty."""
        threads, state = self._store._threads, self._state
        await threads.run(spool.file.flush)
        if state.upload_id is None:
            upload_id = await threads.run(self._store._begin_parts, self._key)
            await self._record(replace(state, upload_id=upload_id, part_size=self._part_size), is_last=False)
            state = self._state
        number = state.next_part_number
        if number > MAX_PART_COUNT:
            raise StoragePermanent("the upload has no part numbers left", key=self._key, adapter="s3")
        part = await threads.run(
            self._store._send_part, self._key, str(state.upload_id), number, spool.file, spool.size
        )
        offset = state.part_bytes + part.size
        await self._record(replace(state, offset=offset, parts=(*state.parts, part)), is_last=is_last)
        await self._forget_tail()
        await threads.run(spool.empty)

    async def _end(self) -> None:
        """Store and record what the spool has: a part if it is one, or the tail."""
        spool, end = self._spool, self._state.part_bytes + self._spool.size
        if spool.size and (end == self._length or spool.size == self._part_size):
            await self._send(spool, is_last=True)
        elif end == self._state.offset:
            await self._record(self._state, is_last=True)
        else:
            await self._store._threads.run(spool.file.flush)
            await self._store._threads.run(self._store._write_tail, self._name, end, spool.file, spool.size)
            await self._record(replace(self._state, offset=end, part_size=self._part_size), is_last=True)
            await self._forget_tail()

    async def _record(self, state: PartStreamState, *, is_last: bool) -> None:
        await self._checkpoint(state, is_last=is_last)
        self._state = state

    async def _forget_tail(self) -> None:
        """Remove the tail with which this call began, when a recorded state does not need it any more."""
        if self._tail_bytes:
            self._tail_bytes = 0
            with suppress(StorageError):  # removed with the stream
                where = self._store._tail(self._name, self._began_at)
                await self._store._threads.run(self._store._delete_tail, where)
