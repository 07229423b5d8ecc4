"""The example's application for the worker of a test: as it is, but patient with workflow tasks that starve."""

from __future__ import annotations

from examples.cohort.app import rindle
from tests.patience import widen_deadlock_detector

widen_deadlock_detector()

__all__ = ["rindle"]
