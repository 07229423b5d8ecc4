"""The outbox with many rows that wait, were sent or were sent long ago: none of them makes a claim slower."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import String, bindparam, event, text
from sqlalchemy.orm import Session

from rindle import MediaOutbox, outbox
from rindle.db import outbox as rows
from rindle.db.models import new_id, utc_now
from tests.patience import until
from tests.stage import Stage


async def _add(stage: Stage, *found: MediaOutbox) -> None:
    await stage.rindle.database.write(lambda session: session.add_all(found))


def _row(workflow_id: str, *, due_in: float = 0, **facts: Any) -> MediaOutbox:
    return MediaOutbox(
        kind="signal",
        workflow_type="t",
        workflow_id=workflow_id,
        task_queue="q",
        available_at=utc_now() + timedelta(seconds=due_in),
        **facts,
    )


async def test_what_is_due_for_longest_is_claimed_first_and_a_workflow_keeps_its_order(stage: Stage) -> None:
    database = stage.rindle.database
    await _add(stage, _row("later", due_in=3600), _row("second", due_in=-10), _row("first", due_in=-20))
    # A delayed row, a retried one, or a clock that is ahead: the newer row is due sooner than the older one.
    await _add(stage, _row("ordered", due_in=-5), _row("ordered", due_in=-30))

    claimed = [[row.workflow_id for row in await database.write(rows.claim, limit=1)] for _ in range(4)]
    assert claimed == [["first"], ["second"], ["ordered"], []]

    older = next(row for row in await stage.outbox() if row.workflow_id == "ordered")
    await database.write(rows.mark_dispatched, [older.id])
    assert [row.id for row in await database.write(rows.claim)] == [older.id + 1]


async def test_claims_and_deletions_read_only_the_rows_they_are_about(stage: Stage) -> None:
    is_postgres = stage.rindle.database.dialect == "postgresql"
    series = "generate_series(1, 20000) AS n"
    if not is_postgres:
        series = "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 20000) SELECT n FROM s)"
    columns = "kind, workflow_type, workflow_id, task_queue, payload, priority, attempts, inserted_at, updated_at"
    now, tomorrow = utc_now(), utc_now() + timedelta(days=1)

    def fill(session: Session) -> None:
        for state, available_at, dispatched_at in (("pending", tomorrow, None), ("dispatched", now, now)):
            session.execute(
                text(
                    f"INSERT INTO media_outbox ({columns}, state, available_at, dispatched_at) "
                    f"SELECT 'start', 't', '{state}' || n, 'q', '{{}}', 3, 0, :now, :now, :state, :due, :sent "
                    f"FROM {series}"
                ).bindparams(
                    bindparam("now", now, MediaOutbox.available_at.type),
                    bindparam("due", available_at, MediaOutbox.available_at.type),
                    bindparam("sent", dispatched_at, MediaOutbox.available_at.type),
                    bindparam("state", state, String()),
                )
            )
        session.execute(text("ANALYZE media_outbox"))

    await stage.rindle.database.write(fill)

    def plan(session: Session, call: Callable[[Session], Any]) -> str:
        told: list[str] = []

        def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *others: Any) -> None:
            cursor.execute(("EXPLAIN " if is_postgres else "EXPLAIN QUERY PLAN ") + statement, parameters)
            told.extend(str(row) for row in cursor.fetchall())

        event.listen(session.connection(), "before_cursor_execute", explain)
        call(session)
        event.remove(session.connection(), "before_cursor_execute", explain)
        return "\n".join(told)

    pending, dispatched = "ix_media_outbox_available_at_id", "ix_media_outbox_dispatched_at"
    old: Callable[[Session], Any] = partial(rows.delete_dispatched, older_than_seconds=3600, limit=100)
    for call, index in ((rows.claim, pending), (rows.has_due, pending), (old, dispatched)):
        told = await stage.rindle.database.write(plan, call)
        assert index in told, told
        assert not re.search(r"Seq Scan|SCAN media_outbox(?! USING)|Sort|TEMP B-TREE", told), told


async def test_the_age_of_the_backlog_counts_from_when_a_row_was_first_due(lite_stage: Stage) -> None:
    hours = {"inserted_at": utc_now() - timedelta(hours=5)}
    await _add(lite_stage, _row("in its grace period", due_in=60, **hours), _row("just due", due_in=-10, **hours))
    assert 10 <= (await lite_stage.read(rows.backlog)).oldest_age_seconds < 3600
    await _add(lite_stage, _row("failed", due_in=60, attempts=1, **hours))
    waiting = await lite_stage.read(rows.backlog)
    assert (waiting.pending, waiting.parked) == (3, 0)
    assert waiting.oldest_age_seconds >= 5 * 3600


async def test_relays_delete_rows_that_were_sent_long_ago_in_small_batches(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "DELETION_BATCH", 2)
    monkeypatch.setattr("rindle.relay._DELETION_GAP_SECONDS", 0.01)
    day_ago = utc_now() - timedelta(days=1)
    old = [_row(f"old {number}", state="dispatched", dispatched_at=day_ago) for number in range(5)]
    kept = [
        _row("sent", state="dispatched", dispatched_at=utc_now()),
        _row("parked", state="parked", inserted_at=day_ago),
        _row("waits", due_in=86_400, inserted_at=day_ago),
    ]
    await _add(stage, *old, *kept)

    async with stage.application(RINDLE_OUTBOX_RETENTION_SECONDS="3600"):

        async def deleted() -> bool:
            return [row.workflow_id for row in await stage.outbox()] == ["sent", "parked", "waits"]

        await until(deleted, what="the old rows to be deleted")


async def test_an_upload_does_not_wait_until_thousands_of_purges_are_sent(stage: Stage) -> None:
    """What is due for longest is sent first, so a request of the same moment has few purges before it."""
    settings, database = stage.rindle.services.settings, stage.rindle.database
    assets = [(new_id(), "plain") for _ in range(1_000)]

    await database.write(outbox.start_purges, settings, assets)

    due = sorted(row.available_at for row in await stage.outbox())
    assert len(due) == 1_000
    before_an_upload = [at for at in due if at < due[0] + timedelta(seconds=1)]
    assert len(before_an_upload) == outbox.PURGES_PER_SECOND < rows.BATCH
    assert due[-1] - due[0] == timedelta(seconds=1_000 // outbox.PURGES_PER_SECOND - 1)
