"""A store that fails on command: wraps a real one and breaks the calls a test names.

::

    storage = FlakyStorage(MemoryStorage())
    storage.fail("head", StorageTransient("no answer"), times=2)     # the next two calls
    storage.fail("store", StorageTransient("lost"), after=True)      # stored, but the response is lost
    storage.cut("download", after_bytes=1000)                        # breaks in the middle of a longer object
    held = storage.hang("delete")                                    # waits ...
    await held.reached.wait()
    held.release()                                                   # ... until here
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from rindle.errors import StorageTransient
from rindle.protocols import (
    ABILITIES,
    DeleteResult,
    KeyPage,
    ObjectHead,
    Presigned,
    PresignedPost,
    ServedAs,
    Storage,
    StoredObject,
)

T = TypeVar("T")

#: Names of the calls of optional abilities, which a store has when it is made around one that has them.
ABILITY_OPERATIONS: Final = frozenset(
    name
    for ability in ABILITIES.values()
    for name, member in vars(ability).items()
    if callable(member) and not name.startswith("_")
)
#: Names of the calls that can be broken.
OPERATIONS: Final = ABILITY_OPERATIONS | frozenset(
    {
        "delete",
        "download",
        "head",
        "list_keys",
        "local_path",
        "ping",
        "presigned_post",
        "presigned_put",
        "read_range",
        "replace_headers",
        "store",
        "url",
    }
)
#: The calls that move bytes, which can be cut.
TRANSFERS: Final = frozenset({"store", "download", "read_range"})


@dataclass(slots=True)
class Held:
    """A blocked call: ``reached`` is set when it starts to wait."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let the call continue."""
        self._released.set()

    async def wait(self) -> None:
        """Wait for the release, as the call does."""
        self.reached.set()
        await self._released.wait()


@dataclass(slots=True)
class _Fault:
    error: BaseException | None = None
    after: bool = False
    cut_after_bytes: int | None = None
    held: Held | None = None


class FlakyStorage(Storage):
    """Behaves as ``inner`` except for the scripted faults, which happen in their order per operation.

    Attributes:
        inner: the wrapped store, to inspect its real contents.
    """

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.adapter_name = inner.adapter_name
        self._faults: defaultdict[str, deque[_Fault]] = defaultdict(deque)
        self._calls: Counter[str] = Counter()

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The class of the wrapped store: ``isinstance`` finds its abilities here, too."""
        return type(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name not in ABILITY_OPERATIONS:
            raise AttributeError(name)
        call = getattr(self.inner, name)
        if not inspect.iscoroutinefunction(call):
            return call

        async def played(*args: Any, **kwargs: Any) -> Any:
            return await self._play(name, lambda: call(*args, **kwargs))

        return played

    # --- the script ----------------------------------------------------------------------------------------------

    def fail(self, operation: str, error: BaseException, times: int = 1, *, after: bool = False) -> None:
        """Raise ``error`` from the next ``times`` calls of ``operation``.

        Args:
            operation: one of :data:`OPERATIONS`.
            error: the exception to raise.
            times: number of calls, at least 1.
            after: do the work first and then raise, as if the response were lost.
        """
        self._script(operation, OPERATIONS, *(_Fault(error, after=after) for _ in range(times)))

    def cut(self, operation: str, after_bytes: int, times: int = 1) -> None:
        """Break the connection of the next ``times`` transfers once ``after_bytes`` bytes have passed.

        A shorter transfer succeeds. A broken one raises :class:`StorageTransient` and, as the contract requires, leaves
        neither a partial object nor a partial file.
        """
        self._script(operation, TRANSFERS, *(_Fault(cut_after_bytes=after_bytes) for _ in range(times)))

    def hang(self, operation: str) -> Held:
        """Make the next call of ``operation`` wait until the returned object is released; it may be cancelled."""
        held = Held()
        self._script(operation, OPERATIONS, _Fault(held=held))
        return held

    def calls_for(self, operation: str) -> int:
        """Return how often ``operation`` was called, failed calls included."""
        self._check(operation, OPERATIONS)
        return self._calls[operation]

    def _script(self, operation: str, allowed: frozenset[str], *faults: _Fault) -> None:
        self._check(operation, allowed)
        self._faults[operation].extend(faults)

    def _check(self, operation: str, allowed: frozenset[str]) -> None:
        if operation not in allowed:
            raise ValueError(f"unknown operation {operation!r}; choose from {sorted(allowed)}")

    async def _play(
        self,
        operation: str,
        call: Callable[[], Awaitable[T]],
        *,
        moved_bytes: Callable[[], Awaitable[int]] | None = None,
    ) -> T:
        """Run ``call`` with the next fault of ``operation``, if there is one."""
        self._calls[operation] += 1
        fault = self._faults[operation].popleft() if self._faults[operation] else _Fault()
        if fault.held is not None:
            await fault.held.wait()
        if fault.error is not None and not fault.after:
            raise fault.error
        if fault.cut_after_bytes is not None and moved_bytes is not None:
            size = await moved_bytes()
            if size > fault.cut_after_bytes:
                raise StorageTransient(
                    "the connection broke during a transfer",
                    adapter=self.adapter_name,
                    detail={"reason": "cut", "moved": fault.cut_after_bytes, "size": size},
                )
        result = await call()
        if fault.error is not None:
            raise fault.error
        return result

    # --- the store -----------------------------------------------------------------------------------------------

    def capabilities(self) -> frozenset[str]:
        return self.inner.capabilities()

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
        async def source_size() -> int:
            # Not through a thread: a test's file, one system call.
            return source.stat().st_size

        return await self._play(
            "store",
            lambda: self.inner.store(
                key,
                source,
                content_type=content_type,
                content_disposition=content_disposition,
                metadata=metadata,
                if_absent=if_absent,
            ),
            moved_bytes=source_size,
        )

    async def download(
        self, key: str, dest: Path, *, max_bytes: int | None = None, if_match: str | None = None
    ) -> Path:
        return await self._play(
            "download",
            lambda: self.inner.download(key, dest, max_bytes=max_bytes, if_match=if_match),
            moved_bytes=lambda: self._size(key),
        )

    async def read_range(self, key: str, start: int, length: int, *, if_match: str | None = None) -> bytes:
        async def range_size() -> int:
            return max(0, min(length, await self._size(key) - start))

        return await self._play(
            "read_range",
            lambda: self.inner.read_range(key, start, length, if_match=if_match),
            moved_bytes=range_size,
        )

    async def delete(self, key: str) -> DeleteResult:
        return await self._play("delete", lambda: self.inner.delete(key))

    async def head(self, key: str) -> ObjectHead:
        return await self._play("head", lambda: self.inner.head(key))

    async def replace_headers(self, key: str, source: Path, served: ServedAs, *, if_match: str) -> StoredObject:
        return await self._play(
            "replace_headers", lambda: self.inner.replace_headers(key, source, served, if_match=if_match)
        )

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
        return await self._play(
            "url",
            lambda: self.inner.url(
                key,
                expires_in=expires_in,
                public=public,
                content_disposition=content_disposition,
                content_type=content_type,
                subject=subject,
            ),
        )

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
        return await self._play(
            "presigned_put",
            lambda: self.inner.presigned_put(
                key,
                expires_in,
                content_type=content_type,
                content_length=content_length,
                max_bytes=max_bytes,
                write_once=write_once,
            ),
        )

    async def presigned_post(
        self, key: str, expires_in: int, *, content_type: str | None = None, max_bytes: int | None = None
    ) -> PresignedPost:
        return await self._play(
            "presigned_post",
            lambda: self.inner.presigned_post(key, expires_in, content_type=content_type, max_bytes=max_bytes),
        )

    async def list_keys(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> KeyPage:
        return await self._play("list_keys", lambda: self.inner.list_keys(prefix, after=after, limit=limit))

    @asynccontextmanager
    async def local_path(self, key: str, *, if_match: str | None = None) -> AsyncIterator[Path | None]:
        async with AsyncExitStack() as stack:
            yield await self._play(
                "local_path",
                lambda: stack.enter_async_context(self.inner.local_path(key, if_match=if_match)),
            )

    async def ping(self) -> None:
        await self._play("ping", self.inner.ping)

    async def close(self) -> None:
        await self.inner.close()

    async def _size(self, key: str) -> int:
        return (await self.inner.head(key)).size
