"""Pixels that a validation has decoded, kept on this host for the render that follows a moment later."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from pathlib import Path

from rindle.db.models import MediaAsset

#: Bytes kept at most: images beyond them are decoded twice.
MAX_BYTES = 256 << 20
#: Free bytes of the disk below which nothing is kept.
MIN_FREE_BYTES = 1 << 30
#: Seconds after which the render has run elsewhere or will not run.
MAX_AGE_SECONDS = 3600.0


class DecodeCache:
    """The files with the decoded pixels of originals, and their limit.

    A file belongs to one asset, key and ETag, so it is never used for other bytes. Files have mode 0600 in a directory
    of mode 0700. They are removed after their render, with their asset, or when they are too old. Processes share the
    directory.

    Args:
        scratch: root of the run directories.
        max_bytes: largest size of all files.
    """

    def __init__(self, scratch: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._directory = scratch / "pixels"
        self._max_bytes = max_bytes

    def path(self, asset: MediaAsset) -> Path | None:
        """Return where the pixels of an asset's original are or would be; ``None`` when its bytes have no ETag."""
        if asset.stored_etag is None:
            return None
        identity = f"{asset.id}\0{asset.storage_key}\0{asset.stored_etag}"
        return self._directory / hashlib.sha256(identity.encode()).hexdigest()[:40]

    def place(self, asset: MediaAsset) -> Path | None:
        """Return where a probe may keep the pixels of an asset, after removing old files; ``None`` without room."""
        path = self.path(asset)
        return path if path is not None and self._used_bytes() < self._max_bytes and self._has_room() else None

    def discard(self, asset: MediaAsset) -> None:
        """Remove what is kept of an asset's original."""
        path = self.path(asset)
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _has_room(self) -> bool:
        try:
            return shutil.disk_usage(self._directory.parent).free >= MIN_FREE_BYTES
        except OSError:
            return False

    def _used_bytes(self) -> int:
        used = 0
        too_old = time.time() - MAX_AGE_SECONDS
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # its render may end now
                    facts = entry.stat(follow_symlinks=False)
                    if facts.st_mtime < too_old:
                        os.unlink(entry.path)
                    else:
                        used += facts.st_size
        return used
