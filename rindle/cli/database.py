"""``rindle db ...`` and ``rindle migrate``: Rindle's own tables, never the application's."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, run
from rindle.cli.terminal import print_line
from rindle.operations import schema


@click.group(name="db")
def database() -> None:
    """Create, upgrade and compare Rindle's tables in the application's database."""


@database.command()
@application_option
def upgrade(application: str | None) -> None:
    """Bring the tables to this release; safe to repeat and to run several times at once."""
    before, after = run(application, lambda rindle: schema.upgrade(rindle.services))
    if before == after:
        print_line(f"Rindle's tables are at {after}.")
    else:
        print_line(f"Rindle's tables: {before or 'none'} -> {after}.")


@database.command()
@application_option
def repair(application: str | None) -> None:
    """Add tables, columns, keys and indexes that are missing although the revision is this release's."""
    added = run(application, lambda rindle: schema.repair(rindle.services))
    for part in added:
        print_line(f"added: {part}")
    print_line(f"{len(added)} added." if added else "Nothing is missing.")


@database.command()
@application_option
def current(application: str | None) -> None:
    """Print the database's revision and the revision this release needs; exit 1 when they differ."""
    found = run(application, lambda rindle: schema.current(rindle.services))
    print_line(f"database: {found or 'none'}")
    print_line(f"release:  {schema.needed()}")
    raise click.exceptions.Exit(int(found != schema.needed()))


@database.command()
@application_option
def check(application: str | None) -> None:
    """List the parts of this release's tables that are missing; exit 1 when any is."""
    found, missing = run(application, lambda rindle: schema.compare(rindle.services))
    if found.name in ("ahead", "behind"):
        print_line(f"{found.name}: {found.summary}", "red")
    for part in missing:
        print_line(f"missing: {part}", "red")
    print_line(f"{len(missing)} missing." if missing else "All tables, columns, keys and indexes are present.")
    raise click.exceptions.Exit(int(bool(missing)))


@database.command()
@application_option
def stamp(application: str | None) -> None:
    """Mark tables made by create_all as those of this release; refused when they differ."""
    run(application, lambda rindle: schema.stamp(rindle.services))
    print_line(f"Rindle's tables are at {schema.needed()}.")


@database.command()
@click.argument("revision")
@click.option("--execute", is_flag=True, help="Change the tables; without it, only show what would be lost.")
@application_option
def downgrade(revision: str, execute: bool, application: str | None) -> None:
    """Undo migrations until the tables are at REVISION (`base`: none). DESTRUCTIVE; a dry run by default."""
    report = run(application, lambda rindle: schema.downgrade(rindle.services, revision, dry_run=not execute))
    prefix = "[DRY RUN] " if report.dry_run else ""
    print_line(f"{prefix}Rindle's tables: {report.before or 'none'} -> {report.after}.")
    if report.undone:
        print_line("WARNING: no later upgrade restores what this deletes. Make a backup first.", "red")
    for one in report.undone:
        print_line(f"  {one.revision}: {one.loss}")
    print_line("Done.")


@click.command()
@application_option
@click.pass_context
def migrate(context: click.Context, application: str | None) -> None:
    """Bring the tables to this release: short for `rindle db upgrade`."""
    context.invoke(upgrade, application=application)
