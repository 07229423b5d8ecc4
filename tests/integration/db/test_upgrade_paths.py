"""Upgrades from every earlier revision with rows of that time, downgrades, and tables that are refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, TableClause, column, insert, inspect, select, table, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session

from rindle.db import migrate
from rindle.db.models import Base
from rindle.errors import InvalidArgument, SetupIncomplete
from rindle.operations import schema
from tests.integration.db.test_migrate import layout
from tests.patience import until
from tests.stage import on_postgres

EVERY_REVISION = pytest.mark.parametrize("revision", migrate.revisions())
#: The oldest revision on which the code of today works. Whoever adds a migration looks whether it still does.
USABLE_SINCE = "0004"

ASSET, VARIANT, SESSION, ATTACHMENT, RUN, ERASURE, AT_PROVIDER = (
    f"0190b4a1-0000-7000-8000-00000000000{n}" for n in range(7)
)
MOMENT = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
_TIMES = {"inserted_at": MOMENT, "updated_at": MOMENT}
#: A row of each table, with a value in every column. Columns that a revision does not have are left out.
ROWS: dict[str, dict[str, Any]] = {
    "media_assets": {
        "id": ASSET,
        "state": "degraded",
        "storage_key": "lesson/a/film.mp4",
        "profile": "lesson",
        "uploaded_by": "member-7",
        "kind": "video",
        "content_type": "video/mp4",
        "filename": "film.mp4",
        "byte_size": 5_000_000_000,
        "width": 1280,
        "height": 720,
        "duration_ms": 61_000,
        "has_video_track": True,
        "has_audio_track": False,
        "metadata": {"placeholder": "data:", "analyzer": {"faces": 2}},
        "recipe_digest": "d" * 64,
        "superseded_key": "lesson/a/old.mp4",
        "error_code": "storage_transient",
        "error_reason": "the store was away",
        "checksum_sha256": "c" * 64,
        "stored_etag": '"e1"',
        "scanned_etag": '"e1"',
        "lock_version": 7,
        "display_name": "Film – Übung.mp4",
        "error_detail": {"limit": 3},
        "operator_reason": "moov atom not found",
    },
    "media_variants": {
        "id": VARIANT,
        "asset_id": ASSET,
        "name": "web_720p",
        "state": "failed",
        "recipe_digest": "r" * 64,
        "output_kind": "video",
        "storage_key": "lesson/a/web.mp4",
        "byte_size": 4_000_000_000,
        "content_type": "video/mp4",
        "width": 1280,
        "height": 720,
        "duration_ms": 61_000,
        "generated_at": MOMENT,
        "error_code": "process_timeout",
        "error_reason": "took too long",
        "generation": 3,
        "attempts": 2,
        "progress": 43,
        "superseded_key": "lesson/a/web-1.mp4",
        "dynamic": False,
        "obsolete_keys": ["lesson/a/web-0.mp4"],
        "applied_step": "run:11",
    },
    "media_upload_sessions": {
        "id": SESSION,
        "asset_id": ASSET,
        "state": "completed",
        "upload_key": "lesson/a/film.mp4",
        "upload_strategy": "presigned_put",
        "resumable_protocol": "tus",
        "upload_length": 5_000_000_000,
        "multipart_upload_id": "m1",
        "multipart_parts": [{"number": 1}],
        "session_uri": "https://store.example/session",
        "session_uri_expires_at": MOMENT,
        "last_known_offset": 5_000_000_000,
        "region_hint": "eu",
        "expires_at": MOMENT,
        "verified_at": MOMENT,
        "failure_reason": "none",
        "error_code": "none",
        "actor": "member-7",
        "expected_size": 5_000_000_000,
        "client_content_type": "video/mp4",
        "upload_metadata": "filename ZmlsbQ==",
        "part_size": 5_242_880,
        "concat_role": "none",
        "concat_sources": [],
        "verified_etag": '"e1"',
        "lock_owner": "web-1",
        "lock_expires_at": MOMENT,
        "lock_yield": False,
        "backing_released_at": MOMENT,
        "idempotency_key": "k1",
        "auto_verify": True,
        "url_expires_at": MOMENT,
        "release_error_code": "storage_unauthorized",
    },
    "media_attachments": {
        "id": ATTACHMENT,
        "asset_id": ASSET,
        "owner_type": "Lesson",
        "owner_id": "12",
        "slot": "film",
    },
    "media_processing_runs": {
        "id": RUN,
        "asset_id": ASSET,
        "variant_name": "web_720p",
        "worker": "rindle.build_av",
        "state": "failed",
        "attempt": 2,
        "started_at": MOMENT,
        "finished_at": MOMENT,
        "error_code": "process_timeout",
        "error_reason": "took too long",
        "workflow_id": "rindle-variants:x",
        "run_id": "run:11",
    },
    "media_outbox": {
        "id": 41,
        "kind": "signal",
        "workflow_type": "rindle.VariantWorkflow",
        "workflow_id": "rindle-variants:x",
        "task_queue": "rindle",
        "signal": "wake",
        "payload": {"input": {"asset_id": ASSET}},
        "priority": 4,
        "dedupe_key": "one",
        "state": "parked",
        "attempts": 3,
        "available_at": MOMENT,
        "last_error": "invalid",
        "traceparent": "00-1",
        "dispatched_at": MOMENT,
    },
    "media_events": {
        "id": 42,
        "scope_key": "asset",
        "scope_id": ASSET,
        "asset_id": ASSET,
        "type": "asset.promoted",
        "payload": {"asset_id": ASSET},
        "occurred_at": MOMENT,
        "request_id": "req-1",
        "profile": "lesson",
        "actor": "member-7",
        "audit": True,
    },
    "media_erasures": {
        "id": ERASURE,
        "owner_type": "Member",
        "owner_id": "7",
        "actor": "support",
        "report": {"mode": "execute"},
        "detached_at": MOMENT,
        "pending": 1,
        "completed_at": MOMENT,
    },
    "media_erasure_assets": {
        "erasure_id": ERASURE,
        "asset_id": ASSET,
        "profile": "lesson",
        "outcome": "purged",
        "decided_at": MOMENT,
        "uploads_end_at": MOMENT,
        "objects": [{"storage": "media", "key": "lesson/a/film.mp4"}],
    },
    "media_provider_assets": {
        "id": AT_PROVIDER,
        "asset_id": ASSET,
        "profile": "lesson",
        "provider_name": "mux",
        "provider_asset_id": "a1",
        "mux_passthrough": "p" * 32,
        "provider_upload_id": "u1",
        "playback_ids": ["play1"],
        "playback_policy": "signed",
        "ingest_mode": "server_push",
        "state": "errored",
        "last_event_id": "e1",
        "last_event_at": MOMENT,
        "last_sync_error": "stuck in processing past threshold",
        "raw_provider_metadata": {"status": "preparing"},
        "cleanup_pending": True,
        "lock_version": 4,
    },
}


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An empty database, on SQLite and on Postgres."""
    made = create_async_engine(database_url)
    yield made
    await made.dispose()


async def run(engine: AsyncEngine, fn: Callable[..., Any], *arguments: Any) -> Any:
    """Run ``fn(connection, ...)`` in a transaction."""
    async with engine.begin() as connection:
        return await connection.run_sync(fn, *arguments)


def columns_of(connection: Connection) -> dict[str, list[str]]:
    """Return the columns of Rindle's tables as they are now, in the order of references between tables."""
    inspector = inspect(connection)
    present = set(inspector.get_table_names())
    ordered = [one.name for one in Base.metadata.sorted_tables]
    return {name: [one["name"] for one in inspector.get_columns(name)] for name in ordered if name in present}


def clause(name: str, columns: list[str]) -> TableClause:
    """Return a table as code of that time knew it: with these columns alone."""
    types = Base.metadata.tables[name].columns
    return table(name, *(column(one, types[one].type) for one in columns))


def insert_rows(connection: Connection, columns: dict[str, list[str]]) -> None:
    for name, own in columns.items():
        values = {**ROWS[name], **_TIMES}
        connection.execute(insert(clause(name, own)).values({one: values[one] for one in own}))


def rows(connection: Connection, columns: dict[str, list[str]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [dict(row) for row in connection.execute(select(clause(name, own))).mappings()]
        for name, own in columns.items()
    }


def without_order(found: dict[str, Any]) -> dict[str, Any]:
    """Return a layout whose columns are sorted, since a downgrade and an upgrade may change their order."""
    return {name: {**parts, "columns": sorted(parts["columns"], key=str)} for name, parts in found.items()}


async def wanted_layout(engine: AsyncEngine) -> Any:
    """Return the layout that the models ask for; the database is empty before and afterwards."""
    await run(engine, Base.metadata.create_all)
    wanted = await run(engine, layout)
    await run(engine, Base.metadata.drop_all)
    return wanted


# --- from every revision ------------------------------------------------------------------------------------------


@EVERY_REVISION
async def test_an_upgrade_keeps_the_rows_of_its_time_and_makes_the_tables_of_the_models(
    engine: AsyncEngine, revision: str
) -> None:
    wanted = await wanted_layout(engine)
    await migrate.async_upgrade(engine, revision)
    columns = await run(engine, columns_of)
    assert sorted(columns) == list(migrate.tables_of(revision))
    await run(engine, insert_rows, columns)
    before = await run(engine, rows, columns)
    assert all(None not in row.values() for found in before.values() for row in found)

    await migrate.async_upgrade(engine)

    assert await run(engine, rows, columns) == before
    assert await run(engine, layout) == wanted


@EVERY_REVISION
async def test_the_models_read_rows_of_every_revision(engine: AsyncEngine, revision: str) -> None:
    await migrate.async_upgrade(engine, revision)
    columns = await run(engine, columns_of)
    await run(engine, insert_rows, columns)
    await migrate.async_upgrade(engine)

    def read(connection: Connection) -> int:
        with Session(connection) as session:
            return sum(len(session.scalars(select(mapper.class_)).all()) for mapper in Base.registry.mappers)

    assert await run(engine, read) == len(columns)


@EVERY_REVISION
async def test_code_of_every_revision_writes_into_the_tables_of_this_release(
    engine: AsyncEngine, revision: str
) -> None:
    """During a deployment the processes of the previous release go on after the migration."""
    await migrate.async_upgrade(engine, revision)
    columns = await run(engine, columns_of)
    await migrate.async_upgrade(engine)

    await run(engine, insert_rows, columns)

    found = await run(engine, rows, columns)
    assert {name: len(one) for name, one in found.items()} == dict.fromkeys(columns, 1)


@EVERY_REVISION
async def test_a_downgrade_keeps_what_the_revision_has_and_can_be_undone(engine: AsyncEngine, revision: str) -> None:
    await migrate.async_upgrade(engine, revision)
    columns = await run(engine, columns_of)
    await migrate.async_upgrade(engine)
    wanted = await run(engine, layout)
    await run(engine, insert_rows, await run(engine, columns_of))
    before = await run(engine, rows, columns)

    await run(engine, migrate.downgrade, revision)

    assert await run(engine, columns_of) == columns
    assert await run(engine, rows, columns) == before
    assert await run(engine, migrate.current) == revision
    await migrate.async_upgrade(engine)
    assert without_order(await run(engine, layout)) == without_order(wanted)


def test_what_a_downgrade_undoes_says_what_is_lost() -> None:
    undone = migrate.undone(migrate.head(), "0004")

    assert [one for one, _ in undone] == [one for one in reversed(migrate.revisions()) if one > "0004"]
    assert dict(undone)["0006"].startswith("Drop the tables. DESTRUCTIVE")
    assert migrate.undone("0004", "0004") == []
    for found, revision, reason in (
        ("0003", "0005", "earlier than 0005"),
        (None, "0001", "at base"),
        ("0003", "x", "no rev"),
    ):
        with pytest.raises(InvalidArgument, match=reason):
            migrate.undone(found, revision)


# --- which revisions this release works with ----------------------------------------------------------------------


@EVERY_REVISION
async def test_the_condition_names_what_is_behind(engine: AsyncEngine, revision: str) -> None:
    await migrate.async_upgrade(engine, revision)

    found = await run(engine, schema.condition)

    if revision == migrate.head():
        assert (found.name, found.is_usable) == ("current", True)
        return
    assert (found.name, found.command) == ("behind", "rindle db upgrade")
    assert found.is_usable is (revision >= USABLE_SINCE)
    assert f"at {revision}" in found.summary and migrate.head() in found.summary


async def test_tables_of_a_newer_release_are_usable_while_they_have_what_this_one_needs(engine: AsyncEngine) -> None:
    await migrate.async_upgrade(engine)

    def newer(connection: Connection, *statements: str) -> schema.Condition:
        for statement in (f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'", *statements):
            connection.execute(text(statement))
        return schema.condition(connection)

    found = await run(engine, newer, "ALTER TABLE media_assets ADD COLUMN mood VARCHAR(9)")
    assert (found.name, found.is_usable) == ("ahead", True)
    await run(engine, schema.require_usable)

    contracted = await run(engine, newer, "ALTER TABLE media_assets DROP COLUMN operator_reason")
    assert (contracted.name, contracted.is_usable) == ("ahead", False)
    with pytest.raises(SetupIncomplete, match="newer release"):
        await run(engine, schema.require_usable)


@on_postgres
async def test_columns_that_this_release_cannot_fill_make_newer_tables_unusable(engine: AsyncEngine) -> None:
    await migrate.async_upgrade(engine)

    def newer(connection: Connection) -> list[str]:
        connection.execute(text("ALTER TABLE media_events ADD COLUMN region VARCHAR(9) NOT NULL"))
        connection.execute(text("ALTER TABLE media_events ADD COLUMN lane VARCHAR(9) NOT NULL DEFAULT 'a'"))
        return migrate.unknown_requirements(connection)

    assert await run(engine, newer) == ["media_events.region"]


# --- what is refused ----------------------------------------------------------------------------------------------


async def refused(engine: AsyncEngine, reason: str, *statements: str) -> SetupIncomplete:
    """Run statements, then an upgrade that is refused and changes nothing; returns the bounded refusal."""

    def damage(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    await run(engine, damage)
    before = await run(engine, columns_of)
    with pytest.raises(SetupIncomplete, match=reason) as found:
        await migrate.async_upgrade(engine)
    assert len(found.value.message) < 500
    assert await run(engine, columns_of) == before
    return found.value


async def test_a_partial_catalog_is_refused(engine: AsyncEngine) -> None:
    await migrate.async_upgrade(engine, "0005")

    found = await refused(
        engine,
        "2 of them are missing: media_events, media_outbox",
        "DROP TABLE media_events",
        "DROP TABLE media_outbox",
    )

    assert found.detail["missing"] == ["media_events", "media_outbox"]


async def test_a_table_of_the_next_revision_that_exists_already_is_refused(engine: AsyncEngine) -> None:
    await migrate.async_upgrade(engine, "0005")

    found = await refused(engine, "not those of their revision", "CREATE TABLE media_erasures (id INTEGER)")

    assert isinstance(found.__cause__, DBAPIError)
    assert "media_erasures" not in found.message  # no statement of the database


async def test_a_foreign_table_in_the_place_of_ours_is_refused(engine: AsyncEngine) -> None:
    await migrate.async_upgrade(engine, "0004")

    await refused(
        engine, "not those of their revision", "DROP TABLE media_outbox", "CREATE TABLE media_outbox (mail TEXT)"
    )


async def test_a_second_revision_in_the_version_table_is_refused(engine: AsyncEngine) -> None:
    await migrate.async_upgrade(engine, "0003")
    more = [f"INSERT INTO {migrate.VERSION_TABLE} VALUES ('theirs{n}')" for n in range(40)]

    await refused(engine, r"names 41 revisions \(0003, .* and 36 more\)", *more)


async def test_a_version_table_that_is_not_alembics_is_refused(engine: AsyncEngine) -> None:
    await refused(engine, "is not Alembic's", f"CREATE TABLE {migrate.VERSION_TABLE} (name TEXT)")


async def test_an_unknown_revision_to_go_to_is_refused(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidArgument, match="no revision '0042'"):
        await migrate.async_upgrade(engine, "0042")


@on_postgres
async def test_a_table_that_stays_locked_ends_the_upgrade(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert migrate.LOCK_TIMEOUT == "5s"
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "100ms")
    await migrate.async_upgrade(engine, "0002")
    async with engine.begin() as reader:
        await reader.execute(text("SELECT count(*) FROM media_assets"))

        with pytest.raises(SetupIncomplete, match=r"locks the tables \(limit: 100ms\)") as found:
            await migrate.async_upgrade(engine)

    assert found.value.retryable and found.value.detail["reason"] == "locked"
    assert await run(engine, migrate.current) == "0002"
    await migrate.async_upgrade(engine)


# --- indexes of large tables --------------------------------------------------------------------------------------

#: A revision whose successors add indexes to tables that exist.
BEFORE_INDEXES = "0004"


def valid_indexes(connection: Connection) -> dict[str, bool]:
    """Return the indexes of our tables, and whether queries may use them."""
    found = connection.execute(
        text(
            "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "WHERE relname LIKE 'ix_media_%' AND pg_table_is_visible(pg_class.oid)"
        )
    )
    return {row.relname: row.indisvalid for row in found}


@on_postgres
async def test_rows_are_written_while_new_indexes_are_built(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build inside the migration would wait for the open transaction, and writers for the build."""
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "100ms")
    await migrate.async_upgrade(engine, BEFORE_INDEXES)
    columns = await run(engine, columns_of)
    async with engine.connect() as writer:
        await writer.run_sync(insert_rows, columns)
        upgrade = asyncio.create_task(migrate.async_upgrade(engine))

        def is_building(connection: Connection) -> bool:
            waiting = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"
            return bool(connection.execute(text(waiting)).scalar())

        async def build_waits() -> bool:
            if upgrade.done():
                await upgrade
            return bool(await run(engine, is_building))

        await until(build_waits, what="the build of an index to wait for the open transaction")
        async with engine.begin() as second:
            for name in columns:  # the lock of every statement that writes
                await second.execute(text(f"LOCK TABLE {name} IN ROW EXCLUSIVE MODE NOWAIT"))
        await writer.commit()
    await upgrade

    assert await run(engine, migrate.missing_parts) == []
    assert set((await run(engine, valid_indexes)).values()) == {True}


@on_postgres
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in-a-transaction-of-the-application"])
async def test_an_index_whose_build_was_interrupted_is_built_again(engine: AsyncEngine, inside: bool) -> None:
    await migrate.async_upgrade(engine, BEFORE_INDEXES)
    name = "ix_media_events_type_occurred_at"

    def interrupted(connection: Connection) -> None:
        connection.execute(text(f"CREATE INDEX {name} ON media_events (type, occurred_at)"))
        connection.execute(
            text(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = CAST('{name}' AS regclass)")
        )

    await run(engine, interrupted)
    assert (await run(engine, valid_indexes))[name] is False

    if inside:
        await run(engine, migrate.upgrade)
    else:
        await migrate.async_upgrade(engine)

    assert set((await run(engine, valid_indexes)).values()) == {True}
    assert await run(engine, migrate.missing_parts) == []


@on_postgres
async def test_a_pool_of_one_connection_builds_indexes_inside_the_migration(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    await migrate.async_upgrade(engine, BEFORE_INDEXES)

    await migrate.async_upgrade(engine)

    assert "index.not_concurrent" in caplog.text
    assert await run(engine, migrate.missing_parts) == []
    await engine.dispose()


async def test_several_upgrades_of_one_database_at_once(engine: AsyncEngine) -> None:
    await migrate.async_upgrade(engine, BEFORE_INDEXES)

    await asyncio.gather(*(migrate.async_upgrade(engine) for _ in range(4)))

    assert await run(engine, migrate.current) == migrate.head()
    assert await run(engine, migrate.missing_parts) == []
