"""The telemetry events around a piece of work: its start, and its end or its failure, with the duration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Self

from rindle import telemetry
from rindle.errors import RindleError, describe


class EventFamily:
    """Emits ``<name>.start``, then ``<name>.stop`` or ``<name>.exception``.

    Args:
        name: the common part of the names of the events.
        facts: metadata of all of them; an exception adds ``kind`` (``error`` or ``cancelled``) and ``reason``.
        is_silent: emit nothing.

    Attributes:
        error: why the work failed, if it failed without an exception.
    """

    def __init__(self, name: str, facts: Mapping[str, str], *, is_silent: bool = False) -> None:
        self.error: RindleError | None = None
        self._name, self._facts, self._is_silent = name, facts, is_silent
        self._started = 0.0

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._emit("start")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        took = {"duration_us": (time.monotonic() - self._started) * 1e6}
        failure = error or self.error
        if failure is None:
            self._emit("stop", measurements=took)
        elif isinstance(failure, asyncio.CancelledError):
            self._emit("exception", {"kind": "cancelled", "reason": "cancelled"}, took)
        else:
            self._emit("exception", {"kind": "error", "reason": describe(failure)[0]}, took)

    def _emit(
        self, step: str, more: Mapping[str, str] | None = None, measurements: Mapping[str, float] | None = None
    ) -> None:
        if not self._is_silent:
            telemetry.emit(f"{self._name}.{step}", {**self._facts, **(more or {})}, measurements)
