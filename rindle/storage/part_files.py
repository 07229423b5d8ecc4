"""Streams of ``LocalStorage``: files below ``.rindle/tus`` that grow until they take the name of their object.

A file may be longer than the recorded offset, after a crash; it is cut to the offset before anything is appended.

Whoever changes a file has it locked (flock) while it is open. A process that stands still and loses the lease of its
upload keeps others from the file until it ends or goes on; it never writes into what they have made of it. One that
stood still before it opened the file may find bytes that others have recorded meanwhile: it records its own state once
more before it cuts them off, which fails without the lease.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import threading
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Protocol, TypeVar

from rindle.cancellation import run_to_end
from rindle.errors import StorageConflict, StorageNotFound, StorageTransient
from rindle.protocols import Checkpoint, Concatenation, LiveUploads, PartStream, PartStreamState, StoredObject
from rindle.security.storage_key import key_segment, validate_key
from rindle.storage.background import BackgroundStep
from rindle.storage.disk import Draft, etag_of
from rindle.storage.files import PIECE_BYTES
from rindle.storage.threads import Stop, Threads

T = TypeVar("T")
_SUFFIX = ".part"
#: Bytes that are gathered before they are written; as many again are on their way to the disk.
BUFFER_BYTES = 384 * 1024
#: Bytes after which a stream that goes on is synced and recorded.
CHECKPOINT_BYTES = 64 * 1024**2
#: Seconds after which a stream that goes on is synced and recorded.
CHECKPOINT_SECONDS = 10.0
#: Seconds after which gathered bytes are written although more may follow: a client that pauses needs no memory.
LINGER_SECONDS = 0.2
#: Longest wait for another call that completes the same stream, and the pause between two attempts, in seconds.
COMPLETION_SECONDS = 5.0
_LOOK_SECONDS = 0.05


class Run(Protocol):
    """Runs a function in a thread, and raises our errors for those of the file system."""

    async def __call__(self, function: Callable[[], T]) -> T:
        """Return what ``function`` returns."""


class CompleteFile(Protocol):
    """A file that takes the name of its object."""

    path: Path

    def finish(self) -> os.stat_result:
        """Bring the bytes to the disk and return the file's status."""


class StillOpen(StorageTransient):
    """Somebody else has the file of a stream open: another caller, or a process that stands still."""


class PartFile:
    """The file of one stream, open or not; a lock orders its steps, since a cancelled one still runs in its thread."""

    def __init__(self, path: Path, *, fsync: bool) -> None:
        self.path = path
        self._fsync = fsync
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._is_over = False

    def open(self, offset: int) -> bool:
        """Open the file for writing at ``offset``, which it must have, and return whether it is longer.

        It is opened only if it still has its name: the object that another caller has made of it may be verified
        already.

        Raises:
            StorageNotFound: the file is shorter, was renamed, or is missing although ``offset`` is not 0.
            StorageTransient: somebody else has it open.

        Source: flock(2). A lock belongs to the open file; closing it releases the lock, as does the end of a process.
        """
        with self._lock:
            if self._is_over:
                raise ValueError("the file of the stream was closed")
            if offset == 0:
                self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if offset == 0 else 0)
            try:
                self._handle = os.open(self.path, flags, 0o640)
            except FileNotFoundError as error:
                raise _lost() from error
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StillOpen("another request still has the file of the upload", adapter="local") from error
            self._check_name()
            size = self._size(offset)
            os.lseek(self._handle, offset, os.SEEK_SET)
            return size > offset

    def cut(self, offset: int) -> None:
        """Drop what the file has beyond ``offset``."""
        with self._lock:
            os.ftruncate(self._opened(), offset)

    def append(self, pieces: Sequence[bytes]) -> None:
        """Append all of ``pieces`` to the open file."""
        with self._lock:
            handle, waiting = self._opened(), list(pieces)
            while waiting:
                written = os.writev(handle, waiting[:_MAX_PIECES])
                while waiting and written >= len(waiting[0]):
                    written -= len(waiting.pop(0))
                if written:
                    waiting[0] = waiting[0][written:]

    def sync(self) -> None:
        """Wait until the bytes are on the disk; further ones may be written meanwhile."""
        if not self._fsync:
            return
        with self._lock:
            handle = os.dup(self._opened())  # the file may be closed meanwhile
        try:
            os.fdatasync(handle)
        finally:
            os.close(handle)

    def append_last(self, pieces: Sequence[bytes], *, sync: bool) -> None:
        """Append the last ``pieces`` as :meth:`append`, sync the file if ``sync``, and close it."""
        self.append(pieces)
        if sync:
            self.sync()
        self.close()

    def finish(self) -> os.stat_result:
        """Bring the bytes to the disk and return the status that the object will have."""
        with self._lock:
            handle = self._opened()
            # As for other objects: the ETag needs the finer clock.
            now = time.time_ns()
            os.utime(handle, ns=(now, now))
            if self._fsync:
                os.fsync(handle)
            return os.fstat(handle)

    def close(self) -> None:
        """Close the file; it stays where it is."""
        with self._lock:
            self._is_over = True
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def remove(self) -> None:
        """Remove the file; a missing one is success."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self.path.unlink()

    def _check_name(self) -> None:
        try:
            named = os.lstat(self.path)
        except FileNotFoundError as error:
            raise _lost() from error
        if not os.path.samestat(named, os.fstat(self._opened())):
            raise _lost()

    def _size(self, least: int) -> int:
        status = os.fstat(self._opened())
        if not stat.S_ISREG(status.st_mode) or status.st_size < least:
            raise _lost()
        return status.st_size

    def _opened(self) -> int:
        if self._handle is None:
            raise ValueError("the file of the stream is not open")
        return self._handle


async def append_to(
    file: PartFile,
    chunks: AsyncIterator[bytes],
    state: PartStreamState,
    *,
    length: int | None,
    run: Run,
    checkpoint: Checkpoint,
) -> PartStreamState:
    """Append ``chunks`` to the file of a stream; see ``PartStream.append_part_stream``.

    Args:
        length: of the whole stream; it is recorded with the end of the call only, because it completes the upload.
        run: runs a function in a thread of the store.
    """
    writer = _Writer(run, file.append)
    recording: BackgroundStep[PartStreamState] = BackgroundStep()
    due_bytes, due_at = state.offset + CHECKPOINT_BYTES, time.monotonic() + CHECKPOINT_SECONDS
    failure: Exception | None = None
    try:
        if await run(partial(file.open, state.offset)):
            await checkpoint(state)
            await run(partial(file.cut, state.offset))
        while True:
            try:
                chunk = await anext(chunks)
            except StopAsyncIteration:
                break
            except Exception as error:  # what has arrived is stored first
                failure = error
                break
            recording.check()
            await writer.put(chunk)
            arrived = state.offset + writer.taken
            if arrived == length:
                continue
            if arrived >= due_bytes or time.monotonic() >= due_at:
                await writer.flush()
                await recording.begin(_sync_and_record(run, file.sync, checkpoint, replace(state, offset=arrived)))
                due_bytes, due_at = arrived + CHECKPOINT_BYTES, time.monotonic() + CHECKPOINT_SECONDS
        recorded = await recording.finish() or state
        reached = replace(state, offset=state.offset + writer.taken)
        last = await writer.rest()
        # The file is closed before the next request may have the upload.
        await run(partial(file.append_last, last, sync=reached.offset > recorded.offset))
        await checkpoint(reached, is_last=True)
    finally:
        await run_to_end(writer.settle())
        await run_to_end(recording.settle())
        await run_to_end(run(file.close))
    if failure is not None:
        raise failure
    return reached


async def _sync_and_record(
    run: Run, sync: Callable[[], None], checkpoint: Checkpoint, state: PartStreamState
) -> PartStreamState:
    """Sync and record ``state``, all of which is written, and return it."""
    await run(sync)
    await checkpoint(state)
    return state


class _Writer:
    """Writes gathered pieces in a thread while the next ones arrive."""

    def __init__(self, run: Run, write: Callable[[Sequence[bytes]], None]) -> None:
        self._run = run
        self._write = write
        self._gathered: list[bytes] = []
        self._size = 0
        self._writing: asyncio.Future[None] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        #: Bytes taken so far.
        self.taken = 0

    async def put(self, piece: bytes) -> None:
        if not piece:
            return
        self._gathered.append(piece)
        self._size += len(piece)
        self.taken += len(piece)
        if self._size >= BUFFER_BYTES:
            await self._wait()
            self._start()
        elif self._lingering is None:
            self._lingering = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._start_if_free)

    async def flush(self) -> None:
        await self._wait()
        if self._gathered:
            self._start()
            await self._wait()

    async def rest(self) -> list[bytes]:
        """Return the pieces that are not written, when all others are."""
        await self._wait()
        return self._take()

    async def settle(self) -> None:
        """Wait for a write that is under way; its error was raised before, or is not wanted any more."""
        self._take()
        if self._writing is not None:
            with suppress(Exception):
                await asyncio.shield(self._writing)

    def _take(self) -> list[bytes]:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        pieces, self._gathered, self._size = self._gathered, [], 0
        return pieces

    def _start(self) -> None:
        self._writing = asyncio.ensure_future(self._run(partial(self._write, self._take())))

    def _start_if_free(self) -> None:
        self._lingering = None
        if self._writing is None:
            self._start()
        elif not self._writing.done():
            self._lingering = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._start_if_free)
        elif self._writing.exception() is None:
            self._start()

    async def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing


#: Pieces of one ``writev`` (POSIX ``IOV_MAX`` is 1024 on Linux).
_MAX_PIECES = 512


def _lost() -> StorageNotFound:
    return StorageNotFound("the file of the upload is shorter than what was recorded of it", adapter="local")


class LocalStreams(PartStream, Concatenation):
    """The abilities of ``LocalStorage``, which has the attributes and the other methods."""

    _threads: Threads
    _fsync: bool
    _streams: Path

    @abstractmethod
    def _find(self, key: str) -> tuple[Path, os.stat_result]:
        """Return the path of an object and its status."""

    @abstractmethod
    def _open(self, key: str, if_match: str | None) -> tuple[IO[bytes], os.stat_result]:
        """Open an object."""

    @abstractmethod
    def _draft(self) -> AbstractContextManager[Draft]:
        """Yield a temporary file that vanishes with the block."""

    @abstractmethod
    def _publish(self, draft: CompleteFile, key: str, if_absent: bool) -> StoredObject:
        """Give a file the name of its object."""

    @abstractmethod
    def _translated(self, key: str | None) -> AbstractContextManager[None]:
        """Raise our errors for those of the file system."""

    def part_size_for(self, length: int) -> int:
        """Return 0: a stream is one file, of any length."""
        return 0

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
        """Append ``chunks`` to the file of a stream; see :meth:`rindle.protocols.PartStream.append_part_stream`.

        The file is synced and recorded every 64 MiB and every 10 seconds, and at the end.
        """
        validate_key(key)
        return await append_to(
            self._part_file(upload_name), chunks, state, length=length, run=self._run, checkpoint=checkpoint
        )

    async def complete_part_stream(self, key: str, upload_name: str, state: PartStreamState) -> StoredObject:
        """Rename the file of a stream to ``key``.

        Raises:
            StorageNotFound: the file is missing or too short, and no object of its length is at ``key``.
            StoragePermanent: ``.rindle/tus`` lies on another file system.
            StorageTransient: a request that has lost the upload still has its file.
        """
        validate_key(key)
        ends_at = time.monotonic() + COMPLETION_SECONDS
        while True:
            try:
                return await self._threads.settle(self._complete, key, self._part_file(upload_name), state.offset)
            except StillOpen:  # another call completes it just now
                if time.monotonic() >= ends_at:
                    raise
                await asyncio.sleep(_LOOK_SECONDS)

    def _complete(self, key: str, file: PartFile, size: int) -> StoredObject:
        try:
            with self._translated(key):
                if file.open(size):
                    file.cut(size)
                return self._publish(file, key, if_absent=False)
        except StorageNotFound:
            _, status = self._find(key)  # renamed by an earlier call
            if status.st_size != size:
                raise
            return StoredObject(key, size, etag_of(status))
        finally:
            file.close()

    async def abort_part_stream(self, key: str, upload_name: str, state: PartStreamState) -> None:
        """Remove the file of a stream."""
        validate_key(key)
        await self._threads.settle(self._translating(self._part_file(upload_name).remove, key))

    async def sweep_part_streams(self, older_than_seconds: float, live: LiveUploads) -> int:
        """Remove files of uploads that are not live, without a write for so many seconds; returns how many."""
        stale = await self._threads.run(self._stale, older_than_seconds)
        ended = set(stale) - set(await live(stale)) if stale else set()
        for name in sorted(ended):
            await self._threads.run(self._translating(self._part_file(name).remove, None))
        return len(ended)

    def _stale(self, older_than_seconds: float) -> list[str]:
        """Return the names of the uploads whose files are older; the age of their directory says nothing."""
        limit, found = time.time() - older_than_seconds, []
        with self._translated(None), suppress(FileNotFoundError), os.scandir(self._streams) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    is_part = stat.S_ISREG(status.st_mode) and entry.name.endswith(_SUFFIX)
                    if is_part and status.st_mtime < limit:
                        found.append(entry.name.removesuffix(_SUFFIX))
        return found

    async def concatenate(self, final_key: str, source_keys: Sequence[str]) -> StoredObject:
        """Copy the objects one after the other; the new one appears when it is whole, and only once."""
        for key in (final_key, *source_keys):  # before anything is read
            validate_key(key)
        return await self._threads.move(self._concatenate, final_key, tuple(source_keys))

    def _concatenate(self, stop: Stop, final_key: str, source_keys: Sequence[str]) -> StoredObject:
        with self._translated(final_key), self._draft() as draft:
            draft.open()
            size = 0
            for key in source_keys:
                source, _ = self._open(key, None)
                with source:
                    while piece := source.read(PIECE_BYTES):
                        stop.check()
                        draft.write(piece)
                        size += len(piece)
            try:
                return self._publish(draft, final_key, if_absent=True)
            except StorageConflict:  # another call has made it
                _, status = self._find(final_key)
                if status.st_size != size:
                    raise
                return StoredObject(final_key, status.st_size, etag_of(status))

    def _part_file(self, upload_name: str) -> PartFile:
        return PartFile(self._streams / f"{key_segment(upload_name, fallback='upload')}{_SUFFIX}", fsync=self._fsync)

    async def _run(self, function: Callable[[], T]) -> T:
        return await self._threads.run(self._translating(function, None))

    def _translating(self, function: Callable[[], T], key: str | None) -> Callable[[], T]:
        def run() -> T:
            with self._translated(key):
                return function()

        return run
