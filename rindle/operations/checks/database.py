"""Checks of the database: connection, migrations, schema, clock, and the outbox backlog."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from rindle.db import migrate
from rindle.db import outbox as outbox_rows
from rindle.db.listening import DRIVERS, can_listen, listening
from rindle.db.models import TABLES, UtcDateTime, new_id
from rindle.operations import schema
from rindle.operations.checks.report import DATABASE_FIX, Planned, Result, Subject

#: Clock skew in seconds that distorts expiry times, and that breaks signatures.
SKEW_WARN_SECONDS, SKEW_ERROR_SECONDS = 30.0, 300.0
#: Age in seconds of the oldest unsent row.
LAG_WARN_SECONDS, LAG_ERROR_SECONDS = 60.0, 600.0
#: Channel of the notification that the check sends, and seconds that it may take to arrive.
_CHANNEL, _ARRIVAL_SECONDS = "rindle_doctor", 2.0


def planned(subject: Subject) -> list[Planned]:
    """Return the checks of the database."""
    return [
        Planned("db.connect", "database", _db_connect, leaves_process=True, fix=DATABASE_FIX),
        Planned("db.migrations", "database", _db_migrations, leaves_process=True, fix=DATABASE_FIX),
        Planned("db.schema", "database", _db_schema, leaves_process=True, patience=2, fix=DATABASE_FIX),
        Planned("db.clock", "database", _db_clock, leaves_process=True, fix=DATABASE_FIX),
        Planned("db.notifications", "database", _db_notifications, leaves_process=True, fix=DATABASE_FIX),
        Planned("outbox.backlog", "database", _outbox_backlog, leaves_process=True, fix=DATABASE_FIX),
    ]


async def _db_connect(subject: Subject) -> Result:
    def check(session: Session) -> Result:
        connection = session.connection()
        connection.exec_driver_sql("SELECT 1")
        dialect = connection.dialect
        version = ".".join(str(part) for part in (dialect.server_version_info or ())[:2])
        if dialect.name == "sqlite":
            journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
            if not connection.exec_driver_sql("PRAGMA foreign_keys").scalar():
                return Result("error", "SQLite does not enforce foreign keys", "call rindle.sqlite.configure(engine)")
            if journal != "wal":
                return Result(
                    "error",
                    f"SQLite's journal mode is {journal!r}, so readers and writers block each other",
                    "use a database file on a local disk and call rindle.sqlite.configure(engine)",
                )
        elif dialect.name != "postgresql":
            return Result("error", f"{dialect.name} is not supported", "use PostgreSQL or SQLite")
        return Result("ok", f"{dialect.name} {version}".strip(), detail={"dialect": dialect.name, "version": version})

    return await subject.read(check)


async def _db_migrations(subject: Subject) -> Result:
    def check(session: Session) -> Result:
        connection = session.connection()
        found = schema.condition(connection, parts=False)
        detail = {"found": migrate.current(connection), "needed": migrate.head(), "condition": found.name}
        if found.name in ("current", "incomplete"):  # the second is for db.schema to report
            return Result("ok", f"at {migrate.head()}", detail=detail)
        if found.name == "ahead" and found.is_usable:
            return Result("warn", f"ahead: {found.summary}", "deploy the newer release here too", detail)
        return Result("error", f"{found.name}: {found.summary}", found.command, detail)

    return await subject.read(check)


async def _db_schema(subject: Subject) -> Result:
    def check(session: Session) -> Result:
        connection = session.connection()
        missing = migrate.missing_parts(connection)
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            found = schema.condition(connection, parts=True)
            # Tables without a revision are stamped only when they are complete.
            fix = "restore a backup" if found.name == "unversioned" else found.command
            return Result("error", f"missing: {shown}", fix, {"missing": missing})
        return Result("ok", f"{len(TABLES)} tables with their keys and indexes")

    return await subject.read(check)


async def _db_clock(subject: Subject) -> Result:
    def check(session: Session) -> Result:
        if session.get_bind().dialect.name == "sqlite":
            return Result("ok", "SQLite uses this host's clock")
        before = datetime.now(UTC)
        theirs: datetime = session.execute(select(func.clock_timestamp(type_=UtcDateTime()))).scalar_one()
        ours = before + (datetime.now(UTC) - before) / 2
        skew = abs((theirs - ours).total_seconds())
        detail = {"skew_seconds": round(skew, 3)}
        fix = "synchronise the clocks of both machines (NTP)"
        if skew > SKEW_ERROR_SECONDS:
            return Result("error", f"the database's clock is {skew:.0f} s off: signatures fail", fix, detail)
        if skew > SKEW_WARN_SECONDS:
            return Result("warn", f"the database's clock is {skew:.0f} s off", fix, detail)
        return Result("ok", f"{skew:.1f} s apart", detail=detail)

    return await subject.read(check)


async def _db_notifications(subject: Subject) -> Result:
    database = subject.services.database
    engine, settings = database.engine, subject.services.settings
    detail = {"driver": engine.dialect.driver}
    if database.dialect != "postgresql":
        return Result("ok", "SQLite has none: processes poll", detail=detail)
    seconds = max(settings.relay_idle_poll_seconds, settings.event_idle_poll_seconds)
    otherwise = f"processes notice each other's commits by polling, after up to {seconds:g} s"
    if not can_listen(engine):
        fix = f"use {' or '.join(f'postgresql+{driver}' for driver in reversed(DRIVERS))} in the URL of the engine"
        return Result("warn", f"the driver {engine.dialect.driver} cannot LISTEN: {otherwise}", fix, detail)
    sent = new_id()
    async with listening(engine, _CHANNEL) as payloads:
        await database.write(lambda session: session.execute(select(func.pg_notify(_CHANNEL, sent))).close())
        try:
            async with asyncio.timeout(_ARRIVAL_SECONDS):
                while await anext(payloads) != sent:  # that of another doctor
                    pass
        except TimeoutError:
            return Result(
                "warn",
                f"LISTEN works, but no notification arrives: {otherwise}",
                "give the engine the address of the server itself: a pooler in transaction mode drops notifications",
                detail,
            )
    return Result("ok", f"they arrive through {engine.dialect.driver}", detail=detail)


async def _outbox_backlog(subject: Subject) -> Result:
    def check(session: Session) -> Result:
        waiting = outbox_rows.backlog(session)
        detail = asdict(waiting)
        if waiting.parked:
            return Result(
                "error", f"Temporal rejected {waiting.parked} rows; they are parked", "rindle outbox drain", detail
            )
        age = f"the oldest of {waiting.pending} rows has waited {waiting.oldest_age_seconds:.0f} s"
        fix = "start a worker and check that it reaches Temporal, or run: rindle outbox drain"
        if waiting.oldest_age_seconds > LAG_ERROR_SECONDS:
            return Result("error", age, fix, detail)
        if waiting.oldest_age_seconds > LAG_WARN_SECONDS:
            return Result("warn", age, fix, detail)
        return Result("ok", f"{waiting.pending} waiting, none parked", detail=detail)

    return await subject.read(check)
