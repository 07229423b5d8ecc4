"""What a page costs that shows an asset it has loaded: microseconds and SQL statements per call."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.application import SIDES
from benchmarks.photo import photo
from benchmarks.report import Figure, Sample
from benchmarks.stack import running_stack

CALLS, ROUNDS = 500, 7
BUDGET_US = 1000


async def measure() -> list[Figure]:
    """Measure the three calls on an asset with its variants loaded."""
    async with running_stack() as stack:
        with stack.worker():
            (upload,) = await stack.prepare(1, photo())
            await stack.rindle.verify_completion(upload.id)
            assert upload.asset_id is not None
            await stack.wait_until([upload.asset_id])
        asset = await stack.rindle.asset(upload.asset_id)
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "url": lambda: stack.rindle.url("photo", asset),
            "variant_url": lambda: stack.rindle.variant_url("photo", asset, "thumb"),
            "picture_tag with two sources": lambda: stack.rindle.picture_tag(
                "photo", asset, list(SIDES), alt="A photo"
            ),
        }
        engine = stack.rindle.database.engine
        assert isinstance(engine, AsyncEngine)
        statements: list[str] = []

        @event.listens_for(engine.sync_engine, "before_cursor_execute")
        def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            statements.append(statement)

        figures = []
        for name, call in calls.items():
            await call()
            statements.clear()
            rounds = [await _microseconds(call) for _ in range(ROUNDS)]
            queries = len(statements) / (CALLS * ROUNDS)
            sample = Sample.of(rounds)
            figures.append(
                Figure(
                    name,
                    sample,
                    "µs",
                    "under 1 ms, at most 1 query",
                    sample.median < BUDGET_US and queries <= 1,
                    note=f"{queries:g} SQL statements, local signing",
                )
            )
    return figures


async def _microseconds(call: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        await call()
    return (time.perf_counter() - began) / CALLS * 1e6
