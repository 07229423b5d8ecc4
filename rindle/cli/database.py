"""``rindle db ...`` and ``rindle migrate``: Rindle's own tables, never the application's."""

from __future__ import annotations

import click

from rindle.cli.application import application_option, run
from rindle.cli.terminal import say
from rindle.operations import schema


@click.group(name="db")
def database() -> None:
    """Create, upgrade and compare Rindle's tables in the application's database."""


@database.command()
@application_option
def upgrade(application: str | None) -> None:
    """Bring the tables to this release; safe to repeat and to run several times at once."""
    before, after = run(application, lambda rindle: schema.upgrade(rindle.services))
    say(f"Rindle's tables are at {after}." if before == after else f"Rindle's tables: {before or 'none'} -> {after}.")


@database.command()
@application_option
def current(application: str | None) -> None:
    """Say which revision the database is at, and which one this release needs; exit 1 when they differ."""
    found = run(application, lambda rindle: schema.current(rindle.services))
    say(f"database: {found or 'none'}")
    say(f"release:  {schema.needed()}")
    raise click.exceptions.Exit(int(found != schema.needed()))


@database.command()
@application_option
def check(application: str | None) -> None:
    """List what the database lacks of this release's tables; exit 1 when it lacks anything."""
    missing = run(application, lambda rindle: schema.missing_parts(rindle.services))
    for part in missing:
        say(f"missing: {part}", "red")
    say(f"{len(missing)} missing." if missing else "All tables, columns, keys and indexes are there.")
    raise click.exceptions.Exit(int(bool(missing)))


@database.command()
@application_option
def stamp(application: str | None) -> None:
    """Note that tables made by create_all are those of this release; refused when they are not."""
    run(application, lambda rindle: schema.stamp(rindle.services))
    say(f"Rindle's tables are at {schema.needed()}.")


@click.command()
@application_option
@click.pass_context
def migrate(context: click.Context, application: str | None) -> None:
    """Bring the tables to this release: short for `rindle db upgrade`."""
    context.invoke(upgrade, application=application)
