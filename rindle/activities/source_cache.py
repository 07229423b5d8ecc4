"""One download of an original per host, shared by everything on the host that reads it.

An entry is a file named after the storage, the key and the ETag, so that a replaced original is another
entry. Each entry has a lock file: a download holds it exclusively, readers hold it shared, and only unlocked entries
are evicted. The kernel releases the locks of a dead process, so that a crash needs no repair; partial downloads are
swept with the next download.

A store that lies on this machine's disk gives access to its own file instead, and nothing is copied.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rindle.errors import ObjectChanged, StorageError, StorageNotFound, StoragePermanent, StorageTransient
from rindle.protocols import Storage

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Bytes that unused entries may keep on disk.
MAX_BYTES = 10 << 30
#: Seconds after its last use when an unused entry is evicted.
MAX_AGE_SECONDS = 3600.0
#: Pause between two attempts to take a lock that is held elsewhere: first and longest, in seconds.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.005, 0.25
#: Attempts to use an entry that is evicted between its download and its use, before the call fails.
_TRIES = 5
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class SourceCache:
    """Originals on this host's disk.

    Several processes may use one directory. Files are mode 0400 in a directory of mode 0700.

    Args:
        directory: directory of the entries; created when it does not exist.
        max_bytes: largest size of all entries; the least recently used ones are evicted first.
        max_age_seconds: seconds after its last use when an entry is evicted.
    """

    def __init__(
        self, directory: Path, *, max_bytes: int = MAX_BYTES, max_age_seconds: float = MAX_AGE_SECONDS
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_age_seconds = max_age_seconds
        # For opening, reading and unlinking only; the event loop waits for locks, so that no thread is blocked.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="rindle-source-cache")

    @asynccontextmanager
    async def open_local(
        self, storage: Storage, storage_name: str, key: str, etag: str | None, size: int
    ) -> AsyncIterator[Path]:
        """Yield the path of a local file with the original's bytes. Read it inside the block; never write or move it.

        Of several readers on this host one downloads and the others wait for it.

        Args:
            storage: the store of the original.
            storage_name: its name, part of the entry's identity.
            key: the original's storage key.
            etag: the ETag pinned when the upload was verified; without one the modification time replaces it.
            size: the byte count pinned with it.

        Raises:
            StorageNotFound: the original does not exist.
            ObjectChanged: the stored object is not the one that was pinned.
            StorageTransient: the transfer ended early, or the disk is full even without unused entries; retryable.
            StorageError: what the adapter raised.
        """
        async with storage.local_path(key, if_match=etag) as path:
            if path is not None:
                if await self._in_thread(lambda: path.stat().st_size) != size:
                    raise _changed(key)
                yield path
                return
        entry = _Entry.of(self._directory, storage_name, key, etag or await _stamp(storage, key))
        handle = await self._referenced(entry, storage, key, etag, size)
        try:
            yield entry.path
        finally:
            os.close(handle)  # gives the shared lock back

    async def evict(self, storage_name: str, key: str) -> int:
        """Remove every entry of ``key``, also while it is in use (a purge must not leave bytes); return how many.

        Readers that hold the file open keep it until they close it; opening it again fails.
        """

        def remove() -> int:
            found = 0
            for path in self._directory.glob(f"{_Entry.stem(storage_name, key)}-*"):
                if path.suffix not in _Entry.SIDE_FILES:
                    path.unlink(missing_ok=True)
                    found += 1
            return found

        return await self._in_thread(remove)

    async def trim(self, *, room_bytes: int = 0) -> int:
        """Evict unused entries that are too old or, oldest first, exceed ``max_bytes`` less ``room_bytes``.

        Returns:
            number of freed bytes.
        """
        return await self._in_thread(lambda: self._trim(self._max_bytes - room_bytes, self._max_age_seconds))

    async def close(self) -> None:
        """Release the threads; entries stay for the other processes of this host."""
        self._threads.shutdown(wait=False)

    # --- inside --------------------------------------------------------------------------------------------------

    async def _referenced(self, entry: _Entry, storage: Storage, key: str, etag: str | None, size: int) -> int:
        """Fetch the entry if necessary, and return a handle that holds its shared lock."""
        for _ in range(_TRIES):
            handle = await self._locked(entry, lambda lock: _try_lock(lock, fcntl.LOCK_SH))
            try:
                if await self._in_thread(lambda: entry.use(size)):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)
            await self._fill(entry, storage, key, etag, size)
        raise StorageTransient("the original was evicted from the cache before it could be used", key=key)

    async def _fill(self, entry: _Entry, storage: Storage, key: str, etag: str | None, size: int) -> None:
        is_there = False

        def available_or_locked(lock: int) -> bool:
            # Readers may hold an available entry for the length of a transcode; do not wait for them.
            nonlocal is_there
            is_there = entry.use(size)
            return is_there or _try_lock(lock, fcntl.LOCK_EX)

        handle = await self._locked(entry, available_or_locked)
        try:
            if is_there or await self._in_thread(lambda: entry.use(size)):
                return  # another process has downloaded it
            await self._in_thread(entry.sweep)
            await self._make_room(size)
            try:
                await self._download(entry, storage, key, etag, size)
            except (OSError, StorageError) as error:
                if not _is_disk_full(error):
                    raise
                log.warning("the disk is full; evicting every unused original", extra={"needed_bytes": size})
                await self._in_thread(lambda: self._trim(0, 0))
                try:
                    await self._download(entry, storage, key, etag, size)
                except (OSError, StorageError) as again:
                    if not _is_disk_full(again):
                        raise
                    raise StorageTransient(
                        "the disk is full", key=key, detail={"required_bytes": size}, retryable=True
                    ) from again
        finally:
            os.close(handle)

    async def _download(self, entry: _Entry, storage: Storage, key: str, etag: str | None, size: int) -> None:
        scratch = entry.scratch_directory()
        draft = scratch / "original"
        try:
            try:
                await storage.download(key, draft, max_bytes=size, if_match=etag)
                found = await self._in_thread(lambda: draft.stat().st_size)
            except StoragePermanent as error:
                # If the object has another size than the pinned one, it has changed.
                await _require_size(storage, key, size, error)
                raise
            if found != size:
                await _require_size(storage, key, size, None)
                raise StorageTransient(
                    "the transfer ended early", key=key, detail={"expected_bytes": size, "found_bytes": found}
                )
            await self._in_thread(lambda: entry.publish(draft))
        finally:
            # Not in a thread, so that a cancelled download leaves nothing either.
            shutil.rmtree(scratch, ignore_errors=True)

    async def _make_room(self, size: int) -> None:
        def make() -> None:
            self._trim(self._max_bytes - size, self._max_age_seconds)
            lacking = size - shutil.disk_usage(self._directory).free
            if lacking > 0:
                kept = sum(entry.size for entry in self._entries())
                self._trim(kept - lacking, self._max_age_seconds)

        await self._in_thread(make)

    async def _locked(self, entry: _Entry, ready: Callable[[int], bool]) -> int:
        """Open the entry's lock file and wait until it is ``ready``, again when the file was unlinked meanwhile."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            handle = await self._opened(entry)
            try:
                while not ready(handle):
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                if await self._in_thread(lambda: entry.lock_is(handle)):  # noqa: B023 - awaited within this round
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    async def _opened(self, entry: _Entry) -> int:
        opening = asyncio.get_running_loop().run_in_executor(self._threads, entry.open_lock)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_result)
            raise

    def _entries(self) -> list[_Found]:
        found: list[_Found] = []
        for path in self._listing():
            if path.suffix not in _Entry.SIDE_FILES:
                with suppress(FileNotFoundError):
                    facts = path.stat()
                    found.append(_Found(_Entry(path), facts.st_size, facts.st_mtime))
        return found

    def _listing(self) -> list[Path]:
        return list(self._directory.iterdir()) if self._directory.is_dir() else []

    def _trim(self, keep_bytes: int, max_age_seconds: float) -> int:
        entries = sorted(self._entries(), key=lambda found: found.used_at)
        total = sum(found.size for found in entries)
        too_old = time.time() - max_age_seconds
        freed = 0
        for found in entries:
            if (found.used_at <= too_old or total > keep_bytes) and found.entry.discard():
                total -= found.size
                freed += found.size
        # The remains of crashed downloads, and the locks of purged entries.
        for path in self._listing():
            if path.suffix in _Entry.SIDE_FILES:
                entry = _Entry(self._directory / path.name.split(".", 1)[0])
                if not entry.path.exists():
                    entry.discard()
        return freed

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One original: its file, the lock beside it, and a directory in which it is downloaded."""

    SIDE_FILES = frozenset({".lock", ".part"})

    path: Path

    @classmethod
    def of(cls, directory: Path, storage_name: str, key: str, etag: str) -> _Entry:
        return cls(directory / f"{cls.stem(storage_name, key)}-{_digest(etag)[:16]}")

    @staticmethod
    def stem(storage_name: str, key: str) -> str:
        return _digest(f"{storage_name}\0{key}")[:40]

    def scratch_directory(self) -> Path:
        # A directory, because an adapter may write to a temporary name of its own beside the one it is given.
        return self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}.part")

    def open_lock(self) -> int:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(self._lock, os.O_CREAT | os.O_RDWR, 0o600)

    def lock_is(self, handle: int) -> bool:
        """Whether the lock file on disk is still the one that ``handle`` has open."""
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self._lock))
        except FileNotFoundError:
            return False

    def use(self, size: int) -> bool:
        """Update the time of last use; ``False`` when the entry does not exist or has another size."""
        try:
            if self.path.stat().st_size != size:
                return False
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return True

    def publish(self, draft: Path) -> None:
        draft.chmod(0o400)
        os.utime(draft)  # an adapter may have set the object's own time
        draft.replace(self.path)

    def sweep(self) -> None:
        """Remove the partial downloads of dead processes; requires the exclusive lock."""
        for scratch in self.path.parent.glob(f"{self.path.name}.*.part"):
            shutil.rmtree(scratch, ignore_errors=True)

    def discard(self) -> bool:
        """Remove the entry, its partial downloads and its lock, unless the lock is held."""
        try:
            handle = self.open_lock()
        except OSError:
            return False
        try:
            if not _try_lock(handle, fcntl.LOCK_EX) or not self.lock_is(handle):
                return False
            self.path.unlink(missing_ok=True)
            self.sweep()
            self._lock.unlink(missing_ok=True)
            return True
        finally:
            os.close(handle)

    @property
    def _lock(self) -> Path:
        return self.path.with_name(f"{self.path.name}.lock")


@dataclass(frozen=True, slots=True)
class _Found:
    entry: _Entry
    size: int
    used_at: float


async def _stamp(storage: Storage, key: str) -> str:
    """Return a replacement for the ETag of a store without ETags."""
    head = await storage.head(key)
    return head.etag or f"{head.size}:{head.last_modified.isoformat() if head.last_modified else ''}"


async def _require_size(storage: Storage, key: str, size: int, cause: Exception | None) -> None:
    try:
        head = await storage.head(key)
    except StorageNotFound:
        raise
    except StorageError:
        return  # unknown: the caller raises its own error
    if head.size != size:
        raise _changed(key) from cause


def _changed(key: str) -> ObjectChanged:
    return ObjectChanged("the stored object is not the one that was verified", key=key)


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _close_result(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
