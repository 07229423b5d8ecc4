"""An application with a plain synchronous engine: the same functions in a bounded thread pool."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaAttachment, Rindle
from rindle.errors import NotFound, StateConflict
from tests.application import SECRET, profiles
from tests.invariants import everything_holds
from tests.patience import PATIENCE_SECONDS
from tests.stage import Stage


def _sync_url(url: str) -> str:
    return url.replace("sqlite+aiosqlite", "sqlite")  # psycopg serves both worlds under one name


async def test_the_pipeline_runs_on_a_sync_engine_and_attach_joins_a_sync_session(stage: Stage, tmp_path: Path) -> None:
    engine = create_engine(_sync_url(stage.environment["APP_DATABASE_URL"]))
    rindle = Rindle(
        engine=engine,
        storages={"media": stage.storage},
        profiles=profiles(),
        secrets=[SECRET],
        settings=stage.rindle.settings,
        temporal=stage.rindle.temporal,
    )
    stage.adopt(rindle)
    await stage.member(rindle)

    asset = await stage.verified(actor="alice")
    assert (await rindle.settled(asset.id, timeout=PATIENCE_SECONDS)).state == "ready"
    with Session(engine) as session:
        with pytest.raises(NotFound):
            await rindle.attach(asset.id, ("user", "1"), "avatar", uploaded_by="bob", session=session)
        await rindle.attach(asset.id, ("user", "1"), "avatar", uploaded_by="alice", session=session)
        session.rollback()
        assert session.scalars(select(MediaAttachment)).all() == []
        session.rollback()  # SQLite refuses to write in a transaction that read before the worker wrote
        await rindle.attach(asset.id, ("user", "1"), "avatar", uploaded_by="alice", session=session)
        session.commit()
    found = await rindle.attachment_for(("user", "1"), "avatar", load=("variants",))
    assert found is not None
    assert [row.state for row in found.asset.variants] == ["ready", "ready"]
    await rindle.detach(("user", "1"), "avatar")
    await stage.gone(asset.id)
    await everything_holds(stage)


async def test_a_sync_transaction_on_sqlite_that_read_too_early_ends_as_state_conflict(lite_stage: Stage) -> None:
    engine = create_engine(_sync_url(lite_stage.environment["APP_DATABASE_URL"]))
    rindle = Rindle(engine=engine, storages={"media": lite_stage.storage}, profiles=profiles(), secrets=[SECRET])
    asset = await lite_stage.verified()
    with Session(engine) as session:
        session.scalars(select(MediaAsset)).all()
        await lite_stage.verified()
        with pytest.raises(StateConflict):
            await rindle.attach(asset.id, ("user", "1"), "avatar", session=session)
    engine.dispose()
