"""Telemetry events after commit: handlers, and OpenTelemetry metrics where its API is installed.

Durable events are rows (``rindle.db.events``); telemetry may be lost. Handlers are added for the whole process, as with
logging. A handler that raises is logged and does not affect the caller.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from rindle.events import METRIC_ATTRIBUTES, PUBLIC_EVENTS

log = logging.getLogger(__name__)

#: Receives ``(name, metadata, measurements)``.
Handler = Callable[[str, Mapping[str, Any], Mapping[str, float]], None]

_handlers: list[Handler] = []
#: Adapter name per profile name, so that code which only knows rows can name the store.
_adapters: dict[str, str] = {}


def register_adapters(adapters: Mapping[str, str]) -> None:
    """Remember which adapter serves which profile; ``emit`` adds it as ``adapter`` where only the profile is given."""
    _adapters.update(adapters)


def add_handler(handler: Handler) -> Callable[[], None]:
    """Call ``handler`` for every event from now on; returns a function that removes it."""
    _handlers.append(handler)

    def remove() -> None:
        if handler in _handlers:
            _handlers.remove(handler)

    return remove


def emit(name: str, metadata: Mapping[str, Any] | None = None, measurements: Mapping[str, float] | None = None) -> None:
    """Emit one event to all handlers and metrics.

    An unknown name or a missing key is a programming error: it raises under ``RINDLE_STRICT_EVENTS=1`` (tests) and is
    logged otherwise, so that telemetry never makes production fail.
    """
    facts, numbers = dict(metadata or {}), dict(measurements or {})
    contract = PUBLIC_EVENTS.get(name)
    if contract is not None and "adapter" in contract.metadata and "adapter" not in facts:
        facts["adapter"] = _adapters.get(str(facts.get("profile")), "unknown")
    missing = [] if contract is None else [key for key in contract.metadata if key not in facts]
    if contract is None or missing:
        problem = f"event {name!r} is not registered" if contract is None else f"event {name!r} lacks {missing}"
        if os.environ.get("RINDLE_STRICT_EVENTS") == "1":
            raise ValueError(problem)
        log.error(problem, extra={"action": "telemetry_contract"})
        return
    for handler in tuple(_handlers):
        try:
            handler(name, facts, numbers)
        except Exception as error:
            log.exception("telemetry handler failed", extra={"event": name, "error": type(error).__name__})
    _record(name, facts, numbers)


@lru_cache(maxsize=1)
def _meter() -> Any:
    try:
        metrics = importlib.import_module("opentelemetry.metrics")
    except ImportError:
        return None
    return metrics.get_meter("rindle")


@lru_cache(maxsize=256)
def _instrument(name: str, kind: str) -> Any:
    meter = _meter()
    return meter.create_histogram(name, unit="s") if kind == "histogram" else meter.create_counter(name)


def _record(name: str, metadata: Mapping[str, Any], measurements: Mapping[str, float]) -> None:
    if _meter() is None:
        return
    attributes = {key: str(value) for key, value in metadata.items() if key in METRIC_ATTRIBUTES}
    _instrument(name, "counter").add(1, attributes)
    if "duration_us" in measurements:
        _instrument(f"{name}.duration", "histogram").record(measurements["duration_us"] / 1e6, attributes)
