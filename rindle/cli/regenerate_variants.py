"""``rindle regenerate-variants``: rebuild stale and missing variants."""

from __future__ import annotations

from typing import Any

import click

from rindle.cli.sweeping import run_sweep, sweep_options
from rindle.operations.maintenance.regenerate_variants import RegenerateOptions, RegenerateVariants


@click.command(name="regenerate-variants")
@sweep_options(destructive=False)
@click.option("--profile", help="Only this profile.")
@click.option("--variant", "variant_name", metavar="NAME", help="Only variants of this name.")
@click.option(
    "--detect/--no-detect",
    default=True,
    show_default=True,
    help="First mark ready variants whose recipe changed as stale.",
)
def regenerate_variants(profile: str | None, variant_name: str | None, detect: bool, **how: Any) -> None:
    """Mark variants with a changed recipe as stale, plan newly declared ones, queue stale and missing ones."""
    run_sweep(RegenerateVariants(), RegenerateOptions(profile=profile, variant_name=variant_name, detect=detect), **how)
