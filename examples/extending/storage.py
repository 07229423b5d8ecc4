"""A store: objects as blobs of one SQLite file.

It is for archives of a few gigabytes that must be one file. It declares that it signs no URLs and takes no direct
uploads. Files are stored through ``rindle.upload``, and the application serves them itself with ``read_range``.

**Limits.** One object has at most 1 GB (SQLite's ``SQLITE_MAX_LENGTH``). All processes are on one machine. There
is one writer at a time; others wait up to 30 s and then fail with ``storage_transient``. Disposition and metadata are
not kept.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rindle.errors import (
    ObjectChanged,
    StorageConflict,
    StorageNotFound,
    StoragePermanent,
    StorageTransient,
)
from rindle.protocols import DeleteResult, KeyPage, ListedObject, ObjectHead, Storage, StoredObject
from rindle.security import validate_key
from rindle.storage.arguments import (
    check_header,
    check_limit,
    check_metadata,
    check_prefix,
    check_range,
    check_size,
)
from rindle.storage.files import PIECE_BYTES, open_source, receiving
from rindle.storage.threads import Stop, Threads

#: Seconds that a writer waits for another one.
BUSY_SECONDS = 30.0
#: Largest object in bytes (SQLite, "Implementation Limits": SQLITE_MAX_LENGTH).
MAX_OBJECT_BYTES = 1_000_000_000
#: Sorts behind every key with the same beginning.
LAST_CHARACTER = "\U0010ffff"

_TABLE = """
CREATE TABLE IF NOT EXISTS objects (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused, so an open blob stays that of its object
    key TEXT NOT NULL UNIQUE,
    etag TEXT NOT NULL,
    content_type TEXT,
    stored_at TEXT NOT NULL,
    body BLOB NOT NULL
)
"""
#: Temporary conditions: another writer, a full disk.
_TRANSIENT = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})


class SqliteStorage(Storage):
    """Keeps objects in the SQLite file at ``path``; the first use creates it with its directory."""

    adapter_name = "sqlite"

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path).resolve()
        self._threads = Threads(self.adapter_name, 8)

    def __repr__(self) -> str:
        return f"SqliteStorage({self._path.name!r})"

    def capabilities(self) -> frozenset[str]:
        """Declare exactly what it can do; every other call is refused with the name of the missing capability."""
        return frozenset({"head", "read_range", "write_once"})

    async def store(
        self,
        key: str,
        source: Path,
        *,
        content_type: str | None = None,
        content_disposition: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> StoredObject:
        """Copy the file at ``source`` into the database in one transaction: completely, or not at all."""
        validate_key(key)
        check_header("content_type", content_type)
        check_header("content_disposition", content_disposition)
        check_metadata(metadata)
        return await self._threads.move(self._store, key, Path(source), content_type, if_absent)

    def _store(self, stop: Stop, key: str, source: Path, content_type: str | None, if_absent: bool) -> StoredObject:
        with open_source(source) as file, self._writing(key) as connection:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_OBJECT_BYTES:
                raise StoragePermanent(f"an object has at most {MAX_OBJECT_BYTES} bytes in this store", key=key)
            if if_absent and _row(connection, "id", key) is not None:
                raise StorageConflict("the key is taken", key=key, adapter=self.adapter_name)
            connection.execute("DELETE FROM objects WHERE key = ?", (key,))
            now = datetime.now(UTC).isoformat()
            made = connection.execute(
                "INSERT INTO objects (key, etag, content_type, stored_at, body) VALUES (?, '', ?, ?, zeroblob(?))",
                (key, content_type, now, size),
            ).lastrowid
            assert made is not None  # noqa: S101 - an insert has an id
            digest = hashlib.sha256()
            with connection.blobopen("objects", "body", made) as blob:
                while piece := file.read(PIECE_BYTES):
                    stop.check()
                    digest.update(piece)
                    blob.write(piece)
            etag = digest.hexdigest()
            connection.execute("UPDATE objects SET etag = ? WHERE id = ?", (etag, made))
            stop.check()
        return StoredObject(key, size, etag)

    async def download(
        self, key: str, dest: Path, *, max_bytes: int | None = None, if_match: str | None = None
    ) -> Path:
        """Write the object at ``key`` to ``dest``; an error or cancellation leaves no partial file."""
        validate_key(key)
        check_size("max_bytes", max_bytes)
        return await self._threads.move(self._download, key, Path(dest), max_bytes, if_match)

    def _download(self, stop: Stop, key: str, dest: Path, max_bytes: int | None, if_match: str | None) -> Path:
        with self._blob(key, if_match) as blob, receiving(dest, len(blob), max_bytes, key) as file:
            while piece := blob.read(PIECE_BYTES):
                stop.check()
                file.write(piece)
        return dest

    async def read_range(self, key: str, start: int, length: int, *, if_match: str | None = None) -> bytes:
        """Return up to ``length`` (at most 1 MiB) bytes from offset ``start``; fewer or none past the end."""
        validate_key(key)
        check_range(start, length)
        return await self._threads.run(self._read_range, key, start, length, if_match)

    def _read_range(self, key: str, start: int, length: int, if_match: str | None) -> bytes:
        with self._blob(key, if_match) as blob:
            blob.seek(min(start, len(blob)))
            return blob.read(length)

    async def delete(self, key: str) -> DeleteResult:
        """Delete exactly ``key``; a missing object is success."""
        return await self._threads.run(self._delete, validate_key(key))

    def _delete(self, key: str) -> DeleteResult:
        with self._writing(key) as connection:
            return DeleteResult(key, connection.execute("DELETE FROM objects WHERE key = ?", (key,)).rowcount > 0)

    async def head(self, key: str) -> ObjectHead:
        """Describe the object at ``key``."""
        return await self._threads.run(self._head, validate_key(key))

    def _head(self, key: str) -> ObjectHead:
        with self._reading(key) as connection:
            found = _row(connection, "length(body), content_type, etag, stored_at", key)
        if found is None:
            raise StorageNotFound("nothing is stored at the key", key=key, adapter=self.adapter_name)
        size, content_type, etag, stored_at = found
        return ObjectHead(size, content_type, etag, datetime.fromisoformat(stored_at))

    async def list_keys(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> KeyPage:
        """Return one page of at most ``limit`` (1 to 1000) objects whose key starts with ``prefix``, in key order."""
        check_limit(limit)
        check_prefix(prefix)
        return await self._threads.run(self._list_keys, prefix, after, limit)

    def _list_keys(self, prefix: str, after: str | None, limit: int) -> KeyPage:
        with self._reading(None) as connection:
            # One more than requested, to know whether there is another page.
            found = connection.execute(
                "SELECT key, length(body), stored_at FROM objects "
                "WHERE key >= ? AND key < ? AND key > ? ORDER BY key LIMIT ?",
                (prefix, prefix + LAST_CHARACTER, after or "", limit + 1),
            ).fetchall()
        page = tuple(ListedObject(key, size, datetime.fromisoformat(at)) for key, size, at in found[:limit])
        return KeyPage(page, page[-1].key if len(found) > limit else None)

    async def ping(self) -> None:
        """Open the database."""
        await self._threads.run(self._ping)

    def _ping(self) -> None:
        with self._reading(None) as connection:
            connection.execute("SELECT 1 FROM objects LIMIT 1").fetchall()

    async def close(self) -> None:
        """End the threads; the objects stay."""
        await self._threads.close()

    # --- connections ---------------------------------------------------------------------------------------------

    @contextmanager
    def _blob(self, key: str, if_match: str | None) -> Iterator[sqlite3.Blob]:
        """Yield the body of one version of ``key``."""
        with self._reading(key) as connection:
            found = _row(connection, "id, etag", key)
            if found is None:
                raise StorageNotFound("nothing is stored at the key", key=key, adapter=self.adapter_name)
            if if_match is not None and if_match.strip('"') != found[1]:
                raise ObjectChanged("the object has changed since it was pinned", key=key)
            with connection.blobopen("objects", "body", found[0], readonly=True) as blob:
                yield blob

    @contextmanager
    def _reading(self, key: str | None) -> Iterator[sqlite3.Connection]:
        """Yield a connection with one snapshot of the database."""
        with self._translated(key), closing(self._connect()) as connection:
            connection.execute("BEGIN")
            yield connection

    @contextmanager
    def _writing(self, key: str) -> Iterator[sqlite3.Connection]:
        """Yield a connection; its transaction is committed if the block succeeds, otherwise nothing changes."""
        with self._translated(key), closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA secure_delete=ON")  # overwrite deleted content in the file
            connection.execute(_TABLE)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    @contextmanager
    def _translated(self, key: str | None) -> Iterator[None]:
        """Translate SQLite's errors into Rindle's, without paths or statements in them."""
        try:
            yield
        except sqlite3.Error as error:
            # Extended codes carry the primary one in their lowest byte.
            is_transient = getattr(error, "sqlite_errorcode", 0) & 0xFF in _TRANSIENT
            kind = StorageTransient if is_transient else StoragePermanent
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            raise kind(f"the archive cannot be used ({name})", key=key, adapter=self.adapter_name) from error


def _row(connection: sqlite3.Connection, columns: str, key: str) -> tuple[Any, ...] | None:
    found: tuple[Any, ...] | None = connection.execute(
        f"SELECT {columns} FROM objects WHERE key = ?",  # noqa: S608 - columns are constants of this file
        (key,),
    ).fetchone()
    return found
