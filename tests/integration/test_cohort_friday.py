"""What the demo breaks on Friday is what ``runtime-status`` finds, and its terminal is the operator's."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from examples.cohort import demo_friday
from examples.cohort.demo_friday import Friday, Operator, Terminal
from examples.cohort.demo_stage import CheckFailed, Checks
from rindle import MediaAsset, MediaOutbox, MediaUploadSession, MediaVariant
from rindle.cli.dev import Stack
from rindle.db.models import new_id, utc_now
from rindle.operations.explain import explain
from tests.stage import Stage


@pytest.fixture
async def database(lite_stage: Stage) -> AsyncIterator[Engine]:
    await lite_stage.stamp()
    await lite_stage.client()  # a report connects only once
    engine = create_engine(lite_stage.environment["APP_DATABASE_URL"].replace("+aiosqlite", ""))
    yield engine
    engine.dispose()


@pytest.fixture
def operator(lite_stage: Stage, database: Engine) -> Operator:
    stack = Stack(temporal="", health="", ui=None, web=None, environment={})
    return Operator(stack, database, Checks(), Friday())


def sound(database: Engine, kind: str = "image") -> str:
    """Write an asset that is ready, with a variant and its upload; returns its id."""
    ended = utc_now()
    facts = {} if kind == "image" else {"width": 9, "height": 9, "duration_ms": 9, "has_video_track": True}
    asset = MediaAsset(id=new_id(), state="ready", profile="avatar", storage_key=new_id(), kind=kind, **facts)
    tied = {"asset_id": asset.id}
    upload = MediaUploadSession(**tied, state="completed", upload_key=new_id(), expires_at=ended, url_expires_at=ended)
    variant = MediaVariant(**tied, name="card", state="ready", recipe_digest="0" * 64)
    with Session(database) as session, session.begin():
        session.add(asset)
        session.flush()
        session.add_all([upload, variant])
        return str(asset.id)


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        (demo_friday.FAILS, "failed_work"),
        (demo_friday.LOSES_A_BUILD, "orphan_suspect"),
        (demo_friday.GOES_BACK, "workflow_missing"),
        (demo_friday.LOSES_ITS_SIZE, "probe_drift"),
        (demo_friday.DELETES, "purge_stuck"),
    ],
)
async def test_each_statement_breaks_what_its_finding_names(
    lite_stage: Stage, database: Engine, operator: Operator, statement: str, name: str
) -> None:
    asset_id = sound(database, kind="video" if name == "probe_drift" else "image")
    assert (await lite_stage.rindle.runtime_status()).findings == ()

    shown = operator.sql(statement, asset=asset_id)
    if name == "purge_stuck":
        operator.sql(demo_friday.ENDS_THE_TICKET, asset=asset_id)

    assert [one.name for one in (await lite_stage.rindle.runtime_status()).findings] == [name]
    assert (await explain(lite_stage.rindle.services, asset_id)).diagnosis.command
    assert asset_id[-6:] in shown and "\n" not in shown


async def test_a_parked_request_is_found(lite_stage: Stage, database: Engine, operator: Operator) -> None:
    long_ago = utc_now() - timedelta(hours=1)
    workflow_id = "rindle-upload:" + new_id()
    with Session(database) as session, session.begin():
        row = MediaOutbox(kind="start", workflow_type="t", workflow_id=workflow_id, task_queue="q")
        row.state, row.available_at = "dispatched", long_ago
        session.add(row)

    operator.sql(demo_friday.PARKS, workflow=workflow_id)

    assert [one.name for one in (await lite_stage.rindle.runtime_status()).findings] == ["outbox_parked"]


async def test_a_statement_that_changes_nothing_ends_the_demo(operator: Operator) -> None:
    with pytest.raises(CheckFailed, match="changes something"):
        operator.sql(demo_friday.FAILS, asset=new_id())


def test_a_printed_command_is_typed_with_the_programs_of_this_virtualenv() -> None:
    terminal = Terminal({"GREETING": "a b"})

    done = terminal.typed("""python -c 'import os, sys; print(sys.prefix, os.environ["GREETING"])'""")

    assert done.stdout.split(maxsplit=1) == [str(Path(sys.prefix)), "a b\n"]
    with pytest.raises(CheckFailed, match="it ended with 3"):
        terminal.repairs("python -c 'raise SystemExit(3)'")
