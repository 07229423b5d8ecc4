"""What ``rindle doctor`` learns from a store about its setup: an optional ability without a capability."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SetupFinding:
    """One fact about the setup of a store.

    Attributes:
        level: ``skipped`` when it could not be checked.
        summary: a sentence without credentials and URLs.
        fix: how to resolve a warning or an error.
    """

    level: Literal["ok", "warn", "error", "skipped"]
    summary: str
    fix: str | None = None


class SetupCheck(ABC):
    """Stores that compare their setup with what Rindle needs; ``rindle doctor`` shows the result."""

    @abstractmethod
    async def check(self) -> Sequence[SetupFinding]:
        """Return what was found; changes nothing.

        Raises:
            StorageError: the store cannot be used at all.
        """
