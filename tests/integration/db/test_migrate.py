"""The packaged migrations: they make exactly the models' tables and touch nothing that is not ours."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Index, Integer, MetaData, String, Table, create_engine, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rindle.db import migrate
from rindle.db.models import TABLES, Base
from rindle.errors import InvalidArgument, SetupIncomplete


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An empty database, on SQLite and on Postgres."""
    made = create_async_engine(database_url)
    yield made
    await made.dispose()


async def run(engine: AsyncEngine, fn: Any, *arguments: Any) -> Any:
    """Run ``fn(connection, ...)`` in a transaction."""
    async with engine.begin() as connection:
        return await connection.run_sync(fn, *arguments)


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def layout(connection: Connection) -> dict[str, Any]:
    """Describe our tables as the database itself sees them: columns, keys, checks and indexes, with their names."""
    inspector = inspect(connection)

    def named(entries: list[Any], *facts: str) -> list[Any]:
        return sorted((entry["name"] or "", *(str(entry.get(fact)) for fact in facts)) for entry in entries)

    return {
        table: {
            "columns": [
                (one["name"], str(one["type"]), one["nullable"], one.get("default"))
                for one in inspector.get_columns(table)
            ],
            "primary": inspector.get_pk_constraint(table),
            "foreign": named(
                inspector.get_foreign_keys(table),
                "constrained_columns",
                "referred_table",
                "referred_columns",
                "options",
            ),
            "unique": named(inspector.get_unique_constraints(table), "column_names"),
            "checks": named(inspector.get_check_constraints(table), "sqltext"),
            "indexes": sorted(
                (
                    one["name"],
                    one["column_names"],
                    one["unique"],
                    {option: str(value) for option, value in one.get("dialect_options", {}).items()},
                )
                for one in inspector.get_indexes(table)
            ),
        }
        for table in TABLES
    }


async def test_the_migrated_tables_are_those_of_the_models(engine: AsyncEngine) -> None:
    await run(engine, Base.metadata.create_all)
    wanted = await run(engine, layout)
    await run(engine, Base.metadata.drop_all)

    await migrate.async_upgrade(engine)

    assert await run(engine, layout) == wanted


async def test_alembic_finds_nothing_left_to_do(engine: AsyncEngine) -> None:
    await migrate.async_upgrade(engine)

    def differences(connection: Connection) -> list[Any]:
        options = {"version_table": migrate.VERSION_TABLE, "compare_type": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)

    assert await run(engine, differences) == []
    assert await run(engine, migrate.missing_parts) == []
    assert await run(engine, migrate.current) == migrate.head()


async def test_downgrade_drops_our_tables_and_no_others(engine: AsyncEngine) -> None:
    await run(engine, lambda connection: connection.execute(text("CREATE TABLE users (id INTEGER PRIMARY KEY)")))
    await run(engine, lambda connection: connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)")))
    await run(engine, lambda connection: connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')")))

    await migrate.async_upgrade(engine)
    assert await run(engine, tables) == {"users", "alembic_version", migrate.VERSION_TABLE, *TABLES}

    await run(engine, migrate.downgrade)

    assert await run(engine, tables) - {migrate.VERSION_TABLE} == {"users", "alembic_version"}
    theirs = await run(
        engine, lambda connection: connection.execute(text("SELECT * FROM alembic_version")).scalars().all()
    )
    assert theirs == ["theirs"]
    await migrate.async_upgrade(engine)
    assert await run(engine, migrate.missing_parts) == []


async def test_upgrading_again_and_by_several_at_once_is_harmless(engine: AsyncEngine) -> None:
    await asyncio.gather(*(migrate.async_upgrade(engine) for _ in range(4)))
    await migrate.async_upgrade(engine)

    assert await run(engine, migrate.current) == migrate.head()


async def test_an_upgrade_inside_the_hosts_transaction_goes_with_it(engine: AsyncEngine) -> None:
    await run(engine, lambda connection: None)
    connection = await engine.connect()
    await connection.begin()
    if engine.dialect.name == "sqlite":  # the driver would commit before a CREATE TABLE on its own
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
    await migrate.async_upgrade(connection)
    await connection.rollback()
    await connection.close()

    assert await run(engine, tables) == set()


async def test_tables_that_no_migration_made_are_refused_and_can_be_stamped(engine: AsyncEngine) -> None:
    await run(engine, Base.metadata.create_all)

    with pytest.raises(SetupIncomplete, match="rindle db stamp"):
        await migrate.async_upgrade(engine)

    await run(engine, migrate.stamp)
    assert await run(engine, migrate.current) == migrate.head()
    await migrate.async_upgrade(engine)


async def test_a_partial_catalog_cannot_be_stamped(engine: AsyncEngine) -> None:
    await run(engine, Base.metadata.create_all)
    await run(engine, lambda connection: connection.execute(text("DROP TABLE media_events")))
    await run(engine, lambda connection: connection.execute(text("DROP INDEX ix_media_assets_kind")))

    with pytest.raises(SetupIncomplete, match="media_assets index") as refused:
        await run(engine, migrate.stamp)

    assert refused.value.detail["missing"] == ["media_assets index(kind)", "media_events"]
    assert await run(engine, migrate.current) is None


async def test_the_database_of_a_newer_release_is_left_alone(engine: AsyncEngine) -> None:
    await migrate.async_upgrade(engine)
    newer = text(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'")
    await run(engine, lambda connection: connection.execute(newer))

    with pytest.raises(SetupIncomplete, match="newer"):
        await migrate.async_upgrade(engine)


async def test_missing_parts_are_added_and_are_those_of_a_migration(engine: AsyncEngine) -> None:
    await migrate.async_upgrade(engine)
    before = await run(engine, layout)

    def damage(connection: Connection) -> None:
        connection.execute(text("DROP TABLE media_processing_runs"))
        connection.execute(text("DROP INDEX ix_media_assets_profile_id"))
        connection.execute(text("ALTER TABLE media_assets DROP COLUMN operator_reason"))
        if connection.dialect.name == "postgresql":
            [key] = inspect(connection).get_unique_constraints("media_variants")
            connection.execute(text(f'ALTER TABLE media_variants DROP CONSTRAINT "{key["name"]}"'))

    await run(engine, damage)
    missing = await run(engine, migrate.missing_parts)
    assert len(missing) == (4 if engine.dialect.name == "postgresql" else 3)

    assert await run(engine, migrate.repair) == missing

    after = await run(engine, layout)
    for found in (before, after):
        found["media_assets"]["columns"].sort()  # an added column comes last
    assert after == before
    assert await run(engine, migrate.repair) == []


async def test_parts_that_rows_have_no_value_for_are_not_invented(engine: AsyncEngine) -> None:
    await migrate.async_upgrade(engine)
    await run(engine, lambda connection: connection.execute(text("ALTER TABLE media_outbox DROP COLUMN task_queue")))

    with pytest.raises(SetupIncomplete, match=r"media_outbox\.task_queue.*restore a backup"):
        await run(engine, migrate.repair)

    await run(
        engine, lambda connection: connection.execute(text(f"UPDATE {migrate.VERSION_TABLE} SET version_num='0002'"))
    )
    with pytest.raises(SetupIncomplete, match="rindle db upgrade"):
        await run(engine, migrate.repair)


def test_a_sync_engine_is_upgraded_in_a_transaction_of_its_own(database_url: str) -> None:
    engine = create_engine(database_url.replace("+aiosqlite", ""))
    migrate.upgrade(engine)

    with engine.connect() as connection:
        assert migrate.current(connection) == migrate.head()
        assert migrate.missing_parts(connection) == []
    engine.dispose()


def test_only_our_tables_are_ours() -> None:
    assert all(map(migrate.is_ours, [*TABLES, migrate.VERSION_TABLE]))
    assert not any(map(migrate.is_ours, ["users", "alembic_version", None]))


# --- the Alembic environment of an application ---------------------------------------------------------------------


@pytest.fixture
async def application(engine: AsyncEngine) -> tuple[AsyncEngine, MetaData]:
    """A database that an application shares with Rindle, and its metadata, which has one index more."""
    metadata = MetaData()
    users = Table("users", metadata, Column("id", Integer, primary_key=True), Column("name", String(50)))
    await run(engine, metadata.create_all)
    await migrate.async_upgrade(engine)
    Index("ix_users_name", users.c.name)
    return engine, metadata


def autogenerated(connection: Connection, metadata: MetaData, **options: Any) -> str:
    """Return the body of the migration that ``alembic revision --autogenerate`` would write."""
    context = MigrationContext.configure(connection, opts={"compare_type": True, **options})
    return render_python_code(produce_migrations(context, metadata).upgrade_ops)  # type: ignore[arg-type]


async def test_autogenerate_of_an_application_leaves_our_tables_alone(
    application: tuple[AsyncEngine, MetaData],
) -> None:
    engine, metadata = application

    bare = await run(engine, autogenerated, metadata)
    made = await run(engine, partial(autogenerated, include_object=migrate.include_object), metadata)

    assert {f"op.drop_table('{name}')" for name in (*TABLES, migrate.VERSION_TABLE)} <= set(re.split(r"\n *", bare))
    assert re.findall(r"op\.\w+\(.*", made) == ["op.create_index('ix_users_name', 'users', ['name'], unique=False)"]


async def test_an_application_that_has_our_models_in_its_metadata_makes_no_second_migration_of_them(
    application: tuple[AsyncEngine, MetaData],
) -> None:
    engine, metadata = application
    await run(engine, migrate.downgrade)  # as before the first `rindle migrate`

    together = [metadata, Base.metadata]
    made = await run(engine, partial(autogenerated, include_object=migrate.include_object), together)

    assert re.findall(r"op\.\w+\(.*", made) == ["op.create_index('ix_users_name', 'users', ['name'], unique=False)"]


# --- the wrong kind of engine ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_async_bind_is_refused_with_the_call_to_make(engine: AsyncEngine) -> None:
    inside = "async with engine.begin() as connection: await connection.run_sync("
    async with engine.connect() as connection:
        for bind in (engine, connection):
            for call, fix in (
                (migrate.upgrade, "await async_upgrade(bind)"),
                (migrate.downgrade, f"{inside}downgrade)"),
                (migrate.stamp, f"{inside}stamp)"),
                (migrate.current, f"{inside}current)"),
                (migrate.missing_parts, f"{inside}missing_parts)"),
            ):
                with pytest.raises(InvalidArgument) as refused:
                    call(bind)  # type: ignore[operator]
                assert fix in refused.value.message
                assert type(bind).__name__ in refused.value.message


async def test_a_synchronous_bind_is_refused_by_the_async_call() -> None:
    with pytest.raises(InvalidArgument, match=r"To fix: upgrade\(bind\)"):
        await migrate.async_upgrade(create_engine("sqlite://"))  # type: ignore[arg-type]


def test_what_is_no_bind_at_all_is_refused() -> None:
    """``op.get_bind()`` is ``None`` while Alembic writes SQL into a file."""
    with pytest.raises(InvalidArgument, match=r"needs a synchronous engine or connection.*op\.get_bind\(\)"):
        migrate.upgrade(None)  # type: ignore[arg-type]
