"""What a request in the middle of an upload costs the database, and what it relies on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from rindle import Rindle
from rindle.db import streams as rows
from tests.integration.http.tus.conftest import Mount
from tests.patience import PATIENCE_SECONDS, until
from tests.tus import session_of


@contextmanager
def executed(rindle: Rindle, text: str = "media_upload_sessions") -> Iterator[list[str]]:
    """Collect the statements that contain ``text``, by their verbs."""
    engine, verbs = rindle.database.engine, list[str]()
    assert isinstance(engine, AsyncEngine)

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if text in statement:
            verbs.append(statement.split()[0])

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield verbs
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


async def test_a_patch_in_the_middle_reads_once_and_writes_twice(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    # A request that takes longer than a second on a busy machine looks whether its lease was taken away.
    monkeypatch.setattr("rindle.uploads.leases.WATCH_SECONDS", PATIENCE_SECONDS)
    url = await mount.create(10, b"hello")

    with executed(mount.rindle) as verbs:
        answer = await mount.patch(url, 5, b"wor")

    assert (answer.status_code, answer.headers["upload-offset"]) == (204, "8")
    assert verbs == ["SELECT", "UPDATE", "UPDATE"]  # find, take the lease, record and release
    row = await mount.row(url)
    assert (row.last_known_offset, row.lock_owner) == (8, None)


async def test_requests_that_wait_for_the_workflow_look_together(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rindle.http.tus.patch.ASSEMBLY_SECONDS", PATIENCE_SECONDS)
    urls = [await mount.create(10, b"hello") for _ in range(8)]

    async def all_are_complete() -> bool:
        return {(await mount.row(url)).state for url in urls} == {"uploaded"}

    sending = [asyncio.create_task(mount.patch(url, 5, b"world")) for url in urls]
    await until(all_are_complete, what="the last bytes to be recorded")
    with (
        executed(mount.rindle, "media_assets.id = media_upload_sessions.asset_id") as alone,
        executed(mount.rindle, "media_upload_sessions.state IN") as together,
    ):
        await until(lambda: bool(together), what="a look")
    for url in urls:
        await mount.assembled(url)
    answers = await asyncio.gather(*sending)

    assert {answer.status_code for answer in answers} == {204}
    assert not alone


@pytest.mark.parametrize("ended", [False, True])
async def test_a_lease_is_never_given_with_what_was_known_before(mount: Mount, ended: bool) -> None:
    url = await mount.create(10, b"hello")
    before = rows.Stream(await mount.row(url), None)
    await mount.patch(url, 5, b"world" if ended else b"wor")

    taken, is_taken = await mount.rindle.database.write(
        rows.take_lease, before, "a late request", seconds=30.0, yield_seconds=10.0
    )

    assert is_taken
    now = await mount.rindle.database.read(rows.find_stream, session_of(url))
    assert now is not None
    assert taken.session.last_known_offset == now.session.last_known_offset == (10 if ended else 8)
    assert taken.session.state == now.session.state
