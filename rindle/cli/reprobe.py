"""``rindle reprobe``: read the technical facts of one asset again."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.sweeping import say_silent
from rindle.cli.terminal import print_json, print_report

if TYPE_CHECKING:
    from rindle.app import Rindle
    from rindle.operations.maintenance.reprobe import ReprobeReport


@click.command()
@click.argument("asset")
@application_option
@click.option("--local", is_flag=True, help="Read it in this process, without Temporal and workers.")
@format_option
def reprobe(asset: str, application: str | None, local: bool, output: str) -> None:
    """Read type, size, duration and tracks of ASSET again and correct its row; a failed probe changes nothing."""

    def work(rindle: Rindle) -> Awaitable[ReprobeReport]:
        return _here(rindle, asset) if local else _by_a_worker(rindle, asset)

    report = run(application, work).to_dict()
    if output == "json":
        print_json(report)
        return
    facts = {name: ", ".join(value) if isinstance(value, list) else value for name, value in report.items()}
    del facts["failures"]
    print_report(f"Reprobe of {asset}", facts, output)


async def _by_a_worker(rindle: Rindle, asset: str) -> ReprobeReport:
    from rindle.operations.maintenance.reprobe import reprobe as reprobe_by_a_worker

    return await reprobe_by_a_worker(rindle.services, asset, on_silence=lambda: say_silent(rindle))


async def _here(rindle: Rindle, asset: str) -> ReprobeReport:
    from rindle.bootstrap import reading_originals
    from rindle.operations.maintenance.reprobe import reprobe as reprobe_here

    async with reading_originals(rindle) as originals:
        return await reprobe_here(rindle.services, asset, originals=originals)
