"""SIGKILL of the application while it begins or completes a multipart upload: the workflow ends what it began."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from rindle import MediaUploadSession
from tests.integration.uploads.conftest import open_uploads, released, store_of
from tests.invariants import everything_holds
from tests.stage import Stage, photo

pytestmark = pytest.mark.external


async def killed(stage: Stage, point: str, **environment: str) -> MediaUploadSession:
    """Send a photo in an application that is killed at ``point``; returns the session that it leaves."""
    await stage.killed(point, "tests.client", "parts", str(photo(stage.home / "photo.jpg")), **environment)
    [session] = await stage.read(lambda session: list(session.scalars(select(MediaUploadSession))))
    return session


async def test_an_upload_that_no_row_names_is_found_and_aborted(lite_s3_stage: Stage) -> None:
    stage = lite_s3_stage
    session = await killed(stage, "multipart.begun", RINDLE_UPLOAD_SESSION_TTL_SECONDS="2")
    assert session.multipart_upload_id is None
    assert len(await open_uploads(stage, session.id)) == 1

    await stage.member()
    await released(stage, session.id)

    assert (await stage.session(session.id)).state == "expired"
    assert await open_uploads(stage, session.id) == []


@pytest.mark.parametrize("point", ["multipart.noted", "multipart.made"])
async def test_a_completion_that_was_killed_is_finished_by_the_workflow(lite_s3_stage: Stage, point: str) -> None:
    stage = lite_s3_stage
    session = await killed(stage, point)
    assert (session.state, len(session.multipart_parts)) == ("uploading", 1)

    await stage.member(stage.application(RINDLE_AUTO_VERIFY_GRACE_SECONDS="1"))

    asset = await stage.settled(str(session.asset_id))
    assert (asset.state, (await stage.session(session.id)).state) == ("ready", "completed")
    assert (await store_of(stage).head(session.upload_key)).size == asset.byte_size
    assert await open_uploads(stage, session.id) == []
    await everything_holds(stage)
