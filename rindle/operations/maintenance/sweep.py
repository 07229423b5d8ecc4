"""The frame of maintenance sweeps: what a sweep is, one page of it, and a whole sweep in this process.

A sweep examines many rows, or many objects, in pages of :data:`PAGE`. Each sweep has a file of its own in this package.
``MaintenanceWorkflow`` runs the pages as activities (:mod:`.runs` starts it); :func:`run_here` runs them without
Temporal.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from rindle.cancellation import cancel_and_wait
from rindle.db.models import utc_now
from rindle.messages import MAX_SWEEP_FAILURES, SweepPage, SweepProgress
from rindle.messages import SweepFailure as SweepFailure  # part of a page
from rindle.services import Services

log = logging.getLogger(__name__)

#: Items of one page.
PAGE = 500
#: Items of a page that are handled at the same time.
AT_ONCE = 16
#: Notes and failures of one page that a worker logs.
MAX_NOTES = 20


class SweepOptions(BaseModel):
    """Base of the options of sweeps; unknown ones are refused: a mistyped filter must not be ignored.

    They are stored in Temporal's history: names of profiles, flags and numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class ProfileOptions(SweepOptions):
    """Base of the options of sweeps over one profile, or over all of them.

    Attributes:
        profile: name of the profile; all registered ones when ``None``.
    """

    profile: str | None = None


class SweepReport(BaseModel):
    """Base of the reports of sweeps: counters, in the order in which they are shown.

    Attributes:
        error_counters: counters which, above 0, make the command exit with 1.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    error_counters: ClassVar[tuple[str, ...]] = ("errors",)

    @property
    def has_errors(self) -> bool:
        """Whether an item failed."""
        return any(getattr(self, name) for name in self.error_counters)

    def to_dict(self) -> dict[str, int]:
        """Return the counters by name, in their order."""
        return self.model_dump()

    def __add__(self, other: Self) -> Self:
        """Return the sums of both reports."""
        return type(self)(**{name: count + getattr(other, name) for name, count in self.to_dict().items()})


O = TypeVar("O", bound=SweepOptions)  # noqa: E741 - options
R = TypeVar("R", bound=SweepReport)
I = TypeVar("I")  # noqa: E741 - item
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SweepRun(Generic[O]):
    """What a page of a sweep knows; ``started_at`` is the start of the whole sweep, the same for every page."""

    services: Services
    options: O
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """Result of one page.

    Attributes:
        report: what this page did.
        next_cursor: where the next page begins; ``None`` when this was the last one.
        failures: items that failed; the first ones of a sweep are shown.
        notes: what was found, for the log of the process that does the page. They never leave it through Temporal, so
            they may name keys. A worker logs the first :data:`MAX_NOTES`; :func:`run_here` logs all of them.
    """

    report: R
    next_cursor: str | None = None
    failures: tuple[SweepFailure, ...] = ()
    notes: tuple[str, ...] = ()


class Sweep(ABC, Generic[O, R]):
    """One kind of maintenance. A sweep has no state: its cursor and its options are all that a page needs.

    Attributes:
        name: the command, with hyphens; also part of the workflow's id.
        title: heading of the report.
        options: class of its options.
        report: class of its report.
        not_beside: names of sweeps during which it does not start.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    options: type[O]
    report: type[R]
    not_beside: ClassVar[tuple[str, ...]] = ()

    def check(self, services: Services, options: O) -> None:
        """Check the options; called before each page, and before a start.

        Raises:
            UnknownProfile: the profile of :class:`ProfileOptions` is not registered.
            RindleError: the sweep cannot run with these options.
        """
        if isinstance(options, ProfileOptions) and options.profile is not None:
            services.profile(options.profile)

    @abstractmethod
    async def page(self, run: SweepRun[O], cursor: str) -> Page[R]:
        """Do one page; ``cursor`` is empty for the first one.

        A page may be repeated when its first attempt was lost, so its work is idempotent. An item that fails is counted
        and does not end the page.

        Raises:
            RindleError: the items of the page could not be read.
        """


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """A sweep that has ended: its report, and the first of the ``failed`` items."""

    report: R
    failures: tuple[SweepFailure, ...] = ()
    failed: int = 0


async def run_here(
    services: Services,
    sweep: Sweep[O, R],
    options: O,
    *,
    on_page: Callable[[SweepProgress], object] = lambda progress: None,
) -> Outcome[R]:
    """Run a whole sweep in this process, without Temporal.

    Args:
        on_page: called after each page with the progress until then.

    Raises:
        RindleError: the options are not valid, or a page could not be read.
    """
    started_at = utc_now()
    progress = SweepProgress(started_at=started_at)
    while True:
        page = await one_page(SweepRun(services, options, started_at), sweep, progress.cursor, max_notes=None)
        progress = progress.after(page)
        on_page(progress)
        if page.cursor is None:
            return Outcome(sweep.report(**progress.counters), progress.failures, progress.failed)


async def for_each(items: Iterable[I], work: Callable[[I], Awaitable[T]]) -> list[T]:
    """Return ``work(item)`` for each item in their order, of which :data:`AT_ONCE` run at the same time.

    The first error ends the others, and is raised when they have ended.
    """
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(item: I) -> T:
        async with slots:
            return await work(item)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await cancel_and_wait(*tasks)


async def one_page(
    run: SweepRun[O], sweep: Sweep[O, R], cursor: str, *, max_notes: int | None = MAX_NOTES
) -> SweepPage:
    """Do one page, log its notes and its failures, and return what the workflow needs of it.

    That has the first failures only, since it is stored in a history.

    Args:
        max_notes: lines that are logged; all when ``None``.

    Raises:
        RindleError: the sweep refuses the options, or the items of the page could not be read.
    """
    sweep.check(run.services, run.options)
    page = await sweep.page(run, cursor)
    notes = [*page.notes, *(f"{failure.item}: {failure.code}" for failure in page.failures)]
    for note in notes[:max_notes]:
        log.info(note, extra={"action": "sweep_note", "sweep": sweep.name})
    if max_notes is not None and len(notes) > max_notes:
        log.info("%d more of this page", len(notes) - max_notes, extra={"action": "sweep_note"})
    return SweepPage(
        cursor=page.next_cursor,
        counters=page.report.to_dict(),
        failures=page.failures[:MAX_SWEEP_FAILURES],
        failed=len(page.failures),
    )
