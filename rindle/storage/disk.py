"""What ``LocalStorage`` does with single files: write one unseen, serve one, name the file system's errors."""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rindle.errors import (
    InvalidKey,
    StorageConflict,
    StorageError,
    StorageNotFound,
    StoragePermanent,
    StorageTransient,
    StorageUnauthorized,
)
from rindle.storage.threads import Threads

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_PASSING = frozenset(
    {
        *(errno.EAGAIN, errno.EIO, errno.EINTR, errno.EBUSY, errno.ENOMEM),
        *(errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.ESTALE),
    }
)


@dataclass(slots=True)
class OpenObject:
    """An open object to serve: ``size`` in bytes, ``modified_at`` in whole seconds since the epoch."""

    _file: IO[bytes]
    size: int
    etag: str
    modified_at: int
    _threads: Threads

    async def pieces(self, first: int, length: int, piece_bytes: int) -> AsyncGenerator[bytes, None]:
        """Yield ``length`` bytes from offset ``first``, each piece read in a thread when it is requested.

        Raises:
            StorageTransient: the file became shorter.
        """
        while length > 0:
            piece = await self._threads.run(self._read, first, min(piece_bytes, length))
            if not piece:
                raise StorageTransient("the object became shorter while it was read", adapter="local")
            first += len(piece)
            length -= len(piece)
            yield piece

    async def close(self) -> None:
        """Close the file, also when the caller is being cancelled."""
        await self._threads.settle(self._file.close)

    def _read(self, first: int, size: int) -> bytes:
        # The buffered file's own lock keeps a close from another thread away while it reads.
        self._file.seek(first)
        return self._file.read(size)


class Draft:
    """A file under ``.rindle/tmp`` until it is published or discarded.

    A lock orders its steps: the event loop may discard it while a cancelled step still runs in its thread.
    """

    def __init__(self, directory: Path, fsync: bool) -> None:
        self.path = directory / uuid.uuid4().hex
        self._fsync = fsync
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._is_over = False

    def open(self) -> None:
        """Create the file, and its directory when it is missing."""
        with self._lock:
            if self._is_over:
                raise ValueError("the draft was discarded")
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._file = os.fdopen(os.open(self.path, flags, 0o640), "wb", buffering=0)

    def write(self, piece: bytes) -> None:
        """Append all of ``piece``."""
        with self._lock:
            view = memoryview(piece)
            while len(view):
                view = view[self._opened().write(view) :]

    def finish(self) -> os.stat_result:
        """Bring the bytes to the disk, close the file and return its status."""
        with self._lock, self._opened() as file:
            # The kernel's clock for new files ticks every few milliseconds; the ETag needs two writes of one size to
            # differ, so the time is set from the finer clock.
            now = time.time_ns()
            os.utime(file.fileno(), ns=(now, now))
            if self._fsync:
                os.fsync(file.fileno())
            return os.fstat(file.fileno())

    def discard(self) -> None:
        """Remove the temporary name; harmless after publishing."""
        with self._lock:
            self._is_over = True
            if self._file is not None:
                self._file.close()
            with suppress(FileNotFoundError):
                self.path.unlink()

    def _opened(self) -> IO[bytes]:
        if self._file is None or self._is_over:
            raise ValueError("the draft is not open")
        return self._file


def translate(error: OSError, key: str | None) -> StorageError:
    """Return our error for one of the file system's; paths are left out.

    ==========================================  ====================================================
    ENOENT, ENOTDIR                             ``storage_not_found``
    ENAMETOOLONG, ELOOP                         ``invalid_key``
    EACCES, EPERM                               ``storage_unauthorized``
    EEXIST                                      ``storage_conflict``
    EAGAIN, EIO, ESTALE, too many files, ...    ``storage_transient``
    ENOSPC, EDQUOT                              ``storage_permanent``, reason ``disk_full``
    EXDEV                                       ``storage_permanent``, reason ``cross_device``
    everything else                             ``storage_permanent``, reason the error's name
    ==========================================  ====================================================
    """
    code = error.errno or 0
    name = errno.errorcode.get(code, "unknown").lower()
    if code in _FULL:
        name = "disk_full"
    elif code == errno.EXDEV:
        name = "cross_device"
    facts: dict[str, Any] = {"key": key, "adapter": "local", "detail": {"reason": name}}
    if code in (errno.ENOENT, errno.ENOTDIR):
        return StorageNotFound("nothing is stored at the key", **facts)
    if code in (errno.ENAMETOOLONG, errno.ELOOP):
        return InvalidKey("the storage key does not fit the file system", **facts)
    if code in (errno.EACCES, errno.EPERM):
        return StorageUnauthorized("the file system refused access", **facts)
    if code == errno.EEXIST:
        return StorageConflict("the key is taken", **facts)
    if code in _PASSING:
        return StorageTransient(f"the file system failed ({name})", **facts)
    return StoragePermanent(f"the file system refused ({name})", **facts)


def etag_of(status: os.stat_result) -> str:
    """Return the strong ETag of a file, without quotes: its size and modification time in nanoseconds."""
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"
