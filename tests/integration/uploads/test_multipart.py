"""Multipart uploads against MinIO: from the first part to the finished asset, and every way in which they end."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.integration.uploads.conftest import (
    PART_BYTES,
    cut,
    large_photo,
    open_uploads,
    send_all,
    store_of,
)
from tests.invariants import everything_holds
from tests.stage import Stage

pytestmark = pytest.mark.external


async def test_a_photo_in_two_parts_becomes_a_finished_asset(s3_stage: Stage, tmp_path: Path) -> None:
    stage, body = s3_stage, large_photo(tmp_path / "photo.jpg")
    await stage.member()

    opened = await stage.rindle.initiate_multipart_upload(
        "avatar", filename="me.jpg", size=len(body), part_size=PART_BYTES, actor="alice"
    )
    session_id = opened.session.id
    assert (opened.session.state, opened.session.upload_strategy) == ("initialized", "multipart")
    assert (opened.multipart.part_size, opened.multipart.part_count) == (PART_BYTES, 2)
    assert opened.multipart.upload_id not in repr(opened)
    sent = await send_all(stage, session_id, cut(body))
    assert (await stage.session(session_id)).state == "signed"
    assert await stage.rindle.list_parts(session_id) == sent
    observed = await stage.session(session_id)
    assert (observed.state, observed.last_known_offset) == ("uploading", len(body))

    done = await stage.rindle.complete_multipart_upload(
        session_id, [{"PartNumber": part.part_number, "ETag": f'"{part.etag}"'} for part in reversed(sent)]
    )

    assert (done.session.state, done.asset.state, done.asset.byte_size) == ("completed", "validating", len(body))
    ready = await stage.settled(done.asset.id)
    assert ready.state == "ready"
    stored = await store_of(stage).download(ready.storage_key, tmp_path / "copy")
    assert hashlib.sha256(stored.read_bytes()).digest() == hashlib.sha256(body).digest()
    assert await open_uploads(stage, session_id) == []
    again = await stage.rindle.complete_multipart_upload(session_id)
    assert (again.session.state, again.asset.id) == ("completed", ready.id)
    assert [event.type for event in await stage.events(ready.id) if event.type.startswith("upload_session")] == [
        "upload_session_initialized",
        "upload_session_signed",
        "upload_session_uploading",
        "upload_session_state_changed",
        "upload_session_state_changed",
        "upload_session_completed",
    ]
    await everything_holds(stage)
