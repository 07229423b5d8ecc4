"""Files at the edge of a store: the one that is stored, and the one a download is written to."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rindle.errors import InvalidArgument, StoragePermanent, StorageTransient

#: Pieces in which bytes are copied.
PIECE_BYTES = 1024 * 1024


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
