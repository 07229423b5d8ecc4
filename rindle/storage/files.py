"""Files at the edge of a store: the one that is stored, and the one a download is written to."""

from __future__ import annotations

import errno
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rindle.errors import InvalidArgument, StoragePermanent, StorageTransient
from rindle.storage.threads import Stop

#: Pieces in which bytes are copied.
PIECE_BYTES = 1024 * 1024
#: Pieces in which the body of an answer is read: small, so that a cancelled transfer ends soon.
BODY_PIECE_BYTES = 256 * 1024


def open_source(source: Path) -> IO[bytes]:
    """Open the file that is to be stored.

    Raises:
        InvalidArgument: it is missing, unreadable or no regular file. The path is not named: errors leave the process.
    """
    try:
        file = source.open("rb", buffering=0)
    except OSError as error:
        raise InvalidArgument("the source file cannot be read", detail={"option": "source"}) from error
    return file


@dataclass
class Slice(io.RawIOBase):
    """A part of an open file as a request body that ends at once when the transfer is stopped.

    Reads by position, so that several parts of one file can be on their way at the same time.
    """

    file: IO[bytes]
    start: int
    size: int
    stop: Stop
    position: int = 0

    def again(self) -> Slice:
        """Return the slice rewound, for a request that is made once more."""
        self.position = 0
        return self

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def read(self, size: int | None = -1) -> bytes:
        self.stop.check()
        left = max(0, self.size - self.position)
        wanted = min(left if size is None or size < 0 else min(size, left), PIECE_BYTES)
        piece = os.pread(self.file.fileno(), wanted, self.start + self.position)
        self.position += len(piece)
        return piece


@contextmanager
def receiving(dest: Path, size: int, max_bytes: int | None, key: str) -> Iterator[IO[bytes]]:
    """Yield a sibling file of ``dest`` that takes its name when the block ends well and vanishes otherwise.

    Args:
        dest: where the download goes; parent directories are made.
        size: bytes the store announced; fewer or more are a broken transfer.
        max_bytes: largest size wanted, checked before anything is written.
        key: storage key, for errors.

    Raises:
        StoragePermanent: the object is larger than ``max_bytes``.
        StorageTransient: the transfer ended early, or the scratch disk is full or broken: nothing is wrong with the
            object, so the caller may try again (F9).
    """
    if max_bytes is not None and size > max_bytes:
        raise StoragePermanent(
            f"the object has {size} bytes, more than the {max_bytes} allowed",
            key=key,
            detail={"reason": "max_bytes_exceeded", "max_bytes": max_bytes, "size": size},
        )
    part = dest.with_name(f".{uuid.uuid4().hex}.part")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            yield file
            written = file.tell()
        if written != size:
            raise StorageTransient(
                "the transfer ended early", key=key, detail={"reason": "short_body", "size": size, "received": written}
            )
        os.replace(part, dest)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "disk_full" if full else errno.errorcode.get(error.errno or 0, "unknown").lower()
        raise StorageTransient("the download could not be written", key=key, detail={"reason": reason}) from error
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            part.unlink()
