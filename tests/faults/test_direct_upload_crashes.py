"""SIGKILL of the application while it opens or cancels an upload to a provider: nothing is left that is billed."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from rindle.db.models import MediaProviderAsset
from tests.integration.mux.studio import application, mux_environment
from tests.patience import until
from tests.servers.mux import FakeMux
from tests.stage import Stage
from tests.workflows.fleet import Fleet

pytestmark = pytest.mark.external


async def killed(stage: Stage, mux: FakeMux, point: str) -> MediaProviderAsset:
    """Open and cancel an upload in an application that is killed at ``point``; returns the row that it leaves."""
    await stage.killed(point, "tests.integration.mux.studio", **mux_environment(mux))
    [row] = await stage.read(lambda session: list(session.scalars(select(MediaProviderAsset))))
    return row


async def row_of(stage: Stage) -> MediaProviderAsset:
    [row] = await stage.read(lambda session: list(session.scalars(select(MediaProviderAsset))))
    return row


@pytest.mark.parametrize("point", ["direct.begun", "direct.opened"])
async def test_an_upload_whose_address_nobody_got_is_given_up(lite_stage: Stage, mux: FakeMux, point: str) -> None:
    row = await killed(lite_stage, mux, point)
    assert (row.state, row.provider_upload_id) == ("pending", None)
    assert len(mux.uploads) == (0 if point == "direct.begun" else 1)

    async with Fleet(lite_stage) as fleet:
        await fleet.start(application(lite_stage, mux, RINDLE_PROVIDER_UPLOAD_GRACE_SECONDS="1"))

        async def is_given_up() -> bool:
            return (await row_of(lite_stage)).state == "errored"

        await until(is_given_up, what="the upload to be given up")
    assert mux.assets == []


async def test_a_cancellation_that_was_killed_is_finished_by_the_workflow(lite_stage: Stage, mux: FakeMux) -> None:
    row = await killed(lite_stage, mux, "direct.cancelled")
    assert (row.state, row.cleanup_pending, mux.uploads[0].status) == ("deleted", True, "waiting")

    async with Fleet(lite_stage) as fleet:
        await fleet.start(application(lite_stage, mux))

        async def is_finished() -> bool:
            return not (await row_of(lite_stage)).cleanup_pending

        await until(is_finished, what="the upload to be cancelled at Mux")
    assert (mux.uploads[0].status, mux.assets) == ("cancelled", [])
