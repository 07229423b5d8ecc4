"""SIGKILL of a worker while it calls Mux: one asset is billed, never two, and none that nobody knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy.orm import Session

from rindle import MediaAsset, Rindle, outbox
from rindle.activities.streaming import StreamingActivities
from rindle.db import providers as rows
from rindle.db.models import MediaProviderAsset
from rindle.messages import ProviderPushInput
from rindle.streaming import signatures
from rindle.webhooks import ingest_webhook
from rindle.workflows import ids
from tests.gallery import Gallery
from tests.integration.mux.studio import WEBHOOK_SECRET, application, mux_environment
from tests.patience import PATIENCE_SECONDS, until
from tests.servers.mux import FakeMux
from tests.servers.temporal import TemporalServer
from tests.stage import NOTICES_LOST_WORKERS, Stage, staged
from tests.unit.streaming.cinema import FACTS
from tests.workflows.fleet import Fleet, closed, in_stage

pytestmark = pytest.mark.external

#: The address at which Mux may fetch what is pushed; nobody fetches it, for Mux is held.
PUBLIC_URL = "https://media.example/p"


@pytest.fixture
async def stage(tmp_path: Path, temporal_server: TemporalServer, mux: FakeMux) -> AsyncIterator[Stage]:
    """A stage whose workers push to Mux, and whose killed workers are missed soon."""
    mux.hold_ingest()
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    environment = {
        **NOTICES_LOST_WORKERS,
        "APP_CALL_SECONDS": "10",
        "APP_PUBLIC_URL": PUBLIC_URL,
        "RINDLE_RETRY_INITIAL_SECONDS": "0.2",
        "RINDLE_PROVIDER_POLL_SECONDS": "3600",
    }
    async with staged(tmp_path, url, temporal_server.target, environment) as ready:
        yield ready


async def killed(stage: Stage, mux: FakeMux, point: str) -> None:
    """Run a worker that is killed at a point."""
    visited = stage.home / "visited"
    victim = await stage.worker(
        wait=False,
        RINDLE_APP="tests.integration.mux.studio:make_worker",
        RINDLE_CRASH_AT=point,
        RINDLE_CRASH_LOG=str(visited),
        **mux_environment(mux),
    )
    assert await victim.wait() == -9, victim.tail()
    assert visited.read_text() == f"{point}\n"


async def lecture(rindle: Rindle) -> MediaAsset:
    """Return a film whose variants are built."""
    return await Gallery(rindle).ready(rindle.profiles.get("lecture"), facts=FACTS)


async def row_of(rindle: Rindle, asset_id: str) -> MediaProviderAsset | None:
    def read(session: Session) -> MediaProviderAsset | None:
        return next(iter(rows.all_of(session, asset_id)), None)

    return await rindle.database.read(read)


async def in_state(rindle: Rindle, asset_id: str, state: str) -> MediaProviderAsset:
    """Wait until an asset is in a state at Mux, and nothing is left to be done there."""

    async def look() -> MediaProviderAsset | None:
        row = await row_of(rindle, asset_id)
        return row if row is not None and row.state == state and not row.cleanup_pending else None

    row = await until(look, what=f"the asset to be {state} at Mux")
    assert row is not None
    return row


async def pushed(rindle: Rindle) -> MediaAsset:
    """Return a film that Mux is preparing."""
    asset = await lecture(rindle)
    order = ProviderPushInput(asset_id=asset.id, profile="lecture", provider="mux")
    activities = StreamingActivities(rindle.services)
    await activities.ensure_provider_row(order)
    assert (await activities.create_provider_asset(order)).state == "processing"
    return asset


async def told(rindle: Rindle, mux: FakeMux, kind: str) -> None:
    """Let the application receive the webhook of a type."""
    [event] = [one for one in mux.events if one.type == kind]
    headers = {"Mux-Signature": signatures.sign(event.body, WEBHOOK_SECRET, now=datetime.now(UTC))}
    assert await ingest_webhook(rindle.services, "mux", event.body, headers, [WEBHOOK_SECRET])


async def webhooks_of(rindle: Rindle, asset_id: str) -> list[str]:
    """Return the types of what webhooks have written into the timeline of an asset."""
    return [one.type for one in await rindle.timeline(asset_id) if one.type.startswith("provider_")]


@pytest.mark.parametrize("point", ["provider.uploading", "provider.created"])
async def test_a_push_whose_worker_is_killed_creates_one_asset(stage: Stage, mux: FakeMux, point: str) -> None:
    rindle = application(stage, mux)
    asset = await lecture(rindle)
    profile = rindle.profiles.get("lecture")
    await rindle.database.write(outbox.push_source, rindle.settings, asset.id, profile, {"web_720p"})
    await killed(stage, mux, point)
    assert len(mux.assets) == (1 if point == "provider.created" else 0)

    async with Fleet(stage) as fleet:
        await fleet.start(rindle)
        row = await in_state(rindle, asset.id, "processing")

    assert [one.id for one in mux.assets] == [row.provider_asset_id]
    assert mux.requests.count(("POST", "/video/v1/assets")) == 1


async def test_a_webhook_of_a_push_is_applied_once_when_its_worker_is_killed(stage: Stage, mux: FakeMux) -> None:
    rindle = application(stage, mux)
    asset = await pushed(rindle)
    mux.fail_asset(mux.assets[0].id, "invalid_input", "no video")
    await told(rindle, mux, "video.asset.errored")
    await killed(stage, mux, "provider.event_applied")

    async with Fleet(stage) as fleet:
        await fleet.start(rindle)
        assert await closed(stage, ids.provider_push_id(asset.id, "mux", prefix=stage.prefix)) == "COMPLETED"

    await in_state(rindle, asset.id, "errored")
    found = await webhooks_of(rindle, asset.id)
    assert (found.count("provider_asset_errored"), found.count("provider_webhook")) == (1, 1)


async def test_a_webhook_of_an_upload_is_applied_once_when_its_worker_is_killed(stage: Stage, mux: FakeMux) -> None:
    rindle = application(stage, mux)
    upload = await rindle.create_direct_upload("talk", cors_origin="https://cohort.example")
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as browser:
        (await browser.put(upload.upload_url, content=b"a film")).raise_for_status()
    await told(rindle, mux, "video.upload.asset_created")
    await killed(stage, mux, "provider.event_applied")

    async with Fleet(stage) as fleet:
        await fleet.start(rindle)
        workflow_id = ids.provider_upload_id(upload.asset_id, prefix=stage.prefix)
        await in_stage(stage, workflow_id, "waiting for provider, polled 0 times")

    row = await in_state(rindle, upload.asset_id, "processing")
    assert [one.id for one in mux.assets] == [row.provider_asset_id]
    found = await webhooks_of(rindle, upload.asset_id)
    assert (found.count("provider_asset_created"), found.count("provider_webhook")) == (1, 1)


async def test_a_purge_whose_worker_is_killed_leaves_nothing_at_the_provider(stage: Stage, mux: FakeMux) -> None:
    rindle = application(stage, mux)
    asset = await pushed(rindle)
    await rindle.purge_asset(asset.id)
    await killed(stage, mux, "provider.removed")

    async with Fleet(stage) as fleet:
        await fleet.start(rindle)
        await stage.gone(asset.id)

    assert mux.assets == []


async def test_a_cancellation_whose_worker_is_killed_is_finished(stage: Stage, mux: FakeMux) -> None:
    rindle = application(stage, mux)
    upload = await rindle.create_direct_upload("talk", cors_origin="https://cohort.example")
    mux.plan_fault("PUT", "/video/v1/uploads/*/cancel", status=422)
    with pytest.raises(Exception, match="cancel an upload"):
        await rindle.cancel_direct_upload(upload.asset_id)  # the worker does it
    await killed(stage, mux, "provider.removed")

    async with Fleet(stage) as fleet:
        await fleet.start(rindle)
        await in_state(rindle, upload.asset_id, "deleted")

    assert ([one.status for one in mux.uploads], mux.assets) == (["cancelled"], [])
