"""``python -m benchmarks``: measure, show a table, keep the numbers in ``var/bench``."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import click

from benchmarks import (
    av,
    bucket,
    cancel,
    commits,
    erasure,
    histories,
    imports,
    latency,
    live,
    machine,
    memory,
    outbox,
    reads,
    rendering,
    report,
    resumable,
    scale,
    throughput,
)
from benchmarks.report import Figure
from rindle.process import leave
from tests.servers import Unavailable

ROOT = Path(__file__).resolve().parent.parent

#: In the order in which they run: the ones that a busy machine disturbs most go first.
BENCHMARKS: dict[str, Callable[[], Awaitable[list[Figure]]]] = {
    "rendering": rendering.measure,
    "throughput": throughput.measure,
    "latency": latency.measure,
    "histories": histories.measure,
    "reads": reads.measure,
    "imports": imports.measure,
    "av": av.measure,
    "cancel": cancel.measure,
    "resumable": resumable.measure,
    "bucket": bucket.measure,
    "memory": memory.measure,
    "live": live.measure,
    "commits": commits.measure,
    "outbox": outbox.measure,
    "scale": scale.measure,
    "erasure": erasure.measure,
}
#: Takes minutes and a gigabyte of disk: only on request.
_ON_REQUEST = frozenset({"scale", "erasure"})


async def run(names: Sequence[str], *, erased: int) -> tuple[dict[str, list[Figure]], list[str]]:
    """Run benchmarks one after the other; returns their figures and the names of those that could not run."""
    benchmarks = {**BENCHMARKS, "erasure": partial(erasure.measure, erased)}
    results: dict[str, list[Figure]] = {}
    failed = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            results[name] = await benchmarks[name]()
        except Unavailable as error:
            print(f"  left out: {error}", file=sys.stderr)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    return results, failed


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(BENCHMARKS)), help="Run these; repeatable.")
@click.option(
    "--million", is_flag=True, help="Also measure a million assets and the erasure of 50,000 (an hour, 4 GB of disk)."
)
@click.option(
    "--erased",
    type=click.IntRange(min=100),
    default=erasure.ATTACHED,
    show_default=True,
    help="Assets of the owner whom the benchmark `erasure` erases to the end.",
)
@click.option("--write-docs", is_flag=True, help="Put the table into docs/performance.md.")
def main(only: tuple[str, ...], million: bool, erased: int, write_docs: bool) -> None:
    """Measure the budgets of the design, each beside its peer in the same run."""
    names = [name for name in BENCHMARKS if name in only or (not only and (million or name not in _ON_REQUEST))]
    if million:
        names += sorted(_ON_REQUEST - set(names), reverse=True)
    results, failed = asyncio.run(run(names, erased=erased))
    described = machine.description()
    report.show(results, described)
    path = report.write_json(results, described, ROOT / "var" / "bench")
    print(f"numbers: {path.relative_to(ROOT)}")
    if write_docs:
        report.write_docs(results, described, ROOT / "docs" / "performance.md")
        if "scale" in results:
            scale.publish_plans()
        print("table: docs/performance.md")
    leave(1 if failed else 0)


if __name__ == "__main__":
    main()
