"""Temporal is down while the application serves: every call succeeds, work starts when it returns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rindle.bootstrap import WorkerProcess
from rindle.errors import TemporalUnavailable
from rindle.operations.health import HealthCheck
from tests.invariants import everything_holds
from tests.patience import until
from tests.servers import free_port
from tests.servers.temporal import StoppableTemporal
from tests.stage import Stage, staged


@pytest.fixture
async def away_stage(tmp_path: Path, database_url: str, stoppable_temporal: StoppableTemporal) -> AsyncIterator[Stage]:
    """A stage with a Temporal server of its own that the test may stop."""
    async with staged(tmp_path, database_url, stoppable_temporal.target) as ready:
        yield ready


async def test_initiate_verify_attach_and_detach_work_while_temporal_is_down(
    away_stage: Stage, stoppable_temporal: StoppableTemporal
) -> None:
    stage = away_stage
    await stoppable_temporal.stop()
    async with stage.application() as web:  # a web process with its own relay, which keeps failing quietly
        session = await web.initiate_upload("avatar", filename="me.jpg", actor="alice")
        await web.sign_url(session.id)
        await stage.put(session.id, b"\xff\xd8\xff no picture")
        unwanted = (await web.verify_completion(session.id)).asset
        assert unwanted.state == "validating"
        wanted = await stage.verified(actor="alice")
        await web.attach(wanted.id, ("user", "1"), "avatar", uploaded_by="alice")
        assert not await web.temporal.healthy()

        await stoppable_temporal.start()
        await stage.worker()

        assert (await stage.settled(wanted.id)).state == "ready"
        condemned = await stage.settled(unwanted.id)
        assert (condemned.state, condemned.error_code) == ("quarantined", "decode_failed")

        await stoppable_temporal.stop()
        await web.detach(("user", "1"), "avatar")
        assert await web.attachment_for(("user", "1"), "avatar") is None
        await stoppable_temporal.start()
        await stage.gone(wanted.id)
    await everything_holds(stage)


async def test_work_under_way_survives_a_restart_of_temporal(
    away_stage: Stage, stoppable_temporal: StoppableTemporal
) -> None:
    stage = away_stage
    stage.tell("processor", "hold")
    await stage.worker()
    asset = await stage.verified("held")
    await stage.variant(asset.id, "thumb", "processing")

    await stoppable_temporal.kill()
    await stoppable_temporal.start()
    stage.tell("processor", "")

    assert (await stage.settled(asset.id)).state == "ready"
    await everything_holds(stage)


async def test_every_message_names_the_server_that_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, nowhere, {"TEMPORAL_NAMESPACE": "media"}) as stage:
        label = f"({nowhere}, namespace media)"

        def logged(*messages: str) -> bool:
            return set(messages) <= {record.getMessage() for record in caplog.records}

        stop = asyncio.Event()
        worker = asyncio.create_task(WorkerProcess(stage.application()).run(stop))
        async with stage.rindle:
            await stage.rindle.initiate_upload("avatar", filename="me.jpg")

            async def both() -> bool:
                return logged(f"waiting for Temporal {label}", f"Temporal {label} is unavailable; outbox rows wait")

            await until(both, what="worker and relay to name the server")
        stop.set()
        await worker

        assert not (await HealthCheck(stage.rindle.database, stage.rindle.temporal).health()).temporal
        assert logged(f"temporal {label} does not answer")
        (check,) = (await stage.rindle.doctor(only=["temporal.reachable"])).checks
        assert check.summary == f"the connection failed {label}"
        with pytest.raises(TemporalUnavailable, match="the connection was refused") as caught:
            await stage.application().temporal.client()
        assert label in caught.value.message
