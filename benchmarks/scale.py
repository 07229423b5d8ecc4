"""Reports and pages of sweeps with a million assets and 3 million variants on Postgres (``--million``).

Each call is timed, and its statements are explained: the texts of ``EXPLAIN (ANALYZE, BUFFERS)`` are written to
``var/bench/plans``. ``benchmarks/plans`` has those that belong to the published figures.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks import machine
from benchmarks.library import ARCHIVE, ASSETS, asset_id, fill, session_id, variant_id
from benchmarks.report import Figure, Sample
from benchmarks.stack import running_stack
from rindle import Rindle
from rindle.db import events, outbox
from rindle.db.models import utc_now
from rindle.operations import bulk
from rindle.operations.explain import explain
from rindle.operations.maintenance import abort_incomplete_uploads as abort
from rindle.operations.maintenance import backfill_metadata as backfill
from rindle.operations.maintenance import cleanup_orphans as cleanup
from rindle.operations.maintenance import regenerate_variants as regenerate
from rindle.operations.maintenance import verify_storage as verify
from rindle.operations.timeline import timeline
from rindle.operations.tombstones import retry_purges

#: More than the executions after which the driver prepares a statement and Postgres may keep its plan.
ROUNDS = 15
BUDGET_MS = 100
#: Rows of a page, as the sweeps take them.
PAGE = 500
#: Rows that no statement may read one after the other.
MANY_ROWS = ASSETS // 20
#: Where the plans are written.
PLANS = Path(__file__).resolve().parent.parent / "var" / "bench" / "plans"
#: Where the plans of the published figures are kept.
PUBLISHED_PLANS = Path(__file__).resolve().parent / "plans"

#: A file of plans, a label, and what is measured.
Case = tuple[str, str, Callable[[], Awaitable[Any]]]
#: Starts programs, which takes longer than the budget; it reads no table.
_WITHOUT_BUDGET = frozenset({"doctor"})
_MIDDLE, _LAST = ASSETS // 2, ASSETS - PAGE
_PLACES = {"first page": 0, "middle page": _MIDDLE, "last page": _LAST}


async def measure() -> list[Figure]:
    """Fill the tables, time each call and explain its statements."""
    async with running_stack(relay=False) as stack:
        await fill(stack.database_url)
        await machine.wait_for_quiet()
        return await figures(stack.rindle)


async def figures(rindle: Rindle) -> list[Figure]:
    """Return the figures of an application whose tables :func:`benchmarks.library.fill` has filled."""
    shutil.rmtree(PLANS, ignore_errors=True)
    PLANS.mkdir(parents=True)
    found = []
    for name, label, call in _cases(rindle):
        measured = await _measured(rindle, call)
        found.append(measured.figure(f"{name}: {label}", has_budget=name not in _WITHOUT_BUDGET))
        if not measured.plans:
            continue
        with (PLANS / f"{name.replace(' ', '-')}.txt").open("a") as file:
            file.write("\n".join((f"=== {label}\n", *measured.plans, "")))
    return found


def publish_plans() -> None:
    """Keep the plans of this run as the published ones."""
    shutil.rmtree(PUBLISHED_PLANS, ignore_errors=True)
    shutil.copytree(PLANS, PUBLISHED_PLANS)


# --- what is measured --------------------------------------------------------------------------------------------


def _cases(rindle: Rindle) -> Iterator[Case]:
    one = asset_id(_MIDDLE)
    yield "runtime status", "all", rindle.runtime_status
    yield "runtime status", "one profile", partial(rindle.runtime_status, profile="poster")
    yield "doctor", "offline", partial(rindle.doctor, offline=True)
    yield "explain", "one asset", partial(explain, rindle.services, one)
    yield "timeline", "one asset", partial(timeline, rindle.services, one)
    yield "timeline", "one upload session", partial(timeline, rindle.services, session_id(_MIDDLE))
    yield "preview of an erasure", "10,000 attachments", partial(rindle.preview_owner_erasure, ARCHIVE)
    yield from _verify_storage(rindle)
    yield from _sessions(rindle)
    yield from _assets(rindle)
    yield from _retention(rindle)
    yield from _repairs(rindle)


def _verify_storage(rindle: Rindle) -> Iterator[Case]:
    name, read = "verify-storage", rindle.database.read
    for place, number in _PLACES.items():
        after = asset_id(number) if number else ""
        yield name, f"variants, {place}", partial(read, verify._variants, "photo", after)
        yield name, f"originals, {place}", partial(read, verify._next_assets, "photo", after)
    between = f"{asset_id(_MIDDLE)}:{variant_id(_MIDDLE, 0)}"
    yield name, "variants, a page between two of one asset", partial(read, verify._variants, "photo", between)
    yield name, "variants, a rare profile", partial(read, verify._variants, "poster", "")
    yield name, "originals, a rare profile", partial(read, verify._next_assets, "poster", "")
    yield name, "variants, nothing matches", partial(read, verify._variants, "none", "")
    keys = [f"photo/{asset_id(number)}/original.jpg" for number in range(1, PAGE + 1)]
    yield name, "objects, which of 500 keys rows have", partial(read, verify._named_keys, keys)


def _sessions(rindle: Rindle) -> Iterator[Case]:
    read, now, profiles = rindle.database.read, utc_now(), rindle.services.profiles.names
    for place, number in _PLACES.items():
        after = session_id(number) if number else ""
        yield "cleanup-orphans", place, partial(read, cleanup._residue, None, now, after)
        yield "abort-incomplete-uploads", f"overdue, {place}", partial(read, abort._overdue, profiles, now, after)
        yield "abort-incomplete-uploads", f"unreleased, {place}", partial(read, abort._unreleased, profiles, now, after)
    never = now - timedelta(days=3650)
    yield "cleanup-orphans", "nothing matches", partial(read, cleanup._residue, "video", now, "")
    yield "abort-incomplete-uploads", "overdue, nothing matches", partial(read, abort._overdue, profiles, never, "")
    yield (
        "abort-incomplete-uploads",
        "unreleased, nothing matches",
        partial(read, abort._unreleased, ["video"], now, ""),
    )


def _assets(rindle: Rindle) -> Iterator[Case]:
    read = rindle.database.read
    for profile, what in ((None, "all profiles"), ("photo", "one profile"), ("poster", "a rare profile")):
        for place, number in _PLACES.items():
            after = asset_id(number) if number else ""
            yield "regenerate-variants", f"{what}, {place}", partial(read, regenerate._read_page, after, profile)
            yield "backfill-metadata", f"{what}, {place}", partial(read, backfill._read_page, after, profile)


def _retention(rindle: Rindle) -> Iterator[Case]:
    undone = partial(_undone, rindle)
    quarter, ever = utc_now() - timedelta(days=90), utc_now() - timedelta(days=3650)
    yield "retention", "events, a batch", partial(undone, events.delete_expired, "variant_ready", quarter, limit=1000)
    yield "retention", "events, none is old", partial(undone, events.delete_expired, "variant_ready", ever, limit=1000)
    yield (
        "retention",
        "events, count",
        partial(rindle.database.read, events.count_expired, "variant_ready", quarter, limit=10_000),
    )
    batch = partial(undone, outbox.delete_dispatched, limit=outbox.DELETION_BATCH)
    yield "retention", "outbox, a batch", partial(batch, older_than_seconds=86_400 * 6)
    yield "retention", "outbox, none is old", partial(batch, older_than_seconds=86_400 * 3650)


def _repairs(rindle: Rindle) -> Iterator[Case]:
    read = rindle.database.read
    for what, selection in (("all", bulk.Selection()), ("a rare profile", bulk.Selection(profile="poster"))):
        yield "repairs", f"resume, {what}", partial(read, bulk._resumable, selection)
        yield "repairs", f"requeue, {what}", partial(read, bulk._requeueable, selection)
    yield "repairs", "purge --retry", partial(retry_purges, rindle.services)


class _Undo(Exception):
    """Ends a transaction that is measured, so that the next round finds the same rows."""


async def _undone(rindle: Rindle, change: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    def run(session: Any) -> None:
        change(session, *args, **kwargs)
        raise _Undo

    try:
        await rindle.database.write(run)
    except _Undo:
        return


# --- measuring ---------------------------------------------------------------------------------------------------


@dataclass
class _Measured:
    """The rounds of one call in milliseconds, the plans of its statements, and the tables that one of them reads."""

    rounds: list[float] = field(default_factory=list)
    plans: list[str] = field(default_factory=list)
    read_through: set[str] = field(default_factory=set)

    def figure(self, what: str, *, has_budget: bool) -> Figure:
        """Return the row of the table; its note has what Postgres needed, which a busy machine disturbs less."""
        sample = Sample.of(self.rounds)
        read = f"reads through {', '.join(sorted(self.read_through))}" if self.read_through else "no table read through"
        executed = sum(float(one) for plan in self.plans for one in re.findall(r"Execution Time: ([\d.]+)", plan))
        note = f"{len(self.plans)} statements, {executed:.1f} ms in Postgres; {read}"
        if not has_budget:
            return Figure(what, sample, "ms", note=note)
        is_met = sample.median < BUDGET_MS and not self.read_through
        return Figure(what, sample, "ms", f"under {BUDGET_MS} ms", is_met, note=note)


async def _measured(rindle: Rindle, call: Callable[[], Awaitable[Any]]) -> _Measured:
    engine = rindle.database.engine
    assert isinstance(engine, AsyncEngine)
    with _noting(engine) as statements:
        await call()
    found = _Measured()
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await call()
        found.rounds.append((time.perf_counter() - began) * 1000)
    async with engine.connect() as connection:  # never committed: a plan of a deletion is measured by executing it
        for statement, parameters in statements.items():
            plan = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", parameters)
            shown = "\n".join(row[0] for row in plan)
            found.plans.append(f"{_shortened(statement)}\n\n{_shortened(shown)}\n")
            found.read_through |= _read_through(shown)
    return found


@contextmanager
def _noting(engine: AsyncEngine) -> Iterator[dict[str, Any]]:
    """Note the statements on our tables while the block runs, each with the parameters of its first execution."""
    statements: dict[str, Any] = {}

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH", "DELETE")) and "media_" in statement:
            statements.setdefault(statement, parameters)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


def _shortened(told: str) -> str:
    """Return a statement or a plan with the lists of values cut to the first one, and the columns to their number."""
    told = re.sub(r"(%\(\w+\)s::\w+)(, %\(\w+\)s::\w+)+", r"\1, ...", told)
    told = re.sub(r"('?\{)([^,}']{1,60})(,[^}']*)+(\}'?)", r"\1\2,...\4", told)
    return re.sub(r"^SELECT ((?:[\w.]+(?: AS \w+)?, ){6})[^()]*?\s*\nFROM", r"SELECT \1...\nFROM", told)


def _read_through(plan: str) -> set[str]:
    """Return the tables of which a plan reads a large part row by row.

    A scan that a LIMIT ends after a few thousand rows is not one of them.
    """
    found = set()
    lines = plan.splitlines()
    for number, line in enumerate(lines):
        if scan := re.search(r"Seq Scan on (\w+).*actual time=\S+ rows=(\d+) loops=(\d+)", line):
            removed = next(
                (int(one.group(1)) for one in map(_REMOVED.search, lines[number + 1 : number + 4]) if one), 0
            )
            if (int(scan.group(2)) + removed) * int(scan.group(3)) > MANY_ROWS:
                found.add(scan.group(1))
    return found


_REMOVED = re.compile(r"Rows Removed by Filter: (\d+)")
