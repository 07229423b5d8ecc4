"""``rindle verify-storage``: compare rows and stores in both directions."""

from __future__ import annotations

from typing import Any

import click

from rindle.cli.sweeping import run_sweep, sweep_options
from rindle.operations.maintenance.verify_storage import VerifyStorage, VerifyStorageOptions


@click.command(name="verify-storage")
@sweep_options(destructive=False)
@click.option("--profile", help="Only assets and objects of this profile.")
@click.option("--originals", is_flag=True, help="Look for the objects of originals, too.")
@click.option(
    "--objects/--no-objects",
    default=True,
    show_default=True,
    help="List the stores, and count objects that no row names; the log of the worker, or of --local, has their keys.",
)
@click.option(
    "--min-age",
    "min_age_seconds",
    type=click.IntRange(min=0),
    default=3_600,
    show_default=True,
    metavar="SECONDS",
    help="Objects that are younger are not counted: a row may not name them yet.",
)
def verify_storage(profile: str | None, originals: bool, objects: bool, min_age_seconds: int, **how: Any) -> None:
    """Look for the object of every variant, and for objects without rows.

    A ready variant without its object becomes missing: rebuild it with rindle regenerate-variants. A missing one whose
    object is back becomes ready. Exit 1 when a store gave no answer.
    """
    options = VerifyStorageOptions(
        profile=profile, originals=originals, objects=objects, min_age_seconds=min_age_seconds
    )
    run_sweep(VerifyStorage(), options, **how)
