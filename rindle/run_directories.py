"""Run directories: the private scratch space of one piece of work, its lock, and the sweep of what dead processes left.

All of them are below one root, ``<tmp_dir>/rindle.tmp``. Who works in a directory holds its lock; the kernel releases
the locks of a dead process. So the sweep never removes a directory in use, however long the work takes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Age after which a run directory that nobody has locked belongs to a process that is gone: 4 hours.
STALE_SECONDS = 14_400.0


@dataclass(frozen=True, slots=True)
class Swept:
    """Numbers of run directories: examined, stale, removed, and those that could not be removed."""

    scanned: int = 0
    orphans: int = 0
    deleted: int = 0
    errors: int = 0


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold the lock of a run directory inside the block; the sweep then leaves it.

    The lock is shared: a child that works in the directory may hold it too.

    Source: flock(2). A lock belongs to the open file, and is released when its last descriptor is closed.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: the sweep then goes by the age alone
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def sweep(root: Path, *, older_than_seconds: float = STALE_SECONDS, dry_run: bool = False) -> Swept:
    """Remove the stale directories directly below ``root``, with all that they contain.

    Stale is a real directory whose last change is older than ``older_than_seconds`` and whose lock is free. Links are
    never followed and files are left, so that nothing outside ``root`` is removed. A root that is a link, or belongs to
    another user, is an error: on a shared temporary directory anybody may have made it.

    Args:
        dry_run: only count them.
    """
    limit = time.time() - older_than_seconds
    scanned = orphans = deleted = errors = 0
    try:
        facts = os.lstat(root)
        if stat.S_ISLNK(facts.st_mode) or facts.st_uid != os.geteuid():
            return Swept(errors=1)
        entries = list(os.scandir(root))
    except FileNotFoundError:
        return Swept()
    for entry in entries:
        try:
            if not entry.is_dir(follow_symlinks=False):
                continue
            scanned += 1
            if entry.stat(follow_symlinks=False).st_mtime >= limit:
                continue
            with _unused(entry.path) as is_unused:
                if not is_unused:
                    continue
                orphans += 1
                if not dry_run:
                    shutil.rmtree(entry.path)
                    deleted += 1
        except FileNotFoundError:
            continue  # another sweep was first
        except OSError:
            errors += 1
    return Swept(scanned, orphans, deleted, errors)


@contextlib.contextmanager
def _unused(path: str) -> Iterator[bool]:
    """Lock a directory that nobody has locked for the block; yields whether it did."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
