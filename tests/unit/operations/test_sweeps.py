"""The frame of sweeps: options, counters, failures and pages, without a database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, ClassVar, cast

import pytest

from rindle.errors import InvalidArgument
from rindle.messages import SweepFailure, SweepOrder, SweepProgress
from rindle.operations.maintenance.registry import SWEEPS
from rindle.operations.maintenance.steps import SweepSteps
from rindle.operations.maintenance.sweep import (
    AT_ONCE,
    MAX_NOTES,
    Page,
    Sweep,
    SweepOptions,
    SweepReport,
    SweepRun,
    for_each,
    run_here,
)
from rindle.services import Services

NO_SERVICES = cast("Services", None)


class CountOptions(SweepOptions):
    """Up to which number, and by how many on a page."""

    numbers: int = 7
    at_once: int = 3
    profile: str | None = None


class CountReport(SweepReport):
    """How many numbers, and how many odd ones."""

    counted: int = 0
    odd: int = 0
    error_counters: ClassVar[tuple[str, ...]] = ("odd",)


class Count(Sweep[CountOptions, CountReport]):
    """Counts numbers; odd ones fail."""

    name = "count"
    title = "Count"
    options, report = CountOptions, CountReport

    def __init__(self) -> None:
        self.started: list[datetime] = []

    def check(self, services: Services, options: CountOptions) -> None:
        """Refuse to count nothing."""
        if options.numbers < 1:
            raise InvalidArgument("nothing to count")

    async def page(self, run: SweepRun[CountOptions], cursor: str) -> Page[CountReport]:
        """Count some of them."""
        self.started.append(run.started_at)
        first = int(cursor or 0)
        last = min(first + run.options.at_once, run.options.numbers)
        odd = [number for number in range(first, last) if number % 2]
        return Page(
            CountReport(counted=last - first, odd=len(odd)),
            str(last) if last < run.options.numbers else None,
            tuple(SweepFailure(item=str(number), code="odd") for number in odd),
            tuple(f"number {number}" for number in range(first, last)),
        )


async def test_a_sweep_runs_page_by_page_and_adds_up_the_counters() -> None:
    seen: list[SweepProgress] = []
    sweep = Count()

    outcome = await run_here(NO_SERVICES, sweep, CountOptions(), on_page=seen.append)

    assert outcome.report == CountReport(counted=7, odd=3)
    assert [failure.item for failure in outcome.failures] == ["1", "3", "5"]
    assert [(progress.pages, progress.cursor, progress.counters["counted"]) for progress in seen] == [
        (1, "3", 3),
        (2, "6", 6),
        (3, "", 7),
    ]
    assert len(set(sweep.started)) == 1  # every page knows when the whole sweep began


async def test_the_first_failures_are_named_and_all_are_counted() -> None:
    outcome = await run_here(NO_SERVICES, Count(), CountOptions(numbers=40))

    assert [failure.item for failure in outcome.failures] == ["1", "3", "5", "7", "9"]
    assert outcome.report.odd == outcome.failed == 20
    assert outcome.report.has_errors
    assert not CountReport(counted=1).has_errors


async def test_notes_stay_in_the_log_of_the_process(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rindle.operations.maintenance")

    page = await _steps().page(_order(options={"numbers": 50, "at_once": 50}))

    assert "number 7" not in page.model_dump_json()
    assert [record.getMessage() for record in caplog.records] == [
        *(f"number {number}" for number in range(MAX_NOTES)),
        "55 more of this page",
    ]


async def test_a_history_keeps_the_first_failures_of_a_page_and_their_number() -> None:
    page = await _steps().page(_order(options={"numbers": 50, "at_once": 50}))

    assert [failure.item for failure in page.failures] == ["1", "3", "5", "7", "9"]
    assert page.failed == 25
    assert SweepProgress().after(page).after(page).failed == 50


async def test_a_sweep_in_this_process_logs_every_note_and_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rindle.operations.maintenance")

    await run_here(NO_SERVICES, Count(), CountOptions(numbers=50, at_once=50))

    assert [record.getMessage() for record in caplog.records] == [
        *(f"number {number}" for number in range(50)),
        *(f"{number}: odd" for number in range(1, 50, 2)),
    ]


async def test_a_page_of_an_order_continues_at_its_cursor() -> None:
    page = await _steps().page(_order(cursor="6"))

    assert (page.cursor, page.counters) == (None, {"counted": 1, "odd": 0})


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"verb": "recount"}, "no sweep 'recount'; it has count"),
        ({"options": {"number": 3}}, "number: Extra inputs are not permitted"),
        ({"options": {"numbers": "canary"}}, "numbers: Input should be a valid integer"),
        ({"options": {"numbers": 0}}, "nothing to count"),
    ],
)
async def test_unknown_sweeps_and_options_are_refused(order: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as refused:
        await _steps().page(_order(**order))

    assert "canary" not in refused.value.message


async def test_items_of_a_page_are_handled_at_the_same_time_and_their_order_is_kept() -> None:
    running = most = 0

    async def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return item * 2

    assert await for_each(range(100), work) == [item * 2 for item in range(100)]
    assert 1 < most <= AT_ONCE
    assert await for_each([], work) == []


async def test_the_first_error_of_an_item_is_raised_as_it_is() -> None:
    async def work(item: int) -> None:
        raise LookupError(item)

    with pytest.raises(LookupError):
        await for_each(range(50), work)


def test_the_registered_sweeps_have_names_of_their_own_and_refuse_unknown_options() -> None:
    names = [sweep.name for sweep in SWEEPS]

    assert names == sorted(set(names))
    for sweep in SWEEPS:
        assert sweep.options.model_config["extra"] == "forbid"
        assert set(sweep.report.error_counters) <= set(sweep.report.model_fields)
        assert set(sweep.not_beside) <= set(names)


def _steps() -> SweepSteps:
    return SweepSteps(NO_SERVICES, [Count()])


def _order(**facts: Any) -> SweepOrder:
    return SweepOrder(**{"verb": "count", "started_at": datetime.now(UTC), **facts})
