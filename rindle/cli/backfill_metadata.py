"""``rindle backfill-metadata``: run the analyzers of profiles again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import click

from rindle.app import Rindle
from rindle.cli.sweeping import run_sweep, sweep_options
from rindle.operations.maintenance.backfill_metadata import BackfillMetadata, BackfillMetadataOptions


@click.command(name="backfill-metadata")
@sweep_options(destructive=False)
@click.option("--profile", help="Only assets of this profile.")
@click.option("--replace", is_flag=True, help="Replace what the analyzer found before, instead of merging into it.")
def backfill_metadata(profile: str | None, replace: bool, **how: Any) -> None:
    """Download and analyze assets again, and merge what their analyzer finds into the metadata.

    Exit 1 when an asset could not be read or analyzed; its metadata did not change.
    """
    run_sweep(BackfillMetadata(), BackfillMetadataOptions(profile=profile, replace=replace), here=_here, **how)


@asynccontextmanager
async def _here(rindle: Rindle) -> AsyncIterator[BackfillMetadata]:
    from rindle.bootstrap import reading_originals  # loads the engines, which a run by workers does not need here

    async with reading_originals(rindle) as originals:
        yield BackfillMetadata(originals)
