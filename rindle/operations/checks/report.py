"""What checks and ``doctor`` share: a planned check, what it examines, its result, and the report of all results.

What is examined, with which limits, and how to fix it belongs to the other files of this package.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from sqlalchemy.orm import Session

from rindle.operations.reports import Report
from rindle.profile import Profile
from rindle.recipes import VariantSpec, is_av_work
from rindle.services import Services

T = TypeVar("T")
Status = Literal["ok", "warn", "error", "skipped"]


@dataclass(frozen=True, slots=True)
class Check(Report):
    """One row of the report.

    ``fix`` says what to do about a warning or an error; ``detail`` holds JSON-compatible facts.
    """

    id: str
    status: Status
    component: str
    summary: str
    fix: str | None = None
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DoctorReport(Report):
    """All checks by id. ``success`` when none failed; warnings never fail."""

    total: int
    failed: int
    warned: int
    checks: tuple[Check, ...]

    @property
    def success(self) -> bool:
        """Whether no check found an error."""
        return self.failed == 0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON shows it, with its outcome first."""
        return {"success": self.success, **Report.to_dict(self)}


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found: a :class:`Check` that does not know its own name yet."""

    status: Status
    summary: str
    fix: str | None = None
    detail: dict[str, Any] | None = None


@dataclass(frozen=True)
class Subject:
    """What is examined: the application's collaborators, and the profiles that were asked for."""

    services: Services
    profiles: tuple[type[Profile], ...]
    unknown_profiles: tuple[str, ...]
    secrets: tuple[str, ...] = field(repr=False)
    threads: ThreadPoolExecutor

    def av_variants(self) -> list[tuple[type[Profile], str, VariantSpec]]:
        """Return the variants that the bundled audio and video engine builds."""
        return [
            (profile, name, spec)
            for profile in self.profiles
            if profile.processor is None
            for name, spec in profile.variants.items()
            if is_av_work(spec)
        ]

    async def off_loop(self, fn: Callable[[], T]) -> T:
        """Run what blocks (disk, libmagic) in a thread, where it cannot hold up the other checks."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, fn)

    async def read(self, fn: Callable[[Session], Result]) -> Result:
        """Run a check in a transaction of its own."""
        return await self.services.database.read(fn)


@dataclass(frozen=True, slots=True)
class Planned:
    """A check to run.

    Attributes:
        leaves_process: whether it needs more than this process and its disk, so that ``offline`` skips it.
        patience: factor of the time that one check may take.
        fix: advice when the check ends with an exception that is not ours.
    """

    id: str
    component: str
    run: Callable[[Subject], Awaitable[Result]]
    leaves_process: bool = False
    patience: int = 1
    fix: str | None = None


def version_of(text: str) -> tuple[int, ...]:
    """Return the first three numbers of a version, so that versions can be compared."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])
