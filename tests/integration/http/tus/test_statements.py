"""What a request in the middle of an upload costs the database, and what it relies on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from rindle import Rindle
from rindle.db import streams as rows
from tests.integration.http.tus.conftest import Mount
from tests.tus import session_of


@contextmanager
def executed(rindle: Rindle) -> Iterator[list[str]]:
    """Collect the statements on upload sessions, by their verbs."""
    engine, verbs = rindle.database.engine, list[str]()
    assert isinstance(engine, AsyncEngine)

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "media_upload_sessions" in statement:
            verbs.append(statement.split()[0])

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield verbs
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


async def test_a_patch_in_the_middle_reads_once_and_writes_twice(mount: Mount) -> None:
    url = await mount.create(10, b"hello")

    with executed(mount.rindle) as verbs:
        answer = await mount.patch(url, 5, b"wor")

    assert (answer.status_code, answer.headers["upload-offset"]) == (204, "8")
    assert verbs == ["SELECT", "UPDATE", "UPDATE"]  # find, take the lease, record and release
    row = await mount.row(url)
    assert (row.last_known_offset, row.lock_owner) == (8, None)


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
