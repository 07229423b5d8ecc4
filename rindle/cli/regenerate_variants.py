"""``rindle regenerate-variants``: rebuild stale and missing variants."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, format_option, run
from rindle.cli.terminal import print_report


@click.command(name="regenerate-variants")
@application_option
@click.option("--profile", help="Only this profile.")
@click.option("--variant", "variant_name", metavar="NAME", help="Only variants of this name.")
@format_option
def regenerate_variants(application: str | None, profile: str | None, variant_name: str | None, output: str) -> None:
    """Mark variants with a changed recipe as stale, plan newly declared ones, queue stale and missing ones."""
    report = run(application, lambda rindle: rindle.regenerate_variants(profile, variant_name))
    print_report("Regenerate variants", report.to_dict(), output)
    raise click.exceptions.Exit(int(report.errors > 0))
