"""Types of ``doctor``: a planned check, its subject, its result, and the report of all results.

The checks themselves, with their limits and fixes, are in the other modules of this package.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from sqlalchemy.orm import Session

from rindle.operations.reports import Report
from rindle.profile import Profile
from rindle.recipes import VariantSpec, is_av_work
from rindle.services import Services

T = TypeVar("T")
#: Fix of a check that could not read the database.
DATABASE_FIX = "start the database; check the URL of the engine that you pass to Rindle"
Status = Literal["ok", "warn", "error", "skipped"]


@dataclass(frozen=True, slots=True)
class Check(Report):
    """One row of the report.

    ``fix`` describes how to resolve a warning or an error; ``detail`` holds JSON-compatible facts.
    """

    id: str
    status: Status
    component: str
    summary: str
    fix: str | None = None
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DoctorReport(Report):
    """All checks by id. ``success`` when no check failed; warnings are not failures."""

    total: int
    failed: int
    warned: int
    checks: tuple[Check, ...]

    @property
    def success(self) -> bool:
        """Whether no check found an error."""
        return self.failed == 0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of the report, with its outcome first."""
        return {"success": self.success, **Report.to_dict(self)}


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of one check: a :class:`Check` without id and component."""

    status: Status
    summary: str
    fix: str | None = None
    detail: dict[str, Any] | None = None


@dataclass(frozen=True)
class Subject:
    """The subject of the checks: the application's services, and the requested profiles."""

    services: Services
    profiles: tuple[type[Profile], ...]
    unknown_profiles: tuple[str, ...]
    secrets: tuple[str, ...] = field(repr=False)
    threads: ThreadPoolExecutor
    shared: dict[str, asyncio.Task[Any]] = field(default_factory=dict)

    async def once(self, name: str, fn: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run what several checks need once, for all of them; a check that is cancelled does not end it."""
        if name not in self.shared:
            self.shared[name] = asyncio.create_task(fn(), name=f"rindle-doctor-{name}")
        found: T = await asyncio.shield(self.shared[name])
        return found

    async def close(self) -> None:
        """End what is shared and still runs."""
        for task in self.shared.values():
            task.cancel()
        await asyncio.gather(*self.shared.values(), return_exceptions=True)

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
        """Run a blocking call (disk, libmagic) in a thread, where it does not delay the other checks."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, fn)

    async def read(self, fn: Callable[[Session], Result]) -> Result:
        """Run a check in a transaction of its own."""
        return await self.services.database.read(fn)


@dataclass(frozen=True, slots=True)
class Planned:
    """A check to run.

    Attributes:
        leaves_process: whether it needs more than this process and its disk, so that ``offline`` skips it.
        patience: multiple of the timeout of one check.
        fix: fix when the check fails with an exception other than ours.
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
