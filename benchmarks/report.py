"""Figures, the table they are shown in, and the files they are written to."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

#: The generated part of docs/performance.md lies between these lines.
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


@dataclass(frozen=True)
class Sample:
    """Repeated measurements of one thing, as their median and their range."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Sum up ``values``, of which there is at least one."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        if self.count == 1:
            return short(self.median)
        return f"{short(self.median)} ({short(self.low)}-{short(self.high)})"


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        what: what was measured.
        value: the measurement; ``None`` for a peer that was left out, whose note has the reason.
        unit: its unit.
        budget: the budget as the design words it; empty where there is none.
        is_met: whether the budget is kept; ``None`` where there is none.
        is_peer: whether this is somebody else's number, measured in the same run.
        note: what a reader must know to interpret it.
    """

    what: str
    value: Sample | None
    unit: str
    budget: str = ""
    is_met: bool | None = None
    is_peer: bool = False
    note: str = ""


def short(value: float) -> str:
    """Return a number with three significant digits."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def left_out(what: str, error: Exception) -> Figure:
    """Return the row of a peer that could not be measured."""
    return Figure(what, None, "", is_peer=True, note=f"left out: {error or type(error).__name__}")


def _value(figure: Figure) -> str:
    return "–" if figure.value is None else str(figure.value)


def _outcome(figure: Figure) -> str:
    return "" if figure.is_met is None else "met" if figure.is_met else "missed"


def show(results: dict[str, list[Figure]], machine: dict[str, Any]) -> None:
    """Print the table and the machine."""
    table = Table(title="Rindle's budgets, beside their peers", title_justify="left")
    for heading in ("benchmark", "what", "median (range)", "unit", "budget", "", "note"):
        table.add_column(heading, justify="right" if heading.startswith("median") else "left")
    for benchmark, figures in results.items():
        for number, figure in enumerate(figures):
            table.add_row(
                benchmark if number == 0 else "",
                f"[dim]{figure.what}[/dim]" if figure.is_peer else figure.what,
                _value(figure),
                figure.unit,
                figure.budget,
                {"met": "[green]met[/green]", "missed": "[red]missed[/red]", "": ""}[_outcome(figure)],
                figure.note,
            )
        table.add_section()
    # Into a pipe the table would otherwise be cut to 80 columns.
    console = Console(width=None if Console().is_terminal else 200)
    console.print(table)
    console.print(sentence(machine), soft_wrap=True)


def sentence(machine: dict[str, Any]) -> str:
    """Describe the machine in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, "
        f"{machine['python']}; {versions}"
    )


def write_json(results: dict[str, list[Figure]], machine: dict[str, Any], directory: Path) -> Path:
    """Write everything into a new file below ``directory`` and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    path = directory / f"{now:%Y%m%dT%H%M%SZ}.json"
    figures = {name: [asdict(figure) for figure in found] for name, found in results.items()}
    path.write_text(json.dumps({"at": now.isoformat(), "machine": machine, "figures": figures}, indent=2) + "\n")
    return path


def write_docs(results: dict[str, list[Figure]], machine: dict[str, Any], page: Path) -> None:
    """Replace the table between the markers of ``page``.

    Raises:
        ValueError: the page lacks the markers.
    """
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page.name} lacks the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{_markdown(results, machine)}\n{END}{after}")


def _markdown(results: dict[str, list[Figure]], machine: dict[str, Any]) -> str:
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on: {sentence(machine)}.",
        "",
        "| benchmark | what | median (range) | unit | budget | | note |",
        "|---|---|--:|---|---|---|---|",
    ]
    for benchmark, figures in results.items():
        for number, figure in enumerate(figures):
            cells = (
                benchmark if number == 0 else "",
                f"*{figure.what}*" if figure.is_peer else figure.what,
                _value(figure),
                figure.unit,
                figure.budget,
                _outcome(figure),
                figure.note,
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
