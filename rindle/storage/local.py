"""Objects as files below one directory: the embedded default.

**Layout.** A key is a path below the root; ``<root>/.rindle/tmp`` holds files being written, ``<root>/.rindle/tus`` the
bytes of unfinished resumable uploads. Nothing else belongs into the root, above all not the database. The application
and all workers must see the same file system.

**Writes** go to a temporary file, are synced, and appear under their key at once by rename (or by hard link when they
may only create), so a reader sees the old object or the new one and never half of one. A process that is killed leaves
its temporary file behind; :meth:`LocalStorage.sweep` removes those.

**Paths.** Keys are validated, no symbolic link is followed below the root, and the resolved path must lie in it.
Programs that can create files in the root by other means are trusted.

**Limits.** One segment of a key is at most 255 bytes (the file system's limit), and a key cannot lie below another key.
Content type, disposition and metadata are not kept: the type comes back from the row, through the signed URL.

POSIX only. Files are created with mode 0640, directories with 0750, less the umask.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import quote

from pydantic import SecretStr

from rindle.errors import (
    InvalidArgument,
    InvalidKey,
    ObjectChanged,
    StorageConflict,
    StorageMisconfigured,
    StorageNotFound,
    StoragePermanent,
    StorageTransient,
    StorageUnauthorized,
)
from rindle.protocols import (
    DeleteResult,
    KeyPage,
    ListedObject,
    ObjectHead,
    Presigned,
    ServedAs,
    Storage,
    StoredObject,
)
from rindle.security.signing import check_secrets
from rindle.security.storage_key import INTERNAL_SEGMENT, validate_key
from rindle.storage.arguments import (
    check_header,
    check_lifetime,
    check_limit,
    check_metadata,
    check_prefix,
    check_range,
    check_size,
)
from rindle.storage.bodies import DEFAULT_IDLE_SECONDS, DEFAULT_TEMPORARY_BYTES, Bodies
from rindle.storage.disk import Draft, OpenObject, etag_of, translate
from rindle.storage.files import PIECE_BYTES, open_source, receiving
from rindle.storage.grant import ANONYMOUS, Grant, read_grant
from rindle.storage.part_files import CompleteFile, LocalStreams
from rindle.storage.threads import DEFAULT_THREADS, Stop, Threads

T = TypeVar("T")
#: Purpose of our tokens; a token for another purpose (tus) is worthless here.
URL_LABEL = "rindle:local:url"
#: Largest body of an upload in bytes, also where nothing limits it (as the S3 API, PutObject).
MAX_PUT_BYTES = 5 * 1024**3
#: Bytes of a request body gathered before they are written.
_BUFFER_BYTES = 256 * 1024
#: How often a directory may vanish under a write, by deletes beside it, before the write gives up.
_MAX_RACES = 100


class LocalStorage(LocalStreams, Storage):
    """Keeps objects as files below ``root``.

    Making it touches the disk only to resolve the path; the directory is created by the first write.

    Args:
        root: directory of the objects; made absolute.
        base_url: address at which :func:`rindle.http.local.local_router` is mounted, such as
            ``https://example.com/media``; without it there are no signed URLs and no upload grants.
        secrets: signing secrets of at least 32 bytes; the first signs, all verify.
        public_base_url: address that serves objects without signature: the router's ``/p``, or a web server on
            the root.
        fsync: wait for the disk before a write counts as done.
        threads: most file operations under way at once.
        body_idle_seconds: longest pause of an upload's body; 30 by default.
        max_temporary_bytes: limit on the bytes of all unfinished uploads in this process; 20 GiB by default.

    Raises:
        Misconfigured: a secret is too short, or ``base_url`` is given without secrets.
    """

    adapter_name = "local"

    def __init__(
        self,
        root: Path | str,
        *,
        base_url: str | None = None,
        secrets: Sequence[SecretStr | str] = (),
        public_base_url: str | None = None,
        fsync: bool = True,
        threads: int = DEFAULT_THREADS,
        body_idle_seconds: float = DEFAULT_IDLE_SECONDS,
        max_temporary_bytes: int = DEFAULT_TEMPORARY_BYTES,
    ) -> None:
        if base_url is not None or secrets:
            check_secrets(secrets)
        self.root = Path(root).resolve()
        self._tmp = self.root / INTERNAL_SEGMENT / "tmp"
        self._streams = self.root / INTERNAL_SEGMENT / "tus"
        self._base_url = None if base_url is None else base_url.rstrip("/")
        self._secrets = tuple(SecretStr(one) if isinstance(one, str) else one for one in secrets)
        self._public_base_url = None if public_base_url is None else public_base_url.rstrip("/")
        self._fsync = fsync
        self._threads = Threads(self.adapter_name, threads)
        self._bodies = Bodies(body_idle_seconds, max_temporary_bytes)

    def __repr__(self) -> str:
        return f"LocalStorage({self.root.name!r})"

    @property
    def base_url(self) -> str | None:
        """Address at which the router is expected, without a slash at its end; ``None`` without signed URLs."""
        return self._base_url

    def capabilities(self) -> frozenset[str]:
        offered = {"local", "head", "read_range", "write_once"}
        if self._base_url is not None:
            offered |= {"signed_url", "presigned_put", "response_headers"}
        if self._public_base_url is not None:
            offered.add("public_url")
        return frozenset(offered)

    # --- bytes ---------------------------------------------------------------------------------------------------

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
        """Copy the file at ``source`` to ``key``, replacing what is there; type, disposition and metadata are not kept.

        Raises:
            InvalidArgument: ``source`` cannot be read.
            StorageConflict: ``if_absent`` was set and the key is taken.
            StoragePermanent: the disk is full, or ``.rindle/tmp`` lies on another file system.
            StorageError: see :func:`translate`.
        """
        check_header("content_type", content_type)
        check_header("content_disposition", content_disposition)
        check_metadata(metadata)
        return await self._threads.move(self._store, key, Path(source), if_absent)

    def _store(self, stop: Stop, key: str, source: Path, if_absent: bool) -> StoredObject:
        with open_source(source) as file, self._translated(key), self._draft() as draft:
            self._check_free(key, if_absent)
            draft.open()
            while piece := file.read(PIECE_BYTES):
                stop.check()
                draft.write(piece)
            stop.check()
            return self._publish(draft, key, if_absent)

    async def receive(
        self, chunks: AsyncIterator[bytes], grant: Grant, *, require: Callable[[], Awaitable[None]] | None = None
    ) -> StoredObject:
        """Write a request body to the key of an upload ``grant``; it appears only when it is complete and as granted.

        Bodies for the same key that came earlier and are still under way end; see :mod:`rindle.storage.bodies`.

        Args:
            chunks: the body.
            grant: what the ticket allows.
            require: awaited first, may raise to refuse the body; a refused body ends no other one. The order of bodies
                is that of the calls of ``receive``, however long it takes.

        Raises:
            UploadSuperseded: a newer body has begun for the same key.
            UploadStalled: nothing arrived within the idle limit.
            TemporarySpaceFull: the bodies under way have reached the limit of this store.
            UploadRejected: ``max_bytes_exceeded``, as soon as it is; ``size_mismatch``.
            Unauthorized: the grant has expired before the body ended.
            StorageConflict: the grant may only create and the key is taken.
            StorageError: see :func:`translate`.
        """
        draft = Draft(self._tmp, self._fsync)
        received = 0
        buffer = bytearray()
        with self._bodies.open(grant.key) as body:
            if require is not None:
                await require()
            body.begin()
            try:
                await self._threads.run(self._begin, draft, grant)
                async with aclosing(body.pieces(chunks)) as pieces:
                    async for chunk in pieces:
                        received += len(chunk)
                        grant.check_body_size(received, complete=False)
                        body.take(len(chunk))
                        buffer += chunk
                        if len(buffer) >= _BUFFER_BYTES:
                            await self._threads.run(self._append, draft, grant.key, bytes(buffer))
                            buffer.clear()
                grant.check_body_size(received, complete=True)
                # An upload that is deleted when its ticket has expired is not recreated after that.
                grant.check_expiry()
                await self._threads.run(self._append, draft, grant.key, bytes(buffer))
                body.check()
                return await self._threads.run(self._finish, draft, grant)
            finally:
                await self._threads.settle(draft.discard)

    def _begin(self, draft: Draft, grant: Grant) -> None:
        with self._translated(grant.key):
            self._check_free(grant.key, grant.once)
            draft.open()

    def _append(self, draft: Draft, key: str, piece: bytes) -> None:
        with self._translated(key):
            draft.write(piece)

    def _finish(self, draft: Draft, grant: Grant) -> StoredObject:
        with self._translated(grant.key):
            return self._publish(draft, grant.key, grant.once)

    # --- objects -------------------------------------------------------------------------------------------------

    async def download(
        self, key: str, dest: Path, *, max_bytes: int | None = None, if_match: str | None = None
    ) -> Path:
        """Copy ``key`` to ``dest``; parents are made, no partial file stays behind on error or cancellation.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            ObjectChanged: the object's ETag is not ``if_match``.
            StoragePermanent: the object is larger than ``max_bytes``.
        """
        check_size("max_bytes", max_bytes)
        return await self._threads.move(self._download, key, Path(dest), max_bytes, if_match)

    def _download(self, stop: Stop, key: str, dest: Path, max_bytes: int | None, if_match: str | None) -> Path:
        source, status = self._open(key, if_match)
        with source, receiving(dest, status.st_size, max_bytes, key) as file:
            while piece := source.read(PIECE_BYTES):
                stop.check()
                file.write(piece)
        return dest

    async def read_range(self, key: str, start: int, length: int, *, if_match: str | None = None) -> bytes:
        """Return up to ``length`` (at most 1 MiB) bytes from offset ``start``; short or empty past the end."""
        check_range(start, length)
        return await self._threads.run(self._read_range, key, start, length, if_match)

    def _read_range(self, key: str, start: int, length: int, if_match: str | None) -> bytes:
        source, status = self._open(key, if_match)
        with source, self._translated(key):
            return b"" if start >= status.st_size else os.pread(source.fileno(), length, start)

    async def delete(self, key: str) -> DeleteResult:
        """Delete exactly ``key`` and the directories this leaves empty; a missing object is success."""
        return await self._threads.run(self._delete, key)

    def _delete(self, key: str) -> DeleteResult:
        try:
            with self._translated(key):
                path, _ = self._find(key)
                path.unlink()
        except StorageNotFound:
            return DeleteResult(key, False)
        with self._translated(key):
            # rmdir refuses a directory that is not empty, so a file written meanwhile is safe; a writer whose new
            # directory is taken away makes it again.
            parent = path.parent
            with suppress(OSError):
                while parent != self.root:
                    parent.rmdir()
                    parent = parent.parent
            self._sync(parent)
        return DeleteResult(key, True)

    async def head(self, key: str) -> ObjectHead:
        """Describe the object at ``key``; the content type is not kept, so it is ``None``.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
        """
        return await self._threads.run(self._head, key)

    def _head(self, key: str) -> ObjectHead:
        _, status = self._find(key)
        return ObjectHead(status.st_size, None, etag_of(status), _modified_at(status))

    async def replace_headers(self, key: str, source: Path, served: ServedAs, *, if_match: str) -> StoredObject:
        """Return the object unchanged: no headers are kept, they come from the signed URL or from the key's extension.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            ObjectChanged: the object's ETag is not ``if_match``.
        """

        def check() -> StoredObject:
            _, status = self._find(key)
            _check_match(key, status, if_match)
            return StoredObject(key, status.st_size, etag_of(status))

        return await self._threads.run(check)

    @asynccontextmanager
    async def local_path(self, key: str, *, if_match: str | None = None) -> AsyncIterator[Path]:
        """Yield the path of the object's own file. Read it only; deleting the object removes it, also inside the block.

        Raises:
            StorageNotFound: nothing is stored at ``key``.
            ObjectChanged: the object's ETag is not ``if_match``.
        """
        yield await self._threads.run(self._local_path, key, if_match)

    def _local_path(self, key: str, if_match: str | None) -> Path:
        path, status = self._find(key)
        _check_match(key, status, if_match)
        return path

    async def list_keys(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> KeyPage:
        """Return one page of at most ``limit`` (1 to 1000) objects whose key starts with ``prefix``, in key order."""
        check_limit(limit)
        return await self._threads.run(self._list_keys, check_prefix(prefix), after, limit)

    def _list_keys(self, prefix: str, after: str | None, limit: int) -> KeyPage:
        with self._translated(None):
            below = prefix[: prefix.rfind("/") + 1]  # nothing beside the prefix's own directory is read
            try:
                directory = self._path(below.rstrip("/")) if below else self.root
            except InvalidKey:  # no object can have such a key
                return KeyPage((), None)
            found = list(islice(self._walk(directory, below, prefix, after or ""), limit + 1))
        page = tuple(found[:limit])
        return KeyPage(page, page[-1].key if len(found) > limit else None)

    def _walk(self, directory: Path, below: str, prefix: str, after: str) -> Iterator[ListedObject]:
        """Yield the objects of a directory whose keys begin with ``below``, in key order, one directory in memory."""
        try:
            with os.scandir(directory) as entries:
                # A directory sorts with its slash, since its keys do: "a-b" comes before "a/b".
                names = sorted(
                    entry.name + "/" * entry.is_dir(follow_symlinks=False)
                    for entry in entries
                    if not entry.is_symlink() and (below or entry.name != INTERNAL_SEGMENT)
                )
        except (FileNotFoundError, NotADirectoryError):  # deleted meanwhile, or nothing stored yet
            return
        for name in names:
            key = below + name
            if name.endswith("/"):
                could_match = key.startswith(prefix) or prefix.startswith(key)
                could_follow = key > after or after.startswith(key)
                if could_match and could_follow:
                    yield from self._walk(directory / name, key, prefix, after)
            elif key.startswith(prefix) and key > after and _is_ours(key):
                with suppress(FileNotFoundError):
                    status = (directory / name).lstat()
                    if stat.S_ISREG(status.st_mode):
                        yield ListedObject(key, status.st_size, _modified_at(status))

    async def ping(self) -> None:
        """Check that the root, or the directory it will be made in, can be written to; nothing is created.

        Raises:
            StorageMisconfigured: the root is no directory.
            StorageUnauthorized: it may not be written to.
        """
        await self._threads.run(self._ping)

    def _ping(self) -> None:
        place = next(place for place in (self.root, *self.root.parents) if place.exists())
        if not place.is_dir():
            raise StorageMisconfigured("the storage root is not a directory", adapter=self.adapter_name)
        if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            raise StorageUnauthorized("the storage root may not be written to", adapter=self.adapter_name)

    async def sweep(self, older_than_seconds: float) -> int:
        """Remove temporary files without a write for so many seconds, and return how many."""
        return await self._threads.run(self._sweep, older_than_seconds)

    def _sweep(self, older_than_seconds: float) -> int:
        limit = time.time() - older_than_seconds
        removed = 0
        with self._translated(None), suppress(FileNotFoundError), os.scandir(self._tmp) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and status.st_mtime < limit:
                        os.unlink(entry.path)
                        removed += 1
        return removed

    async def close(self) -> None:
        """Stop transfers and let the threads go; the next call makes new ones."""
        await self._threads.close()

    # --- grants --------------------------------------------------------------------------------------------------

    async def url(
        self,
        key: str,
        *,
        expires_in: int | None = None,
        public: bool = False,
        content_disposition: str | None = None,
        content_type: str | None = None,
        subject: str | None = None,
    ) -> str:
        """Return ``{base_url}/{token}``, or ``{public_base_url}/{key}`` when ``public``; the disk is not touched.

        The answer to a signed URL carries ``content_type`` (default ``application/octet-stream``) and
        ``content_disposition``. A keyed digest of ``subject`` goes into the token as audit data.

        Raises:
            InvalidArgument: ``expires_in`` is out of 1 to 604800, or given for a public URL.
            CapabilityUnsupported: ``delivery_unsupported``: no such base URL, or response headers on a public URL.
        """
        validate_key(key)
        check_header("content_type", content_type)
        check_header("content_disposition", content_disposition)
        if public:
            return self._public_url(key, expires_in, content_disposition or content_type)
        if self._base_url is None:
            raise self._lacks("signed_url", "delivery_unsupported")
        grant = Grant(
            method="GET",
            key=key,
            expires_at=int(time.time()) + check_lifetime(expires_in),
            mime=content_type,
            disposition=content_disposition,
            subject=subject or ANONYMOUS,
        )
        return f"{self._base_url}/{grant.token(self._secrets[0], URL_LABEL)}"

    def _public_url(self, key: str, expires_in: int | None, bound: str | None) -> str:
        if expires_in is not None:
            raise InvalidArgument("a public URL does not expire", detail={"option": "expires_in"})
        if self._public_base_url is None:
            raise self._lacks("public_url", "delivery_unsupported")
        if bound is not None:
            raise self._lacks("response_headers", "delivery_unsupported")
        return f"{self._public_base_url}/{quote(key)}"

    async def presigned_put(
        self,
        key: str,
        expires_in: int,
        *,
        content_type: str | None = None,
        content_length: int | None = None,
        max_bytes: int | None = None,
        write_once: bool = True,
    ) -> Presigned:
        """Return a grant to PUT one object at ``key`` through the router for ``expires_in`` seconds.

        The body must have exactly ``content_length`` bytes and the type ``content_type``, as far as they are given, and
        at most ``max_bytes``, or 5 GiB as in S3 when that is less or nothing is given. With ``write_once`` the key must
        be free, when the body starts and when it is complete.
        """
        if self._base_url is None:
            raise self._lacks("presigned_put")
        check_size("max_bytes", max_bytes)
        grant = Grant(
            method="PUT",
            key=validate_key(key),
            expires_at=int(time.time()) + check_lifetime(expires_in),
            mime=check_header("content_type", content_type),
            max_bytes=MAX_PUT_BYTES if max_bytes is None else min(max_bytes, MAX_PUT_BYTES),
            length=check_size("content_length", content_length),
            once=write_once,
        )
        url = f"{self._base_url}/{grant.token(self._secrets[0], URL_LABEL)}"
        return Presigned(url, "PUT", {"Content-Type": grant.mime} if grant.mime else {}, grant.expires)

    def grant_of(self, token: str, method: str) -> Grant:
        """Return what ``token`` allows; see :func:`rindle.storage.grant.read_grant` for what it raises."""
        return read_grant(token, self._secrets, URL_LABEL, method)

    async def open(self, key: str) -> OpenObject:
        """Open ``key`` for serving; the caller closes it.

        Raises:
            StorageNotFound: nothing is stored at ``key``, or it is no regular file.
            InvalidKey: the key leads out of the root.
        """
        opened: list[IO[bytes]] = []

        def open_it() -> OpenObject:
            file, status = self._open(key, None)
            opened.append(file)
            return OpenObject(file, status.st_size, etag_of(status), int(status.st_mtime), self._threads)

        try:
            return await self._threads.settle(open_it)
        except asyncio.CancelledError:
            for file in opened:
                file.close()
            raise

    # --- files ---------------------------------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        """Return where ``key`` lies, refusing symbolic links on the way and anything outside the root."""
        path = self.root.joinpath(*validate_key(key).split("/"))
        place = self.root
        with suppress(FileNotFoundError, NotADirectoryError):  # nothing further can be a link
            for segment in path.relative_to(self.root).parts:
                place /= segment
                if stat.S_ISLNK(place.lstat().st_mode):
                    raise InvalidKey("the storage key leads through a symbolic link", key=key, adapter="local")
        if not path.resolve().is_relative_to(self.root):
            raise InvalidKey("the storage key leads out of the storage root", key=key, adapter="local")
        return path

    def _find(self, key: str) -> tuple[Path, os.stat_result]:
        with self._translated(key):
            path = self._path(key)
            status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise StorageNotFound("nothing is stored at the key", key=key, adapter="local")
        return path, status

    def _open(self, key: str, if_match: str | None) -> tuple[IO[bytes], os.stat_result]:
        with self._translated(key):
            # O_NOFOLLOW: a link put there since the check; O_NONBLOCK: opening a FIFO would wait for its writer.
            handle = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise StorageNotFound("nothing is stored at the key", key=key, adapter="local")
            _check_match(key, status, if_match)
            return os.fdopen(handle, "rb"), status
        except BaseException:
            os.close(handle)
            raise

    @contextmanager
    def _draft(self) -> Iterator[Draft]:
        draft = Draft(self._tmp, self._fsync)
        try:
            yield draft
        finally:
            draft.discard()

    def _check_free(self, key: str, if_absent: bool) -> None:
        """Refuse early what :meth:`_publish` would refuse in the end."""
        if if_absent and os.path.lexists(self._path(key)):
            raise _taken(key)

    def _publish(self, draft: CompleteFile, key: str, if_absent: bool) -> StoredObject:
        path = self._path(key)
        status = draft.finish()
        for _ in range(_MAX_RACES):
            is_new = self._make_directory(path.parent, key)
            try:
                if if_absent:
                    os.link(draft.path, path, follow_symlinks=False)
                else:
                    os.replace(draft.path, path)
            except FileExistsError as error:
                raise _taken(key) from error
            except FileNotFoundError:
                continue  # a delete beside us has pruned the directory: make it again
            for directory in (path.parent, *path.parent.parents) if is_new else (path.parent,):
                self._sync(directory)
                if directory == self.root:
                    break
            return StoredObject(key, status.st_size, etag_of(status))
        raise StorageTransient("the directory of the key keeps vanishing", key=key, adapter="local")

    def _make_directory(self, directory: Path, key: str) -> bool:
        """Create ``directory`` and its parents, and return whether it was missing."""
        if directory.is_dir():
            return False
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
            # Either an object stands in the way, or a delete pruned the directory while it was made: the caller's next
            # round makes it again.
            if any(place.is_file() for place in (directory, *directory.parents)):
                raise StoragePermanent(
                    "the key lies below another object", key=key, adapter="local", detail={"reason": "not_a_directory"}
                ) from error
        return True

    def _sync(self, directory: Path) -> None:
        """Wait until the names in ``directory`` are on disk."""
        if not self._fsync:
            return
        with suppress(FileNotFoundError):  # pruned meanwhile
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    @contextmanager
    def _translated(self, key: str | None) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise translate(error, key) from error


def _check_match(key: str, status: os.stat_result, if_match: str | None) -> None:
    if if_match is not None and if_match.strip('"') != etag_of(status):
        raise ObjectChanged("the object is no longer the one that was pinned", key=key, adapter="local")


def _taken(key: str) -> StorageConflict:
    return StorageConflict("the key is taken", key=key, adapter="local")


def _modified_at(status: os.stat_result) -> datetime:
    return datetime.fromtimestamp(status.st_mtime, UTC)


def _is_ours(key: str) -> bool:
    try:
        validate_key(key)
    except InvalidKey:  # a file of another program, under a name that no key can have
        return False
    return True
