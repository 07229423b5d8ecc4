"""``rindle doctor``: check everything that Rindle needs."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_json, print_line
from rindle.operations.checks.report import DoctorReport
from rindle.operations.doctor import TIMEOUT_SECONDS

_MARKS = {
    "ok": ("[OK]", "green"),
    "warn": ("[WARN]", "yellow"),
    "error": ("[ERROR]", "red"),
    "skipped": ("[SKIP]", "dim"),
}


@click.command()
@click.argument("profiles", nargs=-1)
@application_option
@click.option("--live", is_flag=True, help="Also write, read and delete a small object in every storage.")
@click.option("--streaming", is_flag=True, help="Also send one request to every streaming provider.")
@click.option("--no-workers", is_flag=True, help="Do not expect workers to be polling.")
@click.option("--offline", is_flag=True, help="Check nothing outside this process and its disk.")
@click.option("--only", metavar="ID,..", help="Run these checks only.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=TIMEOUT_SECONDS, show_default=True,
    help="Seconds for one check; those that start programs get a multiple, and all of them on a busy machine.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings too.")
@format_option
def doctor(
    profiles: tuple[str, ...],
    application: str | None,
    live: bool,
    streaming: bool,
    no_workers: bool,
    offline: bool,
    only: str | None,
    timeout: float,
    strict: bool,
    output: str,
) -> None:
    """Check the environment of PROFILES (all by default); exit 0 when no check fails."""
    wanted = None if only is None else [part.strip() for part in only.split(",") if part.strip()]
    report = run(
        application,
        lambda rindle: rindle.doctor(
            profiles=profiles or None,
            live=live,
            streaming=streaming,
            workers=not no_workers,
            offline=offline,
            only=wanted,
            timeout=timeout,
        ),
    )
    if output == "json":
        print_json(report.to_dict())
    else:
        _print(report)
    raise click.exceptions.Exit(int(report.failed > 0 or (strict and report.warned > 0)))


def _print(report: DoctorReport) -> None:
    for check in report.checks:
        mark, style = _MARKS[check.status]
        print_line(f"{mark} {check.id} ({check.component}) {check.summary}", style)
        if check.fix and check.status in ("warn", "error"):
            print_line(f"  Fix: {check.fix}")
    if report.success:
        print_line(f"Environment checks passed ({report.total} checks).")
    else:
        print_line(f"Environment checks failed ({report.failed}/{report.total} checks failed).")
