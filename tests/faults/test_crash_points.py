"""SIGKILL at every crash point of a real ``python worker.py``, then recovery by another worker.

The databases alternate over the points: each point's SQL is the same function on both.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from rindle.crash_points import CRASH_POINTS
from rindle.db.models import new_id
from rindle.errors import NotFound
from tests.invariants import everything_holds
from tests.patience import until
from tests.servers.postgres import PostgresServer
from tests.servers.temporal import TemporalServer
from tests.stage import NOTICES_LOST_WORKERS, REPOSITORY, Stage, photo, staged
from tests.tus import encoded, tus_client

#: The modules whose points these are.
LIBRARY = REPOSITORY / "rindle"
#: Prepares, then returns what must be true in the end.
Scenario = Callable[[Stage], Awaitable[Callable[[], Awaitable[None]]]]


async def _upload(stage: Stage, profile: str = "avatar") -> Callable[[], Awaitable[None]]:
    asset = await stage.verified(profile)

    async def check() -> None:
        done = await stage.settled(asset.id)
        assert done.state == "ready"
        assert {row.name: row.state for row in done.variants} == {"large": "ready", "thumb": "ready"}

    return check


async def _scanned_upload(stage: Stage) -> Callable[[], Awaitable[None]]:
    return await _upload(stage, "scanned")


async def _tus_upload(stage: Stage) -> Callable[[], Awaitable[None]]:
    body = photo(stage.home / "photo.jpg").read_bytes()
    async with tus_client(stage.rindle, "avatar") as client:
        url = await client.create(len(body), body, upload_metadata=encoded(filename="me.jpg"))
        row = await client.row(url)
    assert row.state == "uploaded"

    async def check() -> None:
        assert (await stage.settled(str(row.asset_id))).state == "ready"
        assert (await stage.storage.head(row.upload_key)).size == len(body)
        assert list((stage.home / "media" / ".rindle" / "tus").iterdir()) == []

    return check


async def _cancelled_upload(stage: Stage) -> Callable[[], Awaitable[None]]:
    session = await stage.sent()
    await stage.rindle.cancel_upload(session.id)

    async def check() -> None:
        async def released() -> bool:
            return (await stage.session(session.id)).backing_released_at is not None

        await until(released, what="the object to be removed")

    return check


async def _purge(stage: Stage) -> Callable[[], Awaitable[None]]:
    asset = await _ready_by_a_worker_of_its_own(stage)
    await stage.rindle.purge_asset(asset)

    async def check() -> None:
        await stage.gone(asset)
        assert await stage.keys() == set()
        assert len(await stage.events(asset, "asset.purged")) == 1

    return check


async def _erasure(stage: Stage) -> Callable[[], Awaitable[None]]:
    asset = await _ready_by_a_worker_of_its_own(stage)
    await stage.rindle.attach(asset, ("User", "1"), "avatar")
    operation = new_id()
    await stage.asked_to_erase(("User", "1"), operation)

    async def check() -> None:
        async def complete() -> bool:
            try:
                return (await stage.rindle.erasure_certificate(operation)).status == "complete"
            except NotFound:
                return False

        await until(complete, what="the erasure to be completed")
        report = await stage.rindle.erase_owner(("User", "1"), operation_id=operation)
        assert (report.attachments_to_detach.count, report.assets_to_purge.count, report.purge_enqueued) == (1, 1, 1)
        await stage.gone(asset)
        assert await stage.keys() == set()

    return check


async def _rebuild(stage: Stage) -> Callable[[], Awaitable[None]]:
    asset = await _ready_by_a_worker_of_its_own(stage)
    stage.environment["APP_DRIFTED"] = "1"
    await stage.application().regenerate_variants()

    async def check() -> None:
        async def rebuilt() -> bool:
            thumb = await stage.variant(asset, "thumb")
            return (thumb.state, thumb.width, thumb.obsolete_keys) == ("ready", 64, None)

        await until(rebuilt, what="the thumb to be rebuilt")

    return check


async def _requeue_by_signal(stage: Stage) -> Callable[[], Awaitable[None]]:
    asset = await _ready_by_a_worker_of_its_own(stage, cancelled=True)
    await _signal(stage, asset, "requeue")

    async def check() -> None:
        assert (await stage.state(asset, "ready")).state == "ready"

    return check


async def _cancel_by_signal(stage: Stage) -> Callable[[], Awaitable[None]]:
    asset = (await stage.verified("held")).id
    stage.tell("processor", "hold")
    worker = await stage.worker()
    await stage.variant(asset, "thumb", "processing")
    await worker.kill()
    await _signal(stage, asset, "cancel")

    async def check() -> None:
        for name in ("thumb", "large"):
            assert (await stage.variant(asset, name, "cancelled")).state == "cancelled"

    return check


async def _cancel_request_of_an_upload(stage: Stage) -> Callable[[], Awaitable[None]]:
    session = await stage.sent()
    worker = await stage.worker()
    run = (await stage.client()).get_workflow_handle(stage.upload_workflow(session.id))

    async def started() -> bool:
        return all(row.state == "dispatched" for row in await stage.outbox())

    await until(started, what="the upload's workflow to start")
    await worker.kill()
    await run.cancel()

    async def check() -> None:
        async def released() -> bool:
            row = await stage.session(session.id)
            return row.state == "aborted" and row.backing_released_at is not None

        await until(released, what="the upload to be aborted and its object to be removed")

    return check


async def _ready_by_a_worker_of_its_own(stage: Stage, *, cancelled: bool = False) -> str:
    """Return the id of an asset that is ready (or whose variants are cancelled), with no worker left running."""
    async with stage.working():
        if not cancelled:
            return (await stage.ready()).id
        stage.tell("processor", "hold")
        asset = await stage.verified("held")
        await stage.variant(asset.id, "thumb", "processing")
        await stage.rindle.cancel_processing(asset.id)
        stage.tell("processor", "")
        client = await stage.client()
        await stage.state(asset.id, "degraded")
        await client.get_workflow_handle(stage.variants_workflow(asset.id)).result()
    return asset.id


async def _signal(stage: Stage, asset_id: str, signal: str) -> None:
    client = await stage.client()
    await client.start_workflow(
        "rindle.VariantWorkflow",
        {"asset_id": asset_id, "group": "images", "task_queue": ""},
        id=stage.variants_workflow(asset_id),
        task_queue=stage.prefix,
        start_signal=signal,
    )


SCENARIOS: dict[str, Scenario] = {
    **dict.fromkeys([point for point in CRASH_POINTS if point.startswith(("relay", "admit", "render"))], _upload),
    **dict.fromkeys(["scan.before", "scan.passed"], _scanned_upload),
    **dict.fromkeys([point for point in CRASH_POINTS if point.startswith("upload.release")], _cancelled_upload),
    **dict.fromkeys([point for point in CRASH_POINTS if point.startswith("purge")], _purge),
    **dict.fromkeys([point for point in CRASH_POINTS if point.startswith("erasure")], _erasure),
    **dict.fromkeys(["upload.assemble.before", "upload.object_made", "upload.assembled"], _tus_upload),
    "upload.aborted": _cancel_request_of_an_upload,
    "render.superseded_deleted": _rebuild,
    "requeue.moved": _requeue_by_signal,
    "cancel.moved": _cancel_by_signal,
}
#: Points that are passed in the application's process, not in a worker's.
CLIENT_POINTS = ("server_upload.begun", "server_upload.stored")
#: The same while a file is sent in parts; see ``test_multipart_crashes.py``.
PART_POINTS = ("multipart.begun", "multipart.noted", "multipart.made")
#: The same while an upload to a streaming provider is opened and cancelled; see ``test_direct_upload_crashes.py``.
DIRECT_POINTS = ("direct.begun", "direct.opened", "direct.cancelled")
#: Those of a worker that calls a streaming provider; see ``test_provider_crashes.py``.
PROVIDER_POINTS = ("provider.uploading", "provider.created", "provider.event_applied", "provider.removed")


def test_every_crash_point_has_a_scenario() -> None:
    assert {*SCENARIOS, *CLIENT_POINTS, *PART_POINTS, *DIRECT_POINTS, *PROVIDER_POINTS} == set(CRASH_POINTS)
    passed = re.findall(r'crash_point\("([^"]+)"\)', "".join(file.read_text() for file in LIBRARY.rglob("*.py")))
    assert sorted(passed) == sorted(CRASH_POINTS)


@pytest.fixture
async def crash_stage(
    request: pytest.FixtureRequest, tmp_path: Path, temporal_server: TemporalServer, postgres_server: PostgresServer
) -> AsyncIterator[Stage]:
    """A stage whose database alternates with the crash point."""
    on_postgres = CRASH_POINTS.index(request.node.callspec.params["point"]) % 2 == 0
    url = postgres_server.new_database() if on_postgres else f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, temporal_server.target, NOTICES_LOST_WORKERS) as ready:
        yield ready
    if on_postgres:
        postgres_server.drop_database(url)


@pytest.mark.parametrize("point", [point for point in CRASH_POINTS if point in SCENARIOS])
async def test_a_worker_killed_at_any_point_loses_and_duplicates_nothing(crash_stage: Stage, point: str) -> None:
    stage = crash_stage
    visited = stage.home / "visited"
    check = await SCENARIOS[point](stage)

    victim = await stage.worker(wait=False, RINDLE_CRASH_AT=point, RINDLE_CRASH_LOG=str(visited))
    assert await victim.wait() == -9, victim.tail()
    assert visited.read_text() == f"{point}\n"
    await stage.member(stage.application())

    await check()
    await everything_holds(stage)


@pytest.mark.parametrize("point", [point for point in CRASH_POINTS if point.startswith("purge")])
async def test_an_erasure_survives_a_worker_killed_in_its_purge(crash_stage: Stage, point: str) -> None:
    stage = crash_stage
    check = await _erasure(stage)

    victim = await stage.worker(wait=False, RINDLE_CRASH_AT=point)
    assert await victim.wait() == -9, victim.tail()
    await stage.member(stage.application())

    await check()
    await everything_holds(stage)


@pytest.mark.parametrize("point", CLIENT_POINTS)
async def test_an_application_killed_during_a_server_side_upload_leaves_nothing(crash_stage: Stage, point: str) -> None:
    stage = crash_stage
    command = ("tests.client", "upload", str(photo(stage.home / "photo.jpg")))
    await stage.killed(point, *command, RINDLE_UPLOAD_SESSION_TTL_SECONDS="2")
    await stage.member(stage.application())

    async def cleaned() -> bool:
        return await stage.keys() == set() and bool(await stage.read(_expired))

    await until(cleaned, what="the session to expire and its object to be removed")
    await everything_holds(stage)


def _expired(session: object) -> bool:
    from sqlalchemy import select
    from sqlalchemy.orm import Session

    from rindle import MediaUploadSession

    assert isinstance(session, Session)
    rows = session.scalars(select(MediaUploadSession)).all()
    return [row.state for row in rows] == ["expired"] and rows[0].backing_released_at is not None
