"""Facts of an original are read again by a worker, found by ``probe_drift``, and never spoiled by a failed probe."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from rindle import MediaAsset
from rindle.db.models import new_id, utc_now
from rindle.db.probe_drift import PROBE_DRIFT
from rindle.errors import InvalidTransition, NotFound, NotSettled, ProbeFailed, Quarantined
from rindle.operations.explain import explain
from rindle.operations.maintenance import runs
from rindle.operations.maintenance.reprobe import FIELDS, reprobe
from rindle.services import Services
from tests.integration.cli.test_commands import rindle
from tests.media.clips import Clips
from tests.patience import until
from tests.servers import free_port
from tests.stage import Stage, on_postgres, photo

#: Columns that a reprobe may write beside the facts.
WRITTEN = {*FIELDS, "updated_at", "lock_version"}


async def breaks(stage: Stage, asset: MediaAsset, **values: Any) -> None:
    """Change facts of a row behind the library's back."""
    await stage.rindle.database.write(
        lambda session: session.execute(update(MediaAsset).where(MediaAsset.id == asset.id).values(**values))
    )


async def row(stage: Stage, asset: MediaAsset) -> dict[str, Any]:
    found = await stage.rindle.asset(asset.id)
    return {column.key: getattr(found, column.key) for column in MediaAsset.__mapper__.column_attrs}


async def drifting(stage: Stage) -> set[str]:
    """Return the assets that the status reports."""
    report = await stage.rindle.runtime_status(limit=100)
    return {
        str(getattr(sample, "asset_id", ""))
        for finding in report.findings
        if finding.name == "probe_drift"
        for sample in finding.samples
    }


@pytest.fixture
async def assets(stage: Stage, clips: Clips) -> dict[str, MediaAsset]:
    """An image, a video and an audio file, ready, with a worker that reads them."""
    await stage.stamp()
    await stage.member()
    image = photo(stage.home / "photo.jpg", width=64, height=48)
    names = {"image": (image, "a.jpg"), "video": (clips.film(), "a.mp4"), "audio": (clips.song(), "a.mp3")}
    found = [await stage.verified("plain", body, filename=name) for body, name in names.values()]
    return dict(zip(names, [await stage.settled(one.id) for one in found], strict=True))


async def test_wrong_facts_are_found_and_corrected_and_nothing_else_changes(
    stage: Stage, assets: dict[str, MediaAsset]
) -> None:
    image, video, audio = assets["image"], assets["video"], assets["audio"]
    before = {name: await row(stage, asset) for name, asset in assets.items()}
    assert await drifting(stage) == set()

    await breaks(stage, image, content_type="video/mp4")
    await breaks(stage, video, kind="audio", width=None, height=None, has_video_track=None, duration_ms=None)
    await breaks(stage, audio, has_audio_track=False, duration_ms=None)
    assert await drifting(stage) == {image.id, video.id, audio.id}
    for asset in assets.values():
        diagnosis = (await explain(stage.rindle.services, asset.id)).diagnosis
        assert diagnosis.command == f"rindle reprobe {asset.id}"

    reports = {name: await stage.rindle.reprobe(asset) for name, asset in assets.items()}

    for name, asset in assets.items():
        now = await row(stage, asset)
        assert {key: value for key, value in now.items() if key not in ("updated_at", "lock_version")} == {
            key: value for key, value in before[name].items() if key not in ("updated_at", "lock_version")
        }
        assert reports[name].updated_at == now["updated_at"] > before[name]["updated_at"]
    assert await drifting(stage) == set()
    report = reports["audio"]
    assert list(report.to_dict()) == [
        "asset_id", "attempted", "refreshed", "errors", "failures", "refreshed_fields", "cleared_fields",
        "content_type", "kind", "updated_at",
    ]  # fmt: skip
    assert (report.attempted, report.refreshed, report.errors, report.failures) == (1, 1, 0, ())
    assert report.refreshed_fields == ("content_type", "kind", "duration_ms", "has_audio_track")
    assert report.cleared_fields == ("width", "height", "has_video_track")
    assert (report.kind, report.content_type) == ("audio", "audio/mpeg")
    [audit] = await stage.events(video.id, "asset.reprobed")
    assert audit.audit
    assert audit.payload["changed"] == ["kind", "width", "height", "duration_ms", "has_video_track"]


async def test_a_failed_probe_changes_nothing(stage: Stage, assets: dict[str, MediaAsset]) -> None:
    video = assets["video"]
    await breaks(stage, video, width=None)
    before = await row(stage, video)
    await stage.storage.delete(video.storage_key)

    with pytest.raises(ProbeFailed, match="storage_not_found") as failed:
        await stage.rindle.reprobe(video)

    assert failed.value.detail == {"reason": "storage_not_found"}
    assert await row(stage, video) == before
    assert await stage.events(video.id, "asset.reprobed") == []


async def test_what_must_not_be_opened_or_is_not_there_is_refused(stage: Stage) -> None:
    staged = await stage.rindle.initiate_upload("plain")
    rejected = await stage.sent("avatar", size=5)
    with pytest.raises(Exception, match="declared"):
        await stage.rindle.verify_completion(rejected.id)

    with pytest.raises(InvalidTransition, match="the asset is staged"):
        await stage.rindle.reprobe(str(staged.asset_id))
    with pytest.raises(Quarantined):
        await stage.rindle.reprobe(str(rejected.asset_id))
    with pytest.raises(NotFound):
        await stage.rindle.reprobe(new_id())


async def test_a_duration_that_the_file_does_not_state_is_measured_and_kept(stage: Stage, clips: Clips) -> None:
    await stage.stamp()
    await stage.member()
    asset = await stage.ready("plain", clips.live_recording(), filename="a.webm")
    assert asset.duration_ms is None
    assert await drifting(stage) == set()  # browsers write such files

    await stage.rindle.reprobe(asset)

    measured = (await stage.rindle.asset(asset.id)).duration_ms
    assert measured == pytest.approx(2000, abs=250)
    await stage.rindle.reprobe(asset)
    assert (await stage.rindle.asset(asset.id)).duration_ms == measured


class Confirming:
    """Originals that confirm the duration of the row they are given; a build measures it ``times`` while they read."""

    def __init__(self, stage: Stage, times: int) -> None:
        self.stage, self.left, self.reads = stage, times, 0

    async def facts(self, asset: MediaAsset) -> Mapping[str, Any]:
        self.reads += 1
        if self.left:
            self.left -= 1
            await breaks(self.stage, asset, duration_ms=2000 + self.reads)
        return {**{name: getattr(asset, name) for name in FIELDS}, "width": 640}

    async def analysis(self, asset: MediaAsset) -> Mapping[str, Any]:
        raise AssertionError("nobody analyzes")


async def a_film(stage: Stage) -> MediaAsset:
    """Return an asset whose row says that it is a film, with a wrong width."""
    asset = await stage.verified("plain")
    film = {"kind": "video", "content_type": "video/mp4", "has_video_track": True, "has_audio_track": False}
    await breaks(stage, asset, state="ready", width=4, height=480, duration_ms=1900, **film)
    return asset


async def test_a_duration_that_a_build_measures_meanwhile_is_kept(lite_stage: Stage) -> None:
    stage, originals = lite_stage, Confirming(lite_stage, times=1)
    asset = await a_film(stage)

    await reprobe(stage.rindle.services, asset, originals=originals)

    found = await stage.rindle.asset(asset.id)
    assert (found.duration_ms, found.width) == (2001, 640)
    assert originals.reads == 2
    [audit] = await stage.events(asset.id, "asset.reprobed")
    assert audit.payload["changed"] == ["width"]


async def test_a_row_that_changes_during_every_read_is_left_as_it_is(lite_stage: Stage) -> None:
    stage, originals = lite_stage, Confirming(lite_stage, times=100)
    asset = await a_film(stage)

    with pytest.raises(ProbeFailed) as failed:
        await reprobe(stage.rindle.services, asset, originals=originals)

    assert failed.value.detail == {"reason": "state_conflict"}
    found = await stage.rindle.asset(asset.id)
    assert (found.duration_ms, found.width) == (2000 + originals.reads, 4)
    assert await stage.events(asset.id, "asset.reprobed") == []


async def test_calls_for_one_asset_share_a_run_and_wait_for_a_worker_only_so_long(
    lite_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = lite_stage
    member = await stage.member()
    asset = await stage.ready("plain")
    assert member.is_polling
    other = stage.application(RINDLE_TASK_QUEUE_PREFIX=f"{stage.prefix}-nobody")

    with pytest.raises(NotSettled, match=f"{stage.prefix}-nobody-maintenance") as late:
        await other.reprobe(asset, timeout=0.1)
    workflow_id = late.value.detail["workflow_id"]
    assert workflow_id == f"{stage.prefix}-maintenance:reprobe:{asset.id}"

    followed: list[str] = []
    follow = runs.follow

    async def noted(services: Services, handle: runs.Handle, *rest: Any, **options: Any) -> Any:
        followed.append(handle.id)
        return await follow(services, handle, *rest, **options)

    monkeypatch.setattr(runs, "follow", noted)
    waiting = [asyncio.create_task(other.reprobe(asset)) for _ in range(2)]
    # A call that came after the end of the run would start another one.
    await until(lambda: followed == [workflow_id] * 2, what="both calls to follow the run")
    await stage.member(other)
    reports = await asyncio.gather(*waiting)
    assert len({report.updated_at for report in reports}) == 1


async def test_the_command_reads_here_without_temporal(lite_stage: Stage) -> None:
    stage = lite_stage
    await stage.member()
    asset = await stage.ready("plain")
    await breaks(stage, asset, width=7)
    away = {"TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}", "RINDLE_TEMPORAL_CONNECT_SECONDS": "0.5"}

    refused = await rindle(stage, "reprobe", asset.id, **away)
    assert refused.returncode == 4
    here = await rindle(stage, "reprobe", asset.id, "--local", "--format", "json", **away)
    assert here.returncode == 0, here.stderr
    assert json.loads(here.stdout)["refreshed_fields"] == ["content_type", "kind", "width", "height"]
    assert (await stage.rindle.asset(asset.id)).width == asset.width

    await stage.storage.delete(asset.storage_key)
    failed = await rindle(stage, "reprobe", asset.id, "--local", **away)
    assert failed.returncode == 1
    assert failed.stderr.startswith("probe_failed: ")


@on_postgres
async def test_the_finding_reads_its_own_index(stage: Stage) -> None:
    def plan(session: Session) -> str:
        def made(number: int) -> dict[str, Any]:
            return {
                "id": new_id(), "state": "ready", "storage_key": str(number), "profile": "plain", "kind": "video",
                "content_type": "video/mp4", "width": 4, "height": 3, "duration_ms": 5, "has_video_track": True,
                "has_audio_track": True, "media_metadata": {}, "lock_version": 0,
            }  # fmt: skip

        session.bulk_insert_mappings(MediaAsset, [made(number) for number in range(5_000)])  # type: ignore[arg-type]
        session.execute(text("ANALYZE media_assets"))
        query = f"SELECT count(*), min(updated_at) FROM media_assets WHERE ({PROBE_DRIFT}) AND updated_at <= :at"
        found = session.execute(text(f"EXPLAIN {query}"), {"at": utc_now() - timedelta(seconds=1)})
        return "\n".join(line for (line,) in found)

    assert "ix_media_assets_updated_at" in await stage.rindle.database.write(plan)
