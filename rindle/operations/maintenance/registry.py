"""The sweeps of this release."""

from __future__ import annotations

from typing import Any

from rindle.operations.maintenance.sweep import Sweep

#: Every sweep that needs nothing but the services, by name.
SWEEPS: tuple[Sweep[Any, Any], ...] = ()
