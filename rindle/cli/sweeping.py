"""The options of commands that run a maintenance sweep, and how they run it: with Temporal, detached, or here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, NoReturn, TypeVar

import click

from rindle.app import Rindle
from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_json, print_line, print_report
from rindle.messages import SweepProgress
from rindle.operations.maintenance import runs
from rindle.operations.maintenance.sweep import Outcome, Sweep, SweepOptions, SweepReport, run_here
from rindle.operations.remedies import REMEDIES

F = TypeVar("F", bound=Callable[..., Any])
O = TypeVar("O", bound=SweepOptions)  # noqa: E741 - options
R = TypeVar("R", bound=SweepReport)


def sweep_options(*, destructive: bool) -> Callable[[F], F]:
    """Add the options that every sweep has; a ``destructive`` one also has ``--execute``, and is a dry run without."""

    def add(command: F) -> F:
        command = format_option(command)
        command = click.option("--local", is_flag=True, help="Run it in this process, without Temporal.")(command)
        command = click.option(
            "--detach", is_flag=True, help="Start it, print the id of its workflow, and do not wait for its end."
        )(command)
        if destructive:
            command = click.option("--execute", is_flag=True, help="Do it; without it, it is only counted.")(command)
        return application_option(command)

    return add


def run_sweep(
    sweep: Sweep[O, R],
    options: O,
    *,
    application: str | None,
    detach: bool,
    local: bool,
    output: str,
    here: Callable[[Rindle], AbstractAsyncContextManager[Sweep[O, R]]] | None = None,
) -> NoReturn:
    """Run a sweep: progress on standard error, the report on standard output; exit 1 when an item failed.

    Args:
        here: gives the sweep that ``--local`` runs, if it needs programs that only workers have otherwise.

    Raises:
        UsageError: ``--detach`` is combined with ``--local``.
        RindleError: the sweep could not be started, or did not reach its end.
    """
    if detach and local:
        raise click.UsageError("pass either --detach, which needs Temporal, or --local, which does without")
    if detach:
        _detach(sweep, options, application, output)

    async def work(rindle: Rindle) -> Outcome[R]:
        def show(progress: SweepProgress) -> None:
            _show(sweep.name, progress)

        if local:
            logging.getLogger(runs.__name__.rpartition(".")[0]).setLevel(
                logging.INFO
            )  # what a page found, with its key
            async with nullcontext(sweep) if here is None else here(rindle) as chosen:
                return await run_here(rindle.services, chosen, options, on_page=show)
        handle = await runs.start(rindle.services, sweep, options)
        _say(f"{handle.id} has started; cancel it with: temporal workflow cancel --workflow-id {handle.id}")

        def report_silence() -> None:
            say_silent(rindle)

        return await runs.follow(rindle.services, handle, sweep, on_page=show, on_silence=report_silence)

    try:
        outcome = run(application, work)
    except (KeyboardInterrupt, click.Abort):
        _say(f"{sweep.name} was interrupted here" if local else f"{sweep.name} goes on without this command")
        raise
    _print(sweep, options, outcome, output)
    raise click.exceptions.Exit(int(outcome.report.has_errors))


def _detach(sweep: Sweep[O, R], options: O, application: str | None, output: str) -> NoReturn:
    handle = run(application, lambda rindle: runs.start(rindle.services, sweep, options))
    if output == "json":
        print_json({"workflow_id": handle.id, "run_id": handle.first_execution_run_id})
    else:
        print_line(handle.id)
    raise click.exceptions.Exit(0)


def say_silent(rindle: Rindle) -> None:
    """Say on standard error that no worker polls the queue of sweeps, and what to do."""
    command = REMEDIES["no_worker"].surface(rindle.settings)
    _say(
        f"no worker polls {rindle.settings.maintenance_queue}: the sweep waits for one. To fix: start it: {command}; "
        "or press Ctrl-C, cancel the workflow, and repeat the command with --local"
    )


def _say(text: str) -> None:
    click.echo(text, err=True)


def _show(name: str, progress: SweepProgress) -> None:
    counted = ", ".join(f"{counter} {count}" for counter, count in progress.counters.items() if count)
    _say(f"{name}: page {progress.pages}, {counted or 'nothing found'}")


def _print(sweep: Sweep[O, R], options: O, outcome: Outcome[R], output: str) -> None:
    counters = outcome.report.to_dict()
    dry_run = bool(getattr(options, "dry_run", False))
    if output == "json":
        failures = [failure.model_dump() for failure in outcome.failures]
        document: dict[str, Any] = {**counters, **({"failures": failures} if failures else {})}
        print_json({**document, "dry_run": True} if dry_run else document)
        return
    for failure in outcome.failures:
        print_line(f"  {failure.item}: {failure.code}", "red")
    if outcome.failed > len(outcome.failures):
        print_line(f"  ... {outcome.failed - len(outcome.failures)} more")
    print_report(sweep.title, counters, output, dry_run=dry_run)
