"""One uploader's backlog does not stop another's uploads, where the profile asks for it and the server is fair."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from rindle import MediaEvent, bootstrap
from rindle.operations.drain import drain
from tests.servers.temporal import StoppableTemporal
from tests.stage import Stage, staged

#: Fair queues, and one partition, so that there is one order of all tasks.
FAIR = {
    "matching.enableFairness": "true",
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
}
BACKLOG = 12


async def ready_in_order(stage: Stage) -> list[str | None]:
    """Return the assets in the order in which they became ready."""
    changes = select(MediaEvent).where(MediaEvent.type == "asset_state_changed").order_by(MediaEvent.id)
    events = await stage.read(lambda session: session.scalars(changes).all())
    return [event.asset_id for event in events if event.payload["state"] == "ready"]


async def test_a_newcomer_does_not_wait_for_the_backlog_of_another_uploader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "ACTIVITY_SLOTS", 1)
    async with StoppableTemporal(tmp_path / "temporal.db", FAIR) as server:
        await server.start()
        url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
        async with staged(tmp_path, url, server.target) as stage:
            backlog = [await stage.verified("plain", actor="alice") for _ in range(BACKLOG)]
            newcomer = await stage.verified("plain", actor="bob")
            await drain(stage.rindle.services)
            await stage.member()
            for asset in (*backlog, newcomer):
                await stage.settled(asset.id)
            place = (await ready_in_order(stage)).index(newcomer.id)

    assert place < BACKLOG // 2, "without fairness it is the last"
