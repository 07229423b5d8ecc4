"""What ``explain`` asks of an outbox in which almost all rows are sent: no query reads them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from rindle.db.models import MediaErasure, new_id
from rindle.operations.erasures import explain_erasure
from rindle.operations.explain import explain
from rindle.workflows import ids
from tests.stage import Stage, on_postgres


@on_postgres
async def test_sent_rows_of_a_run_are_not_read(stage: Stage) -> None:
    """An erasure of many assets is woken at the end of each purge, and relays keep what they sent for days."""
    services = stage.rindle.services
    engine = services.database.engine
    assert isinstance(engine, AsyncEngine)
    asset = await stage.verified("plain")
    erasure = MediaErasure(id=new_id(), owner_type="member", owner_id="ada")
    await services.database.write(lambda session: session.add(erasure))
    sent = text(
        "INSERT INTO media_outbox (kind, workflow_type, workflow_id, task_queue, payload, priority, state, attempts, "
        "available_at, inserted_at, updated_at, dispatched_at) SELECT 'signal', 't', :run, 'q', '{}', 3, 'dispatched', "
        "0, now(), now(), now(), now() FROM generate_series(1, 20000)"
    )
    async with engine.begin() as connection:
        for run in (ids.purge_id(asset.id, prefix=stage.prefix), ids.erasure_id(erasure.id, prefix=stage.prefix)):
            await connection.execute(sent, {"run": run})
    async with engine.connect() as connection:
        await connection.exec_driver_sql("ANALYZE media_outbox")
        await connection.commit()
    asked: list[tuple[str, Any]] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))

    await explain(services, asset.id)
    await explain_erasure(services, erasure.id)

    queries = [(sql, parameters) for sql, parameters in asked if "FROM media_outbox" in sql]
    assert len(queries) == 2
    async with engine.connect() as connection:
        for sql, parameters in queries:
            plan = "\n".join(row[0] for row in await connection.exec_driver_sql(f"EXPLAIN {sql}", parameters))
            assert "Seq Scan" not in plan and "ix_media_outbox_available_at_id" in plan, f"{sql}\n{plan}"
