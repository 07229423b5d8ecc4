"""Stores of third parties: what they raise beside Rindle's errors becomes ``storage_adapter_exception``."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, cast

from rindle.errors import RindleError, StorageAdapterException
from rindle.protocols.storage import Storage


def checked(storage: Storage) -> Storage:
    """Return ``storage`` with translated exceptions; everything else, attributes too, is its own.

    Every operation is covered, also one that an adapter adds. ``capabilities`` is left alone: its callers take
    an exception for "none".
    """
    return storage if isinstance(storage, _Checked) else cast("Storage", _Checked(storage))


class _Checked:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._name = storage.adapter_name or type(storage).__name__

    @property
    def adapter_name(self) -> str:
        """The adapter's name in events and error messages."""
        return self._name

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The class of the store itself: ``isinstance`` finds the abilities of the store, as on the store itself."""
        return self._storage.__class__  # a double names the class of what it wraps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        return found if name == "capabilities" or not callable(found) else self._operation(name, found)

    def _operation(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._translating(name):
                result = method(*args, **kwargs)
            if inspect.isawaitable(result):
                return self._awaited(name, result)
            return _Context(self, name, result) if hasattr(result, "__aenter__") else result

        return call

    async def _awaited(self, name: str, result: Awaitable[Any]) -> Any:
        with self._translating(name):
            return await result

    @contextmanager
    def _translating(self, name: str) -> Iterator[None]:
        try:
            yield
        except RindleError:
            raise
        except Exception as error:
            # Only the class: messages of SDKs hold signed URLs.
            raise StorageAdapterException(
                f"the storage adapter {self._name!r} failed in {name} with {type(error).__name__}",
                adapter=self._name,
                detail={"adapter": self._name, "operation": name, "error": type(error).__name__},
            ) from error


class _Context:
    """An asynchronous context of the store; exceptions of the block inside pass unchanged."""

    def __init__(self, checked_storage: _Checked, name: str, context: Any) -> None:
        self._checked = checked_storage
        self._name = name
        self._context = context

    async def __aenter__(self) -> Any:
        return await self._checked._awaited(self._name, self._context.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        leaving = self._context.__aexit__(kind, error, trace)
        if error is None:
            leaving = self._checked._awaited(self._name, leaving)
        return cast("bool | None", await leaving)
